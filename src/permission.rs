//! What an identity may do: `allow` and `deny`, lists of `"action resource"` with the patterns of rooms.
//!
//! `deny` wins. With an `allow` list, what no rule of it fits is forbidden; without one, all that no `deny` rule fits
//! is permitted. Plain data: it travels between workers with the identity.

use std::{fmt, sync::Arc};

use crate::{name, plain::Plain};

/// What the relay itself asks before it does it. Scripts may ask for actions of their own besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Join,
    Publish,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Join => "join",
            Action::Publish => "publish",
        }
    }
}

/// The most rules, and bytes of them, that one list may have: all are looked at for every message.
pub const RULES_MAX: usize = 1024;
pub const BYTES_MAX: usize = 32 * 1024;

/// `"join room.42.>"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    action: Box<str>,
    pattern: Box<str>,
}

impl Rule {
    /// Reads one rule, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let Some((action, pattern)) = text.split_once(' ') else {
            return Err(format!(
                "\"{text}\" is no rule: one is an action, a space and a resource, as in \"join room.*\""
            ));
        };
        let is_action = !action.is_empty() && action.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !is_action {
            return Err(format!("\"{text}\": an action is letters, digits, _ and -"));
        }
        if !name::is_pattern(pattern.as_bytes()) {
            return Err(format!(
                "\"{text}\": a resource is 1 to 255 bytes without control characters, with * for one token and > only at the end"
            ));
        }
        Ok(Rule { action: action.into(), pattern: pattern.into() })
    }

    fn fits(&self, action: &str, resource: &str) -> bool {
        *self.action == *action && name::matches(&self.pattern, resource)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.pattern)
    }
}

/// A list of rules, as an identity or a script gave it.
pub type Rules = Arc<[Rule]>;

/// Reads a list of rules out of plain data.
pub fn rules(list: &Plain) -> Result<Rules, String> {
    const WANTED: &str = "must be a list of rules such as \"join room.*\"";
    let Plain::Table(table) = list else { return Err(WANTED.to_owned()) };
    if !table.pairs.is_empty() {
        return Err(format!("{WANTED}, got a table with named fields"));
    }
    if table.array.len() > RULES_MAX {
        return Err(format!("must have at most {RULES_MAX} rules, got {}", table.array.len()));
    }
    let rule = |rule: &Plain| Rule::parse(rule.as_str().ok_or(WANTED)?);
    let rules: Rules = table.array.iter().map(rule).collect::<Result<_, _>>()?;
    match bytes(&rules) {
        0..=BYTES_MAX => Ok(rules),
        bytes => Err(format!("must have at most {BYTES_MAX} bytes of rules, got {bytes}")),
    }
}

/// How long a list is.
pub fn bytes(rules: &[Rule]) -> usize {
    rules.iter().map(|rule| rule.action.len() + rule.pattern.len() + 1).sum()
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Allow(Rule),
    Deny(Rule),
    /// There is an `allow` list, and nothing in it fits.
    NoRule,
    /// There is no `allow` list, and no `deny` rule that fits.
    NoLists,
}

impl Reason {
    pub fn permits(&self) -> bool {
        matches!(self, Reason::Allow(_) | Reason::NoLists)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Allow(rule) => write!(f, "allow {rule}"),
            Reason::Deny(rule) => write!(f, "deny {rule}"),
            Reason::NoRule => f.write_str("no_rule"),
            Reason::NoLists => f.write_str("no_lists"),
        }
    }
}

/// Both lists of one identity; without any, the script alone decides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Permissions {
    pub allow: Option<Rules>,
    pub deny: Option<Rules>,
}

impl Permissions {
    /// What decides about `action` on the one resource of this name.
    pub fn decide(&self, action: &str, resource: &str) -> Reason {
        self.decide_by(|rule| rule.fits(action, resource), |rule| rule.fits(action, resource))
    }

    /// What decides about `action` on everything that `pattern` matches: one rule must cover it all, and no `deny`
    /// may overlap it.
    pub fn decide_pattern(&self, action: &str, pattern: &str) -> Reason {
        self.decide_by(
            |rule| *rule.action == *action && covers(&rule.pattern, pattern),
            |rule| *rule.action == *action && overlaps(&rule.pattern, pattern),
        )
    }

