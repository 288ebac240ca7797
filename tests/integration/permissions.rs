//! Who may do what: `allow` and `deny`, changes that reach live connections at once, and identities that come late or
//! are renewed.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use moonwire::{
    config,
    harness::{Peer, Relay, app, check, check_with, run},
    permission::{Action, Permissions, Rule},
};
use proptest::prelude::*;

use crate::scene::Scene;

/// Peers ask for what they want in words; whoever is refused is told why.
const ASKING: &str = r#"
    local function list(text) return text and text ~= "" and string.split(text, ",") or nil end
    function app.authenticate(request)
      local q = request.query
      if not q.name then return true end
      return { id = q.name, allow = q.allow and (list(q.allow) or {}), deny = list(q.deny) }
    end
    function app.on_message(conn, text)
      local verb, what, rest = text:match("^(%S+) ?(%S*) ?(.*)$")
      local function told(ok, why) conn:send(verb .. " " .. tostring(ok) .. (why and " " .. why or "")) end
      if verb == "join" then told(conn:join(what))
      elseif verb == "pattern" then told(conn:join_pattern(what))
      elseif verb == "say" then told(conn:publish(what, rest))
      elseif verb == "can" then told(conn:can(what, rest))
      elseif verb == "allow" then told(relay.user(what):set_allow(list(rest) or {}))
      elseif verb == "deny" then told(relay.user(what):set_deny(list(rest) or {}))
      elseif verb == "also" then
        told(relay.user(what):update_allow(function(rules) table.insert(rules, rest) return rules end))
      elseif verb == "rooms" then told(table.concat(conn:rooms(), ","))
      end
    end
    function app.on_revoked(conn, resource) conn:send("revoked " .. resource) end
"#;

#[test]
fn an_allow_list_forbids_what_it_does_not_name_and_deny_wins() {
    check(
        ASKING,
        "
        ann opens /app/x?name=ann&allow=join room.*,publish room.1&deny=join room.9
        ann > join room.1
        ann < join true
        ann > join room.9
        ann < join false forbidden
        ann > join other
        ann < join false forbidden
        ann > say room.1 hi
        ann < say true
        ann > say room.2 hi
        ann < say false forbidden
        ann > pattern room.*
        ann < pattern false forbidden
        ann > can join room.9
        ann < can false deny join room.9
        ann > can join room.2
        ann < can true allow join room.*
        ann > can edit doc.7
        ann < can false no_rule
        ann > can join room.*
        ann < can false bad_name
        eve opens /app/x?name=eve&deny=join secret.>
        eve > join secret.a
        eve < join false forbidden
        eve > pattern >
        eve < pattern false forbidden
        eve > join open
        eve < join true
        eve > can join open
        eve < can true no_lists
        may opens /app/x?name=may&allow=join room.>
        may > pattern room.*.x
        may < pattern true
        zoe opens /app/x?name=zoe&allow=
        zoe > join room.1
        zoe < join false forbidden
        ",
    );
}

#[test]
fn a_list_that_cannot_be_read_lets_nobody_in() {
    for identity in [
        r#"{ id = "ann", allow = "join x" }"#,
        r#"{ id = "ann", allow = { "join" } }"#,
        r#"{ id = "ann", allow = { 1 } }"#,
        r#"{ id = "ann", deny = { ["join x"] = true } }"#,
        r#"{ id = "ann", deny = { "join a.>.b" } }"#,
    ] {
        check(&format!("function app.authenticate() return {identity} end"), "ann is refused 500");
    }
}

