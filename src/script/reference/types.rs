//! The reference as type definitions: for luau-lsp in Luau's words, for the Lua language server in its annotations.

use std::collections::BTreeMap;

use super::{Entry, GROUPS, Type, entries};

/// A file of definitions.
pub struct Definitions {
    pub file: &'static str,
    pub text: String,
}

/// Values that scripts hold, whose names are those that entries begin with.
const CLASSES: [(&str, &str); 9] = [
    ("conn", "Conn"),
    ("room", "Room"),
    ("user", "User"),
    ("timer", "Timer"),
    ("socket", "Socket"),
    ("request", "Request"),
    ("router", "Router"),
    ("peer", "Peer"),
    ("app", "App"),
];

/// Libraries that `require` gives.
const LIBRARIES: [&str; 3] = ["moonwire.router", "moonwire.shape", "moonwire.test"];

/// All files.
pub fn definitions() -> Vec<Definitions> {
    let mut files = vec![Definitions { file: "moonwire.d.luau", text: luau() }];
    files.push(Definitions { file: "moonwire.d.lua", text: lua() });
    let library = |name: &'static str| {
        let file = match name {
            "moonwire.router" => "moonwire_router.d.lua",
            "moonwire.shape" => "moonwire_shape.d.lua",
            _ => "moonwire_test.d.lua",
        };
        Definitions { file, text: lua_library(name) }
    };
    files.extend(LIBRARIES.map(library));
    files
}

fn types() -> impl Iterator<Item = &'static Type> {
    // `err` is told as a type, not as a class.
    GROUPS.iter().flat_map(|group| group.types)
}

/// The entries of a class: those of `app` are a test's app, not the callbacks.
fn members(owner: &str) -> impl Iterator<Item = &'static Entry> {
    entries().filter(move |entry| entry.owner() == owner && (owner != "app" || entry.name.contains(':')))
}

const HEAD: &str =
    "What scripts of moonwire see. Made by `moonwire types`; do not edit, make it again after an update.";

// ── luau-lsp ──

fn luau() -> String {
    let mut text = format!("-- {HEAD}\n-- For luau-lsp: --definitions=moonwire.d.luau\n\n");
    for each in types() {
        text.push_str(&format!("export type {} = {}\n", each.name, each.means));
    }
    for (owner, class) in CLASSES {
        text.push_str(&format!("\ndeclare class {class}\n"));
        for entry in members(owner) {
            match Ty::parse(entry.signature) {
                Ty::Function { params, returns } => {
                    let params: Vec<String> = params.iter().map(Param::declared).collect();
                    let params = [vec!["self".to_owned()], params].concat().join(", ");
                    text.push_str(&format!("\tfunction {}({params}): {}\n", entry.last(), luau_returns(&returns)));
                }
                ty => text.push_str(&format!("\t{}: {}\n", entry.last(), ty.luau())),
            }
        }
        text.push_str("end\n");
    }
    text.push_str(&format!("\ndeclare relay: {}\n", luau_table(&tree("relay"), 0)));
    for entry in entries().filter(|entry| entry.owner().is_empty() && entry.name != "require") {
        if let Ty::Function { params, returns } = Ty::parse(entry.signature) {
            let params: Vec<String> = params.iter().map(Param::declared).collect();
            text.push_str(&format!(
                "declare function {}({}): {}\n",
                entry.name,
                params.join(", "),
                luau_returns(&returns)
            ));
        }
    }
    for name in LIBRARIES {
        let class = library_class(name);
        text.push_str(&format!("\n-- local it = require(\"{name}\") :: {class}\nexport type {class} = "));
        text.push_str(&format!("{}\n", luau_table(&tree(name), 0)));
    }
    text.push_str(&format!("\n-- What a script returns.\nexport type Script = {}\n", luau_table(&script(), 0)));
    text
}

fn library_class(name: &str) -> &'static str {
    match name {
        "moonwire.router" => "RouterLibrary",
        "moonwire.shape" => "ShapeLibrary",
        _ => "TestLibrary",
    }
}

