//! Scripts that run away: each is stopped within twice its budget, and the relay goes on.

use std::time::Duration;

use moonwire::harness::{Peer, Relay, alone, app, resident, run};

const MIB: usize = 1024 * 1024;

/// Runs `body` in an `on_message` under a budget of 100 ms and 64 MiB, and gives how long it took and what `on_error`
/// heard.
async fn run_away(body: &str) -> (Duration, String) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("app.lua");
    let text = format!(
        r#"
        local app = {{}}
        function app.on_message(conn, text)
          if text ~= "go" then return conn:send(text) end
          {body}
        end
        function app.on_error(conn, err) conn:send(err.message) end
        return app
        "#
    );
    std::fs::write(&script, text).unwrap();
    let mut config = app("app", &script);
    config.limits.script_memory = 64 * MIB;
    let relay = Relay::start(config).await.unwrap_or_else(|report| panic!("{body}\n{report:#?}"));
    let ann = relay.connect("/app/x").await.unwrap();
    let bob = relay.connect("/app/x").await.unwrap();
    relay.settle().await;
    // This thread's own time: others may keep the machine busy.
    let begun = cpu();
    ann.send("go");
    relay.settle().await;
    let took = cpu() - begun;
    let error = ann.receive_text().unwrap_or_else(|| "no error".to_owned());
    for peer in [&bob, &ann] {
        assert_eq!(ask(&relay, peer, "still there").await, "still there", "after {body}: {error}");
    }
    (took, error)
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

async fn ask(relay: &Relay, peer: &Peer, text: &str) -> String {
    peer.send(text);
    relay.settle().await;
    relay.advance(Duration::from_millis(10)).await;
    peer.receive_text().unwrap_or_else(|| "nothing".to_owned())
}

fn is_stopped(cases: &[&str], why: &str) {
    run(async {
        for body in cases {
            let (took, error) = run_away(body).await;
            assert!(error.contains(why), "{body}\ngave: {error}\nnot: {why}");
            assert!(error.contains("app.lua:"), "{body}\nhas no place: {error}");
            assert!(took < Duration::from_millis(200), "{body}\ntook {took:?}");
        }
    });
}

const BUDGET: &str = "limits.callback_cpu";

#[test]
fn endless_loops_are_stopped_however_they_are_wrapped() {
    is_stopped(
        &[
            "while true do end",
            "repeat until false",
            "for i = 1, math.huge do end",
            "local function f() return f() end while true do pcall(f) end",
            "while true do pcall(function() while true do end end) end",
            "while true do pcall(error) end",
            "local function again() pcall(again) return again() end while true do pcall(again) end",
            "xpcall(function() while true do end end, function() while true do end end) while true do end",
            "while true do xpcall(error, function(e) while true do end end) end",
            "local co = coroutine.create(function() while true do end end) coroutine.resume(co) while true do end",
            "coroutine.wrap(function() while true do pcall(function() while true do end end) end end)()",
            "while true do local co = coroutine.create(function() while true do end end) pcall(coroutine.resume, co) end",
            "local t = setmetatable({}, { __tostring = function() while true do end end }) tostring(t) while true do end",
            "local t = setmetatable({}, { __index = function(t, k) while true do end end }) local x = t.x while true do end",
            "local t = setmetatable({}, { __eq = function() while true do end end }) local _ = t == setmetatable({}, getmetatable(t)) while true do end",
            "table.sort({ 3, 2, 1, 5, 4 }, function(a, b) while true do end end) while true do end",
            "string.gsub('abc', '%w', function() while true do end end) while true do end",
            "for x in function() while true do end end do end",
        ],
        BUDGET,
    );
}

#[test]
fn patterns_that_explode_are_stopped() {
    is_stopped(
        &[
            "string.find(string.rep('a', 200000), string.rep('a?', 30) .. string.rep('a', 30) .. 'b')",
            "string.match(string.rep('a', 50000), '.-.-.-.-.-b')",
            "string.gsub(string.rep('a', 50000), '(.-)(.-)(.-)b', '')",
            "for _ in string.gmatch(string.rep('x', 100000), '.-.-.-y') do end",
        ],
        BUDGET,
    );
}

#[test]
fn library_functions_on_huge_input_end_in_time() {
    run(async {
        // Each either does its work within the budget or is stopped: that it is over in time is what counts.
        for body in [
            "table.move({}, 1, 2 ^ 31 - 2, 2)",
            "local s = string.rep('a', 8e6) for i = 1, 1e9 do string.find(s, 'b', 1, true) end",
            "local s = string.rep('a', 8e6) for i = 1, 1e9 do string.split(s, 'a') end",
            "local t = table.create(1e6, 1) for i = 1, 1e6 do t[i] = (i * 7919) % 1000003 end while true do table.sort(t) end",
            "local t = table.create(1e6, 'xxxxxxxxxx') for i = 1, 1e9 do table.concat(t) end",
            "for i = 1, 1e9 do string.rep('abc', 5e6) end",
            "string.rep('x', 1e18)",
            "table.create(1e9)",
            "buffer.create(2 ^ 40)",
            "local t = table.create(1e6, 0) while true do table.clone(t) end",
            "local t = table.create(1e6, 0) while true do table.find(t, 1) end",
            "local s = string.rep('a', 8e6) while true do s:reverse() s:upper() s:lower() end",
            "while true do string.format('%99d', 1) end",
            "local t = table.create(7000, 1) while true do select('#', unpack(t)) end",
        ] {
            let (took, error) = run_away(body).await;
            let error = &error[..error.len().min(200)];
            assert_ne!(error, "no error", "{body}");
            assert!(took < Duration::from_millis(200), "{body}\ntook {took:?}: {error}");
        }
    });
}

