//! `relay.alarm`: it belongs to the instance, so a reload neither ends nor repeats it.

use std::{fs, path::PathBuf, time::Duration};

use moonwire::{
    clock::Clock,
    harness::{self, Peer, Relay, Setup, Transcript, check, check_with, run},
    reload::report::Outcome,
    script::{Plan, Sources},
};

#[test]
fn an_alarm_fires_once_with_its_key_and_a_copy_of_its_data() {
    check(
        r#"
        local asker
        function app.on_message(conn, text)
          asker = conn
          local data = { text = text, list = { 1, 2 } }
          relay.alarm("tea", 5, data)
          data.text = "changed afterwards"
        end
        function app.on_alarm(key, data) asker:send(`{key}: {data.text} {#data.list}`) end
        "#,
        "
        alice opens
        alice > hot
        4s pass
        2s pass
        alice < tea: hot 2
        60s pass
        ",
    );
}

#[test]
fn the_same_key_replaces_and_nil_cancels() {
    check(
        r#"
        function app.on_message(conn, text)
          local key, seconds = text:match("(%a+) ?(.*)")
          relay.alarm(key, tonumber(seconds), { conn = conn.id, after = seconds })
        end
        function app.on_alarm(key, data) relay.conn(data.conn):send(`{key} after {data.after}`) end
        "#,
        "
        alice opens
        alice > tea 5
        alice > tea 2
        alice > bread 3
        alice > milk 3
        alice > milk
        alice > never
        10s pass
        alice < tea after 2
        alice < bread after 3
        alice > tea 1
        2s pass
        alice < tea after 1
        ",
    );
}

#[test]
fn an_alarm_may_set_itself_anew_and_its_error_goes_to_on_error() {
    check(
        r#"
        local left = 3
        function app.on_open() relay.alarm("again", "1s") end
        function app.on_alarm(key, data)
          left -= 1
          if left == 0 then error("enough") end
          relay.alarm(key, 1)
        end
        function app.on_error(conn, err)
          relay.broadcast(`{conn == nil} {err.callback} {err.message:match(":%d+: .*")}`)
        end
        "#,
        "
        alice opens
        10s pass
        alice < true on_alarm :7: enough
        ",
    );
}

#[test]
fn there_are_no_more_alarms_than_limits_timers() {
    check_with(
        |app| app.limits.timers = 2,
        r#"
        local function try(...) return (select(2, pcall(relay.alarm, ...)) or "ok"):gsub("^.-lua:%d+: ", "") end
        local loading = try("a", 1)
        function app.on_message(conn)
          conn:send((loading))
          for _, key in { "a", "b", "c", "a" } do conn:send((try(key, 60))) end
          relay.alarm("b", nil)
          conn:send((try("c", 60)))
          conn:send((try("", 1)))
          conn:send((try(5, 1)))
          conn:send((try("a", -1)))
          conn:send((try("a", "x")))
          conn:send((try("a", 1, print)))
          conn:send((try("a", 1, string.rep("x", 65536))))
        end
        function app.on_alarm() end
        "#,
        "
        alice opens
        alice > go
        alice < relay.alarm(key, seconds, data): not while a script loads or in on_load: that is for set-up only; use on_start
        alice < ok
        alice < ok
        alice < relay.alarm(key, seconds, data): there are 2 alarms already, as many as limits.timers allows
        alice < ok
        alice < ok
        alice < relay.alarm(key, seconds, data): key must have 1 to 255 bytes, got 0
        alice < relay.alarm(key, seconds, data): key must be a string, got number
        alice < relay.alarm(key, seconds, data): seconds must not be negative, got -1
        alice < relay.alarm(key, seconds, data): seconds must be seconds or a string such as \"30s\" or \"7d\", got \"x\"
        alice < relay.alarm(key, seconds, data): data is a function, which is not plain data
        alice < relay.alarm(key, seconds, data): data must be at most 64 KiB: keep what is larger in relay.state
        ",
    );
}

