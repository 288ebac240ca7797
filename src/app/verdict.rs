//! From what `authenticate` and `on_request` return to what the handshake does.

use mlua::{MultiValue, Table, Value};

use crate::{
    identity::{Identity, Response, Verdict},
    script::{Refusal, plain, type_name},
};

/// The verdict that `authenticate` returned, or what is wrong with it.
pub fn verdict(values: MultiValue) -> Result<Verdict, String> {
    let mut values = values.into_iter();
    let (first, second) = (values.next().unwrap_or(Value::Nil), values.next().unwrap_or(Value::Nil));
    let identity = match first {
        Value::Nil | Value::Boolean(false) => {
            let reason = match second {
                Value::String(why) => why.to_string_lossy(),
                _ => "unauthorized".to_owned(),
            };
            return Ok(Verdict::Refuse { status: 401, reason });
        }
        Value::Boolean(true) => None,
        Value::String(id) => Some(Identity::of(&id.as_bytes())?),
        Value::UserData(userdata) if userdata.is::<Refusal>() => {
            let refusal = userdata.borrow::<Refusal>().map_err(|error| error.to_string())?;
            let reason = refusal.reason.clone();
            return Ok(match refusal.code {
                status @ 400..=599 => Verdict::Refuse { status, reason },
                code => Verdict::UpgradeAndClose { code, reason },
            });
        }
        Value::Table(_) => {
            Some(Identity::read(plain::to_plain(&first, "identity").map_err(|error| error.to_string())?)?)
        }
        other => {
            return Err(format!(
                "authenticate must return an identity (a table with a string `id`, or that string), true, nil, false, or relay.refuse(...), got {}",
                type_name(&other)
            ));
        }
    };
    let (subprotocol, headers) = match second {
        Value::Nil => (None, Vec::new()),
        Value::Table(options) => upgrade_options(&options)?,
        other => {
            return Err(format!(
                "authenticate's second value must be a table {{ subprotocol=, headers= }}, got {}",
                type_name(&other)
            ));
        }
    };
    Ok(Verdict::Accept { identity, subprotocol, headers })
}

type UpgradeOptions = (Option<String>, Vec<(String, String)>);

fn upgrade_options(options: &Table) -> Result<UpgradeOptions, String> {
    let (mut subprotocol, mut headers) = (None, Vec::new());
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        match (key.as_string().map(|key| key.to_string_lossy()).as_deref(), value) {
            (Some("subprotocol"), Value::String(name)) => subprotocol = Some(name.to_string_lossy()),
            (Some("headers"), Value::Table(table)) => {
                headers = header_pairs(&table, "authenticate")?
                    .into_iter()
                    .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
                    .collect();
            }
            (Some(name @ ("subprotocol" | "headers")), other) => {
                return Err(format!(
                    "authenticate's `{name}` must be a {}, got {}",
                    if name == "headers" { "table" } else { "string" },
                    type_name(&other)
                ));
            }
            (name, _) => {
                return Err(format!(
                    "authenticate's second value has an unknown field `{}` (it takes subprotocol, headers)",
                    name.unwrap_or("?")
                ));
            }
        }
    }
    Ok((subprotocol, headers))
}

fn header_pairs(table: &Table, of: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut headers = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (name, value) = pair.map_err(|error| error.to_string())?;
        let Value::String(name) = name else {
            return Err(format!("{of}: a header's name must be a string, got {}", type_name(&name)));
        };
        let name = name.to_string_lossy();
        let value = match value {
            Value::String(value) => value.as_bytes().to_vec(),
            Value::Integer(number) => number.to_string().into_bytes(),
            other => return Err(format!("{of}: the header `{name}` must be a string, got {}", type_name(&other))),
        };
        headers.push((name, value));
    }
    headers.sort(); // a table has no order, and answers should not differ from run to run
    Ok(headers)
}

/// The response that `on_request` returned, or what is wrong with it.
pub fn response(values: MultiValue) -> Result<Response, String> {
    match values.into_iter().next().unwrap_or(Value::Nil) {
        Value::String(body) => Ok(Response { status: 200, headers: Vec::new(), body: body.as_bytes().to_vec() }),
        Value::Table(table) => {
            let mut response = Response { status: 200, headers: Vec::new(), body: Vec::new() };
            for pair in table.pairs::<Value, Value>() {
                let (key, value) = pair.map_err(|error| error.to_string())?;
                match (key.as_string().map(|key| key.to_string_lossy()).as_deref(), value) {
                    (Some("status"), Value::Integer(status)) if (200..=599).contains(&status) => {
                        response.status = u16::try_from(status).unwrap_or(500)
                    }
                    (Some("headers"), Value::Table(table)) => response.headers = header_pairs(&table, "on_request")?,
                    (Some("body"), Value::String(body)) => response.body = body.as_bytes().to_vec(),
                    (Some("status"), _) => {
                        return Err("on_request's `status` must be a whole number from 200 to 599".to_owned());
                    }
                    (Some(name @ ("headers" | "body")), other) => {
                        return Err(format!(
                            "on_request's `{name}` must be a {}, got {}",
                            if name == "headers" { "table" } else { "string" },
                            type_name(&other)
                        ));
                    }
                    (name, _) => {
                        return Err(format!(
                            "on_request returned an unknown field `{}` (it takes status, headers, body)",
                            name.unwrap_or("?")
                        ));
                    }
                }
            }
            Ok(response)
        }
        other => {
            Err(format!("on_request must return {{ status=, headers=, body= }} or a string, got {}", type_name(&other)))
        }
    }
}
