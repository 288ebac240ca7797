//! What `moonwire.test` has of the relay: apps in the harness, their peers, and time.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mlua::{AnyUserData, Function, IntoLuaMulti, Lua, LuaString, MultiValue, Table, UserDataRef, Value};

use super::log::Captured;
use crate::{
    clock::Clock,
    config::{self, Config},
    handshake::bare::Bare,
    harness::{Peer, Refused, Relay, Setup, Transcript},
    identity::Response as Answer,
    outgoing::{Asked, Network, Response, Stub},
    plain::{Plain, PlainTable},
    reload::report::{AppReport, Outcome},
    script::{
        self, Budget, Make, ScriptError, Waiter, args,
        plain::{from_plain, to_plain},
    },
};

/// A case as its file tells it.
pub struct Case {
    pub name: String,
    pub line: usize,
    pub function: Function,
}

/// What one run of a file has.
pub struct Bench {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub budget: Rc<Budget>,
    pub log: Captured,
    pub cases: RefCell<Vec<Case>>,
    /// A case runs: apps may be started, and no case be told.
    pub running: Cell<bool>,
    /// In real time: when the case has taken too long.
    pub deadline: Cell<Option<std::time::Instant>>,
    /// The apps of the case: time passes for all of them.
    stages: RefCell<Vec<Weak<Stage>>>,
    /// What a stub did wrong, which the script that asked it takes for the world's doing.
    pub fault: RefCell<Option<String>>,
    /// The case has asked for the log, errors and all.
    pub asked_log: Cell<bool>,
    /// What its peers have done and received, for a failure.
    pub scene: RefCell<Vec<String>>,
}

impl Bench {
    pub fn new(config: Arc<Config>, clock: Clock, budget: Rc<Budget>, log: Captured) -> Bench {
        Bench {
            config,
            clock,
            budget,
            log,
            cases: RefCell::default(),
            running: Cell::new(false),
            deadline: Cell::new(None),
            stages: RefCell::default(),
            fault: RefCell::default(),
            asked_log: Cell::new(false),
            scene: RefCell::default(),
        }
    }

    /// Lets everything happen that needs no time to pass, in all apps of the case.
    async fn settle(&self) {
        let stages: Vec<Rc<Stage>> = self.stages.borrow().iter().filter_map(Weak::upgrade).collect();
        for stage in stages {
            stage.relay.settle().await;
        }
    }

    /// The errors of scripts that nobody has asked for.
    pub fn unasked(&self) -> Option<String> {
        if self.asked_log.get() {
            return None;
        }
        let errors: Vec<String> =
            self.log.lines().iter().filter(|line| line.level == "error").map(|line| line.shown()).collect();
        (!errors.is_empty()).then(|| errors.join("\n"))
    }
}

struct AppRef(Rc<Stage>);

struct Stage {
    relay: Relay,
    folder: PathBuf,
    bench: Rc<Bench>,
    /// Those of transcripts, by their names.
    players: RefCell<Vec<(String, Peer)>>,
}

struct PeerRef {
    stage: Rc<Stage>,
    peer: Peer,
}

type App = UserDataRef<AppRef>;
type Member = UserDataRef<PeerRef>;

fn make<T: IntoLuaMulti + 'static>(values: T) -> Make {
    Box::new(move |lua: &Lua| values.into_lua_multi(lua))
}

pub fn register(lua: &Lua, carried: &Table, waiter: &Waiter, bench: &Rc<Bench>) -> mlua::Result<()> {
    let of = bench.clone();
    carried.set(
        "case",
        lua.create_function(move |lua, (name, function): (LuaString, Function)| {
            let name = name.to_string_lossy();
            if of.running.get() {
                return Err(args::mistake("test.case(name, fn)", "not inside of a case: it would never run"));
            }
            // Below this function and the library's own.
            let line = lua.inspect_stack(2, |frame| frame.current_line()).flatten().unwrap_or(1);
            of.cases.borrow_mut().push(Case { name, line, function });
            Ok(())
        })?,
    )?;
    let of = bench.clone();
    carried.set(
        "note",
        lua.create_function(move |_, line: LuaString| {
            of.scene.borrow_mut().push(line.to_string_lossy());
            Ok(())
        })?,
    )?;
    starting(lua, carried, waiter, bench)?;
    apps(lua, carried, waiter, bench)?;
    peers(lua, carried, waiter)
}

