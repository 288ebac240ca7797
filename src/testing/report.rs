//! What came of the tests, for people and for what reads JUnit's XML.

use std::{fmt::Write, time::Duration};

use super::FileResult;
use crate::visible::beginning;

/// `12 passed, 1 failed, in 0.05 s`.
pub fn summary(results: &[FileResult], took: Duration) -> String {
    let failed: usize = results.iter().map(FileResult::failures).sum();
    let cases: usize = results.iter().map(|result| result.cases.len()).sum();
    let bad = results.iter().filter(|result| result.problem.is_some()).count();
    let passed = cases + bad - failed;
    let rate = cases as f64 / took.as_secs_f64().max(0.001);
    format!("{passed} passed, {failed} failed, in {:.2} s ({rate:.0} a second)", took.as_secs_f64())
}

/// The same in the form that CI servers read.
pub fn junit(results: &[FileResult]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for result in results {
        let file = escaped(&result.file.to_string_lossy());
        let time: Duration = result.cases.iter().map(|case| case.time).sum();
        let tests = result.cases.len() + usize::from(result.problem.is_some());
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{file}\" tests=\"{tests}\" failures=\"{}\" time=\"{:.6}\">",
            result.failures(),
            time.as_secs_f64()
        );
        if let Some(problem) = &result.problem {
            case(&mut xml, &file, "the file itself", Duration::ZERO, Some(problem));
        }
        for each in &result.cases {
            case(&mut xml, &file, &each.name, each.time, each.failure.as_deref());
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn case(xml: &mut String, file: &str, name: &str, time: Duration, failure: Option<&str>) {
    let name = escaped(name);
    let _ = write!(
        xml,
        "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" time=\"{:.6}\"",
        time.as_secs_f64()
    );
    match failure {
        None => xml.push_str("/>\n"),
        Some(failure) => {
            let first = failure.lines().next().unwrap_or_default();
            let first = escaped(beginning(first, 200));
            let _ =
                writeln!(xml, ">\n      <failure message=\"{first}\">{}</failure>\n    </testcase>", escaped(failure));
        }
    }
}

/// As text or an attribute; what XML cannot hold becomes a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
