//! What is wrong with a configuration, for the person who wrote it.

use std::{
    error::Error,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

/// All the problems of a configuration that could be told apart. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// None if it is in a variable of the environment, which the message then names.
    pub file: Option<PathBuf>,
    /// From 1.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    pub message: String,
    pub hint: Option<String>,
    excerpt: Option<Excerpt>,
}

/// The line that a problem is in, and how many of its characters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    line: String,
    width: usize,
}

/// Longer lines are named but not shown.
const LINE_CHARS_MAX: usize = 300;

impl ConfigError {
    pub fn new(problems: Vec<Problem>) -> ConfigError {
        ConfigError { problems }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl Problem {
    /// In the environment.
    pub fn of_environment(message: String) -> Problem {
        Problem { file: None, line: None, column: None, message: printable(&message), hint: None, excerpt: None }
    }

    /// In the file as a whole.
    pub fn of_file(file: &Path, message: String) -> Problem {
        Problem { file: Some(file.to_owned()), ..Problem::of_environment(message) }
    }

    /// At these bytes of the file's `text`.
    pub fn at(file: Option<&Path>, text: &str, span: Range<usize>, message: String) -> Problem {
        let (line, column, excerpt) = locate(text, span);
        Problem {
            file: file.map(Path::to_owned),
            line: Some(line),
            column: Some(column),
            message: printable(&message),
            hint: None,
            excerpt: (excerpt.line.chars().count() <= LINE_CHARS_MAX).then_some(excerpt),
        }
    }

    pub fn hint(self, hint: impl Into<String>) -> Problem {
        self.hinted(Some(hint.into()))
    }

    pub fn hinted(self, hint: Option<String>) -> Problem {
        Problem { hint: hint.as_deref().map(printable), ..self }
    }
}

/// A config may hold anything, and nothing of it may move a terminal's cursor.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The line that holds the byte at `offset`, from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn locate(text: &str, span: Range<usize>) -> (usize, usize, Excerpt) {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
    let mut end = span.end.clamp(start, line_end);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let line = text[line_start..line_end].trim_end();
    let line = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let column = 1 + text[line_start..start].chars().count();
    (line_of(text, start), column, Excerpt { line, width: text[start..end].chars().count().max(1) })
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.problems.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}", file.display())?,
            None => f.write_str("environment")?,
        }
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let (Some(line), Some(column), Some(excerpt)) = (self.line, self.column, &self.excerpt) {
            let margin = " ".repeat(line.to_string().len());
            // A tab stays one, so that the caret stands below what it means.
            let indent: String =
                excerpt.line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n  {line} | {}\n  {margin} | {indent}{}", excerpt.line, "^".repeat(excerpt.width))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl Error for ConfigError {}

/// The one of `known` that was probably meant by `name`.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= (known.len() / 3).min(4))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, span: Range<usize>, expected: &str) {
        let problem = Problem::at(Some(Path::new("config.toml")), text, span, "boom".to_owned()).hint("do this");
        assert_eq!(ConfigError::new(vec![problem]).to_string(), expected);
    }

    #[test]
    fn a_problem_is_shown_with_its_line_and_its_place() {
        check(
            "a = 1\nbcd = true\n",
            12..16,
            "config.toml:2:7: boom\n  2 | bcd = true\n    |       ^^^^\n  hint: do this\n",
        );
        check("\té = 1\r\n", 6..7, "config.toml:1:6: boom\n  1 | \té = 1\n    | \t    ^\n  hint: do this\n");
        check("a\u{1b}b", 2..3, "config.toml:1:3: boom\n  1 | a\u{fffd}b\n    |   ^\n  hint: do this\n");
    }

    #[test]
    fn a_place_that_is_not_in_the_text_is_moved_into_it() {
        check("a", 7..9, "config.toml:1:2: boom\n  1 | a\n    |  ^\n  hint: do this\n");
        check("é", 1..1, "config.toml:1:1: boom\n  1 | é\n    | ^\n  hint: do this\n");
        check("", 0..0, "config.toml:1:1: boom\n  1 | \n    | ^\n  hint: do this\n");
        let long = "x".repeat(LINE_CHARS_MAX + 1);
        check(&long, 4..5, "config.toml:1:5: boom\n  hint: do this\n");
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["listen", "workers", "control"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("Workers", known), Some("workers"));
        assert_eq!(nearest("shutdown", known), None);
        assert_eq!(nearest("evn", ["env"]), Some("env"));
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