fn starting(lua: &Lua, carried: &Table, waiter: &Waiter, bench: &Rc<Bench>) -> mlua::Result<()> {
    let of = bench.clone();
    let begin = waiter.function(lua, "test.app", move |lua, (name, options): (String, Table)| {
        const NAME: &str = "test.app(name, options)";
        if !of.running.get() {
            return Err(args::mistake(NAME, "only inside of a test.case"));
        }
        let names: Vec<&str> = of.config.apps.iter().map(|app| app.name.as_str()).collect();
        let Some(app) = of.config.apps.iter().find(|app| app.name == name) else {
            let what = format!("the config has no app \"{name}\" (there are {})", names.join(", "));
            return Err(args::mistake(NAME, &what));
        };
        let mut app = config::App::clone(app);
        let settings: Value = options.raw_get("settings")?;
        if !settings.is_nil() {
            let settings = to_plain(&settings, "settings").map_err(|why| args::mistake(NAME, &why.to_string()))?;
            lay_over(&mut app.settings, settings).map_err(|why| args::mistake(NAME, why))?;
        }
        let instances: Value = options.raw_get("instances")?;
        if !instances.is_nil() {
            app.instances = usize::try_from(args::integer(NAME, "instances", &instances, 1, 64)?).unwrap_or(1);
        }
        let env = match options.raw_get::<Value>("env")? {
            Value::Nil => Vec::new(),
            Value::Table(env) => {
                let env = pairs(NAME, &env)?;
                if let Some((name, _)) = env.iter().find(|(name, _)| !app.env.contains(name)) {
                    let what =
                        format!("\"{name}\" is not among the names that the setting env of app {} lists", app.name);
                    return Err(args::mistake(NAME, &what));
                }
                env
            }
            other => return Err(args::wrong(NAME, "env", "a table", &other)),
        };
        let stub: Function = options.raw_get("http")?;
        let folder = of.config.file.as_deref().and_then(|file| file.parent()).unwrap_or("".as_ref()).to_owned();
        let setup = Setup {
            network: Network::Stub(stub_of(lua, stub, &of)),
            strict: true,
            clock: Some(of.clock),
            budget: Some(of.budget.clone()),
            env: Some(env),
            deadline: of.deadline.get(),
            deflate: None,
        };
        let of = of.clone();
        Ok(async move {
            match Relay::start_as(app, setup).await {
                Ok(relay) => {
                    let stage = Rc::new(Stage { relay, folder, players: RefCell::default(), bench: of.clone() });
                    of.stages.borrow_mut().push(Rc::downgrade(&stage));
                    Ok(Box::new(move |lua: &Lua| lua.create_any_userdata(AppRef(stage))?.into_lua_multi(lua)) as Make)
                }
                Err(AppReport { outcome: Outcome::Failed { error, .. }, .. }) => {
                    Err(format!("the app's script does not load: {}", error.message))
                }
                Err(report) => Err(format!("the app does not load: {report}")),
            }
        })
    })?;
    carried.set("start", begin)
}

fn apps(lua: &Lua, carried: &Table, waiter: &Waiter, bench: &Rc<Bench>) -> mlua::Result<()> {
    carried.set(
        "connect",
        waiter.function(lua, "app:connect", |_, (app, target, headers): (App, String, Table)| {
            let (stage, headers) = (app.0.clone(), pairs("app:connect(target, options)", &headers)?);
            Ok(async move {
                let opened = stage.relay.connect_with(&target, &headers).await;
                stage.bench.settle().await;
                Ok(match opened {
                    Ok(peer) => {
                        Box::new(move |lua: &Lua| lua.create_any_userdata(PeerRef { stage, peer })?.into_lua_multi(lua))
                            as Make
                    }
                    Err(Refused { code, reason }) => make((Value::Nil, code, reason)),
                })
            })
        })?,
    )?;
    carried.set(
        "advance",
        waiter.function(lua, "app:advance", |_, (app, seconds): (App, Value)| {
            let time: Duration = script::wait_time("app:advance(seconds)", "seconds", &seconds)?;
            let stage = app.0.clone();
            Ok(async move {
                stage.relay.advance(time).await;
                stage.bench.settle().await;
                Ok(make(()))
            })
        })?,
    )?;
    carried.set(
        "reload",
        waiter.function(lua, "app:reload", |_, (app, script): (App, Option<String>)| {
            let stage = app.0.clone();
            Ok(async move {
                if let Some(script) = script {
                    let mut config = config::App::clone(&stage.relay.config());
                    config.script = stage.folder.join(script);
                    stage.relay.set_config(config);
                }
                let report = stage.relay.load_again().await;
                Ok(Box::new(move |lua: &Lua| report_table(lua, &report)?.into_lua_multi(lua)) as Make)
            })
        })?,
    )?;
    carried.set(
        "request",
        waiter.function(
            lua,
            "app:request",
            |_, (app, method, target, headers, body): (App, String, String, Table, LuaString)| {
                let stage = app.0.clone();
                let headers = pairs("app:request(request)", &headers)?;
                let bare = Bare { method, target, headers, body: Bytes::copy_from_slice(&body.as_bytes()) };
                Ok(async move {
                    let answer = stage.relay.request(bare).await;
                    stage.relay.settle().await;
                    Ok(Box::new(move |lua: &Lua| answer_table(lua, answer)?.into_lua_multi(lua)) as Make)
                })
            },
        )?,
    )?;
    carried.set(
        "play",
        waiter.function(lua, "test.play", |_, (app, text): (App, String)| {
            let stage = app.0.clone();
            Ok(async move {
                let mut transcript = Transcript::with(&stage.relay, stage.players.take());
                let played = transcript.play(&text).await;
                *stage.players.borrow_mut() = transcript.into_peers();
                played.map(|()| make(()))
            })
        })?,
    )?;
    let of = bench.clone();
    carried.set(
        "log",
        lua.create_function(move |lua, ()| {
            of.asked_log.set(true);
            let lines = of.log.lines().into_iter().map(|line| {
                let table = lua.create_table()?;
                table.raw_set("level", line.level)?;
                table.raw_set("message", line.message)?;
                Ok(table)
            });
            lua.create_sequence_from(lines.collect::<mlua::Result<Vec<_>>>()?)
        })?,
    )
}

