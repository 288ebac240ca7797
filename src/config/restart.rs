//! What of a new configuration cannot be taken over while the relay runs.

use super::{
    Config,
    keys::{APP, LIMITS, LOG, RELOAD, SERVER, SERVER_LIMITS, STORE, restart_needed},
};

impl Config {
    /// The names of what differs in `new` and needs a restart: `server.listen`, `app.chat.instances`,
    /// or `app.chat` for an app that is there in only one of them.
    pub fn restart_needed(&self, new: &Config) -> Vec<String> {
        let mut needed: Vec<String> = restart_needed(SERVER, &self.server, &new.server)
            .map(|name| format!("server.{name}"))
            .chain(restart_needed(SERVER_LIMITS, &self.limits, &new.limits).map(|name| format!("limits.{name}")))
            .chain(restart_needed(LIMITS, &self.limits, &new.limits).map(|name| format!("limits.{name}")))
            .chain(restart_needed(STORE, &self.store, &new.store).map(|name| format!("store.{name}")))
            .chain(restart_needed(RELOAD, &self.reload, &new.reload).map(|name| format!("reload.{name}")))
            .chain(restart_needed(LOG, &self.log, &new.log).map(|name| format!("log.{name}")))
            .collect();
        for app in &self.apps {
            match new.apps.iter().find(|other| other.name == app.name) {
                Some(other) => {
                    needed.extend(restart_needed(APP, app, other).map(|name| format!("app.{}.{name}", app.name)));
                }
                None => needed.push(format!("app.{}", app.name)),
            }
        }
        let added = new.apps.iter().filter(|app| self.apps.iter().all(|other| other.name != app.name));
        needed.extend(added.map(|app| format!("app.{}", app.name)));
        needed
    }
}
