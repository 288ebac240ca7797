//! What people see at the start: one screen that says where everything is.

use std::fmt::Write as _;

use super::shown;
use crate::{config::Config, server::AppSummary, visible::visible};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";

/// The banner of a relay that listens on `addresses`.
pub(super) fn banner(config: &Config, addresses: &[String], apps: &[AppSummary], colour: bool) -> String {
    let [bold, dim, yellow, reset] = if colour { [BOLD, DIM, YELLOW, RESET] } else { [""; 4] };
    let mut text = format!("\n  {bold}moonwire {}{reset}", env!("CARGO_PKG_VERSION"));
    if let Some(file) = &config.file {
        text.push_str(&format!("  {dim}{}{reset}", shown(file)));
    }
    text.push_str("\n\n");
    for address in addresses {
        text.push_str(&format!("  {bold}{}{reset}\n", visible(address)));
    }

    let width = apps.iter().map(|app| visible(&app.name).chars().count()).max().unwrap_or(0);
    for app in apps {
        let name = visible(&app.name);
        let indent = " ".repeat(width + 4);
        let instances = if app.instances == 1 { "instance" } else { "instances" };
        let _ = writeln!(
            text,
            "\n  {bold}{name:width$}{reset}  {}  {dim}{}, generation {}, {} {instances}{reset}",
            visible(&app.path),
            shown(&app.script),
            app.generation,
            app.instances,
        );
        if !app.callbacks.is_empty() {
            let _ = writeln!(text, "{indent}{dim}{}{reset}", visible(&app.callbacks.join(", ")));
        }
        for warning in &app.warnings {
            let _ = writeln!(text, "{indent}{yellow}! {}{reset}", visible(warning));
        }
    }
    if apps.is_empty() {
        let _ = writeln!(text, "\n  {yellow}! no app: nothing is relayed{reset}");
    }

    let _ = writeln!(text, "\n  {dim}control socket {}{reset}", shown(&config.server.control));
    let reloads = match config.reload.watch {
        true => "a changed script is taken over when it is saved",
        false => "`moonwire reload` takes over changed scripts",
    };
    let _ = writeln!(text, "  {dim}{reloads}; Ctrl-C stops{reset}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::serve::tests::a_config;

    fn apps() -> Vec<AppSummary> {
        vec![
            AppSummary {
                name: "chat".to_owned(),
                path: "/chat/{room}".to_owned(),
                script: "scripts/chat.lua".into(),
                generation: 1,
                callbacks: vec!["on_open".to_owned(), "on_message".to_owned()],
                instances: 4,
                warnings: vec!["no authenticate: everybody is let in".to_owned()],
            },
            AppSummary {
                name: "maps\u{1b}".to_owned(),
                path: "/maps".to_owned(),
                script: "scripts/maps.lua".into(),
                generation: 3,
                callbacks: vec!["authenticate".to_owned()],
                instances: 1,
                warnings: Vec::new(),
            },
        ]
    }

    #[test]
    fn the_banner_says_where_everything_is() {
        let addresses = ["http://127.0.0.1:8080/".to_owned(), "unix:/run/moonwire.sock".to_owned()];
        let text = banner(&a_config(), &addresses, &apps(), false);
        let expected = format!(
            "
  moonwire {}  config.toml

  http://127.0.0.1:8080/
  unix:/run/moonwire.sock

  chat        /chat/{{room}}  scripts/chat.lua, generation 1, 4 instances
              on_open, on_message
              ! no authenticate: everybody is let in

  maps\\u{{1b}}  /maps  scripts/maps.lua, generation 3, 1 instance
              authenticate

  control socket moonwire.sock
  a changed script is taken over when it is saved; Ctrl-C stops

",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_relay_without_apps_says_so() {
        assert!(banner(&a_config(), &[], &[], false).contains("\n  ! no app: nothing is relayed\n"));
    }

    #[test]
    fn colour_changes_nothing_else() {
        let plain = banner(&a_config(), &[], &apps(), false);
        let mut painted = banner(&a_config(), &[], &apps(), true);
        for code in [BOLD, DIM, YELLOW, RESET] {
            assert!(painted.contains(code));
            painted = painted.replace(code, "");
        }
        assert_eq!(painted, plain);
    }
}
