//! `relay.http`: requests to the hosts that `app.http.allow` lists.

use std::{rc::Rc, time::Duration};

use mlua::{Function, Lua, Table, Value};

use crate::{
    config,
    outgoing::{Asked, Headers, Outgoing, Response},
    plain::{Plain, PlainTable},
    script::{args, host::Host, tasks::Waited},
};

/// How long a request may take if it does not say.
const TIMEOUT: Duration = Duration::from_secs(5);

pub fn register(
    lua: &Lua,
    relay: &Table,
    host: &Rc<Host>,
    waits: &Function,
    outgoing: &Rc<Outgoing>,
) -> mlua::Result<()> {
    let http = lua.create_table()?;
    let (of, out) = (host.clone(), outgoing.clone());
    let begin = lua.create_function(move |_, (url, options): (Value, Value)| {
        const NAME: &str = "relay.http.get(url, options)";
        of.running(NAME)?;
        let url = args::string(NAME, "url", &url)?;
        let options = args::options(NAME, &options, &["headers", "timeout"])?;
        ask(&of, &out, asked(&of, NAME, "GET".to_owned(), &url, Vec::new(), options.as_ref())?)
    })?;
    http.raw_set("get", waits.call::<Function>(("relay.http.get", begin))?)?;
    let (of, out) = (host.clone(), outgoing.clone());
    let begin = lua.create_function(move |_, (url, body, options): (Value, Value, Value)| {
        const NAME: &str = "relay.http.post(url, body, options)";
        of.running(NAME)?;
        let url = args::string(NAME, "url", &url)?;
        let body = args::string(NAME, "body", &body)?.as_bytes().to_vec();
        let options = args::options(NAME, &options, &["headers", "timeout"])?;
        ask(&of, &out, asked(&of, NAME, "POST".to_owned(), &url, body, options.as_ref())?)
    })?;
    http.raw_set("post", waits.call::<Function>(("relay.http.post", begin))?)?;
    let (of, out) = (host.clone(), outgoing.clone());
    let begin = lua.create_function(move |_, request: Value| {
        const NAME: &str = "relay.http.request(request)";
        of.running(NAME)?;
        if !matches!(request, Value::Table(_)) {
            return Err(args::wrong(NAME, "request", "a table", &request));
        }
        let Some(request) = args::options(NAME, &request, &["method", "url", "headers", "body", "timeout"])? else {
            return Err(args::wrong(NAME, "request", "a table", &request));
        };
        let url = args::string(NAME, "url", &request.raw_get("url")?)?;
        let method = match request.raw_get("method")? {
            Value::Nil => "GET".to_owned(),
            method => method_of(NAME, &method)?,
        };
        let body = match request.raw_get("body")? {
            Value::Nil => Vec::new(),
            body => args::string(NAME, "body", &body)?.as_bytes().to_vec(),
        };
        ask(&of, &out, asked(&of, NAME, method, &url, body, Some(&request))?)
    })?;
    http.raw_set("request", waits.call::<Function>(("relay.http.request", begin))?)?;
    relay.raw_set("http", http)
}

fn ask(host: &Host, outgoing: &Rc<Outgoing>, asked: Asked) -> mlua::Result<bool> {
    let outgoing = outgoing.clone();
    host.wait(async move {
        Waited::Return(match outgoing.ask(asked).await {
            Ok(response) => vec![plain(response)],
            Err(why) => vec![Plain::Nil, Plain::string(why)],
        })
    })?;
    Ok(false)
}

fn asked(
    host: &Host,
    function: &str,
    method: String,
    url: &mlua::LuaString,
    body: Vec<u8>,
    options: Option<&Table>,
) -> mlua::Result<Asked> {
    Ok(Asked {
        method,
        url: url.to_string_lossy(),
        headers: headers(function, options)?,
        body: body.into(),
        timeout: timeout(&host.context.app.limits, function, options)?,
    })
}

fn method_of(function: &str, method: &Value) -> mlua::Result<String> {
    let text = args::string(function, "method", method)?.to_string_lossy();
    // CONNECT would ask for a tunnel.
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_uppercase()) || text == "CONNECT" {
        return Err(args::mistake(
            function,
            &format!("method must be one such as \"GET\" or \"POST\", in capitals, got \"{text}\""),
        ));
    }
    Ok(text)
}

/// The option `timeout`, at most `limits.callback_timeout`: nothing waits longer.
pub fn timeout(limits: &config::Limits, function: &str, options: Option<&Table>) -> mlua::Result<Duration> {
    let max = limits.callback_timeout;
    let given = match options {
        Some(options) => options.raw_get::<Value>("timeout")?,
        None => Value::Nil,
    };
    if given.is_nil() {
        return Ok(TIMEOUT.min(max));
    }
    let timeout = args::duration(function, "timeout", &given)?;
    if timeout.is_zero() {
        return Err(args::mistake(function, "timeout must be more than 0"));
    }
    if timeout > max {
        let max = max.as_secs_f64();
        return Err(args::mistake(
            function,
            &format!("timeout must be at most limits.callback_timeout ({max} seconds), for no callback waits longer"),
        ));
    }
    Ok(timeout)
}

/// The option `headers`: names with a string, or a list of strings, each.
pub fn headers(function: &str, options: Option<&Table>) -> mlua::Result<Headers> {
    let mut headers = Headers::default();
    let given = match options {
        Some(options) => options.raw_get::<Value>("headers")?,
        None => Value::Nil,
    };
    let table = match given {
        Value::Nil => return Ok(headers),
        Value::Table(table) => table,
        other => return Err(args::wrong(function, "headers", "a table", &other)),
    };
    for pair in table.pairs::<Value, Value>() {
        let (name, value) = pair?;
        let name = args::string(function, "the name of a header", &name)?;
        let argument = format!("headers[\"{}\"]", name.to_string_lossy());
        let values = match &value {
            Value::Table(list) => list.sequence_values::<Value>().collect::<mlua::Result<Vec<Value>>>()?,
            _ => vec![value],
        };
        for value in values {
            let value = args::string(function, &argument, &value)?;
            headers
                .add(&name.as_bytes(), &value.as_bytes())
                .map_err(|why| args::mistake(function, &format!("headers: {why}")))?;
        }
    }
    Ok(headers)
}

fn plain(response: Response) -> Plain {
    let headers = response.headers.into_iter().map(|(name, value)| (Plain::string(name), Plain::String(value.into())));
    let headers = PlainTable { pairs: headers.collect(), ..PlainTable::default() };
    Plain::Table(Box::new(PlainTable {
        pairs: vec![
            (Plain::string("status"), Plain::Number(f64::from(response.status))),
            (Plain::string("headers"), Plain::Table(Box::new(headers))),
            (Plain::string("body"), Plain::String(response.body.into())),
        ],
        ..PlainTable::default()
    }))
}
