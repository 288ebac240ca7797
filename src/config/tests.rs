//! The config as people write it, and what they are told.

use std::{path::PathBuf, sync::Arc};

use proptest::{collection::vec, prelude::*, sample::Index};
use toml::de::DeTable;

use super::{keys::sections, *};
use crate::plain::Plain;

const FILE: &str = include_str!("../../config.toml");
const DOCS: &str = include_str!("../../docs/configuration.md");

const APP: &str = "[[app]]\nname = \"chat\"\npath = \"/chat/{room}\"\nscript = \"chat.lua\"\n";

fn variables(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    parse(text, Path::new("etc/config.toml"), &variables(env))
}

fn read(text: &str) -> Config {
    read_with(text, &[]).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn read_env(text: &str, env: &[(&str, &str)]) -> Config {
    read_with(text, env).unwrap_or_else(|error| panic!("{env:?}\n{error}"))
}

/// The only problem: its line, then its message, and its hint after ` / `.
fn check_with(text: &str, env: &[(&str, &str)], expected: &str) {
    let error = read_with(text, env).expect_err(text);
    let told: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| {
            let line = problem.line.map(|line| format!("{line}: ")).unwrap_or_default();
            let hint = problem.hint.as_ref().map(|hint| format!(" / {hint}")).unwrap_or_default();
            format!("{line}{}{hint}", problem.message)
        })
        .collect();
    assert_eq!(told.join("\n"), expected, "{text}");
}

fn check(text: &str, expected: &str) {
    check_with(text, &[], expected);
}

/// The same for one value of a setting of an app.
fn check_app(line: &str, expected: &str) {
    check(&format!("{APP}{line}"), &format!("5: {expected}"));
}

// ── what is written down ──

#[test]
fn the_config_file_says_what_the_defaults_are() {
    let config = parse(FILE, Path::new("config.toml"), &[]).unwrap_or_else(|error| panic!("{error}"));
    let app = App::new("chat", "/chat/{room}", "scripts/chat.lua");
    let page = Static { path: "/".to_owned(), folder: "scripts/page".into() };
    let expected = Config {
        file: Some("config.toml".into()),
        apps: vec![Arc::new(app)],
        statics: vec![page],
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn the_config_file_has_every_setting_in_order() {
    for (section, names) in sections() {
        let header =
            if matches!(section, "app" | "static") { format!("\n[[{section}]]\n") } else { format!("\n[{section}]\n") };
        let mut from = FILE.find(&header).unwrap_or_else(|| panic!("{header}"));
        for name in names {
            let spellings = [format!("\n{name} = "), format!("\n# {name} = "), format!("\n[{section}.{name}]")];
            let place = spellings.iter().find_map(|spelling| FILE[from..].find(spelling.as_str()));
            from += place.unwrap_or_else(|| panic!("{section}.{name} is not in config.toml, or not in order"));
            let above = FILE[..=from].lines().last().unwrap_or_default();
            assert!(above.starts_with('#') || above.starts_with('['), "{section}.{name} has no explanation");
        }
    }
}

/// The settings' rows of the tables in the docs: the name, and the default as TOML.
fn documented() -> Vec<(&'static str, Option<&'static str>)> {
    DOCS.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.strip_suffix('`')?;
            let default = cells.next()?.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
            (name.contains('.') && !name.contains('=')).then_some((name, default))
        })
        .collect()
}

#[test]
fn the_docs_have_every_setting() {
    let documented: Vec<_> = documented().into_iter().map(|(name, _)| name.to_owned()).collect();
    let all: Vec<_> = sections()
        .iter()
        .flat_map(|(section, names)| names.iter().map(move |name| format!("{section}.{name}")))
        .collect();
    assert_eq!(documented, all);
}

#[test]
fn the_docs_have_the_defaults() {
    let mut text = String::new();
    for (name, default) in documented() {
        match name.split_once('.').unwrap() {
            ("app" | "static", _) => {}
            (section, name) => text.push_str(&format!("{section}.{name} = {}\n", default.expect(name))),
        }
    }
    let config = parse(&text, Path::new("config.toml"), &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config, Config { file: Some("config.toml".into()), ..Config::default() });
}

#[test]
fn the_docs_show_mistakes_as_they_are_told() {
    let text = format!("{}[limits]\nmesage = \"2 MiB\"\n\n\noutbox = 0\n", "\n".repeat(10));
    assert!(DOCS.contains(&read_with(&text, &[]).unwrap_err().to_string().replace("etc/", "")));
}

#[test]
fn the_examples_in_the_docs_can_be_read() {
    let examples = DOCS.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    assert!(examples.map(read).count() > 1);
}

// ── what a file may say ──

#[test]
fn the_store_lies_beside_the_file_and_apps_may_share_memory() {
    let config = read(&format!("{APP}shared = \"games\"\n[store]\nsize = \"1 GiB\"\n"));
    assert_eq!(config.apps[0].shared.as_deref(), Some("games"));
    assert_eq!((config.store.path.to_str(), config.store.size), (Some("etc/data/moonwire.db"), 1 << 30));
    let error = read_with(&format!("{APP}shared = \"my games\"\n"), &[]).unwrap_err().to_string();
    assert!(error.contains("app.shared must be a name made of letters"), "{error}");
}

