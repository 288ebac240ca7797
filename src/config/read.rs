//! From the text of a file and the environment to the settings.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    App, Config, ConfigError, Limits, ShardBy, Static,
    environment::{Environment, FILE, in_variable},
    error::{Problem, line_of, nearest},
    keys::{APP, COMPRESSION, HTTP, LIMITS, LOG, RELOAD, SERVER, SERVER_LIMITS, STATIC, STORE, Setting, sections},
    parse_duration, parse_size,
    pattern::PathPattern,
    scripts::{has, set},
    value::{Given, Value, app_name},
};
use crate::plain::Plain;

/// An instance's number is part of each connection's id.
const INSTANCES_MAX: usize = 65_535;

/// The problems of a file that is no TOML are often one mistake.
const SYNTAX_PROBLEMS_MAX: usize = 3;

/// Reads everything, and tells everything that is wrong.
pub fn read(text: &str, file: Option<&Path>, env: &[(String, String)]) -> Result<Config, ConfigError> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let folder = file.and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
    let mut config = Config { file: file.map(Path::to_owned), ..Config::default() };
    config.server.control = folder.join(&config.server.control);
    config.store.path = folder.join(&config.store.path);
    let mut reader = Reader {
        text,
        file,
        folder,
        workers: config.server.workers,
        environment: Environment::new(env),
        places: HashMap::new(),
        problems: Vec::new(),
    };
    if !errors.is_empty() {
        return Err(ConfigError::new(reader.syntax(&errors)));
    }
    reader.config(root.get_ref(), &mut config);
    match reader.problems.is_empty() {
        true => Ok(config),
        false => Err(ConfigError::new(reader.problems)),
    }
}

struct Reader<'a> {
    text: &'a str,
    file: Option<&'a Path>,
    folder: PathBuf,
    /// What "auto" means.
    workers: usize,
    environment: Environment<'a>,
    /// Where each setting was given, by its address: `limits.message`, `app.0.path`.
    places: HashMap<String, Place>,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
enum Place {
    File(Range<usize>),
    Variable(String),
}

/// How a section is called.
struct Section<'a> {
    /// In messages: `app.limits`.
    name: &'a str,
    /// In `places`: `app.0.limits`.
    address: String,
    /// Of the variables: `MOONWIRE_APP__CHAT__LIMITS__`; None if there are none.
    variables: Option<String>,
}

impl<'a> Section<'a> {
    fn top(name: &'a str) -> Section<'a> {
        Section { name, address: name.to_owned(), variables: Some(format!("MOONWIRE_{}__", name.to_uppercase())) }
    }
}

type Key<'a> = Spanned<DeString<'a>>;

impl Reader<'_> {
    fn config(&mut self, root: &DeTable, config: &mut Config) {
        let known: Vec<_> = sections().into_iter().map(|(name, _)| name).filter(|name| !name.contains('.')).collect();
        for (key, _) in in_order(root) {
            if !known.contains(&key.get_ref().as_ref()) {
                self.unknown_key(&key, "", &known);
            }
        }
        let table = |reader: &mut Self, name| root.get(name).and_then(|value| reader.table(name, value));
        let server = table(self, "server");
        self.section(&Section::top("server"), &[SERVER], server, &mut config.server);
        self.workers = config.server.workers;
        let limits = table(self, "limits");
        self.section(&Section::top("limits"), &[SERVER_LIMITS, LIMITS], limits, &mut config.limits);
        let store = table(self, "store");
        self.section(&Section::top("store"), &[STORE], store, &mut config.store);
        let reload = table(self, "reload");
        self.section(&Section::top("reload"), &[RELOAD], reload, &mut config.reload);
        let log = table(self, "log");
        self.section(&Section::top("log"), &[LOG], log, &mut config.log);
        for (index, (span, table)) in self.tables("app", root.get("app")).into_iter().enumerate() {
            let app = self.app(index, span, table, &config.limits);
            config.apps.push(Arc::new(app));
        }
        for (index, (span, table)) in self.tables("static", root.get("static")).into_iter().enumerate() {
            let each = self.folder(index, span, table);
            config.statics.push(each);
        }
        self.check(config);
    }