#[test]
fn a_change_reaches_every_connection_of_the_user_in_every_instance() {
    check_with(
        |app| app.instances = 2,
        ASKING,
        "
        boss opens /app/x?name=boss
        ann1 opens /app/x?name=ann
        ann2 opens /app/x?name=ann
        ann1 > join room.1
        ann1 < join true
        ann2 > join room.2
        ann2 < join true
        ann2 > pattern room.*
        ann2 < pattern true
        boss > allow ann join room.1
        boss < allow true
        ann2 < revoked room.2
        ann2 < revoked room.*
        boss > say room.2 secret
        boss < say true
        boss > say room.1 open
        boss < say true
        ann1 < open
        boss > also ann join room.2
        boss < also true
        ann2 > join room.2
        ann2 < join true
        ann1 > say room.1 x
        ann1 < say false forbidden
        boss > deny ann join room.2
        boss < deny true
        ann2 < revoked room.2
        ann2 > join room.2
        ann2 < join false forbidden
        ann3 opens /app/x?name=ann
        ann3 > join room.2
        ann3 < join true
        ",
    );
}

#[test]
fn rules_that_are_computed_from_the_old_ones_lose_none_of_two_changes_at_once() {
    run(async {
        let scene = Scene::with(ASKING, |app| app.instances = 3).await;
        let open = async |target: &str| scene.relay.connect(target).await.unwrap();
        let mut peers = Vec::new();
        for _ in 0..6 {
            peers.push(open("/app/x?name=ann&allow=join base").await);
        }
        // Everybody adds a rule at the same time.
        for (number, peer) in peers.iter().enumerate() {
            peer.send(format!("also ann join room.{number}"));
        }
        scene.relay.settle().await;
        for peer in &peers {
            assert_eq!(peer.receive_text().as_deref(), Some("also true"));
            for number in 0..6 {
                assert_eq!(scene.ask(peer, &format!("join room.{number}")).await, "join true");
            }
            assert_eq!(scene.ask(peer, "join room.6").await, "join false forbidden");
        }
    });
}

#[test]
fn joining_by_user_leaves_out_the_connections_that_may_not() {
    check(
        r#"
        function app.authenticate(request) return { id = "ann", allow = { "join " .. request.query.name } } end
        function app.on_message(conn) conn:send(tostring(relay.user("ann"):join("one")) .. table.concat(conn:rooms(), ",")) end
        "#,
        "
        one opens
        two opens
        one > x
        one < trueone
        two > x
        two < true
        ",
    );
}

#[test]
fn an_anonymous_connection_can_say_later_who_it_is() {
    check(
        r#"
        function app.authenticate() return true end
        function app.on_message(conn, text)
          if text == "who" then return conn:send(conn.user and conn.user.name or "nobody") end
          if text == "online" then return conn:send(tostring(relay.user("ann"):online())) end
          local ok, err = pcall(conn.identify, conn, { id = text, name = text:upper(), allow = { "join room.*" } })
          conn:send(ok and "ok" or err:match("conn:identify.*"))
          conn:send(tostring(select(2, conn:join("elsewhere"))))
        end
        "#,
        r#"
        ann opens
        ann > who
        ann < nobody
        ann > ann
        ann < ok
        ann < forbidden
        ann > who
        ann < ANN
        ann > online
        ann < true
        ann > eve
        ann < conn:identify(identity): the connection is "ann" and stays so, got "eve"
        ann < forbidden
        "#,
    );
}

#[test]
fn an_identity_expires_unless_it_is_renewed() {
    check(
        r#"
        function app.authenticate(request) return { id = "ann", expires_at = relay.now() + 10 } end
        function app.on_open(conn) conn.state.first = conn.user.expires_at end
        function app.on_message(conn, text)
          conn:identify({ id = "ann", expires_at = relay.now() + tonumber(text) })
          conn:send(tostring(conn.user.expires_at > conn.state.first))
        end
        "#,
        "
        ann opens
        bob opens
        9s pass
        ann > 20
        ann < true
        2s pass
        bob is closed 4401
        17s pass
        ann > 5
        ann < true
        6s pass
        ann is closed 4401
        ",
    );
}

#[test]
fn what_is_renewed_loses_the_rooms_that_it_no_longer_may_be_in() {
    check(
        r#"
        function app.authenticate() return { id = "ann", allow = { "join a", "join b" } } end
        function app.on_open(conn) conn:join("a") conn:join("b") end
        function app.on_message(conn, text)
          conn:identify({ id = "ann", allow = { "join b" } })
          conn:send(table.concat(conn:rooms(), ","))
        end
        function app.on_revoked(conn, room) conn:send("revoked " .. room) end
        "#,
        "
        ann opens
        ann > renew
        ann < b
        ann < revoked a
        ",
    );
}