/// Names below `owner`, as a tree.
enum Node {
    Leaf(&'static Entry),
    Table(BTreeMap<&'static str, Node>),
}

fn tree(owner: &str) -> Node {
    let mut root = BTreeMap::new();
    for entry in entries() {
        let Some(path) = entry.name.strip_prefix(owner).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let mut table = &mut root;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part, Node::Leaf(entry));
                break;
            }
            let node = table.entry(part).or_insert_with(|| Node::Table(BTreeMap::new()));
            let Node::Table(inner) = node else { break };
            table = inner;
        }
    }
    Node::Table(root)
}

/// The callbacks, none of which must be there.
fn script() -> Node {
    let callbacks = entries().filter(|entry| entry.name.starts_with("app."));
    Node::Table(callbacks.map(|entry| (entry.last(), Node::Leaf(entry))).collect())
}

fn luau_table(node: &Node, depth: usize) -> String {
    match node {
        Node::Leaf(entry) if entry.name.starts_with("app.") => {
            Ty::Optional(Box::new(Ty::parse(entry.signature))).luau()
        }
        Node::Leaf(entry) => Ty::parse(entry.signature).luau(),
        Node::Table(table) => {
            let indent = "\t".repeat(depth + 1);
            let fields: Vec<String> = table
                .iter()
                .map(|(name, node)| format!("{indent}{name}: {},\n", luau_table(node, depth + 1)))
                .collect();
            format!("{{\n{}{}}}", fields.concat(), "\t".repeat(depth))
        }
    }
}

fn luau_returns(returns: &[Ty]) -> String {
    match returns {
        [one] if !matches!(one, Ty::Function { .. }) => one.luau(),
        many => format!("({})", many.iter().map(Ty::luau).collect::<Vec<_>>().join(", ")),
    }
}

// ── the Lua language server ──

fn lua() -> String {
    let mut text = format!("---@meta\n-- {HEAD}\n-- For the Lua language server: a folder of workspace.library.\n");
    for each in types() {
        text.push_str(&format!("\n---@alias {} {}\n", each.name, Ty::parse(each.means).lua()));
    }
    for (owner, class) in CLASSES {
        text.push_str(&lua_class(owner, class));
    }
    lua_tables(&mut text, "relay", &tree("relay"));
    for entry in entries().filter(|entry| entry.owner().is_empty() && entry.name != "require") {
        text.push_str(&lua_function(entry, entry.name));
    }
    text.push_str("\n---What a script returns.\n---@class Script\n");
    for entry in entries().filter(|entry| entry.name.starts_with("app.")) {
        text.push_str(&format!("---@field {}? {}\n", entry.last(), Ty::parse(entry.signature).lua()));
    }
    text
}

fn lua_class(owner: &str, class: &str) -> String {
    let mut text = format!("\n---@class {class}\n");
    for entry in members(owner).filter(|entry| !entry.is_function()) {
        let ty = Ty::parse(entry.signature).lua();
        text.push_str(&format!("---@field {} {ty} {}\n", entry.last(), entry.does));
    }
    text.push_str(&format!("local {class} = {{}}\n"));
    for entry in members(owner).filter(|entry| entry.is_function()) {
        text.push_str(&lua_function(entry, &format!("{class}:{}", entry.last())));
    }
    text
}

fn lua_tables(text: &mut String, path: &str, node: &Node) {
    let Node::Table(table) = node else { return };
    text.push_str(&format!("\n---@class {path}\n"));
    for (name, node) in table {
        if let Node::Leaf(entry) = node
            && !entry.is_function()
        {
            text.push_str(&format!("---@field {name} {} {}\n", Ty::parse(entry.signature).lua(), entry.does));
        }
    }
    text.push_str(&format!("{path} = {{}}\n"));
    for (name, node) in table {
        match node {
            Node::Leaf(entry) if entry.is_function() => text.push_str(&lua_function(entry, &format!("{path}.{name}"))),
            Node::Leaf(_) => {}
            Node::Table(_) => lua_tables(text, &format!("{path}.{name}"), node),
        }
    }
}

fn lua_library(name: &str) -> String {
    let mut text = format!("---@meta {name}\n-- {HEAD}\n");
    let class = library_class(name);
    text.push_str(&format!("\n---@class {class}\nlocal {class} = {{}}\n"));
    if let Node::Table(table) = tree(name) {
        for (last, node) in table {
            if let Node::Leaf(entry) = node {
                text.push_str(&lua_function(entry, &format!("{class}.{last}")));
            }
        }
    }
    text.push_str(&format!("\nreturn {class}\n"));
    text
}