fn peers(lua: &Lua, carried: &Table, waiter: &Waiter) -> mlua::Result<()> {
    carried.set(
        "send",
        waiter.function(lua, "peer:send", |_, (of, data, binary): (Member, LuaString, bool)| {
            let (stage, peer) = (of.stage.clone(), of.peer.clone());
            let data = data.as_bytes().to_vec();
            if !binary && std::str::from_utf8(&data).is_err() {
                return Err(args::mistake("peer:send(data)", "data is not UTF-8, which a text message must be"));
            }
            Ok(async move {
                peer.send_as(data, binary);
                stage.bench.settle().await;
                Ok(make(()))
            })
        })?,
    )?;
    carried.set(
        "close",
        waiter.function(lua, "peer:close", |_, (of, code, reason): (Member, Value, Value)| {
            let (code, reason) = script::close_arguments("peer:close(code, reason)", &code, &reason)?;
            let (stage, peer) = (of.stage.clone(), of.peer.clone());
            Ok(async move {
                peer.close(code, &reason);
                stage.bench.settle().await;
                Ok(make(()))
            })
        })?,
    )?;
    carried.set(
        "drop",
        waiter.function(lua, "peer:drop", |_, of: Member| {
            let (stage, peer) = (of.stage.clone(), of.peer.clone());
            Ok(async move {
                peer.vanish();
                stage.bench.settle().await;
                Ok(make(()))
            })
        })?,
    )?;
    carried.set(
        "take",
        lua.create_function(|lua, of: Member| match of.peer.receive() {
            Some((data, binary)) => (lua.create_string(&data)?, binary).into_lua_multi(lua),
            None => Value::Nil.into_lua_multi(lua),
        })?,
    )?;
    carried.set("closed", lua.create_function(|_, of: Member| Ok(of.peer.closed().unzip()))?)?;
    carried.set(
        "can",
        lua.create_function(|_, (of, action, resource): (Member, String, String)| {
            let reason = of.peer.can(&action, &resource);
            Ok((reason.permits(), reason.to_string()))
        })?,
    )?;
    carried.set("rooms", lua.create_function(|lua, of: Member| lua.create_sequence_from(of.peer.rooms()))?)?;
    carried.set("id", lua.create_function(|_, of: Member| Ok(of.peer.id()))?)?;
    carried.set("subprotocol", lua.create_function(|_, of: Member| Ok(of.peer.subprotocol()))?)?;
    carried.set("is_peer", lua.create_function(|_, value: AnyUserData| Ok(value.is::<PeerRef>()))?)
}

/// The fields of one table replace those of another.
fn lay_over(settings: &mut Plain, over: Plain) -> Result<(), &'static str> {
    let Plain::Table(over) = over else { return Err("settings must be a table") };
    if let Plain::Table(table) = settings {
        table.pairs.retain(|(key, _)| !over.pairs.iter().any(|(other, _)| other == key));
        table.pairs.extend(over.pairs);
        if !over.array.is_empty() {
            table.array = over.array;
        }
    } else {
        *settings = Plain::Table(over);
    }
    Ok(())
}