#[test]
fn nothing_is_revoked_from_a_connection_that_is_closing() {
    check(
        r#"
        function app.authenticate(request) return { id = request.query.name } end
        function app.on_open(conn) conn:join("a") end
        function app.on_message(conn, text) relay.user("bob"):set_allow({}) conn:send("done") end
        function app.on_close(conn) relay.sleep(5) relay.room("log"):publish("closed") end
        function app.on_revoked(conn, room) relay.room("log"):publish("revoked") end
        function app.on_start() end
        "#,
        "
        bob opens
        ann opens
        bob closes
        ann > now
        ann < done
        6s pass
        ",
    );
}

#[test]
fn wrong_arguments_and_closed_connections_are_told_in_the_words_of_the_script() {
    check(
        r#"
        local late
        function app.on_open(conn)
          if late then
            late:send("unheard")
            conn:send(table.concat({
              tostring(select(2, late:identify("bob"))), tostring(late:can("join", "x")), tostring(select(2, late:join("x"))),
            }, " "))
          end
          late = conn
          for _, call in {
            function() conn:identify() end, function() conn:identify({}) end, function() conn:identify("") end,
            function() conn:can("join") end, function() conn:can("", "x") end,
            function() relay.user("u"):set_allow() end, function() relay.user("u"):set_allow("join x") end,
            function() relay.user("u"):set_deny({ "join" }) end, function() relay.user("u"):update_allow({}) end,
            function() relay.user("u").set_allow({}) end,
          } do
            local ok, err = pcall(call)
            conn:send(tostring(ok) .. " " .. tostring(err):match(": (.*)$"))
          end
        end
        "#,
        r#"
        ann opens
        ann < false conn:identify(identity): identity must be a table with a string `id`, or that string, got nil
        ann < false conn:identify(identity): an identity must have an `id`: a string in UTF-8 that is not empty
        ann < false conn:identify(identity): an identity must have an `id`: a string in UTF-8 that is not empty
        ann < false conn:can(action, resource): resource must be a string, got nil
        ann < false conn:can(action, resource): action must not be empty
        ann < false user:set_allow(list): list must be a list of rules such as "join room.*", got nil
        ann < false user:set_allow(list): list must be a list of rules such as "join room.*", got string
        ann < false user:set_deny(list): list: "join" is no rule: one is an action, a space and a resource, as in "join room.*"
        ann < false user:update_allow(fn): fn must be a function, got table
        ann < false user:set_allow(list): user must be what relay.user gave (call it with a colon), got table
        "#,
    );
    check(
        r#"
        local late
        function app.on_message(conn) late = conn end
        function app.on_open(conn)
          if late then
            conn:send(table.concat({
              tostring(select(2, late:identify("bob"))), tostring(late:can("join", "x")), tostring(select(2, late:join("x"))),
            }, " "))
          end
        end
        "#,
        "
        ann opens
        ann > keep
        ann closes
        bob opens
        bob < closed true closed
        ",
    );
}

#[test]
fn a_revocation_that_causes_the_next_one_ends_neither_the_process_nor_the_others_turn() {
    check(
        r#"
        function app.authenticate(request) return { id = request.query.name } end
        local function again(conn)
          local user = relay.user(conn.user.id)
          user:set_allow({ "join r" })
          conn:join("r")
          user:set_allow({})
        end
        function app.on_message(conn, text) if text == "go" then again(conn) else conn:send("here") end end
        function app.on_revoked(conn)
          conn.state.n = (conn.state.n or 0) + 1
          if conn.state.n < 3000 then again(conn) else conn:send(tostring(conn.state.n)) end
        end
        "#,
        "
        ann opens
        bob opens
        ann > go
        bob > still there?
        bob < here
        1s pass
        ann < 3000
        ",
    );
}