#[test]
fn a_file_says_what_differs_from_the_defaults() {
    let config = read(
        r#"
        [server]
        listen = ["0.0.0.0:80", "[::1]:0", "[::1]:0", "unix:relay.sock"]
        workers = 3
        control = "/run/moonwire.sock"
        trusted_proxies = ["127.0.0.1", "10.1.2.3/8", "fd00::/8"]
        shutdown = 0
        [limits]
        message = "64 KiB"
        outbox = 4096
        message_rate = 0
        ping_interval = 2.5
        [reload]
        watch = false
        [log]
        level = "info,script=debug"
        format = "json"
        [[app]]
        name = "my-chat"
        path = "/chat/{room}"
        script = "chat.lua"
        instances = "auto"
        shard_by = "header.X-Room"
        origins = ["HTTPS://Example.com:443", "http://localhost:3000", "http://[0:0::1]:80", "tauri://localhost"]
        subprotocols = ["chat.v2", "chat.v1"]
        env = ["SECRET"]
        settings.secret = "s"
        [app.limits]
        message = "1 KiB"
        [app.http]
        allow = ["API.example.com", "api.example.com:8443", "127.0.0.1:9000", "[0::1]:9000", "localhost", "api.2nd"]
        [app.compression]
        enabled = true
        threshold = "100 B"
        binary = true
        context = true
        window_bits = 12
        level = 9
        [[static]]
        path = "/assets/"
        folder = "/srv/assets"
        "#,
    );
    let tcp = |text: &str| Listen::Tcp(text.parse().unwrap());
    assert_eq!(
        config.server,
        Server {
            listen: vec![tcp("0.0.0.0:80"), tcp("[::1]:0"), tcp("[::1]:0"), Listen::Unix("etc/relay.sock".into())],
            workers: 3,
            control: "/run/moonwire.sock".into(),
            trusted_proxies: ["127.0.0.1/32", "10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec(),
            shutdown: Duration::ZERO,
        }
    );
    let limits =
        Limits { message: 65_536, outbox: 4_096, ping_interval: Duration::from_millis(2_500), ..Limits::default() };
    assert_eq!(config.limits, limits);
    assert!(!config.reload.watch);
    assert_eq!(config.log, Log { level: "info,script=debug".to_owned(), format: LogFormat::Json });
    let app = &config.apps[0];
    assert_eq!((app.script.clone(), app.instances), (PathBuf::from("etc/chat.lua"), 3));
    assert_eq!(app.shard_by, Some(ShardBy::Header("x-room".to_owned())));
    let origins = ["https://example.com", "http://localhost:3000", "http://[::1]", "tauri://localhost"];
    assert_eq!(app.origins, Origins::Listed(origins.map(str::to_owned).to_vec()));
    assert_eq!((app.subprotocols.len(), app.env.as_slice()), (2, &["SECRET".to_owned()][..]));
    assert_eq!(app.settings.get("secret"), Some(&Plain::string("s")));
    assert_eq!(app.limits, Limits { message: 1_024, ..limits });
    let allowed: Vec<_> = app.http.allow.iter().map(|each| (each.host.to_string(), each.port)).collect();
    let expected = [
        ("api.example.com", None),
        ("api.example.com", Some(8443)),
        ("127.0.0.1", Some(9000)),
        ("[::1]", Some(9000)),
        ("localhost", None),
        ("api.2nd", None),
    ];
    assert_eq!(allowed, expected.map(|(host, port)| (host.to_owned(), port)));
    let compression =
        Compression { enabled: true, threshold: 100, binary: true, context: true, window_bits: 12, level: 9 };
    assert_eq!(app.compression, compression);
    assert_eq!(config.statics, [Static { path: "/assets/".to_owned(), folder: "/srv/assets".into() }]);
}

#[test]
fn a_variable_lists_the_hosts_that_a_script_may_reach() {
    let config = read_env(APP, &[("MOONWIRE_APP__CHAT__HTTP__ALLOW", "a.example, [::1]:9000")]);
    let allowed: Vec<_> = config.apps[0].http.allow.iter().map(|each| (each.host.to_string(), each.port)).collect();
    assert_eq!(allowed, [("a.example".to_owned(), None), ("[::1]".to_owned(), Some(9000))]);
}

#[test]
fn without_a_file_there_are_the_defaults_and_no_apps() {
    assert_eq!(load(None, &[]).unwrap(), Config::default());
    let env = variables(&[("MOONWIRE_LIMITS__MESSAGE", "2 MiB"), ("PATH", "/bin")]);
    assert_eq!(load(None, &env).unwrap().limits.message, 2 << 20);
}

#[test]
fn a_scripts_settings_are_plain_data() {
    let text = format!(
        "{APP}[app.settings]\nz = 1\na = 0.5\non = true\nat = 2024-05-06T07:08:09Z\nlist = [1, \"x\"]\nnone = []\n\
         hex = 0xff\nt = {{ b = {{ c = 1 }} }}\n"
    );
    let settings = read(&text).apps[0].settings.clone();
    let Plain::Table(table) = &settings else { panic!("{settings:?}") };
    let keys: Vec<_> = table.pairs.iter().map(|(key, _)| key.as_str().unwrap()).collect();
    assert_eq!(keys, ["z", "a", "on", "at", "list", "none", "hex", "t"]);
    assert_eq!(settings.get("z"), Some(&Plain::Number(1.0)));
    assert_eq!(settings.get("on"), Some(&Plain::Bool(true)));
    assert_eq!(settings.get("at"), Some(&Plain::string("2024-05-06T07:08:09Z")));
    assert_eq!(settings.get("hex"), Some(&Plain::Number(255.0)));
    let Some(Plain::Table(list)) = settings.get("list") else { panic!("{settings:?}") };
    assert_eq!(list.array, [Plain::Number(1.0), Plain::string("x")]);
    let Some(Plain::Table(none)) = settings.get("none") else { panic!("{settings:?}") };
    assert!(none.json_array);
    assert_eq!(settings.get("t").and_then(|t| t.get("b")).and_then(|b| b.get("c")), Some(&Plain::Number(1.0)));
    check(
        &format!("{APP}settings.id = 9007199254740993\n"),
        "5: app.settings has a number beyond ±2^53, which scripts cannot tell from its neighbours / write it as a string",
    );
}

// ── what is told ──

#[test]
fn an_unknown_name_is_refused_with_the_one_that_was_probably_meant() {
    check("[limits]\nmesage = 1", "2: unknown setting `limits.mesage` / did you mean `message`?");
    check("[servr]\nlisten = \"x\"", "1: unknown section `servr` / did you mean `server`?");
    check("listen = \"127.0.0.1:80\"", "1: unknown section `listen` / it belongs below [server]");
    check("[server]\nmessage = 1", "2: unknown setting `server.message` / it belongs below [limits]");
    check("[log]\npretty = true", "2: unknown setting `log.pretty` / there are level, format");
    check("[limits]\nspeed = 1", "2: unknown setting `limits.speed` / config.toml has every setting with its meaning");
    check_app("orgins = []", "unknown setting `app.orgins` / did you mean `origins`?");
    check_app(
        "greeting = 1",
        "unknown setting `app.greeting` / what the script is to read belongs below [app.settings]",
    );
    check_app(
        "limits.connections = 1",
        "connections is a limit of the whole server, which an app cannot override / write it below [limits]",
    );
    check_app("limits.outbx = 1", "unknown setting `app.limits.outbx` / did you mean `outbox`?");
}

#[test]
fn a_value_of_another_kind_is_told_with_what_is_wanted() {
    for (line, expected) in [
        (
            "limits.message = true",
            "limits.message must be a size such as \"16 KiB\" or \"1 MiB\", or a number of bytes, got true",
        ),
        (
            "limits.message = \"1 XB\"",
            "limits.message must be a size such as \"16 KiB\" or \"1 MiB\", or a number of bytes, got \"1 XB\"",
        ),
        (
            "limits.message = 1.5",
            "limits.message must be a size such as \"16 KiB\" or \"1 MiB\", or a number of bytes, got 1.5",
        ),
        ("limits.headers = \"many\"", "limits.headers must be a whole number, got \"many\""),
        ("limits.headers = []", "limits.headers must be a whole number, got a list"),
        (
            "reload.vote = {}",
            "reload.vote must be a duration such as \"250ms\", \"30s\" or \"5m\", or a number of seconds, got a table",
        ),
        ("reload.vote = nan", "reload.vote must be at least 1ms, got nan"),
        ("reload.watch = \"yes\"", "reload.watch must be true or false, got \"yes\""),
        ("server.workers = \"all\"", "server.workers must be \"auto\" or a whole number, got \"all\""),
        ("server.control = \"\"", "server.control must be a path, got an empty string"),
        ("server = 1", "server must be a table / write [server] on a line of its own"),
        ("app = {}", "app must be a list of tables / write [[app]], in double brackets"),
        ("log.format = 2024-01-01", "log.format must be \"auto\", \"human\" or \"json\", got a date"),
        (
            "server.trusted_proxies = [\"proxy\"]",
            "server.trusted_proxies must be an address or a network such as \"127.0.0.1\" or \"10.0.0.0/8\", got \"proxy\"",
        ),
    ] {
        check(line, &format!("1: {expected}"));
    }
}

#[test]
fn a_value_that_makes_no_sense_is_refused() {
    for (line, expected) in [
        ("limits.outbox = 0", "limits.outbox must be at least 1 B, got 0"),
        ("limits.inbox_messages = 0", "limits.inbox_messages must be at least 1, got 0"),
        ("limits.connections = -1", "limits.connections must be at least 1, got -1"),
        ("limits.message = \"2 GiB\"", "limits.message must be at most 1 GiB, got \"2 GiB\""),
        (
            "limits.message = 99999999999999999999999999999999999999999",
            "limits.message must be at most 1 GiB, got 99999999999999999999999999999999999999999",
        ),
        ("limits.ping_interval = 0", "limits.ping_interval must be at least 1ms, got 0"),
        ("limits.ping_interval = -0.5", "limits.ping_interval must be at least 1ms, got -0.5"),
        ("limits.ping_interval = 1e300", "limits.ping_interval must be at most 365d, got 1e300"),
        ("limits.ping_interval = \"400d\"", "limits.ping_interval must be at most 365d, got \"400d\""),
        ("limits.room_name = 256", "limits.room_name must be at most 255, got 256"),
        ("server.workers = 0", "server.workers must be at least 1, got 0"),
        ("reload.debounce_max = \"50ms\"", "reload.debounce_max must not be shorter than reload.debounce"),
        ("reload.debounce = \"1s\"", "reload.debounce_max must not be shorter than reload.debounce"),
        ("limits.bus_pause = \"32 MiB\"", "limits.bus must not be less than limits.bus_pause"),
        (
            "server.listen = [true]",
            "server.listen must be an address such as \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:relay.sock\", got true",
        ),
        ("server.listen = []", "server.listen must have at least one address"),
        ("server.listen = [\"[::]:80\", \"[::]:80\"]", "server.listen has the same address twice"),
    ] {
        check(line, &format!("1: {expected}"));
    }
    check(
        "[reload]\ndebounce = 2\ndebounce_max = 1",
        "3: reload.debounce_max must not be shorter than reload.debounce (line 2)",
    );
    check_with(
        "[reload]\ndebounce = 2",
        &[("MOONWIRE_RELOAD__DEBOUNCE_MAX", "1s")],
        "MOONWIRE_RELOAD__DEBOUNCE_MAX: reload.debounce_max must not be shorter than reload.debounce (line 2)",
    );
    let long = "x".repeat(200);
    check(
        &format!("server.listen = \"unix:{long}\""),
        &format!("1: server.listen is too long for the path of a Unix socket: etc/{long}"),
    );
}

#[test]
fn an_address_that_is_nearly_one_is_told_how_to_write_it() {
    let wanted =
        "server.listen must be an address such as \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:relay.sock\", got";
    for (text, hint) in [
        (":80", " / write \"0.0.0.0:80\" for every IPv4 address of this machine"),
        ("localhost:80", " / write \"127.0.0.1:80\""),
        ("80", " / write \"127.0.0.1:80\""),
        ("127.0.0.1", " / the port is missing"),
        ("[::1]", " / the port is missing"),
        ("/run/relay.sock", " / write \"unix:/run/relay.sock\""),
        ("fe80::1:8080", " / write \"[fe80::1]:8080\""),
        ("example.com:80", ""),
        ("127.0.0.1:99999", ""),
    ] {
        check(&format!("server.listen = \"{text}\""), &format!("1: {wanted} \"{text}\"{hint}"));
    }
    check("server.listen = [80]", &format!("1: {wanted} 80 / write \"127.0.0.1:80\""));
}

#[test]
fn an_origin_is_scheme_and_host_and_nothing_else() {
    let wanted = "app.origins must be an origin as in \"https://example.com\" or \"http://localhost:3000\", got";
    for (text, hint) in [
        ("example.com", " / begin with the scheme: \"https://example.com\""),
        ("null", " / begin with the scheme: \"https://example.com\""),
        ("https://example.com/", " / an origin has no path: \"https://example.com\""),
        ("https://example.com/a?b", " / an origin has no path: \"https://example.com\""),
        ("wss://example.com", " / an origin is that of the page: \"https://example.com\""),
        ("https://*.example.com", " / there are no patterns: list each origin, or write \"*\" alone for every page"),
        ("https://bücher.example", " / browsers write other alphabets in punycode: https://xn--bcher-kva.example"),
        ("https://user@example.com", ""),
        ("https://example.com:70000", ""),
        ("https://", ""),
        ("https://[::1", ""),
    ] {
        check_app(&format!("origins = [\"{text}\"]"), &format!("{wanted} {text:?}{hint}"));
    }
    check_app(
        "origins = [\"*\", \"https://example.com\"]",
        "app.origins has \"*\", which lets every page in, beside others / remove \"*\", or the others",
    );
    assert_eq!(read(&format!("{APP}origins = \"*\"")).apps[0].origins, Origins::Any);
}

#[test]
fn an_app_that_could_not_work_is_refused() {
    check_app(
        "shard_by = \"params.user\"",
        "app.shard_by names `params.user`, which is not in the path \"/chat/{room}\" / the path has params.room",
    );
    check_app(
        "shard_by = \"room\"",
        "app.shard_by must be \"user\", or as in \"params.room\", \"query.room\" or \"header.x-room\", got \"room\"",
    );
    check_app(
        "subprotocols = [\"a b\"]",
        "app.subprotocols must be a name as HTTP has them, such as \"chat.v1\", got \"a b\"",
    );
    check_app("subprotocols = [\"a\", \"a\"]", "app.subprotocols has \"a\" twice");
    let hosts = "a host such as \"api.example.com\", \"api.example.com:8443\", \"127.0.0.1:9000\" or \"[::1]:9000\"";
    for (host, expected) in [
        ("https://a.example/x", " / without scheme and path: \"a.example\""),
        ("*.a.example", " / there are no patterns: list each host"),
        ("::1", " / an IPv6 address stands in brackets: \"[::1]\""),
        ("127.0x1", " / an IPv4 address is written with four decimal numbers: \"127.0.0.1\""),
        ("0x7f.1", " / an IPv4 address is written with four decimal numbers: \"127.0.0.1\""),
        ("a.example.", " / write it without the dot at its end"),
        ("a.example:0", " / leave the port out to allow every port"),
        ("a.example:99999", ""),
        ("a.example/x", ""),
    ] {
        check_app(
            &format!("http.allow = [{host:?}]"),
            &format!("app.http.allow must be {hosts}, got {host:?}{expected}"),
        );
    }
    check_app("http.allow = [\"a\", \"A\"]", "app.http.allow has \"a\" twice");
    check_app("compression.window_bits = 8", "app.compression.window_bits must be at least 9, got 8");
    check_app("compression.level = 10", "app.compression.level must be at most 9, got 10");
    check_app("compression = true", "app.compression must be a table / write [app.compression] on a line of its own");
    check_app("http.alow = []", "unknown setting `app.http.alow` / did you mean `allow`?");
    check_app("env = [\"A=B\"]", "app.env must be the name of a variable, got \"A=B\"");
    check_app("settings = 1", "app.settings must be a table, got 1 / write it below [app.settings]");
    check(
        "[[app]]\n[[static]]",
        "1: app.name is missing / write name = \"chat\" below [[app]]\n\
         1: app.path is missing / write path = \"/chat/{room}\" below [[app]]\n\
         1: app.script is missing / write script = \"chat.lua\" below [[app]]\n\
         2: static.path is missing / write path = \"/\" below [[static]]\n\
         2: static.folder is missing / write folder = \"page\" below [[static]]",
    );
    check(
        "[[app]]\nname = \"a b\"\npath = \"chat\"\nscript = \"chat.js\"",
        "2: app.name must be a name made of letters, digits, `_` and `-`, got \"a b\"\n\
         3: app.path must begin with a slash, as in \"/chat/{room}\"\n\
         4: app.script must be the path of a file that ends in .lua or .luau, got \"chat.js\"",
    );
    check(
        "[[static]]\npath = \"/{a}\"\nfolder = \"page\"",
        "2: static.path must be a path without parameters; everything below it is served",
    );
}

#[test]
fn two_apps_cannot_have_the_same_name_or_the_same_paths() {
    let second = |name: &str, path: &str| format!("{APP}[[app]]\nname = {name:?}\npath = {path:?}\nscript = \"b.lua\"");
    check(&second("chat", "/b"), "6: app.name \"chat\" is already taken on line 2");
    check(
        &second("Chat", "/b"),
        "6: app.name \"Chat\" and \"chat\" are the same to variables / names must differ in more than case and in more than `-` and `_`",
    );
    check(&second("b", "/chat/{name}"), "7: app.path \"/chat/{name}\" matches the same paths as the one on line 3");
    read(&second("b", "/chat/lobby"));
    check(
        "[[static]]\npath = \"/a\"\nfolder = \"a\"\n[[static]]\npath = \"/a/\"\nfolder = \"b\"",
        "5: static.path \"/a/\" is already taken on line 2",
    );
}

#[test]
fn a_log_level_that_would_silence_everything_is_refused() {
    let wanted = "log.level must be one of off, error, warn, info, debug and trace, got";
    check("log.level = \"inof\"", &format!("1: {wanted} \"inof\" / did you mean \"info\"?"));
    check("log.level = 3", &format!("1: {wanted} 3"));
    check(
        "log.level = \"\"",
        &format!("1: {wanted} an empty string / for one part of the relay write as in \"info,script=debug\""),
    );
    for level in ["off", "WARN", "info,script=debug", "moonwire[conn]=debug"] {
        read(&format!("log.level = {level:?}"));
    }
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_place() {
    let error = read_with("[limits]\nmessage = 0\noutbox = true\n[log]\nlevle = 1\n", &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"etc/config.toml:2:11: limits.message must be at least 1 B, got 0
  2 | message = 0
    |           ^

etc/config.toml:3:10: limits.outbox must be a size such as "16 KiB" or "1 MiB", or a number of bytes, got true
  3 | outbox = true
    |          ^^^^

etc/config.toml:5:1: unknown setting `log.levle`
  5 | levle = 1
    | ^^^^^
  hint: did you mean `level`?
"#
    );
    let problem = &error.problems()[2];
    assert_eq!((problem.line, problem.column), (Some(5), Some(1)));
    assert_eq!(problem.file.as_deref(), Some(Path::new("etc/config.toml")));
}

#[test]
fn a_file_that_is_no_toml_is_told_where_and_often_how() {
    for (line, place, hint) in [
        ("message = 1 MiB # that much", "2:11", Some("a value with a unit stands in quotes: \"1 MiB\"")),
        ("ping_interval = 30s", "2:17", Some("a value with a unit stands in quotes: \"30s\"")),
        ("listen = 127.0.0.1:80", "2:15", Some("text stands in quotes: \"127.0.0.1:80\"")),
        ("level = info", "2:9", Some("text stands in quotes: \"info\"")),
        ("watch = True", "2:9", Some("write true")),
        ("message: 3", "2:8", None),
        ("message", "2:8", None),
        ("name = \"chat", "2:13", None),
        ("= 1", "2:1", None),
        ("a = 1\na = 2", "3:1", None),
        ("[limits]", "2:2", None),
    ] {
        let error = read_with(&format!("[limits]\n{line}\n"), &[]).unwrap_err();
        let [problem] = error.problems() else { panic!("{error}") };
        assert_eq!(problem.hint.as_deref(), hint, "{line}");
        if hint.is_some() {
            assert!(error.to_string().starts_with(&format!("etc/config.toml:{place}: ")), "{error}");
        }
        assert_eq!(problem.line, place.split(':').next().unwrap().parse().ok(), "{line}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let told = |file: &Path| load(Some(file), &[]).unwrap_err().to_string();
    let file = folder.path().join("config.toml");
    let shown = file.display().to_string();
    assert_eq!(
        told(&file),
        format!(
            "{shown}: there is no such file\n  hint: go to the folder that has it, or name another: moonwire -c other.toml\n"
        )
    );
    assert!(told(folder.path()).ends_with(&format!("hint: name the file in it: moonwire -c {shown}\n")));
    fs::write(&file, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert!(told(&file).starts_with(&format!("{shown}:2:6: this is not UTF-8")));
    fs::write(&file, APP).unwrap();
    let config = load(Some(&file), &[]).unwrap();
    assert_eq!(config.apps[0].script, folder.path().join("chat.lua"));
    assert_eq!(config.server.control, folder.path().join("moonwire.sock"));
}

// ── variables ──

#[test]
fn variables_override_the_file() {
    let config = read_env(
        &format!("{APP}[limits]\nmessage = 1\n"),
        &[
            ("MOONWIRE_SERVER__LISTEN", "127.0.0.1:1, unix:a.sock"),
            ("MOONWIRE_SERVER__WORKERS", "2"),
            ("MOONWIRE_LIMITS__MESSAGE", "2 KiB"),
            ("MOONWIRE_LIMITS__OUTBOX", "4096"),
            ("MOONWIRE_RELOAD__WATCH", "false"),
            ("MOONWIRE_RELOAD__VOTE", "0.5"),
            ("MOONWIRE_LOG__LEVEL", "info,script=debug"),
            ("MOONWIRE_APP__CHAT__INSTANCES", "auto"),
            ("MOONWIRE_APP__CHAT__SCRIPT", "other.lua"),
            ("MOONWIRE_APP__CHAT__ORIGINS", "https://a.example,https://b.example"),
            ("MOONWIRE_APP__CHAT__LIMITS__MESSAGE", "3 KiB"),
            ("MOONWIRE_SERVICE_HOST", "10.0.0.1"),
            ("MOONWIRE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("moonwire_x", ""),
        ],
    );
    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:1".parse().unwrap()), Listen::Unix("etc/a.sock".into())]);
    assert_eq!((config.server.workers, config.apps[0].instances), (2, 2));
    assert_eq!((config.limits.message, config.limits.outbox), (2_048, 4_096));
    assert_eq!((config.reload.watch, config.reload.vote), (false, Duration::from_millis(500)));
    assert_eq!(config.log.level, "info,script=debug");
    assert_eq!(config.apps[0].script, Path::new("etc/other.lua"));
    assert_eq!(config.apps[0].limits, Limits { message: 3_072, ..config.limits });
    let origins = ["https://a.example", "https://b.example"].map(str::to_owned);
    assert_eq!(config.apps[0].origins, Origins::Listed(origins.to_vec()));
}

#[test]
fn variables_set_what_a_script_reads() {
    let config = read_env(
        &format!(
            "{APP}[app.settings]\nApi-Key = \"old\"\nper_second = 3\nsafe = false\nhosts = [\"x\"]\ncert_file = \"a\"\ndb.port = 1\n"
        ),
        &[
            ("MOONWIRE_APP__CHAT__SETTINGS__API_KEY", "new"),
            ("MOONWIRE_APP__CHAT__SETTINGS__PER_SECOND", "2.5"),
            ("MOONWIRE_APP__CHAT__SETTINGS__SAFE", "true"),
            ("MOONWIRE_APP__CHAT__SETTINGS__HOSTS", "a, b"),
            ("MOONWIRE_APP__CHAT__SETTINGS__CERT_FILE", "b"),
            ("MOONWIRE_APP__CHAT__SETTINGS__DB__PORT", "5432"),
            ("MOONWIRE_APP__CHAT__SETTINGS__DB__HOST", "db"),
            ("MOONWIRE_APP__CHAT__SETTINGS__NEW_ONE", "7"),
        ],
    );
    let settings = &config.apps[0].settings;
    assert_eq!(settings.get("Api-Key"), Some(&Plain::string("new")));
    assert_eq!(settings.get("per_second"), Some(&Plain::Number(2.5)));
    assert_eq!(settings.get("safe"), Some(&Plain::Bool(true)));
    assert_eq!(settings.get("cert_file"), Some(&Plain::string("b")));
    assert_eq!(settings.get("new_one"), Some(&Plain::string("7")));
    let db = settings.get("db").unwrap();
    assert_eq!((db.get("port"), db.get("host")), (Some(&Plain::Number(5432.0)), Some(&Plain::string("db"))));
    let Some(Plain::Table(hosts)) = settings.get("hosts") else { panic!("{settings:?}") };
    assert_eq!(hosts.array, [Plain::string("a"), Plain::string("b")]);
}

#[test]
fn a_secret_comes_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "two\nlines\r\n\n").unwrap();
    fs::write(folder.path().join("size"), "2 KiB\n").unwrap();
    let file = folder.path().join("config.toml");
    let env = variables(&[
        ("MOONWIRE_APP__CHAT__SETTINGS__SECRET_FILE", "secret"),
        ("MOONWIRE_LIMITS__MESSAGE_FILE", "size"),
    ]);
    let config = parse(APP, &file, &env).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.apps[0].settings.get("secret"), Some(&Plain::string("two\nlines")));
    assert_eq!(config.limits.message, 2_048);
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    for (name, value, expected) in [
        (
            "MOONWIRE_LIMITS__MESSAGE",
            "big",
            "MOONWIRE_LIMITS__MESSAGE must be a size such as \"16 KiB\" or \"1 MiB\", or a number of bytes, got \"big\"",
        ),
        (
            "MOONWIRE_LIMITS__MESAGE",
            "1",
            "MOONWIRE_LIMITS__MESAGE is not a setting / did you mean `MOONWIRE_LIMITS__MESSAGE`?",
        ),
        ("MOONWIRE_LOG_LEVEL", "info", "MOONWIRE_LOG_LEVEL is not a setting / did you mean `MOONWIRE_LOG__LEVEL`?"),
        ("MOONWIRE_MESSAGE", "1", "MOONWIRE_MESSAGE is not a setting / did you mean `MOONWIRE_LIMITS__MESSAGE`?"),
        (
            "MOONWIRE_NOTHING",
            "1",
            "MOONWIRE_NOTHING is not a setting / settings are written as in MOONWIRE_LIMITS__MESSAGE",
        ),
        (
            "MOONWIRE_APP__CAT__INSTANCES",
            "1",
            "MOONWIRE_APP__CAT__INSTANCES is for an app that is not in the config / its apps are CHAT",
        ),
        (
            "MOONWIRE_APP__CHAT__NAME",
            "b",
            "MOONWIRE_APP__CHAT__NAME is not a setting / did you mean `MOONWIRE_APP__CHAT__PATH`?",
        ),
        (
            "MOONWIRE_APP__CHAT__LIMITS__CONNECTIONS",
            "1",
            "MOONWIRE_APP__CHAT__LIMITS__CONNECTIONS is not a setting / did you mean `MOONWIRE_LIMITS__CONNECTIONS`?",
        ),
        (
            "MOONWIRE_APP__CHAT__SETTINGS",
            "1",
            "MOONWIRE_APP__CHAT__SETTINGS must say which setting it sets / add `__` and the setting's name",
        ),
        ("MOONWIRE_APP__CHAT__SETTINGS__RATE", "secret", "MOONWIRE_APP__CHAT__SETTINGS__RATE must be a number"),
        (
            "MOONWIRE_APP__CHAT__SETTINGS__DB",
            "x",
            "MOONWIRE_APP__CHAT__SETTINGS__DB is a table: add `__` and the name of one of its keys",
        ),
        (
            "MOONWIRE_APP__CHAT__SETTINGS__RATE__X",
            "x",
            "MOONWIRE_APP__CHAT__SETTINGS__RATE__X goes below a setting that is no table",
        ),
        (
            "MOONWIRE_APP__CHAT__PATH",
            "chat",
            "MOONWIRE_APP__CHAT__PATH must begin with a slash, as in \"/chat/{room}\"",
        ),
        (
            "MOONWIRE_LOG__LEVEL_FILE",
            "no",
            "MOONWIRE_LOG__LEVEL_FILE names etc/no, which cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        check_with(&format!("{APP}settings = {{ rate = 1, db = {{ a = 1 }} }}"), &[(name, value)], expected);
    }
    check_with(
        "",
        &[("MOONWIRE_LOG__LEVEL_FILE", "no"), ("MOONWIRE_LOG__LEVEL", "info")],
        "MOONWIRE_LOG__LEVEL and MOONWIRE_LOG__LEVEL_FILE are both set / unset one of them",
    );
    check_with(
        "",
        &[("MOONWIRE_APP__CHAT__INSTANCES", "1")],
        "MOONWIRE_APP__CHAT__INSTANCES is for an app that is not in the config / the config has no apps",
    );
    let error = read_with("", &[("MOONWIRE_LIMITS__OUTBOX", "0")]).unwrap_err();
    assert_eq!(error.to_string(), "environment: MOONWIRE_LIMITS__OUTBOX must be at least 1 B, got \"0\"\n");
    assert_eq!(error.problems()[0].file, None);
}

// ── changes ──

#[test]
fn what_needs_a_restart_is_named() {
    let old = read(&format!("{APP}[[app]]\nname = \"gone\"\npath = \"/gone\"\nscript = \"a.lua\""));
    assert_eq!(old.restart_needed(&old), Vec::<String>::new());
    let new = read(
        r#"
        [server]
        listen = "127.0.0.1:1"
        shutdown = 1
        [limits]
        bus = "32 MiB"
        message = 1
        connections = 1
        [reload]
        watch = false
        [log]
        level = "debug"
        [[app]]
        name = "new"
        path = "/new"
        script = "a.lua"
        [[app]]
        name = "chat"
        path = "/talk/{room}"
        script = "other.lua"
        instances = 2
        shard_by = "user"
        origins = "*"
        settings.a = 1
        [[static]]
        path = "/"
        folder = "page"
        "#,
    );
    assert_eq!(
        old.restart_needed(&new),
        [
            "server.listen",
            "limits.bus",
            "app.chat.path",
            "app.chat.instances",
            "app.chat.shard_by",
            "app.gone",
            "app.new",
        ]
    );
}

// ── anything at all ──

/// What people, and others, might write.
const ODD: [&str; 34] = [
    "-1",
    "0",
    "1",
    "0.5",
    "1e400",
    "nan",
    "-inf",
    "99999999999999999999999999",
    "0xffffffffffffffffff",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"auto\"",
    "\"1 MiB\"",
    "\"99999999999999 GiB\"",
    "\"30s\"",
    "\"*\"",
    "[\"*\", 1]",
    "\"unix:\"",
    "\"unix:\\u0000\"",
    "\"/{a}/{a}\"",
    "\"params.\"",
    "\"https://[::1]:99999\"",
    "\"é\\n\\u001b\"",
    "1979-05-27",
    "[[1], {a = [{}]}]",
    "{a.b.c = {d = 1}}",
    "'''",
    "\"",
    "\n[[app]]\n",
    "\n[app.limits]\n",
    "a.b.c = 1",
    "\n[static]\n",
];

fn edited(edits: &[(Index, Index, u8, u8)]) -> String {
    let mut text = FILE.as_bytes().to_vec();
    for (place, odd, kind, byte) in edits {
        let odd = odd.get(&ODD);
        let at = place.index(text.len() + 1);
        match kind {
            0 => text.insert(at, *byte),
            1 if at < text.len() => text[at] = *byte,
            2 if at < text.len() => drop(text.remove(at)),
            3 => drop(text.splice(at..at, odd.bytes())),
            _ => {
                // Another value, so that what is no syntax error is met as well.
                let values: Vec<_> = (0..text.len()).filter(|i| text[*i..].starts_with(b" = ")).collect();
                let Some(start) = values.get(place.index(values.len().max(1))).map(|start| start + 3) else { continue };
                let end =
                    text[start..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |length| start + length);
                text.splice(start..end, odd.bytes());
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_edit_of_the_file_is_too_odd(
        edits in vec((any::<Index>(), any::<Index>(), 0..8u8, any::<u8>()), 1..6),
        variables in vec((any::<Index>(), any::<Index>()), 0..3),
    ) {
        let names: Vec<String> = sections()
            .iter()
            .flat_map(|(section, names)| names.iter().map(move |name| format!("MOONWIRE_{section}__{name}").to_uppercase()))
            .chain(["APP__CHAT__PATH", "APP__CHAT__SETTINGS__A__B", "APP__CHAT__LIMITS__MESSAGE", "APP__", "", "_FILE"]
                .map(|name| format!("MOONWIRE_{name}")))
            .collect();
        let env: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.get(&names).clone(), value.get(&ODD).trim_matches('"').to_owned()))
            .collect();
        let text = edited(&edits);
        match parse(&text, Path::new("config.toml"), &env) {
            Ok(config) => prop_assert!(config.restart_needed(&config).is_empty()),
            Err(error) => {
                prop_assert!(!error.problems().is_empty());
                let safe = !error.to_string().contains(['\u{1b}', '\u{0}']);
                prop_assert!(safe, "{error:?}");
            }
        }
    }

    #[test]
    fn no_text_is_too_odd(text in ".{0,40}") {
        let _ = (parse_duration(&text), parse_size(&text), parse(&text, Path::new("config.toml"), &[]));
        let _ = DeTable::parse(&text);
        if let Ok(pattern) = pattern::PathPattern::parse(&text) {
            pattern.matches(&text);
        }
    }
}