/// Headers, or variables, as a test gives them.
fn pairs(function: &str, table: &Table) -> mlua::Result<Vec<(String, String)>> {
    let pair = |pair: mlua::Result<(Value, Value)>| {
        let (name, value) = pair?;
        let name = args::string(function, "a name", &name)?.to_string_lossy();
        let value = args::string(function, &format!("the value of {name}"), &value)?.to_string_lossy();
        Ok((name, value))
    };
    let mut pairs: Vec<_> = table.pairs::<Value, Value>().map(pair).collect::<mlua::Result<_>>()?;
    pairs.sort(); // Lua has no order, and a test should not differ from run to run
    Ok(pairs)
}

/// A test's function in the place of all servers. What it does wrong fails the case, whatever the script makes of it.
fn stub_of(lua: &Lua, function: Function, bench: &Rc<Bench>) -> Stub {
    let (lua, bench) = (lua.clone(), Rc::downgrade(bench));
    Rc::new(move |asked: &Asked| {
        answered(&lua, &function, asked).unwrap_or_else(|error| {
            let problem = ScriptError::from_lua(&error).message;
            if let Some(bench) = bench.upgrade() {
                bench.fault.borrow_mut().get_or_insert(format!("the http stub, asked for {}: {problem}", asked.url));
            }
            Err(format!("the test's http stub failed: {problem}"))
        })
    })
}

fn answered(lua: &Lua, function: &Function, asked: &Asked) -> mlua::Result<Result<Response, String>> {
    let headers = asked.headers.pairs().map(|(name, value)| (Plain::string(name), Plain::string(value)));
    let headers = Plain::Table(Box::new(PlainTable { pairs: headers.collect(), ..PlainTable::default() }));
    let fields = vec![
        (Plain::string("method"), Plain::string(&asked.method)),
        (Plain::string("url"), Plain::string(&asked.url)),
        (Plain::string("headers"), headers),
        (Plain::string("body"), Plain::string(&asked.body)),
    ];
    let request = PlainTable { pairs: fields, ..PlainTable::default() };
    let (answer, why): (Value, Value) = function.call(from_plain(lua, &Plain::Table(Box::new(request)))?)?;
    const NAME: &str = "http stub";
    let answer = match (answer, &why) {
        (Value::Table(answer), _) => answer,
        (Value::Nil | Value::Boolean(false), Value::String(why)) => return Ok(Err(why.to_string_lossy())),
        (Value::Nil, Value::Nil) => return Ok(Err("the test's http stub answered nothing".to_owned())),
        (other, _) => return Err(args::wrong(NAME, "its answer", "a table, or nil and why", &other)),
    };
    args::options(NAME, &Value::Table(answer.clone()), &["status", "headers", "body"])?;
    let body = match answer.raw_get::<Value>("body")? {
        Value::Nil => Vec::new(),
        body => args::string(NAME, "body", &body)?.as_bytes().to_vec(),
    };
    let headers = match answer.raw_get::<Value>("headers")? {
        Value::Table(headers) => pairs(NAME, &headers)?,
        _ => Vec::new(),
    };
    let headers = headers.into_iter().map(|(name, value)| (name.to_lowercase(), value.into_bytes())).collect();
    let status = match answer.raw_get::<Value>("status")? {
        Value::Nil => 200,
        status => args::integer(NAME, "status", &status, 100, 999)?,
    };
    Ok(Ok(Response { status: u16::try_from(status).unwrap_or(200), headers, body }))
}

fn report_table(lua: &Lua, report: &AppReport) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    match &report.outcome {
        Outcome::Reloaded { from, to, .. } => {
            table.raw_set("ok", true)?;
            table.raw_set("from", *from)?;
            table.raw_set("generation", *to)?;
        }
        Outcome::Failed { generation, error, .. } => {
            table.raw_set("ok", false)?;
            table.raw_set("from", *generation)?;
            table.raw_set("generation", *generation)?;
            table.raw_set("error", error.message.as_str())?;
        }
        Outcome::Unchanged => table.raw_set("ok", true)?,
    }
    Ok(table)
}

fn answer_table(lua: &Lua, answer: Answer) -> mlua::Result<MultiValue> {
    let table = lua.create_table()?;
    table.raw_set("status", answer.status)?;
    let headers = lua.create_table()?;
    for (name, value) in answer.headers {
        headers.raw_set(name, lua.create_string(value)?)?;
    }
    table.raw_set("headers", headers)?;
    table.raw_set("body", lua.create_string(answer.body)?)?;
    table.into_lua_multi(lua)
}