    fn decide_by(&self, allows: impl Fn(&Rule) -> bool, denies: impl Fn(&Rule) -> bool) -> Reason {
        if let Some(rule) = self.deny.iter().flat_map(|rules| rules.iter()).find(|rule| denies(rule)) {
            return Reason::Deny(rule.clone());
        }
        match &self.allow {
            None => Reason::NoLists,
            Some(rules) => {
                rules.iter().find(|rule| allows(rule)).map_or(Reason::NoRule, |rule| Reason::Allow(rule.clone()))
            }
        }
    }

    pub fn permits(&self, action: Action, resource: &str) -> bool {
        let fits = |rules: &Rules| rules.iter().any(|rule| rule.fits(action.as_str(), resource));
        !self.deny.as_ref().is_some_and(fits) && self.allow.as_ref().is_none_or(fits)
    }

    pub fn permits_pattern(&self, action: Action, pattern: &str) -> bool {
        self.decide_pattern(action.as_str(), pattern).permits()
    }
}

/// Whether `outer` matches every name that `inner` matches.
fn covers(outer: &str, inner: &str) -> bool {
    let mut inner = inner.split('.');
    for token in outer.split('.') {
        match (token, inner.next()) {
            (">", Some(_)) => return true,
            ("*", Some(of)) if of != ">" => {}
            (token, Some(of)) if token == of => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

/// Whether some name is matched by both.
fn overlaps(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(rules: &[&str]) -> Rules {
        rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect()
    }

    #[test]
    fn deny_wins_and_an_allow_list_forbids_the_rest() {
        let both = Permissions {
            allow: Some(list(&["join room.>", "publish room.*.chat"])),
            deny: Some(list(&["join room.9"])),
        };
        let check = |action: &str, resource: &str, expected: &str| {
            assert_eq!(both.decide(action, resource).to_string(), expected, "{action} {resource}");
        };
        check("join", "room.1", "allow join room.>");
        check("join", "room.9", "deny join room.9");
        check("join", "room.9.x", "allow join room.>");
        check("publish", "room.1.chat", "allow publish room.*.chat");
        check("publish", "room.1", "no_rule");
        check("edit", "doc.1", "no_rule");
        let denied = Permissions { allow: None, deny: Some(list(&["join room.9"])) };
        assert_eq!(denied.decide("join", "room.1"), Reason::NoLists);
        assert!(!denied.permits(Action::Join, "room.9"));
        assert!(Permissions::default().permits(Action::Publish, "anything"));
        assert!(!Permissions { allow: Some(list(&[])), deny: None }.permits(Action::Join, "anything"));
    }

    #[test]
    fn a_rule_is_an_action_and_a_pattern() {
        for bad in ["", "join", "join ", " room", "join a.>.b", "jo in room\n", "join  room\u{7}"] {
            assert!(Rule::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Rule::parse("write doc.notes of ann.*").unwrap().to_string(), "write doc.notes of ann.*");
    }

    proptest! {
        /// Against the names themselves: tokens of two letters, up to three of them.
        #[test]
        fn a_pattern_is_permitted_only_if_every_name_that_it_matches_is(
            allow in prop::collection::vec("(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?|>", 0..3),
            deny in prop::collection::vec("(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?|>", 0..2),
            pattern in "(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?|>",
        ) {
            let rules = |patterns: &[String]| -> Rules {
                patterns.iter().map(|pattern| Rule::parse(&format!("join {pattern}")).unwrap()).collect()
            };
            let permissions = Permissions { allow: Some(rules(&allow)), deny: Some(rules(&deny)) };
            let tokens = ["a", "b", "c"];
            let mut names: Vec<String> = tokens.iter().map(|t| (*t).to_owned()).collect();
            let mut last = names.clone();
            for _ in 0..4 {
                last = last.iter().flat_map(|name| tokens.map(|token| format!("{name}.{token}"))).collect();
                names.extend(last.iter().cloned());
            }
            let mut matched = names.iter().filter(|name| name::matches(&pattern, name)).peekable();
            prop_assert!(matched.peek().is_some());
            let all = matched.all(|name| permissions.permits(Action::Join, name));
            if permissions.permits_pattern(Action::Join, &pattern) {
                prop_assert!(all, "{pattern} was permitted by {allow:?} but {deny:?}");
            } else if allow.len() == 1 {
                prop_assert!(!all, "{pattern} was forbidden by {allow:?} but {deny:?}");
            }
        }
    }
}
