//! `moonwire check`: would it start?

use std::path::Path;

use serde_json::{Value, json};

use super::{FAILED, Failure, MISTAKE, OK, Status, Streams, Style, config_file, config_warnings, read_config, shown};
use crate::{
    config::{ConfigError, Problem},
    server::{self, CheckedApp},
    visible::visible,
};

pub(super) fn run(file: Option<&Path>, style: Style, streams: &mut Streams) -> Result<Status, Failure> {
    let file = config_file(file)?;
    let (text, status) = match read_config(&file) {
        Err(error) => (mistaken(&error, style), MISTAKE),
        Ok(config) => {
            let apps =
                server::check(&config).map_err(|error| Failure::Told(FAILED, format!("cannot start: {error}")))?;
            let status = if apps.iter().all(|app| app.problem.is_none()) { OK } else { FAILED };
            (checked(&file, &apps, &config_warnings(&config), style), status)
        }
    };
    write!(streams.out, "{text}")?;
    streams.out.flush()?;
    Ok(status)
}

/// The answer when the config cannot be used; the scripts that it names are then not looked at.
fn mistaken(error: &ConfigError, style: Style) -> String {
    match style {
        Style::Human => format!("{}\n", error.to_string().trim_end()),
        Style::Json => answer(false, error.problems().iter().map(config_problem).collect(), &[], &[]),
    }
}

/// The answer when every script has been loaded, or not. `warnings` are those about the config.
fn checked(file: &Path, apps: &[CheckedApp], warnings: &[String], style: Style) -> String {
    match style {
        Style::Human => {
            let apps: String = apps.iter().map(|app| format!("{}\n", human(app))).collect();
            let warnings: String = warnings.iter().map(|warning| format!("  warning: {warning}\n")).collect();
            format!("{}: ok\n{warnings}{apps}", shown(file))
        }
        Style::Json => {
            let problems: Vec<Value> = apps.iter().filter_map(script_problem).collect();
            answer(problems.is_empty(), problems, warnings, apps)
        }
    }
}

fn human(app: &CheckedApp) -> String {
    let name = visible(&app.name);
    if let Some(problem) = &app.problem {
        let text = problem.to_string().replace('\n', "\n  ");
        return format!("{name}: failed\n  {text}");
    }
    let mut text = format!("{name}: ok ({}: {})", shown(&app.script), visible(&app.callbacks.join(", ")));
    for warning in &app.warnings {
        text.push_str(&format!("\n  warning: {}", visible(warning)));
    }
    text
}

fn answer(ok: bool, problems: Vec<Value>, warnings: &[String], apps: &[CheckedApp]) -> String {
    let app = |app: &CheckedApp| {
        json!({
            "app": app.name,
            "ok": app.problem.is_none(),
            "script": app.script.to_string_lossy(),
            "callbacks": app.callbacks,
            "warnings": app.warnings,
        })
    };
    let apps: Vec<Value> = apps.iter().map(app).collect();
    format!("{}\n", json!({ "ok": ok, "problems": problems, "warnings": warnings, "apps": apps }))
}

/// Problems of the config and of scripts have the same members, so that an editor can show both.
fn config_problem(problem: &Problem) -> Value {
    json!({
        "file": problem.file.as_ref().map(|file| file.to_string_lossy()),
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
    })
}

fn script_problem(app: &CheckedApp) -> Option<Value> {
    let problem = app.problem.as_ref()?;
    Some(json!({
        "file": problem.file.as_ref().map(|file| file.to_string_lossy()),
        "line": problem.line,
        "column": null,
        "message": problem.message,
        "hint": null,
        "app": app.name,
        "traceback": problem.traceback,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ScriptProblem;

    fn apps() -> Vec<CheckedApp> {
        vec![
            CheckedApp {
                name: "chat".to_owned(),
                script: "scripts/chat.lua".into(),
                callbacks: vec!["on_open".to_owned(), "on_message".to_owned()],
                warnings: vec!["no authenticate: everybody is let in".to_owned()],
                problem: None,
            },
            CheckedApp {
                name: "auth".to_owned(),
                script: "scripts/auth.lua".into(),
                callbacks: Vec::new(),
                warnings: Vec::new(),
                problem: Some(ScriptProblem::new("nowhere/auth.lua:14: boom\nand more", None, None)),
            },
        ]
    }

    #[test]
    fn people_read_one_line_for_each_app_that_is_ok() {
        assert_eq!(
            checked(Path::new("config.toml"), &apps(), &["nothing under /".to_owned()], Style::Human),
            "\
config.toml: ok
  warning: nothing under /
chat: ok (scripts/chat.lua: on_open, on_message)
  warning: no authenticate: everybody is let in
auth: failed
  nowhere/auth.lua:14: boom
    and more
"
        );
    }

    #[test]
    fn machines_read_every_problem_with_its_place() {
        let text = checked(Path::new("config.toml"), &apps(), &[], Style::Json);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["ok"], false);
        assert_eq!(value["problems"][0]["file"], "nowhere/auth.lua");
        assert_eq!(value["problems"][0]["line"], 14);
        assert_eq!(value["apps"][0]["callbacks"], json!(["on_open", "on_message"]));
        assert_eq!(value["apps"][1]["ok"], false);
        let good = checked(Path::new("config.toml"), &apps()[..1], &[], Style::Json);
        assert!(good.contains("\"ok\":true,\"problems\":[],\"warnings\":[]"), "{good}");
    }
}