#[test]
fn an_alarm_fires_in_the_instance_that_set_it() {
    check_with(
        |app| app.instances = 3,
        r#"
        function app.on_message(conn) relay.alarm("a", 1, relay.instance.index) end
        function app.on_alarm(key, index) relay.broadcast(tostring(index == relay.instance.index)) end
        "#,
        "
        alice opens
        bob opens
        bob > set
        2s pass
        alice < true
        bob < true
        ",
    );
}

struct Scene {
    relay: Relay,
    script: PathBuf,
    _folder: tempfile::TempDir,
}

async fn scene(body: &str) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("app.lua");
    fs::write(&script, crate::support::module(body)).unwrap();
    let relay = Relay::start(harness::app("app", &script)).await.unwrap_or_else(|report| panic!("{report:#?}"));
    Scene { relay, script, _folder: folder }
}

impl Scene {
    fn edit(&self, body: &str) {
        fs::write(&self.script, crate::support::module(body)).unwrap();
    }

    async fn reloads(&self) {
        let report = self.relay.reload().await;
        assert!(matches!(report.outcome, Outcome::Reloaded { .. }), "{report:#?}");
    }

    async fn plays(&self, lines: &str) {
        let mut transcript = Transcript::new(&self.relay);
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            transcript.line(line).await.unwrap_or_else(|scene| panic!("{scene}"));
        }
        transcript.end().await.unwrap_or_else(|scene| panic!("{scene}"));
    }
}

const SETS: &str = "function app.on_open(conn) relay.alarm('a', 5, { by = relay.generation }) end\n";

#[test]
fn an_alarm_outlives_reloads_and_is_handled_once_by_the_generation_of_its_time() {
    run(async {
        let tells =
            "function app.on_alarm(_, data) relay.broadcast(`set by {data.by}, told by {relay.generation}`) end";
        let scene = scene(&format!("{SETS}{tells}")).await;
        let alice = scene.relay.connect("/app/lobby").await.unwrap();
        scene.relay.settle().await;
        for extra in ["local x = 1", "local x = 2"] {
            scene.edit(&format!("{SETS}{tells}\n{extra}"));
            scene.reloads().await;
        }
        // Long enough for the first generation to be gone.
        scene.relay.advance(Duration::from_secs(30)).await;
        assert_eq!(alice.receive_text().as_deref(), Some("set by 1, told by 3"));
        assert_eq!(alice.receive_text(), None);
    });
}

#[test]
fn an_alarm_that_is_due_while_a_reload_holds_the_instance_fires_after_it() {
    run(async {
        let tells = "function app.on_alarm() relay.broadcast(tostring(relay.generation)) end";
        let scene = scene(&format!("{SETS}{tells}")).await;
        let alice = scene.relay.connect("/app/lobby").await.unwrap();
        scene.relay.settle().await;
        let instance = scene.relay.instance(0);
        // Held, as between the vote and its outcome.
        let app = instance.app();
        let sources = std::sync::Arc::new(Sources::new(&app.script));
        let plan = Plan { app, generation: 2, sources, previous: Some((1, 1)), drain: Duration::ZERO };
        instance.prepare(plan).await.unwrap();
        instance.hold().unwrap();
        scene.relay.advance(Duration::from_secs(6)).await;
        assert_eq!(alice.receive_text(), None);
        instance.release();
        scene.relay.settle().await;
        assert_eq!(alice.receive_text().as_deref(), Some("1"));

        scene.edit(&format!("{tells}\n{SETS}"));
        scene.reloads().await;
        scene.relay.advance(Duration::from_secs(6)).await;
        assert_eq!(alice.receive_text(), None, "it has fired");
    });
}

#[test]
fn without_on_alarm_it_is_dropped_and_not_kept_for_later() {
    run(async {
        let scene = scene(SETS).await;
        let alice = scene.relay.connect("/app/lobby").await.unwrap();
        scene.relay.advance(Duration::from_secs(6)).await;
        scene.edit(&format!("{SETS}function app.on_alarm() relay.broadcast('late') end"));
        scene.reloads().await;
        scene.relay.advance(Duration::from_secs(6)).await;
        assert_eq!(alice.receive_text(), None);
        scene.plays("bob opens\n6s pass\nbob < late").await;
        assert_eq!(alice.receive_text().as_deref(), Some("late"));
    });
}

