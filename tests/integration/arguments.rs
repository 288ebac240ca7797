//! What every name says to a wrong argument, and what every method of a connection does after its end: made from the
//! reference, so that no name is forgotten.

use moonwire::{harness::run, script::reference};

use crate::scene::Scene;

/// Name and type of each parameter of a signature.
fn parameters(signature: &str) -> Vec<(String, String)> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in signature.chars() {
        match c {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            _ => {}
        }
        match (c, depth) {
            ('(', 1) if parts == [String::new()] => {}
            (_, 0) => break,
            (',', 1) => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    let pair = |part: &String| {
        let (name, ty) = part.split_once(": ")?;
        Some((name.trim().to_owned(), ty.trim().to_owned()))
    };
    parts.iter().filter_map(pair).collect()
}

/// A value that a parameter of this type does not take, in Lua; None for one that takes all.
fn wrong(ty: &str) -> Option<&'static str> {
    match ty {
        "any" | "Plain" | "Plain?" | "string?" => None,
        "string" | "number" | "Duration" | "number?" | "Duration?" | "Identity" | "ShapeFields" => Some("true"),
        _ if ty.contains("->") || ty.starts_with('{') || ty.ends_with("Options") || ty.ends_with("Request") => {
            Some("5")
        }
        _ if ty.ends_with("Options?") => Some("5"),
        _ => None,
    }
}

/// A value that a parameter takes.
fn right(name: &str, ty: &str) -> &'static str {
    match (name, ty) {
        ("resource" | "room" | "pattern", _) => "'a.b'",
        ("url", _) => "'http://nowhere.example/'",
        (_, "Conn") => "conn",
        (_, "string") => "'text'",
        (_, "number" | "Duration") => "4000",
        ("identity", _) => "'ann'",
        (_, "RouterHandler") => "print",
        (_, "ShapeFields") => "{}",
        (_, "RateOptions") => "{ per_second = 1 }",
        (_, "JwtVerifyOptions" | "JwtSignOptions") => "{ key = 's', algorithms = { 'HS256' } }",
        _ if ty.contains("->") => "function(...) return ... end",
        _ if ty.starts_with('{') => "{}",
        _ => "nil",
    }
}

/// How a script calls an entry: on a value of its own for methods.
fn callee(name: &str) -> Option<String> {
    let (owner, method) = name.split_once(':')?;
    let value = match owner {
        "conn" => "conn",
        "room" => "relay.room('a')",
        "user" => "relay.user('ann')",
        "timer" => "relay.after(1, print)",
        "router" => "require('moonwire.router').new()",
        _ => return None,
    };
    Some(format!("local it = {value} return it.{method}(it"))
}

fn functions() -> impl Iterator<Item = &'static reference::Entry> {
    let groups =
        reference::GROUPS.iter().filter(|group| !["Tests", "Callbacks and the request"].contains(&group.title));
    groups.flat_map(|group| group.entries).filter(|entry| entry.is_function())
}

#[test]
fn each_name_tells_a_wrong_argument_in_its_own_words() {
    let mut calls = Vec::new();
    for entry in functions() {
        let parameters = parameters(entry.signature);
        for (place, (argument, ty)) in parameters.iter().enumerate() {
            let Some(wrong) = wrong(ty) else { continue };
            // The others are right.
            let mut args: Vec<&str> = parameters.iter().map(|(name, ty)| right(name, ty)).collect();
            args[place] = wrong;
            let args = args.join(", ");
            let call = match callee(entry.name) {
                Some(head) if args.is_empty() => format!("{head})"),
                Some(head) => format!("{head}, {args})"),
                None if entry.name.contains(':') => continue,
                None if entry.name.starts_with("moonwire.") => {
                    let (library, last) = entry.name.rsplit_once('.').unwrap();
                    format!("return require('{library}').{last}({args})")
                }
                None => format!("return {}({args})", entry.name),
            };
            calls.push((entry.name, argument.clone(), call));
        }
    }
    assert!(calls.len() > 100, "{}", calls.len());
    let body: String = calls
        .iter()
        .map(|(_, _, call)| format!("conn:send(tostring(select(2, pcall(function() {call} end))))\n"))
        .collect();
    // In several functions: one has at most 200 upvalues and locals.
    run(async {
        let scene = Scene::of(&format!("function app.on_open(conn)\n{body}end")).await;
        let peer = scene.peer("ann").await;
        let mut faults = Vec::new();
        for (name, argument, call) in &calls {
            let told = peer.receive_text().unwrap_or_else(|| "nothing".to_owned());
            let named =
                told.contains(&format!("{name}(")) || name.starts_with("moonwire.") || name.starts_with("router:");
            // `options` are told as such, what an option holds by its own name.
            if !named || !told.contains(&format!("{argument} must be ")) || !told.contains("got ") {
                faults.push(format!("{call}\n    told {argument}: {told}"));
            }
        }
        assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), calls.len(), faults.join("\n"));
    });
}

