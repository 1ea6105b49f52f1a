//! What every command has that talks to a running sidecar: where its control socket is, and JSON or text.

use std::path::PathBuf;

use super::{Failure, print};
use crate::config;
use crate::control::client::{self, Answers};
use crate::control::{Answer, Done, Reason, Refused, Request, place};

/// Which sidecar, and how it is told.
#[derive(clap::Args)]
pub(super) struct Ask {
    /// The sidecar's control socket [default: as its configuration says, else where it makes one by itself]
    #[arg(long, env = "SIDEKEY_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
    /// Its configuration file [default: ./sidekey.toml, then /etc/sidekey/sidekey.toml, if there is one]
    #[arg(long, env = "SIDEKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its state folder, where it has no configuration file [default: state]
    #[arg(long, env = "SIDEKEY_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Ask {
    /// Asks.
    pub(super) fn ask(&self, request: &Request) -> Result<Answers, Failure> {
        Ok(client::ask(&self.places()?, request, false)?)
    }

    /// Asks, and the answer may take as long as it likes.
    pub(super) fn follow(&self, request: &Request) -> Result<Answers, Failure> {
        Ok(client::ask(&self.places()?, request, true)?)
    }

    /// Asks for one answer; one that says no is a failure.
    pub(super) fn one(&self, request: &Request) -> Result<Answer, Failure> {
        match self.ask(request)?.next().transpose()? {
            Some(Answer::Refused(refused)) => Err(self.refused(refused)),
            Some(answer) => Ok(answer),
            None => Err(Failure::Failed(anyhow::anyhow!("the sidecar closed the connection without an answer"))),
        }
    }

    /// Asks for a change, and says what was done and what it means.
    pub(super) fn change(&self, request: &Request) -> Result<(), Failure> {
        match self.one(request)? {
            Answer::Done(done) if self.json => print::json(&done),
            Answer::Done(done) => say(&done),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// With `--json` a refusal is an object on standard output too, beside the sentence on standard error.
    pub(super) fn refused(&self, refused: Refused) -> Failure {
        if self.json {
            print::json(&serde_json::json!({ "refused": refused }));
        }
        match refused.reason {
            Reason::NotUnderstood => Failure::Wrong(refused.into()),
            _ => Failure::Failed(refused.into()),
        }
    }

    fn places(&self) -> Result<Vec<PathBuf>, Failure> {
        if let Some(control) = &self.control {
            return Ok(vec![control.clone()]);
        }
        let environment = |name: &str| std::env::var(name).ok();
        let source = super::Source { config: self.config.clone(), ..super::Source::default() };
        let config = source.load_file().map_err(Failure::Wrong)?;
        let state = match &config {
            Some(config::Config { admin: config::Admin { control: Some(control), .. }, .. }) => {
                return Ok(vec![control.clone()]);
            }
            Some(config) => config.state.clone(),
            None => Some(self.state.clone().unwrap_or_else(|| "state".into())),
        };
        Ok(place::candidates(state.as_deref(), &environment))
    }
}

fn say(done: &Done) {
    print::line(&done.did);
    print::line(&done.means);
}

/// A newer sidecar may answer what this version does not know.
pub(super) fn unexpected(answer: &Answer) -> Failure {
    let answer = serde_json::to_string(answer).unwrap_or_default();
    Failure::Failed(anyhow::anyhow!("the sidecar answers something else than was asked: {answer}"))
}
