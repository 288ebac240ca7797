//! Variables of the environment that override settings: `MOONWIRE_LIMITS__MESSAGE`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::error::{Problem, nearest};

/// The variables that are for us and have not been taken yet.
pub struct Environment<'a> {
    variables: BTreeMap<&'a str, &'a str>,
    /// Every name that was asked for, for suggestions.
    known: BTreeSet<String>,
}

const PREFIX: &str = "MOONWIRE_";

/// With this at the end of its name, a variable names the file that holds the value.
pub const FILE: &str = "_FILE";

impl<'a> Environment<'a> {
    pub fn new(variables: &'a [(String, String)]) -> Environment<'a> {
        // Kubernetes sets some of these for a service with the name `moonwire`.
        let foreign = |name: &str| {
            name == "MOONWIRE_PORT" || name.starts_with("MOONWIRE_PORT_") || name.starts_with("MOONWIRE_SERVICE_")
        };
        let variables = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| name.starts_with(PREFIX) && !foreign(name))
            .collect();
        Environment { variables, known: BTreeSet::new() }
    }

    /// The value of `name`, or of the file that `name` with `_FILE` names.
    pub fn take(&mut self, name: &str, folder: &Path) -> Result<Option<String>, Box<Problem>> {
        self.known.insert(name.to_owned());
        let in_file = format!("{name}{FILE}");
        match (self.variables.remove(name), self.variables.remove(in_file.as_str())) {
            (Some(_), Some(_)) => {
                let problem = Problem::of_environment(format!("{name} and {in_file} are both set"));
                Err(Box::new(problem.hint("unset one of them")))
            }
            (Some(value), None) => Ok(Some(value.to_owned())),
            (None, Some(file)) => {
                let file = folder.join(file);
                let text = fs::read_to_string(&file).map_err(|error| {
                    let what = format!("{in_file} names {}, which cannot be read: {error}", file.display());
                    Box::new(Problem::of_environment(what))
                })?;
                Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
            }
            (None, None) => Ok(None),
        }
    }

    /// What follows `prefix` in the names that have not been taken.
    pub fn below(&self, prefix: &str) -> Vec<&'a str> {
        let rests = self.variables.keys().filter_map(|name| name.strip_prefix(prefix));
        rests.filter(|rest| !rest.is_empty()).collect()
    }

    /// A problem for each variable that nobody has asked for.
    pub fn unknown(&self, apps: &[String]) -> Vec<Problem> {
        self.variables.keys().map(|name| self.unknown_one(name, apps)).collect()
    }

    fn unknown_one(&self, name: &str, apps: &[String]) -> Problem {
        if let Some(rest) = name.strip_prefix("MOONWIRE_APP__") {
            let app = rest.split("__").next().unwrap_or(rest);
            if !apps.iter().any(|known| known == app) {
                let problem = Problem::of_environment(format!("{name} is for an app that is not in the config"));
                return match apps {
                    [] => problem.hint("the config has no apps"),
                    _ => problem.hint(format!("its apps are {}", apps.join(", "))),
                };
            }
        }
        let problem = Problem::of_environment(format!("{name} is not a setting"));
        let plain = name.strip_suffix(FILE).unwrap_or(name);
        let known = || self.known.iter().map(String::as_str);
        // The right name in the wrong section, or without one.
        let last = plain.rsplit("__").next().unwrap_or(plain);
        let last = last.strip_prefix(PREFIX).unwrap_or(last);
        let meant = nearest(plain, known()).or_else(|| {
            known().filter(|known| known.rsplit("__").next() == Some(last)).min_by_key(|known| known.len())
        });
        match meant {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None => problem.hint("settings are written as in MOONWIRE_LIMITS__MESSAGE"),
        }
    }
}

/// An app's name as it stands in variables.
pub fn in_variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