const KEEPS: &str = r#"
    function app.on_message(conn, text)
      local key, seconds = text:match("^(%a+) ?(.*)$")
      relay.alarm(key, tonumber(seconds), { by = relay.instance.index })
      conn:send("set")
    end
    function app.on_alarm(key, data) relay.broadcast(`{key} of {data.by} in {relay.instance.index}`) end
"#;

#[test]
fn an_alarm_survives_a_restart_and_comes_once() {
    let restarts = Restarts::new(KEEPS);
    run(async {
        let relay = restarts.start(2, 0).await;
        let (ann, bob) = (relay.connect("/app/a").await.unwrap(), relay.connect("/app/b").await.unwrap());
        for (peer, asks) in [(&ann, "soon 1"), (&ann, "tea 10"), (&ann, "gone 10"), (&ann, "gone"), (&bob, "milk 90")] {
            peer.send(asks);
            relay.settle().await;
            assert_eq!(peer.receive_text().as_deref(), Some("set"));
        }
        relay.advance(Duration::from_secs(2)).await;
        for peer in [&ann, &bob] {
            assert_eq!(peer.receive_text().as_deref(), Some("soon of 1 in 1"));
        }
    });
    // A minute later, with one instance in the place of two: what is overdue comes at once, the rest in its time.
    run(async {
        let relay = restarts.start(1, 60).await;
        let peer = relay.connect("/app/a").await.unwrap();
        relay.advance(Duration::from_millis(1)).await;
        // It was due before anybody was there.
        assert_eq!(peer.receive_text(), None);
        relay.advance(Duration::from_secs(31)).await;
        assert_eq!(peer.receive_text().as_deref(), Some("milk of 2 in 1"));
    });
    run(async {
        let relay = restarts.start(2, 300).await;
        let peer = relay.connect("/app/a").await.unwrap();
        relay.advance(Duration::from_secs(60)).await;
        assert_eq!(peer.receive_text(), None, "each has come");
    });
}

#[test]
fn what_on_start_sets_replaces_what_an_earlier_start_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let (script, store) = (folder.path().join("app.lua"), folder.path().join("moonwire.db"));
    let body = |seconds: &str| {
        format!(
            "function app.on_start() relay.alarm('daily', {seconds}, {{ after = '{seconds}' }}) end\n\
             function app.on_alarm(_, data) relay.broadcast(data.after) end"
        )
    };
    for (seconds, heard) in [("1000", None), ("5", Some("5"))] {
        fs::write(&script, crate::support::module(&body(seconds))).unwrap();
        run(async {
            let relay = Relay::start_with(harness::app("app", &script), &store).await.unwrap();
            let peer = relay.connect("/app/a").await.unwrap();
            relay.advance(Duration::from_secs(20)).await;
            assert_eq!(peer.receive_text().as_deref(), heard);
        });
    }
}

/// A restart of the scripts that a test tries, in one folder and with one store.
struct Restarts {
    folder: tempfile::TempDir,
}

impl Restarts {
    fn new(body: &str) -> Restarts {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("app.lua"), crate::support::module(body)).unwrap();
        Restarts { folder }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("moonwire.db")
    }

    /// `later` seconds after the first start.
    async fn start(&self, instances: usize, later: u64) -> Relay {
        let mut config = harness::app("app", &self.folder.path().join("app.lua"));
        config.instances = instances;
        config.limits.timers = 1000;
        let clock = Clock::virtual_from(harness::EPOCH + Duration::from_secs(later));
        let setup = Setup { clock: Some(clock), ..Setup::default() };
        Relay::start_in(config, &self.store(), setup).await.unwrap_or_else(|report| panic!("{report:#?}"))
    }
}

fn heard(peer: &Peer) -> Vec<String> {
    std::iter::from_fn(|| peer.receive_text()).collect()
}

