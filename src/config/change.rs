//! From one version of the configuration to the next, while the relay runs.

use std::sync::Arc;

use super::{App, Config, Limits};

impl Config {
    /// This configuration with everything of `new` that needs no restart, and the names of what differs.
    pub fn take_over(&self, new: &Config) -> (Config, Vec<String>) {
        let mut merged = self.clone();
        let mut applied = Vec::new();
        let mut note = |name: &str| applied.push(name.to_owned());
        if new.server.trusted_proxies != self.server.trusted_proxies {
            merged.server.trusted_proxies = new.server.trusted_proxies.clone();
            note("server.trusted_proxies");
        }
        if new.server.shutdown != self.server.shutdown {
            merged.server.shutdown = new.server.shutdown;
            note("server.shutdown");
        }
        merged.limits = new.limits.clone();
        self.limits.keep_until_restart(&mut merged.limits);
        if merged.limits != self.limits {
            note("limits");
        }
        if new.reload != self.reload {
            merged.reload = new.reload.clone();
            note("reload");
        }
        if new.log != self.log {
            merged.log = new.log.clone();
            note("log");
        }
        if new.statics != self.statics {
            merged.statics = new.statics.clone();
            note("static");
        }
        for app in &mut merged.apps {
            let Some(next) = new.apps.iter().find(|next| next.name == app.name) else { continue };
            let taken = app.take_over(next);
            for (name, differs) in [
                ("script", taken.script != app.script),
                ("origins", taken.origins != app.origins),
                ("subprotocols", taken.subprotocols != app.subprotocols),
                ("settings", taken.settings != app.settings),
                ("env", taken.env != app.env),
                ("limits", taken.limits != app.limits),
                ("http", taken.http != app.http),
                ("compression", taken.compression != app.compression),
            ] {
                if differs {
                    note(&format!("app.{}.{name}", app.name));
                }
            }
            *app = Arc::new(taken);
        }
        (merged, applied)
    }
}

impl App {
    /// Path, instances and sharding are part of how the workers were set up.
    fn take_over(&self, next: &App) -> App {
        let mut taken = App {
            name: self.name.clone(),
            path: self.path.clone(),
            instances: self.instances,
            shard_by: self.shard_by.clone(),
            shared: self.shared.clone(),
            ..next.clone()
        };
        self.limits.keep_until_restart(&mut taken.limits);
        taken
    }
}

impl Limits {
    /// The bus and the pool for passwords were made with these.
    fn keep_until_restart(&self, new: &mut Limits) {
        (new.bus, new.bus_pause, new.password_jobs) = (self.bus, self.bus_pause, self.password_jobs);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use crate::config::parse;

    #[test]
    fn what_needs_no_restart_is_taken_over_by_name_and_the_rest_stays() {
        let read = |text: &str| parse(text, Path::new("config.toml"), &[]).unwrap();
        let app = "[[app]]\nname = \"a\"\npath = \"/a\"\nscript = \"a.lua\"\n";
        let old = read(app);
        let new = read(&format!(
            "[server]\nlisten = \"127.0.0.1:1\"\nshutdown = \"1s\"\n[limits]\nbus = \"1 GiB\"\nmessage = 100\n[log]\nlevel = \"debug\"\n\
             {app}instances = 3\norigins = [\"*\"]\nsettings = {{ x = 1 }}\nhttp.allow = [\"api.example.com\"]\n"
        ));
        let (merged, applied) = old.take_over(&new);
        let expected =
            ["server.shutdown", "limits", "log", "app.a.origins", "app.a.settings", "app.a.limits", "app.a.http"]
                .map(str::to_owned);
        assert_eq!(applied, expected);
        assert_eq!(merged.server.shutdown, Duration::from_secs(1));
        assert_eq!((merged.limits.message, merged.apps[0].limits.message), (100, 100));
        assert_eq!(merged.limits.bus, old.limits.bus);
        assert_eq!(merged.server.listen, old.server.listen);
        assert_eq!(merged.apps[0].instances, 1);
        let restart = old.restart_needed(&new);
        assert_eq!(restart, ["server.listen", "limits.bus", "app.a.instances"]);
        let (again, applied) = merged.take_over(&new);
        assert_eq!((again, applied), (merged, Vec::new()));
    }
}