    /// Reads the settings of one section, from the file and then from the variables, which override it.
    fn section<T>(&mut self, section: &Section, lists: &[&[Setting<T>]], table: Option<&DeTable>, into: &mut T) {
        let settings = || lists.iter().copied().flatten();
        for (key, value) in table.map(in_order).unwrap_or_default() {
            match settings().find(|setting| setting.name == key.get_ref()) {
                Some(setting) => self.read_value(section, setting, value, into),
                // Sections of their own.
                None if section.name == "app"
                    && matches!(key.get_ref().as_ref(), "limits" | "http" | "compression") => {}
                None => {
                    let known: Vec<_> = settings().map(|setting| setting.name).collect();
                    self.unknown_key(&key, section.name, &known);
                }
            }
        }
        let Some(prefix) = &section.variables else { return };
        // By its name an app finds its variables.
        for setting in settings().filter(|setting| (section.name, setting.name) != ("app", "name")) {
            self.read_variable(section, setting, &format!("{prefix}{}", setting.name.to_uppercase()), into);
        }
    }

    fn read_value<T>(&mut self, section: &Section, setting: &Setting<T>, value: &Spanned<DeValue>, into: &mut T) {
        let given = Given {
            value: Value::Toml(value.get_ref()),
            span: value.span(),
            folder: &self.folder,
            workers: self.workers,
        };
        if let Err(wrong) = (setting.read)(into, &given) {
            let message = format!("{}.{} {}", section.name, setting.name, wrong.what);
            self.tell(&Place::File(wrong.span), message, wrong.hint);
        }
        self.places.insert(format!("{}.{}", section.address, setting.name), Place::File(value.span()));
    }