#[test]
fn each_name_with_options_names_one_that_it_does_not_know() {
    let mut calls = Vec::new();
    for entry in functions() {
        let parameters = parameters(entry.signature);
        let Some(place) = parameters.iter().position(|(name, _)| name == "options") else { continue };
        let before: Vec<&str> = parameters[..place].iter().map(|(name, ty)| right(name, ty)).collect();
        let args = [before, vec!["{ nonsense = 1 }"]].concat().join(", ");
        let call = match callee(entry.name) {
            Some(head) => format!("{head}, {args})"),
            None if entry.name.contains(':') || entry.name.starts_with("moonwire.") => continue,
            None => format!("return {}({args})", entry.name),
        };
        calls.push(call);
    }
    assert!(calls.len() > 20, "{}", calls.len());
    let body: String =
        calls.iter().map(|call| format!("conn:send(tostring(select(2, pcall(function() {call} end))))\n")).collect();
    run(async {
        let scene = Scene::of(&format!("function app.on_open(conn)\n{body}end")).await;
        let peer = scene.peer("ann").await;
        for call in &calls {
            let told = peer.receive_text().unwrap_or_else(|| "nothing".to_owned());
            assert!(told.contains("nonsense"), "{call}: {told}");
        }
    });
}

#[test]
fn each_method_of_a_connection_that_has_ended_is_inert() {
    let mut calls = Vec::new();
    for entry in functions().filter(|entry| entry.name.starts_with("conn:")) {
        let parameters = parameters(entry.signature);
        let args: Vec<&str> = parameters
            .iter()
            .filter(|(_, ty)| !ty.ends_with('?'))
            .map(|(name, ty)| if name == "value" { "{}" } else { right(name, ty) })
            .collect();
        let call = format!("late.{}(late{}{})", entry.last(), if args.is_empty() { "" } else { ", " }, args.join(", "));
        calls.push((entry.name, call));
    }
    assert!(calls.len() >= 13, "{calls:?}");
    let body: String = calls
        .iter()
        .map(|(_, call)| {
            format!("do local r = table.pack(pcall(function() return {call} end)) for n = 1, r.n do r[n] = type(r[n]) == 'table' and '#' .. #r[n] or tostring(r[n]) end conn:send(table.concat(r, ' ')) end\n")
        })
        .collect();
    run(async {
        let scene = Scene::of(&format!(
            "local late\nfunction app.on_open(conn)\nif not late then late = conn return end\n{body}\
             for _, field in {{ 'id', 'path', 'remote_addr', 'opened_at' }} do conn:send(tostring(late[field] ~= nil)) end\nend"
        ))
        .await;
        let first = scene.peer("ann").await;
        first.close(1000, "");
        scene.relay.settle().await;
        let peer = scene.peer("bob").await;
        for (name, call) in &calls {
            let told = peer.receive_text().unwrap_or_else(|| "nothing".to_owned());
            let expected = match *name {
                "conn:close" => "true",
                "conn:rooms" => "true #0",
                "conn:buffered" => "true 0",
                "conn:can" => "true true no_lists",
                _ => "true false closed",
            };
            assert_eq!(told, expected, "{call}");
        }
        for _ in 0..4 {
            assert_eq!(peer.receive_text().as_deref(), Some("true"));
        }
    });
}

#[test]
fn a_method_that_is_called_with_a_dot_says_so() {
    run(async {
        let scene = Scene::of(
            r#"
            function app.on_open(conn)
              for _, call in {
                function() conn.join("a") end, function() relay.room("a").publish("x") end,
                function() relay.user("a").send("x") end, function() relay.after(1, print).cancel() end,
              } do
                conn:send((select(2, pcall(call)):gsub("^.-:%d+: ", "")))
              end
            end
            "#,
        )
        .await;
        let peer = scene.peer("ann").await;
        for expected in [
            "conn.join: call it with a colon, as in conn:join(…)",
            "room.publish: call it with a colon, as in room:publish(…)",
            "user.send: call it with a colon, as in user:send(…)",
            "timer.cancel: call it with a colon, as in timer:cancel(…)",
        ] {
            assert_eq!(peer.receive_text().as_deref(), Some(expected));
        }
    });
}
