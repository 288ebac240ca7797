//! Figures, as a table for people and as JSON for programs.

use std::{
    fs,
    io::{self, Write},
};

use serde_json::{Map, Value, json};

use crate::scenarios::{Found, Scenario};

/// What was found, in the order in which it was.
#[derive(Default)]
pub struct Report {
    figures: Vec<Value>,
    /// What must not be, such as lost messages, or a server that could not be measured.
    pub faults: Vec<String>,
}

impl Report {
    /// The first server is what the others are compared with.
    pub fn scenario(&mut self, scenario: &Scenario, best: &[(&str, Found)]) -> io::Result<()> {
        let mut out = io::stdout();
        writeln!(out, "\n{} ({}, server)", scenario.name, scenario.unit.name)?;
        for (server, found) in best {
            let cost = found.cost / scenario.unit.divisor;
            let ratio = found.cost / best[0].1.cost;
            write!(out, "  {server:<14} {cost:>9.2}  {ratio:>5.2} x")?;
            let mut figure = json!({
                "work": scenario.name, "server": server, "unit": scenario.unit.name, "cost": cost, "ratio": ratio,
            });
            if let Some(rate) = found.rate {
                write!(out, "  {rate:>10.0} /s")?;
                figure["rate"] = json!(rate);
            }
            if let Some(busy) = found.busy {
                write!(out, "  {:.0} % of a core", busy * 100.0)?;
                figure["busy"] = json!(busy);
            }
            if let Some([p50, p99, p999]) = found.latency {
                write!(out, "  p50 {p50:.2} ms, p99 {p99:.2}, p99.9 {p999:.2}")?;
                figure["p50_ms"] = json!(p50);
                figure["p99_ms"] = json!(p99);
                figure["p99.9_ms"] = json!(p999);
            }
            for (place, note) in found.notes.iter().enumerate() {
                let before = if place == 0 { "\n                 " } else { "," };
                write!(out, "{before} {} {}", note.name, rounded(note.value))?;
                if !note.unit.is_empty() {
                    write!(out, " {}", note.unit)?;
                }
                let name = format!("{} {}", note.name, note.unit.replace('%', "percent"));
                figure[name.trim_end().replace(' ', "_")] = json!(note.value);
            }
            writeln!(out)?;
            if let Some(fault) = &found.fault {
                figure["fault"] = json!(fault);
                self.fault(format!("{server}, {}: {fault}", scenario.name));
            }
            self.figures.push(figure);
        }
        out.flush()
    }

    /// One point of a curve.
    pub fn point(&mut self, server: &str, curve: &str, at: usize, cost: f64, rate: f64) -> io::Result<()> {
        let mut out = io::stdout();
        writeln!(out, "  {server:<14} {:>9} {:>9.2} µs/delivery  {rate:>10.0} /s", thousands(at), cost / 1000.0)?;
        let (cost, unit) = (cost / 1000.0, "µs/delivery");
        self.figures
            .push(json!({ "curve": curve, "at": at, "server": server, "unit": unit, "cost": cost, "rate": rate }));
        out.flush()
    }

    /// Figures that are like no others.
    pub fn other(&mut self, figures: Map<String, Value>) {
        self.figures.push(Value::Object(figures));
    }

    pub fn fault(&mut self, fault: String) {
        eprintln!("{fault}");
        self.faults.push(fault);
    }

    pub fn save(&self, path: &str) -> io::Result<()> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let all = json!({
            "kernel": kernel.trim(), "cores": cores, "figures": self.figures, "faults": self.faults,
        });
        fs::write(path, format!("{all:#}\n"))
            .map_err(|error| io::Error::new(error.kind(), format!("--json {path} cannot be written: {error}")))
    }
}

/// Three digits that count, or all before the point.
fn rounded(value: f64) -> String {
    match value {
        _ if value == value.trunc() || value.abs() >= 100.0 => format!("{value:.0}"),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// 12,345
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