    fn read_variable<T>(&mut self, section: &Section, setting: &Setting<T>, name: &str, into: &mut T) {
        let text = match self.environment.take(name, &self.folder) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(problem) => return self.problems.push(*problem),
        };
        let given = Given { value: Value::Text(&text), span: 0..0, folder: &self.folder, workers: self.workers };
        let place = Place::Variable(name.to_owned());
        if let Err(wrong) = (setting.read)(into, &given) {
            self.tell(&place, wrong.what, wrong.hint);
        }
        self.places.insert(format!("{}.{}", section.address, setting.name), place);
    }

    fn app(&mut self, index: usize, span: Range<usize>, table: &DeTable, limits: &Limits) -> App {
        let mut app = App { limits: limits.clone(), ..App::new("", "", "") };
        let address = format!("app.{index}");
        let name = table.get("name").and_then(|name| {
            let value = Value::Toml(name.get_ref());
            app_name(&Given { value, span: name.span(), folder: &self.folder, workers: self.workers }).ok()
        });
        let variables = name.map(|name| format!("MOONWIRE_APP__{}__", in_variable(&name)));
        let section = Section { name: "app", address: address.clone(), variables: variables.clone() };
        self.section(&section, &[APP], Some(table), &mut app);
        if let Some(variables) = &variables {
            self.settings(&format!("{variables}SETTINGS__"), &mut app.settings);
        }
        let own = table.get("limits").and_then(|value| self.table("app.limits", value));
        let below = |name: &str| variables.as_ref().map(|variables| format!("{variables}{name}__"));
        let section = Section { name: "app.limits", address: format!("{address}.limits"), variables: below("LIMITS") };
        self.section(&section, &[LIMITS], own, &mut app.limits);
        let http = table.get("http").and_then(|value| self.table("app.http", value));
        let section = Section { name: "app.http", address: format!("{address}.http"), variables: below("HTTP") };
        self.section(&section, &[HTTP], http, &mut app.http);
        let compression = table.get("compression").and_then(|value| self.table("app.compression", value));
        let section = Section {
            name: "app.compression",
            address: format!("{address}.compression"),
            variables: below("COMPRESSION"),
        };
        self.section(&section, &[COMPRESSION], compression, &mut app.compression);
        self.require(&address, "app", &["name", "path", "script"], span);
        app
    }

    /// The variables of an app's own settings.
    fn settings(&mut self, prefix: &str, settings: &mut Plain) {
        for rest in self.environment.below(prefix) {
            let keys = |rest: &str| rest.split("__").map(str::to_lowercase).collect::<Vec<_>>();
            let is_there = |rest: &str| has(settings, &borrowed(&keys(rest)));
            // A setting may be called `cert_file`.
            let name = match rest.strip_suffix(FILE) {
                Some(plain) if !is_there(rest) => plain,
                _ => rest,
            };
            let variable = format!("{prefix}{name}");
            match self.environment.take(&variable, &self.folder) {
                Ok(Some(text)) => {
                    if let Err(what) = set(settings, &borrowed(&keys(name)), &text) {
                        self.tell(&Place::Variable(variable), what, None);
                    }
                }
                // Taken together with its `_FILE`, or the other way round.
                Ok(None) => {}
                Err(problem) => self.problems.push(*problem),
            }
        }
    }

    fn folder(&mut self, index: usize, span: Range<usize>, table: &DeTable) -> Static {
        let mut each = Static { path: String::new(), folder: PathBuf::new() };
        let address = format!("static.{index}");
        let section = Section { name: "static", address: address.clone(), variables: None };
        self.section(&section, &[STATIC], Some(table), &mut each);
        self.require(&address, "static", &["path", "folder"], span);
        each
    }

    fn require(&mut self, address: &str, name: &str, settings: &[&str], span: Range<usize>) {
        for setting in settings {
            if !self.places.contains_key(&format!("{address}.{setting}")) {
                let example = match (name, *setting) {
                    (_, "name") => "name = \"chat\"",
                    ("app", "path") => "path = \"/chat/{room}\"",
                    (_, "script") => "script = \"chat.lua\"",
                    (_, "path") => "path = \"/\"",
                    _ => "folder = \"page\"",
                };
                let message = format!("{name}.{setting} is missing");
                self.tell(&Place::File(span.clone()), message, Some(format!("write {example} below [[{name}]]")));
            }
        }
    }

    // ── what only several settings together can have wrong ──

    fn check(&mut self, config: &Config) {
        let (limits, reload) = (&config.limits, &config.reload);
        if reload.debounce_max < reload.debounce {
            self.contradiction("reload.debounce_max", "must not be shorter than", "reload.debounce");
        }
        if limits.bus < limits.bus_pause {
            self.contradiction("limits.bus", "must not be less than", "limits.bus_pause");
        }
        let mut instances = 0;
        for (index, app) in config.apps.iter().enumerate() {
            self.check_app(index, app, &config.apps[..index]);
            instances += app.instances;
            if instances > INSTANCES_MAX && instances - app.instances <= INSTANCES_MAX {
                let message =
                    format!("app.instances: all apps together must have at most {INSTANCES_MAX}, got {instances}");
                self.tell_at(&format!("app.{index}.instances"), message, None);
            }
        }
        for (index, each) in config.statics.iter().enumerate() {
            let path = each.path.trim_end_matches('/');
            let same = |other: &Static| !each.path.is_empty() && other.path.trim_end_matches('/') == path;
            if let Some(first) = config.statics[..index].iter().position(same) {
                self.taken(&format!("static.{index}.path"), &format!("static.{first}.path"), "static.path", &each.path);
            }
        }
        let named = config.apps.iter().all(|app| !app.name.is_empty());
        let apps: Vec<_> = config.apps.iter().map(|app| in_variable(&app.name)).collect();
        // The variables of an app whose name is wrong already cannot be judged.
        let unknown = self.environment.unknown(&apps);
        self.problems
            .extend(unknown.into_iter().filter(|problem| named || !problem.message.starts_with("MOONWIRE_APP_")));
    }

    fn check_app(&mut self, index: usize, app: &App, before: &[Arc<App>]) {
        let pattern = |path: &str| PathPattern::parse(path).ok();
        let name = in_variable(&app.name);
        if !name.is_empty()
            && let Some(first) = before.iter().position(|other| in_variable(&other.name) == name)
        {
            let (ours, theirs) = (format!("app.{index}.name"), format!("app.{first}.name"));
            if before[first].name == app.name {
                self.taken(&ours, &theirs, "app.name", &app.name);
            } else {
                let message = format!("app.name {:?} and {:?} are the same to variables", app.name, before[first].name);
                let hint = "names must differ in more than case and in more than `-` and `_`".to_owned();
                self.tell_at(&ours, message, Some(hint));
            }
        }
        let Some(own) = pattern(&app.path) else { return };
        let same = |other: &Arc<App>| pattern(&other.path).is_some_and(|other| other.is_equivalent(&own));
        if let Some(first) = before.iter().position(same) {
            self.taken(&format!("app.{index}.path"), &format!("app.{first}.path"), "app.path", &app.path);
        }
        if let Some(ShardBy::Param(name)) = &app.shard_by
            && own.params().all(|param| param != name)
        {
            let params: Vec<_> = own.params().map(|param| format!("params.{param}")).collect();
            let hint = match params.as_slice() {
                [] => "the path has no parameters; one is written as in \"/chat/{room}\"".to_owned(),
                _ => format!("the path has {}", params.join(", ")),
            };
            let message = format!("app.shard_by names `params.{name}`, which is not in the path {:?}", app.path);
            self.tell_at(&format!("app.{index}.shard_by"), message, Some(hint));
        }
    }

    fn contradiction(&mut self, name: &str, what: &str, other: &str) {
        let at = if self.places.contains_key(name) { name } else { other };
        let place = match self.places.get(other) {
            Some(Place::File(span)) if at == name => format!(" (line {})", line_of(self.text, span.start)),
            Some(Place::Variable(variable)) if at == name => format!(" ({variable})"),
            _ => String::new(),
        };
        let message = format!("{name} {what} {other}{place}");
        self.tell_at(at, message, None);
    }

    /// Two have the same where there may be only one.
    fn taken(&mut self, address: &str, first: &str, name: &str, value: &str) {
        let by = match self.places.get(first) {
            Some(Place::File(span)) => format!("on line {}", line_of(self.text, span.start)),
            Some(Place::Variable(variable)) => format!("by {variable}"),
            None => "before".to_owned(),
        };
        let message = match name {
            "app.path" => format!("app.path {value:?} matches the same paths as the one {by}"),
            _ => format!("{name} {value:?} is already taken {by}"),
        };
        self.tell_at(address, message, None);
    }

    // ── tables ──

    fn table<'t>(&mut self, name: &str, value: &'t Spanned<DeValue<'t>>) -> Option<&'t DeTable<'t>> {
        let DeValue::Table(table) = value.get_ref() else {
            let (message, hint) = match value.get_ref() {
                DeValue::Array(_) => {
                    (format!("{name} must be a table, got a list"), format!("write [{name}], in single brackets"))
                }
                _ => (format!("{name} must be a table"), format!("write [{name}] on a line of its own")),
            };
            self.tell(&Place::File(value.span()), message, Some(hint));
            return None;
        };
        Some(table)
    }

    /// The tables of `[[name]]`.
    fn tables<'t>(
        &mut self,
        name: &str,
        value: Option<&'t Spanned<DeValue<'t>>>,
    ) -> Vec<(Range<usize>, &'t DeTable<'t>)> {
        let Some(value) = value else { return Vec::new() };
        let hint = Some(format!("write [[{name}]], in double brackets"));
        let DeValue::Array(items) = value.get_ref() else {
            self.tell(&Place::File(value.span()), format!("{name} must be a list of tables"), hint);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => tables.push((item.span(), table)),
                _ => self.tell(&Place::File(item.span()), format!("{name} must be a list of tables"), hint.clone()),
            }
        }
        tables
    }

    fn unknown_key(&mut self, key: &Key, section: &str, known: &[&str]) {
        let name = key.get_ref().as_ref();
        let full = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        let place = Place::File(key.span());
        if section == "app.limits" && SERVER_LIMITS.iter().any(|setting| setting.name == name) {
            let message = format!("{name} is a limit of the whole server, which an app cannot override");
            return self.tell(&place, message, Some("write it below [limits]".to_owned()));
        }
        let homes: Vec<_> = sections()
            .into_iter()
            .filter(|(home, names)| *home != section && names.contains(&name))
            .map(|(home, _)| if matches!(home, "app" | "static") { format!("[[{home}]]") } else { format!("[{home}]") })
            .collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if !homes.is_empty() => format!("it belongs below {}", homes.join(" or ")),
            None if section == "app" => "what the script is to read belongs below [app.settings]".to_owned(),
            None if known.len() <= 10 => format!("there are {}", known.join(", ")),
            None => "config.toml has every setting with its meaning".to_owned(),
        };
        let what = if section.is_empty() { "section" } else { "setting" };
        self.tell(&place, format!("unknown {what} `{full}`"), Some(hint));
    }

    // ── telling ──

    fn tell_at(&mut self, address: &str, message: String, hint: Option<String>) {
        // What was given nowhere has its default, and those agree with each other.
        let place = self.places.get(address).cloned().unwrap_or(Place::File(0..0));
        if let Place::Variable(variable) = place {
            self.problems.push(Problem::of_environment(format!("{variable}: {message}")).hinted(hint));
        } else {
            self.tell(&place, message, hint);
        }
    }

    /// `message` is whole for a place in the file; for a variable, its name goes in front.
    fn tell(&mut self, place: &Place, message: String, hint: Option<String>) {
        let problem = match place {
            Place::File(span) => Problem::at(self.file, self.text, span.clone(), message),
            Place::Variable(name) => Problem::of_environment(format!("{name} {message}")),
        };
        self.problems.push(problem.hinted(hint));
    }

    /// What is no TOML, the first of each line: one mistake is often several to the parser.
    fn syntax(&self, errors: &[toml::de::Error]) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(self.text.len()..self.text.len());
            let hint = unquoted(self.text, span.start);
            let problem = Problem::at(self.file, self.text, span, error.message().to_owned());
            if problems.iter().all(|other| other.line != problem.line) {
                problems.push(problem.hinted(hint));
            }
        }
        problems.truncate(SYNTAX_PROBLEMS_MAX);
        problems
    }
}

/// The commonest mistake of all, if it is made at `offset`: text or a unit without quotes.
fn unquoted(text: &str, offset: usize) -> Option<String> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next()?;
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let is_word =
        value.starts_with(|c: char| c.is_alphanumeric() || "/.:-".contains(c)) && !value.contains(['"', '\'']);
    if start + key.len() > offset || !is_word || DeValue::parse(value).is_ok() {
        return None;
    }
    match value.to_lowercase().as_str() {
        lower @ ("true" | "false") => Some(format!("write {lower}")),
        _ if parse_size(value).is_ok() || parse_duration(value).is_ok() => {
            Some(format!("a value with a unit stands in quotes: \"{value}\""))
        }
        _ => Some(format!("text stands in quotes: \"{value}\"")),
    }
}

/// The pairs in the order of the file.
fn in_order<'t>(table: &'t DeTable<'t>) -> Vec<(Key<'t>, &'t Spanned<DeValue<'t>>)> {
    let mut pairs: Vec<_> = table.iter().map(|(key, value)| (key.clone(), value)).collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    pairs
}

fn borrowed(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}
