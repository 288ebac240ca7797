//! The configuration: a TOML file, overridden by the environment, checked whole before anything starts.

mod settings;
pub use settings::*;

mod keys;
mod read;
mod scripts;
mod value;

mod environment;

mod error;
pub use error::{ConfigError, Problem};

mod change;
mod restart;

pub mod origin;
pub mod pattern;

mod units;
pub use units::{parse_duration, parse_size};

use std::{fs, io::ErrorKind, net::Ipv4Addr, path::Path, thread, time::Duration};

/// Reads and checks the file; without one, there are the defaults and the environment, and no apps.
pub fn load(file: Option<&Path>, env: &[(String, String)]) -> Result<Config, ConfigError> {
    let Some(file) = file else {
        return read::read("", None, env);
    };
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
    match str::from_utf8(&bytes) {
        Ok(text) => parse(text, file, env),
        Err(error) => {
            let text = String::from_utf8_lossy(&bytes);
            let start = error.valid_up_to();
            let message = "this is not UTF-8, which a config has to be".to_owned();
            Err(ConfigError::new(vec![Problem::at(Some(file), &text, start..start + 1, message)]))
        }
    }
}

/// Checks the `text` of the file. Nothing is read but files that variables name (`…_FILE`).
pub fn parse(text: &str, file: &Path, env: &[(String, String)]) -> Result<Config, ConfigError> {
    read::read(text, Some(file), env)
}

fn unreadable(file: &Path, error: &std::io::Error) -> ConfigError {
    let problem = match error.kind() {
        ErrorKind::NotFound => Problem::of_file(file, "there is no such file".to_owned())
            .hint("go to the folder that has it, or name another: moonwire -c other.toml"),
        ErrorKind::IsADirectory => Problem::of_file(file, "this is a folder, not a file".to_owned())
            .hint(format!("name the file in it: moonwire -c {}", file.join("config.toml").display())),
        _ => Problem::of_file(file, format!("cannot be read: {error}")),
    };
    ConfigError::new(vec![problem])
}

impl Default for Config {
    /// Without a file: no apps.
    fn default() -> Config {
        Config {
            file: None,
            server: Server::default(),
            limits: Limits::default(),
            store: Store::default(),
            reload: Reload::default(),
            log: Log::default(),
            apps: Vec::new(),
            statics: Vec::new(),
        }
    }
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: vec![Listen::Tcp((Ipv4Addr::LOCALHOST, 8080).into())],
            workers: thread::available_parallelism().map_or(1, usize::from),
            control: "moonwire.sock".into(),
            trusted_proxies: Vec::new(),
            shutdown: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests;