#[test]
fn changes_from_several_instances_at_once_come_in_one_order_everywhere() {
    run(async {
        let scene = Scene::with(
            r#"
            function app.authenticate(request) return { id = request.query.name } end
            function app.on_message(conn, text)
              if text == "all" then relay.emit("change") else conn:send(tostring(select(2, conn:can("join", "x")))) end
            end
            function app.on_event()
              relay.user("ann"):set_allow({ "join *", "from " .. relay.instance.index })
              relay.user("ann"):update_allow(function(list) table.insert(list, 1, "join x") return list end)
              relay.user("ann"):set_deny({ "join x", "by " .. relay.instance.index })
            end
            "#,
            |app| app.instances = 3,
        )
        .await;
        let mut peers = Vec::new();
        for _ in 0..6 {
            peers.push(scene.relay.connect("/app/x?name=ann").await.unwrap());
        }
        for round in 0..20 {
            peers[round % 6].send("all");
            scene.relay.advance(Duration::from_millis(50)).await;
            let lists: Vec<String> = peers
                .iter()
                .map(|peer| {
                    ["from 1", "from 2", "from 3", "by 1", "by 2", "by 3"]
                        .iter()
                        .map(|rule| rule.split_once(' ').unwrap())
                        .map(|(action, of)| format!("{}", peer.can(action, of)))
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect();
            assert!(lists.iter().all(|list| *list == lists[0]), "round {round}: {lists:#?}");
        }
    });
}

#[test]
fn an_update_whose_function_raises_gives_others_their_turn() {
    check(
        r#"
        function app.authenticate() return { id = "ann", allow = { "join a" } } end
        function app.on_message(conn, text)
          if text == "raise" then
            local ok, err = pcall(function() relay.user("ann"):update_allow(function() error("no") end) end)
            return conn:send(tostring(ok) .. " " .. tostring(err):match("[^:]*$"))
          end
          if text == "nil" then
            local ok, err = pcall(function() relay.user("ann"):update_allow(function() end) end)
            return conn:send(tostring(ok) .. " " .. tostring(err):match("list must be[^,]*"))
          end
          if text == "slow" then
            relay.user("ann"):update_allow(function(list) relay.sleep(5) table.insert(list, "join slow") return list end)
          else
            relay.user("ann"):update_allow(function(list) table.insert(list, "join " .. text) return list end)
          end
          conn:send(tostring(conn:can("join", "slow")) .. " " .. tostring(conn:can("join", "quick")))
        end
        "#,
        r#"
        ann opens
        bob opens
        ann > raise
        ann < false  no
        ann > nil
        ann < false list must be a list of rules such as "join room.*"
        ann > slow
        bob > quick
        6s pass
        ann < true false
        bob < true true
        "#,
    );
}

#[test]
fn a_handshake_that_is_under_way_asks_again_after_a_change() {
    check(
        r#"
        function app.authenticate(request)
          local rules = relay.shared.get("rules") or { "join r" }
          if request.query.name then relay.sleep(2) end
          return { id = "ann", allow = rules }
        end
        function app.on_open(conn)
          if conn.query.name then return conn:send(tostring(conn:join("r"))) end
          relay.after(1, function()
            relay.shared.set("rules", {})
            relay.user("ann"):set_allow({})
          end)
        end
        "#,
        "
        ann opens /app/x
        early is refused 1013 its permissions have changed
        late opens
        late < false
        ",
    );
}

#[test]
fn an_identity_that_is_over_lets_nobody_in() {
    check(
        r#"
        function app.authenticate() return { id = "ann", expires_at = relay.now() - 5 } end
        function app.on_open(conn) error("nobody comes here") end
        "#,
        "ann is refused 4401 the identity has expired",
    );
}

#[test]
fn what_it_is_in_again_is_not_told_as_revoked() {
    check(
        r#"
        function app.authenticate() return "ann" end
        function app.on_open(conn) conn:join("r") conn:join("s") end
        function app.on_message(conn)
          relay.user("ann"):set_allow({})
          relay.user("ann"):set_allow({ "join r" })
          conn:join("r")
          conn:send(table.concat(conn:rooms(), ","))
        end
        function app.on_revoked(conn, room) conn:send("revoked " .. room) end
        "#,
        "
        ann opens
        ann > now
        ann < r
        ann < revoked s
        ",
    );
}

#[test]
fn what_migrate_conn_causes_is_told() {
    run(async {
        let body = |version: u32| {
            format!(
                "app.version = {version}
                function app.authenticate() return 'ann' end
                function app.on_open(conn) conn.state.x = 1 conn:join('r') end
                function app.on_message(conn) conn:send('hi') end
                function app.migrate(state) return state end
                function app.migrate_conn(state)
                  for _, conn in relay.connections() do conn:identify({{ id = 'ann', allow = {{}} }}) end
                  return state
                end
                function app.on_revoked(conn, room) conn:send('revoked ' .. room) end"
            )
        };
        let scene = Scene::of(&body(1)).await;
        let peer = scene.peer("ann").await;
        scene.reloads(&body(2)).await;
        scene.relay.advance(Duration::from_secs(1)).await;
        assert_eq!(peer.receive_text().as_deref(), Some("revoked r"));
    });
}

#[test]
fn a_list_has_a_bound_in_bytes() {
    check(
        r#"
        function app.on_open(conn)
          local list = {}
          for n = 1, 200 do list[n] = "join " .. string.rep("a.", 100) .. n end
          local ok, err = pcall(function() relay.user("ann"):set_allow(list) end)
          conn:send(err:match("must have .*"))
          for n = 201, 1025 do list[n] = "join a" .. n end
          ok, err = pcall(function() relay.user("ann"):set_allow(list) end)
          conn:send(err:match("must have .*"))
        end
        "#,
        "
        ann opens
        ann < must have at most 32768 bytes of rules, got 41492
        ann < must have at most 1024 rules, got 1025
        ",
    );
}

// ── against a model ──

const ROOMS: [&str; 4] = ["a", "a.x", "a.y", "b"];
const RULES: [&str; 7] = ["join a", "join a.*", "join >", "join b", "publish a.*", "publish >", "publish b"];
const USERS: [&str; 2] = ["ann", "bob"];

const MODELLED: &str = r#"
    function app.authenticate(request)
      local rules = relay.json.decode(request.query.rules)
      return { id = request.query.name, allow = rules.allow, deny = rules.deny }
    end
    function app.on_message(conn, text)
      local ask = relay.json.decode(text)
      if ask.join then conn:join(ask.join)
      elseif ask.pattern then conn:join_pattern(ask.pattern)
      elseif ask.leave then conn:leave(ask.leave)
      elseif ask.say then conn:publish(ask.say, ask.text)
      elseif ask.renew then conn:identify({ id = conn.user.id, allow = ask.allow, deny = ask.deny })
      elseif ask.user then
        local user = relay.user(ask.user)
        if ask.allow then user:set_allow(ask.allow) end
        if ask.deny then user:set_deny(ask.deny) end
        if ask.add then user:update_allow(function(list) table.insert(list, ask.add) return list end) end
        -- From here on nobody may hear what the lists forbid, wherever they are connected.
        for _, room in ask.rooms do relay.room(room):publish(room .. " " .. ask.text) end
      end
    end
"#;

#[derive(Debug, Clone)]
enum Ask {
    Open { user: usize, rules: Lists },
    Join { peer: usize, room: usize },
    Pattern { peer: usize, pattern: &'static str },
    Leave { peer: usize, room: usize },
    Say { peer: usize, room: usize },
    Renew { peer: usize, rules: Lists },
    Change { peer: usize, user: usize, rules: Lists },
    Add { peer: usize, user: usize, rule: usize },
    Reload,
}

#[derive(Debug, Clone, Default)]
struct Lists {
    allow: Option<Vec<&'static str>>,
    deny: Option<Vec<&'static str>>,
}

impl Lists {
    fn json(&self) -> serde_json::Value {
        self.and(serde_json::json!({}))
    }

    /// What is asked, with the lists that there are.
    fn and(&self, mut asked: serde_json::Value) -> serde_json::Value {
        for (name, list) in [("allow", &self.allow), ("deny", &self.deny)] {
            if let Some(list) = list {
                asked[name] = serde_json::json!(list);
            }
        }
        asked
    }

    fn permissions(&self) -> Permissions {
        let rules = |list: &Option<Vec<&str>>| {
            list.as_ref().map(|list| list.iter().map(|rule| Rule::parse(rule).unwrap()).collect())
        };
        Permissions { allow: rules(&self.allow), deny: rules(&self.deny) }
    }
}

fn lists() -> impl Strategy<Value = Lists> {
    let list = || prop::option::of(prop::sample::subsequence(RULES.to_vec(), 0..4));
    (list(), list()).prop_map(|(allow, deny)| Lists { allow, deny })
}

fn ask() -> impl Strategy<Value = Ask> {
    let pattern = prop::sample::select(vec!["a.*", ">", "*"]);
    prop_oneof![
        2 => (0..2usize, lists()).prop_map(|(user, rules)| Ask::Open { user, rules }),
        6 => (0..6usize, 0..4usize).prop_map(|(peer, room)| Ask::Join { peer, room }),
        2 => (0..6usize, pattern).prop_map(|(peer, pattern)| Ask::Pattern { peer, pattern }),
        1 => (0..6usize, 0..4usize).prop_map(|(peer, room)| Ask::Leave { peer, room }),
        6 => (0..6usize, 0..4usize).prop_map(|(peer, room)| Ask::Say { peer, room }),
        2 => (0..6usize, lists()).prop_map(|(peer, rules)| Ask::Renew { peer, rules }),
        3 => (0..6usize, 0..2usize, lists()).prop_map(|(peer, user, rules)| Ask::Change { peer, user, rules }),
        2 => (0..6usize, 0..2usize, 0..7usize).prop_map(|(peer, user, rule)| Ask::Add { peer, user, rule }),
        1 => Just(Ask::Reload),
    ]
}

struct Modelled {
    peer: Peer,
    user: usize,
    lists: Lists,
    rooms: BTreeSet<&'static str>,
    patterns: BTreeSet<&'static str>,
}

impl Modelled {
    fn change(&mut self, lists: Lists) {
        self.lists = lists;
        let permissions = self.lists.permissions();
        self.rooms.retain(|room| permissions.permits(Action::Join, room));
        self.patterns.retain(|pattern| permissions.permits_pattern(Action::Join, pattern));
    }

    fn hears(&self, room: &str) -> bool {
        self.rooms.contains(room) || self.patterns.iter().any(|pattern| moonwire::name::matches(pattern, room))
    }
}

async fn play(asks: Vec<Ask>, instances: usize) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("app.lua");
    std::fs::write(&script, crate::support::module(MODELLED)).unwrap();
    let mut config: config::App = app("app", &script);
    config.instances = instances;
    let relay = Relay::start(config).await.map_err(|report| format!("{report:#?}"))?;
    let mut peers: Vec<Modelled> = Vec::new();
    let mut generations = 0;
    for (number, ask) in asks.into_iter().enumerate() {
        let scene = format!("step {number}, {ask:?}");
        let text = format!("m{number}");
        // Who is to hear what; nobody else may hear anything.
        let mut heard: Vec<Vec<String>> = Vec::new();
        let count = peers.len();
        let sends =
            |peers: &[Modelled], peer: usize, what: serde_json::Value| peers[peer % count].peer.send(what.to_string());
        match ask {
            Ask::Open { user, rules } if peers.len() < 6 => {
                let query: String = form_urlencoded::byte_serialize(rules.json().to_string().as_bytes()).collect();
                let target = format!("/app/x?name={}&rules={query}", USERS[user]);
                let peer = relay.connect(&target).await.map_err(|refused| format!("{scene}: {refused:?}"))?;
                peers.push(Modelled { peer, user, lists: rules, rooms: BTreeSet::new(), patterns: BTreeSet::new() });
            }
            Ask::Reload => {
                generations += 1;
                std::fs::write(&script, crate::support::module(&format!("{MODELLED}\n-- {generations}"))).unwrap();
                relay.reload().await;
            }
            _ if count == 0 => {}
            Ask::Open { .. } => {}
            Ask::Join { peer, room } => {
                sends(&peers, peer, serde_json::json!({ "join": ROOMS[room] }));
                let peer = &mut peers[peer % count];
                if peer.lists.permissions().permits(Action::Join, ROOMS[room]) {
                    peer.rooms.insert(ROOMS[room]);
                }
            }
            Ask::Pattern { peer, pattern } => {
                sends(&peers, peer, serde_json::json!({ "pattern": pattern }));
                let peer = &mut peers[peer % count];
                if peer.lists.permissions().permits_pattern(Action::Join, pattern) {
                    peer.patterns.insert(pattern);
                }
            }
            Ask::Leave { peer, room } => {
                sends(&peers, peer, serde_json::json!({ "leave": ROOMS[room] }));
                peers[peer % count].rooms.remove(ROOMS[room]);
            }
            Ask::Say { peer, room } => {
                sends(&peers, peer, serde_json::json!({ "say": ROOMS[room], "text": text }));
                let may = peers[peer % count].lists.permissions().permits(Action::Publish, ROOMS[room]);
                let hears = |(place, listener): (usize, &Modelled)| {
                    (may && place != peer % count && listener.hears(ROOMS[room])).then(|| text.clone())
                };
                heard = peers.iter().enumerate().map(|listener| hears(listener).into_iter().collect()).collect();
            }
            Ask::Renew { peer, rules } => {
                let asked = rules.and(serde_json::json!({ "renew": true }));
                sends(&peers, peer, asked);
                peers[peer % count].change(rules);
            }
            Ask::Change { peer, user, rules } => {
                let asked = rules.and(serde_json::json!({ "user": USERS[user], "rooms": ROOMS, "text": text }));
                sends(&peers, peer, asked);
                for peer in peers.iter_mut().filter(|peer| peer.user == user) {
                    let mut lists = peer.lists.clone();
                    lists.allow = rules.allow.clone().or(lists.allow);
                    lists.deny = rules.deny.clone().or(lists.deny);
                    peer.change(lists);
                }
                heard = everything(&peers, &text);
            }
            Ask::Add { peer, user, rule } => {
                let asked =
                    serde_json::json!({ "user": USERS[user], "add": RULES[rule], "rooms": ROOMS, "text": text });
                sends(&peers, peer, asked);
                for peer in peers.iter_mut().filter(|peer| peer.user == user) {
                    let mut lists = peer.lists.clone();
                    lists.allow.get_or_insert_default().push(RULES[rule]);
                    peer.change(lists);
                }
                heard = everything(&peers, &text);
            }
        }
        relay.settle().await;
        for (place, peer) in peers.iter().enumerate() {
            let got: Vec<String> = std::iter::from_fn(|| peer.peer.receive_text()).collect();
            let expected = heard.get(place).cloned().unwrap_or_default();
            if got != expected {
                return Err(format!("{scene}: peer {place} ({:?}) heard {got:?} and not {expected:?}", peer.lists));
            }
        }
    }
    Ok(())
}

fn everything(peers: &[Modelled], text: &str) -> Vec<Vec<String>> {
    let of =
        |peer: &Modelled| ROOMS.iter().filter(|room| peer.hears(room)).map(|room| format!("{room} {text}")).collect();
    peers.iter().map(of).collect()
}

#[test]
fn nothing_is_ever_delivered_that_the_lists_forbid() {
    let cases = std::env::var("PERMISSION_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96);
    let config =
        ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(asks in prop::collection::vec(ask(), 1..40), instances in 1..4usize)| {
        let failed = Rc::new(RefCell::new(None));
        let told = failed.clone();
        run(async move {
            let played = tokio::time::timeout(Duration::from_secs(3600), play(asks, instances)).await;
            *told.borrow_mut() = played.map_err(|_| "it never ended".to_owned()).and_then(|played| played).err();
        });
        let failure = failed.borrow_mut().take();
        prop_assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    });
}