#[test]
fn the_first_of_several_that_are_due_at_one_moment_may_cancel_the_others() {
    let restarts = Restarts::new(
        r#"
        function app.on_message(conn)
          for _, key in { "a", "b", "c" } do relay.alarm(key, 5) end
        end
        function app.on_alarm(key)
          relay.broadcast(key)
          for _, other in { "a", "b", "c" } do relay.alarm(other, nil) end
        end
        "#,
    );
    run(async {
        let relay = restarts.start(1, 0).await;
        let peer = relay.connect("/app/a").await.unwrap();
        peer.send("set");
        relay.advance(Duration::from_secs(10)).await;
        let heard = heard(&peer);
        assert_eq!(heard.len(), 1, "{heard:?}");
    });
    run(async {
        let relay = restarts.start(1, 60).await;
        let peer = relay.connect("/app/a").await.unwrap();
        relay.advance(Duration::from_secs(10)).await;
        assert_eq!(heard(&peer), [""; 0], "those that were cancelled are on disk no more");
    });
}

#[test]
fn the_same_key_of_several_instances_comes_once_each_when_there_are_fewer_of_them() {
    let restarts = Restarts::new(KEEPS);
    run(async {
        let relay = restarts.start(4, 0).await;
        for _ in 0..4 {
            relay.connect("/app/a").await.unwrap().send("tea 90");
        }
        relay.settle().await;
    });
    run(async {
        let relay = restarts.start(1, 60).await;
        let peer = relay.connect("/app/a").await.unwrap();
        relay.advance(Duration::from_secs(40)).await;
        let mut heard = heard(&peer);
        heard.sort();
        assert_eq!(heard, ["tea of 1 in 1", "tea of 2 in 1", "tea of 3 in 1", "tea of 4 in 1"]);
    });
    run(async {
        let relay = restarts.start(4, 300).await;
        let peer = relay.connect("/app/a").await.unwrap();
        relay.advance(Duration::from_secs(60)).await;
        assert_eq!(heard(&peer), [""; 0]);
    });
}

#[test]
fn one_that_cannot_be_read_hides_no_other_and_stays_on_disk() {
    let restarts = Restarts::new(KEEPS);
    run(async {
        let relay = restarts.start(1, 0).await;
        let peer = relay.connect("/app/a").await.unwrap();
        for asks in ["a 90", "b 90", "c 90"] {
            peer.send(asks);
        }
        relay.settle().await;
    });
    let damaged = b"not what was written";
    let disk = rusqlite::Connection::open(restarts.store()).unwrap();
    let rows = disk.execute("UPDATE store SET value = ?1 WHERE CAST(key AS TEXT) LIKE '% b'", [damaged]).unwrap();
    assert_eq!(rows, 1);
    run(async {
        let relay = restarts.start(1, 60).await;
        let peer = relay.connect("/app/a").await.unwrap();
        relay.advance(Duration::from_secs(40)).await;
        let mut heard = heard(&peer);
        heard.sort();
        assert_eq!(heard, ["a of 1 in 1", "c of 1 in 1"]);
    });
    let left: Vec<u8> = disk.query_row("SELECT value FROM store", [], |row| row.get(0)).unwrap();
    assert_eq!(left, damaged);
}

#[test]
fn hundreds_of_large_ones_come_back() {
    let restarts = Restarts::new(
        r#"
        function app.on_message(conn)
          for i = 1, 300 do relay.alarm(`a{i}`, 90, string.rep("x", 60000)) end
        end
        local count, bytes = 0, 0
        function app.on_alarm(_, data)
          count += 1
          bytes += #data
          if count == 300 then relay.broadcast(tostring(bytes)) end
        end
        "#,
    );
    run(async {
        let relay = restarts.start(1, 0).await;
        relay.connect("/app/a").await.unwrap().send("set");
        relay.settle().await;
    });
    run(async {
        let relay = restarts.start(1, 60).await;
        let peer = relay.connect("/app/a").await.unwrap();
        relay.advance(Duration::from_secs(40)).await;
        assert_eq!(heard(&peer), ["18000000"]);
    });
}
