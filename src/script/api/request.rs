//! `request` as `authenticate` and `on_request` see it, and the fields of it that a `conn` shows.

use bytes::Bytes;
use mlua::{Lua, Table, Value};

use crate::peer::Request;

/// The whole request, read-only.
pub fn table(lua: &Lua, request: &Request, with_body: bool) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("method", request.method.as_str())?;
    table.raw_set("path", request.path.as_str())?;
    table.raw_set("params", params(lua, request)?)?;
    table.raw_set("query", pairs(lua, &request.query)?)?;
    table.raw_set("raw_query", request.raw_query.as_str())?;
    table.raw_set("headers", pairs(lua, &request.headers)?)?;
    table.raw_set("cookies", pairs(lua, &request.cookies)?)?;
    table.raw_set("origin", request.origin.as_deref())?;
    table.raw_set("bearer", request.bearer.as_deref())?;
    table.raw_set("remote_addr", request.remote_addr.as_str())?;
    let subprotocols = lua.create_sequence_from(request.subprotocols.iter().map(String::as_str))?;
    subprotocols.set_readonly(true);
    table.raw_set("subprotocols", subprotocols)?;
    table.raw_set("tls", request.tls)?;
    if with_body {
        table.raw_set("body", lua.create_string(&request.body)?)?;
    }
    table.set_readonly(true);
    Ok(table)
}

pub fn params(lua: &Lua, request: &Request) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, request.params.len())?;
    for (name, value) in &request.params {
        table.raw_set(name.as_str(), value.as_str())?;
    }
    table.set_readonly(true);
    Ok(table)
}

/// Query, headers or cookies: what came first under a name wins.
pub fn pairs(lua: &Lua, pairs: &[(String, Bytes)]) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, pairs.len())?;
    for (name, value) in pairs {
        let name = lua.create_string(name)?;
        if table.raw_get::<Value>(&name)?.is_nil() {
            table.raw_set(name, lua.create_string(value)?)?;
        }
    }
    table.set_readonly(true);
    Ok(table)
}
