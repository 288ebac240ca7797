//! `relay.ws`: WebSockets to the hosts that `app.http.allow` lists, for bridges.

use std::rc::Rc;

use mlua::{AnyUserData, Function, IntoLuaMulti, Lua, Table, UserDataFields, UserDataMethods, Value};

use crate::{
    outgoing::{Connect, Outgoing, Sent, Socket},
    plain::Plain,
    script::{
        api::{
            conn::sendable,
            http::{headers, timeout},
        },
        args,
        host::{Host, answer_of},
        tasks::Waited,
    },
};

pub fn register(
    lua: &Lua,
    relay: &Table,
    host: &Rc<Host>,
    waits: &Function,
    outgoing: &Rc<Outgoing>,
) -> mlua::Result<()> {
    let of = host.clone();
    let begin = lua.create_function(move |_, (socket, data, binary): (Value, Value, Value)| {
        const NAME: &str = "socket:send(data, binary)";
        of.running(NAME)?;
        let socket = socket_of(NAME, &socket)?;
        let data = args::string(NAME, "data", &data)?;
        let binary = args::flag(NAME, "binary", &binary)?;
        sendable(NAME, &data, binary)?;
        match socket.borrow::<Socket>()?.send(&data.as_bytes(), binary) {
            Sent::Done(sent) => {
                let (sent, why) = answer_of(sent);
                Ok((true, sent, why))
            }
            Sent::Waits(sending) => {
                of.wait(async move {
                    Waited::Return(match sending.sent().await {
                        Ok(()) => vec![Plain::Bool(true)],
                        Err(why) => vec![Plain::Bool(false), Plain::string(why)],
                    })
                })?;
                Ok((false, false, None))
            }
        }
    })?;
    let send: Function = waits.call(("socket:send", begin))?;
    let of = host.clone();
    let begin = lua.create_function(move |_, (socket, timeout): (Value, Value)| {
        const NAME: &str = "socket:receive(timeout)";
        of.running(NAME)?;
        let socket = socket_of(NAME, &socket)?;
        let timeout = match &timeout {
            Value::Nil => None,
            timeout => Some(args::duration(NAME, "timeout", timeout)?),
        };
        let receiving = socket.borrow::<Socket>()?.receive();
        of.wait(async move {
            Waited::Return(match receiving.received(timeout).await {
                Ok((data, binary)) => vec![Plain::String(data.into()), Plain::Bool(binary)],
                Err(why) => vec![Plain::Nil, Plain::string(why)],
            })
        })?;
        Ok(false)
    })?;
    let receive: Function = waits.call(("socket:receive", begin))?;
    lua.register_userdata_type::<Socket>(|socket| {
        socket.add_meta_field("__type", "socket");
        socket.add_field_method_get("subprotocol", |_, socket| Ok(socket.subprotocol().map(str::to_owned)));
        socket.add_field("send", send);
        socket.add_field("receive", receive);
        socket.add_method("close", |_, socket, ()| {
            socket.close();
            Ok(())
        });
    })?;

    let (of, out) = (host.clone(), outgoing.clone());
    let begin = lua.create_function(move |_, (url, options): (Value, Value)| {
        const NAME: &str = "relay.ws.connect(url, options)";
        of.running(NAME)?;
        let url = args::string(NAME, "url", &url)?.to_string_lossy();
        let options = args::options(NAME, &options, &["headers", "subprotocol", "timeout"])?;
        let connect = Connect {
            url,
            headers: headers(NAME, options.as_ref())?,
            subprotocols: subprotocols(NAME, options.as_ref())?,
            timeout: timeout(&of.context.app.limits, NAME, options.as_ref())?,
        };
        let out = out.clone();
        of.wait(async move {
            match out.connect(connect).await {
                Ok(socket) => Waited::Make(Box::new(|lua| lua.create_any_userdata(socket)?.into_lua_multi(lua))),
                Err(why) => Waited::Return(vec![Plain::Nil, Plain::string(why)]),
            }
        })?;
        Ok(false)
    })?;
    let ws = lua.create_table()?;
    ws.raw_set("connect", waits.call::<Function>(("relay.ws.connect", begin))?)?;
    relay.raw_set("ws", ws)
}

fn socket_of(function: &str, socket: &Value) -> mlua::Result<AnyUserData> {
    match socket {
        Value::UserData(userdata) if userdata.is::<Socket>() => Ok(userdata.clone()),
        other => Err(args::wrong(function, "socket", "what relay.ws.connect gave (call it with a colon)", other)),
    }
}

/// One name, or a list of them.
fn subprotocols(function: &str, options: Option<&Table>) -> mlua::Result<Vec<String>> {
    let given = match options {
        Some(options) => options.raw_get::<Value>("subprotocol")?,
        None => Value::Nil,
    };
    let names = match given {
        Value::Nil => Vec::new(),
        Value::Table(list) => list.sequence_values::<Value>().collect::<mlua::Result<Vec<Value>>>()?,
        one => vec![one],
    };
    let token = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    };
    names
        .iter()
        .map(|name| {
            let name = args::string(function, "subprotocol", name)?.to_string_lossy();
            if token(&name) {
                return Ok(name);
            }
            Err(args::mistake(function, &format!("subprotocol must be a name such as \"chat.v1\", got \"{name}\"")))
        })
        .collect()
}