fn lua_function(entry: &Entry, path: &str) -> String {
    let Ty::Function { params, returns } = Ty::parse(entry.signature) else { return String::new() };
    let mut text = format!("\n---{}\n", entry.does);
    let mut names = Vec::new();
    for param in &params {
        let about = |name: &str| entry.arguments.iter().find(|(of, _)| *of == name).map_or("", |(_, means)| means);
        match (&param.name, &param.ty) {
            (_, Ty::Variadic(ty)) => {
                text.push_str(&format!("---@param ... {}\n", ty.lua()));
                names.push("...".to_owned());
            }
            (Some(name), ty) => {
                let (name, mark, ty) = match ty {
                    Ty::Optional(ty) => (name, "?", ty.lua()),
                    ty => (name, "", ty.lua()),
                };
                // A word of Lua cannot be the name of a parameter.
                let shown = if matches!(name.as_str(), "end" | "function") { format!("{name}_") } else { name.clone() };
                text.push_str(&format!("---@param {shown}{mark} {ty} {}\n", about(name)));
                names.push(shown);
            }
            (None, ty) => {
                text.push_str(&format!("---@param _ {}\n", ty.lua()));
                names.push("_".to_owned());
            }
        }
    }
    for ty in &returns {
        text.push_str(&format!("---@return {}\n", ty.lua()));
    }
    text.push_str(&format!("function {path}({}) end\n", names.join(", ")));
    text
}

// ── types ──

/// As much of Luau's types as the tables use.
#[derive(Debug, Clone, PartialEq)]
enum Ty {
    Name(String),
    /// `"text"`.
    Literal(String),
    Optional(Box<Ty>),
    Union(Vec<Ty>),
    List(Box<Ty>),
    Map(Box<Ty>, Box<Ty>),
    Record(Vec<(String, Ty)>),
    Function {
        params: Vec<Param>,
        returns: Vec<Ty>,
    },
    Variadic(Box<Ty>),
}

#[derive(Debug, Clone, PartialEq)]
struct Param {
    name: Option<String>,
    ty: Ty,
}

impl Param {
    /// Of a function that is declared and not of the type of one: what is variadic has a colon there.
    fn declared(&self) -> String {
        match &self.ty {
            Ty::Variadic(ty) => format!("...: {}", ty.luau()),
            _ => self.luau(),
        }
    }

    fn luau(&self) -> String {
        match &self.name {
            Some(name) => format!("{name}: {}", self.ty.luau()),
            None => self.ty.luau(),
        }
    }
}

impl Ty {
    /// Reads a type of the tables; what is wrong with one is a mistake in this source, which a test finds.
    fn parse(text: &str) -> Ty {
        let mut parser = Parser { rest: text.trim() };
        let ty = parser.ty();
        assert!(parser.rest.is_empty(), "`{text}` is no type: `{}` is left", parser.rest);
        ty
    }

    fn luau(&self) -> String {
        match self {
            Ty::Name(name) => name.clone(),
            Ty::Literal(text) => format!("\"{text}\""),
            Ty::Optional(ty) => match &**ty {
                Ty::Union(_) | Ty::Function { .. } => format!("({})?", ty.luau()),
                ty => format!("{}?", ty.luau()),
            },
            Ty::Union(types) => {
                let part = |ty: &Ty| match ty {
                    Ty::Function { .. } => format!("({})", ty.luau()),
                    ty => ty.luau(),
                };
                types.iter().map(part).collect::<Vec<_>>().join(" | ")
            }
            Ty::List(ty) => format!("{{ {} }}", ty.luau()),
            Ty::Map(key, value) => format!("{{ [{}]: {} }}", key.luau(), value.luau()),
            Ty::Record(fields) => {
                let fields: Vec<String> = fields.iter().map(|(name, ty)| format!("{name}: {}", ty.luau())).collect();
                format!("{{ {} }}", fields.join(", "))
            }
            Ty::Function { params, returns } => {
                let params: Vec<String> = params.iter().map(Param::luau).collect();
                format!("({}) -> {}", params.join(", "), luau_returns(returns))
            }
            Ty::Variadic(ty) => format!("...{}", ty.luau()),
        }
    }

