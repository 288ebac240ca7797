//! `moonwire reload`: asks the running relay, and tells what came of it.

use std::path::Path;

use tokio::runtime::Builder;

use super::{FAILED, Failure, OK, Status, Streams, Style, load_config, shown};
use crate::{
    config::Config,
    control::{self, AskError, Request, Response},
    reload::Report,
    visible::visible,
};

pub(super) fn run(file: Option<&Path>, style: Style, streams: &mut Streams) -> Result<Status, Failure> {
    let config = load_config(file)?;
    let told = |error: std::io::Error| Failure::Told(FAILED, error.to_string());
    let runtime = Builder::new_current_thread().enable_all().build().map_err(told)?;
    let response = runtime.block_on(control::ask(&config.server.control, Request::Reload));
    let report = report(&config, response).map_err(|why| Failure::Told(FAILED, why))?;
    match style {
        Style::Human => write!(streams.out, "{report}")?,
        Style::Json => writeln!(streams.out, "{}", json(&report))?,
    }
    streams.out.flush()?;
    Ok(if report.ok() { OK } else { FAILED })
}

/// The report, or why there is none.
fn report(config: &Config, response: Result<Response, AskError>) -> Result<Report, String> {
    let socket = shown(&config.server.control);
    match response {
        Ok(Response { report: Some(report), .. }) => Ok(report),
        Ok(Response { error: Some(why), .. }) => Err(format!("the relay refused: {}", visible(&why))),
        Ok(_) => Err("the relay's answer has no report; is it another version of moonwire?".to_owned()),
        Err(AskError::NotRunning) => {
            let start = match &config.file {
                Some(file) => format!("moonwire -c {}", shown(file)),
                None => "moonwire".to_owned(),
            };
            Err(format!(
                "no relay is running with the control socket {socket}\n  start one: {start}\n  \
                 if one is running with another config file, name that one with -c"
            ))
        }
        Err(error) => Err(format!("{error} (control socket {socket})")),
    }
}

/// The report with its verdict in front, which a script would otherwise have to work out.
fn json(report: &Report) -> serde_json::Value {
    let mut value = serde_json::to_value(report).unwrap_or_default();
    value["ok"] = report.ok().into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::serve::tests::a_config,
        reload::report::{AppReport, Outcome},
    };

    #[test]
    fn without_a_relay_people_hear_how_to_start_one() {
        assert_eq!(
            report(&a_config(), Err(AskError::NotRunning)).unwrap_err(),
            "no relay is running with the control socket moonwire.sock\n  start one: moonwire -c config.toml\n  \
             if one is running with another config file, name that one with -c"
        );
    }

    #[test]
    fn what_the_relay_says_is_passed_on() {
        let refused = Response::error("unknown command \"reload\"\u{1b}");
        assert_eq!(
            report(&a_config(), Ok(refused)).unwrap_err(),
            "the relay refused: unknown command \"reload\"\\u{1b}"
        );
        let app = AppReport { app: "chat".to_owned(), outcome: Outcome::Unchanged };
        let told = Report { apps: vec![app], ..Report::default() };
        assert_eq!(report(&a_config(), Ok(Response::report(told.clone()))).unwrap(), told);
        assert_eq!(
            json(&told).to_string(),
            r#"{"apps":[{"app":"chat","outcome":"unchanged"}],"config":null,"ok":true,"restart_needed":[]}"#
        );
    }

    #[test]
    fn every_other_failure_names_the_socket() {
        let why = report(&a_config(), Err(AskError::NoAnswer)).unwrap_err();
        assert_eq!(why, "the relay did not answer; its log tells what it is doing (control socket moonwire.sock)");
    }
}