#[test]
fn deep_recursion_is_an_error_of_the_script() {
    is_stopped(
        &[
            "local function f() return 1 + f() end f()",
            "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end local x = t.x",
        ],
        "stack overflow",
    );
}

#[test]
fn memory_bombs_are_stopped_and_the_vm_goes_on() {
    alone("runaway::memory_bombs_are_stopped_and_the_vm_goes_on", || {
        run(async {
            for body in [
                "local t = {} while true do t[#t + 1] = string.rep('x', 1e6) .. #t end",
                "local s = 'x' while true do s = s .. s end",
                "local t = {} for i = 1, 1e9 do t[i] = {} end",
                "_G.kept = {} while true do kept[#kept + 1] = string.rep('x', 1e6) .. #kept end",
                "while true do pcall(function() local t = {} while true do t[#t + 1] = string.rep('x', 1e5) .. #t end end) end",
                "local t = {} pcall(function() while true do t[#t + 1] = string.rep('x', 1e6) .. #t end end) error('caught')",
                "relay.json.decode(string.rep('[', 1e6)) error('deep')",
                "local t = {} for i = 1, 1e9 do t[i] = buffer.create(1e6) end",
            ] {
                let before = resident();
                let (took, error) = run_away(body).await;
                assert_ne!(error, "no error", "{body}");
                assert!(took < Duration::from_secs(2), "{body}\ntook {took:?}: {error}");
                let grown = resident().saturating_sub(before);
                assert!(grown < 90 * MIB, "{body}\nleft {} MiB: {error}", grown / MIB);
            }
        });
    });
}

#[test]
fn a_script_that_lives_near_its_limit_with_much_garbage_goes_on() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        let text = r#"
            local app = {}
            function app.on_start() relay.state.kept = {} for i = 1, 30 do relay.state.kept[i] = string.rep("x", 1e6) .. i end end
            function app.on_message(conn, n)
              local garbage = {}
              for i = 1, 8 do garbage[i] = string.rep("y", 1e6) .. n .. i end
              conn:send(n)
            end
            return app
        "#;
        std::fs::write(&script, text).unwrap();
        let mut config = app("app", &script);
        config.limits.script_memory = 64 * MIB;
        let relay = Relay::start(config).await.unwrap();
        let ann = relay.connect("/app/x").await.unwrap();
        for n in 0..100 {
            assert_eq!(ask(&relay, &ann, &n.to_string()).await, n.to_string());
        }
    });
}

#[test]
fn a_message_is_handed_over_at_every_distance_from_the_limit() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        let text = r#"
            local app = {}
            local kept = {}
            function app.on_message(conn, text)
              local grow = tonumber(text:sub(1, 6))
              if grow == 0 then kept = {} return conn:send("emptied") end
              kept[#kept + 1] = string.rep("x", grow) .. #kept
              conn:publish("nobody", text)
              conn:send(tostring(#text))
            end
            return app
        "#;
        std::fs::write(&script, text).unwrap();
        let mut config = app("app", &script);
        config.limits.script_memory = 8 * MIB;
        config.limits.message = 4 * MIB;
        config.limits.script_errors = 1_000_000;
        let relay = Relay::start(config).await.unwrap();
        let ann = relay.connect("/app/x").await.unwrap();
        let (mut refused, mut answered) = (0, 0);
        // Messages of all sizes while the memory fills up in small steps, to its limit and beyond, and again.
        for n in 0..3_000usize {
            let size = [6, 1_000, 60_000, 300_000, 2_000_000][n % 5];
            let text = format!("{:06}{}", if n % 700 == 699 { 0 } else { 20_000 + n % 7 }, "m".repeat(size - 6));
            ann.send(&text);
            relay.settle().await;
            match ann.receive_text() {
                Some(answer) if answer == "emptied" => {}
                Some(answer) => {
                    assert_eq!(answer, size.to_string());
                    answered += 1;
                }
                None => refused += 1,
            }
        }
        // Whoever finds none is the last of a VM that is full for good.
        assert!(refused > 3 && answered > 2_500, "{refused} messages found no room, {answered} were answered");
        assert_eq!(ann.closed(), None);
    });
}

#[test]
fn a_vm_that_is_full_for_good_is_replaced_and_keeps_its_state() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.lua");
        let text = r#"
            local app = {}
            local leak = {}
            function app.on_start() relay.state.words = relay.state.words or { "kept" } end
            function app.on_open(conn) conn.state.name = "ann" end
            function app.on_message(conn, text)
              if text == "leak" then while true do leak[#leak + 1] = string.rep("x", 1e6) .. #leak end end
              conn:send(#leak .. " " .. relay.state.words[1] .. " " .. conn.state.name .. " " .. relay.generation)
            end
            return app
        "#;
        std::fs::write(&script, text).unwrap();
        let mut config = app("app", &script);
        config.limits.script_memory = 64 * MIB;
        config.limits.script_errors = 1000;
        let relay = Relay::start(config).await.unwrap();
        let ann = relay.connect("/app/x").await.unwrap();
        for _ in 0..3 {
            // Until it is full for good: after the first times a collection makes enough room.
            for _ in 0..4 {
                ann.send("leak");
                relay.settle().await;
                relay.advance(Duration::from_millis(10)).await;
            }
            let now = ask(&relay, &ann, "x").await;
            let (leaked, rest) = now.split_once(' ').unwrap_or_else(|| panic!("{now}"));
            assert_eq!(rest, "kept ann 1");
            assert!(leaked.parse::<usize>().unwrap() < 60, "{leaked}");
        }
    });
}