    fn lua(&self) -> String {
        match self {
            // Kinds that the other Lua does not know.
            Ty::Name(name) if name == "buffer" => "userdata".to_owned(),
            Ty::Name(name) if name == "never" => "any".to_owned(),
            Ty::Name(name) => name.clone(),
            Ty::Literal(text) => format!("\"{text}\""),
            Ty::Optional(ty) => match &**ty {
                Ty::Union(_) | Ty::Function { .. } => format!("({})?", ty.lua()),
                ty => format!("{}?", ty.lua()),
            },
            Ty::Union(types) => {
                let part = |ty: &Ty| match ty {
                    Ty::Function { .. } => format!("({})", ty.lua()),
                    ty => ty.lua(),
                };
                types.iter().map(part).collect::<Vec<_>>().join("|")
            }
            Ty::List(ty) => match &**ty {
                Ty::Union(_) | Ty::Function { .. } | Ty::Optional(_) => format!("({})[]", ty.lua()),
                ty => format!("{}[]", ty.lua()),
            },
            Ty::Map(key, value) => format!("table<{}, {}>", key.lua(), value.lua()),
            Ty::Record(fields) => {
                let field = |(name, ty): &(String, Ty)| match ty {
                    Ty::Optional(ty) => format!("{name}?: {}", ty.lua()),
                    ty => format!("{name}: {}", ty.lua()),
                };
                format!("{{ {} }}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
            }
            Ty::Function { params, returns } => {
                let param = |param: &Param| match (&param.name, &param.ty) {
                    (_, Ty::Variadic(ty)) => format!("...: {}", ty.lua()),
                    (Some(name), Ty::Optional(ty)) => format!("{name}?: {}", ty.lua()),
                    (Some(name), ty) => format!("{name}: {}", ty.lua()),
                    (None, ty) => format!("_: {}", ty.lua()),
                };
                let params = params.iter().map(param).collect::<Vec<_>>().join(", ");
                let returns = returns.iter().map(Ty::lua).collect::<Vec<_>>().join(", ");
                if returns.is_empty() { format!("fun({params})") } else { format!("fun({params}): {returns}") }
            }
            Ty::Variadic(ty) => format!("{}...", ty.lua()),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn takes(&mut self, what: &str) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn needs(&mut self, what: &str) {
        assert!(self.takes(what), "`{what}` is missing before `{}`", self.rest);
    }

    fn name(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return None;
        }
        self.rest = rest.trim_start();
        Some(name)
    }

    fn ty(&mut self) -> Ty {
        let first = self.optional();
        let mut types = vec![first];
        while self.takes("|") {
            types.push(self.optional());
        }
        if types.len() == 1 { types.remove(0) } else { Ty::Union(types) }
    }

    fn optional(&mut self) -> Ty {
        let mut ty = self.single();
        while self.takes("?") {
            ty = Ty::Optional(Box::new(ty));
        }
        ty
    }

    fn single(&mut self) -> Ty {
        if self.takes("...") {
            return Ty::Variadic(Box::new(self.single()));
        }
        if self.takes("\"") {
            let (text, rest) = self.rest.split_once('"').unwrap_or((self.rest, ""));
            self.rest = rest.trim_start();
            return Ty::Literal(text.to_owned());
        }
        if self.takes("{") {
            return self.table();
        }
        if self.takes("(") {
            let params = self.list();
            if self.takes("->") {
                let returns = if self.takes("(") {
                    let returns = self.list();
                    if self.takes("->") {
                        let inner = self.single_or_list();
                        vec![Ty::Function { params: returns, returns: inner }]
                    } else {
                        returns.into_iter().map(|param| param.ty).collect()
                    }
                } else {
                    vec![self.ty()]
                };
                return Ty::Function { params, returns };
            }
            // Parentheses around one type.
            let [Param { name: None, ty }] = &params[..] else { panic!("`->` is missing before `{}`", self.rest) };
            return ty.clone();
        }
        let name = self.name().unwrap_or_else(|| panic!("a type is missing before `{}`", self.rest));
        Ty::Name(name.to_owned())
    }

    fn single_or_list(&mut self) -> Vec<Ty> {
        if self.takes("(") {
            return self.list().into_iter().map(|param| param.ty).collect();
        }
        vec![self.ty()]
    }

    /// Parameters or types, after their `(`.
    fn list(&mut self) -> Vec<Param> {
        let mut params = Vec::new();
        while !self.takes(")") {
            let before = self.rest;
            let named = self.name().filter(|_| self.rest.starts_with(':'));
            let param = match named {
                Some(name) => {
                    self.needs(":");
                    Param { name: Some(name.to_owned()), ty: self.ty() }
                }
                None => {
                    self.rest = before;
                    Param { name: None, ty: self.ty() }
                }
            };
            params.push(param);
            if !self.takes(",") {
                self.needs(")");
                break;
            }
        }
        params
    }

    /// A list, a map or a record, after its `{`.
    fn table(&mut self) -> Ty {
        if self.takes("[") {
            let key = self.ty();
            self.needs("]");
            self.needs(":");
            let value = self.ty();
            self.needs("}");
            return Ty::Map(Box::new(key), Box::new(value));
        }
        let before = self.rest;
        if self.name().is_none() || !self.rest.starts_with(':') {
            self.rest = before;
            let of = self.ty();
            self.needs("}");
            return Ty::List(Box::new(of));
        }
        self.rest = before;
        let mut fields = Vec::new();
        while !self.takes("}") {
            let name = self.name().unwrap_or_else(|| panic!("a field is missing before `{}`", self.rest)).to_owned();
            self.needs(":");
            fields.push((name, self.ty()));
            if !self.takes(",") {
                self.needs("}");
                break;
            }
        }
        Ty::Record(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_the_tables_can_be_read_and_is_written_as_it_was() {
        let all = entries().map(|entry| entry.signature).chain(types().map(|each| each.means));
        for text in all {
            let ty = Ty::parse(text);
            assert_eq!(Ty::parse(&ty.luau()), ty, "{text}");
        }
    }

    #[test]
    fn types_are_told_in_both_languages() {
        let check = |text: &str, luau: &str, lua: &str| {
            let ty = Ty::parse(text);
            assert_eq!((ty.luau().as_str(), ty.lua().as_str()), (luau, lua));
        };
        check("{ string }", "{ string }", "string[]");
        check("{ [string]: any }?", "{ [string]: any }?", "table<string, any>?");
        check(
            "(a: string, b: number?, ...any) -> (boolean, string?)",
            "(a: string, b: number?, ...any) -> (boolean, string?)",
            "fun(a: string, b?: number, ...: any): boolean, string?",
        );
        check("() -> ()", "() -> ()", "fun()");
        check("boolean | { binary: boolean? }", "boolean | { binary: boolean? }", "boolean|{ binary?: boolean }");
        check("((x: number) -> string)?", "((x: number) -> string)?", "(fun(x: number): string)?");
    }

    #[test]
    fn every_name_that_a_signature_uses_is_defined() {
        let known: Vec<&str> = types().map(|each| each.name).chain(CLASSES.map(|(_, class)| class)).collect();
        let plain = ["nil", "boolean", "number", "string", "any", "thread", "buffer", "never"];
        fn names(ty: &Ty, found: &mut Vec<String>) {
            match ty {
                Ty::Name(name) => found.push(name.clone()),
                Ty::Literal(_) => {}
                Ty::Optional(ty) | Ty::List(ty) | Ty::Variadic(ty) => names(ty, found),
                Ty::Union(types) => types.iter().for_each(|ty| names(ty, found)),
                Ty::Map(key, value) => {
                    names(key, found);
                    names(value, found);
                }
                Ty::Record(fields) => fields.iter().for_each(|(_, ty)| names(ty, found)),
                Ty::Function { params, returns } => {
                    params.iter().for_each(|param| names(&param.ty, found));
                    returns.iter().for_each(|ty| names(ty, found));
                }
            }
        }
        for text in entries().map(|entry| entry.signature).chain(types().map(|each| each.means)) {
            let mut found = Vec::new();
            names(&Ty::parse(text), &mut found);
            for name in found {
                assert!(known.contains(&&*name) || plain.contains(&&*name), "{text}: there is no type {name}");
            }
        }
        let mut names: Vec<&str> = types().map(|each| each.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a type is defined twice");
    }
}
