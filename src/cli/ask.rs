//! What every command has that talks to a running sidecar: where its control socket is, and JSON or text.

use std::path::PathBuf;

use super::failure::CommandFailure;
use super::print;
use super::source::load_file;
use crate::config;
use crate::control::client::{self, AnswerStream};
use crate::control::{ChangeOutcome, CommandRefusal, ControlAnswer, ControlRequest, RefusalReason, place};

/// Which sidecar, and how its answer is printed.
#[derive(clap::Args)]
pub(super) struct ControlArguments {
    /// The sidecar's control socket [default: from its configuration, else its default places]
    #[arg(long, env = "SIDEKEY_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
    /// Configuration file of the sidecar [default: ./sidekey.toml, then /etc/sidekey/sidekey.toml, if there is one]
    #[arg(long, env = "SIDEKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its state folder, if it has no configuration file [default: state]
    #[arg(long, env = "SIDEKEY_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl ControlArguments {
    /// Sends a request.
    pub(super) fn send_request(&self, request: &ControlRequest) -> Result<AnswerStream, CommandFailure> {
        Ok(client::send_request(&self.places()?, request, false)?)
    }

    /// Sends a request; the answer may take as long as it likes.
    pub(super) fn follow(&self, request: &ControlRequest) -> Result<AnswerStream, CommandFailure> {
        Ok(client::send_request(&self.places()?, request, true)?)
    }

    /// Sends a request with one answer; a refusal is a failure.
    pub(super) fn request_single(&self, request: &ControlRequest) -> Result<ControlAnswer, CommandFailure> {
        match self.send_request(request)?.next().transpose()? {
            Some(ControlAnswer::Refused(refused)) => Err(self.refused(refused)),
            Some(answer) => Ok(answer),
            None => Err(CommandFailure::Failed(anyhow::anyhow!("the sidecar closed the connection without answering"))),
        }
    }

    /// Requests a change, and prints what was done and what it means.
    pub(super) fn change(&self, request: &ControlRequest) -> Result<(), CommandFailure> {
        match self.request_single(request)? {
            ControlAnswer::Done(done) if self.json => print::json(&done),
            ControlAnswer::Done(done) => print_outcome(&done, !matches!(request, ControlRequest::Stop {})),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// With `--json` a refusal is an object on standard output too, beside the sentence on standard error.
    pub(super) fn refused(&self, refused: CommandRefusal) -> CommandFailure {
        if self.json {
            print::json(&serde_json::json!({ "refused": refused }));
        }
        match refused.reason {
            RefusalReason::NotUnderstood => CommandFailure::Wrong(refused.into()),
            _ => CommandFailure::Failed(refused.into()),
        }
    }

    fn places(&self) -> Result<Vec<PathBuf>, CommandFailure> {
        if let Some(control) = &self.control {
            return Ok(vec![control.clone()]);
        }
        let environment = |name: &str| std::env::var(name).ok();
        let config = load_file(self.config.as_deref()).map_err(CommandFailure::Wrong)?;
        let state = match &config {
            Some(config::Config { admin: config::AdminSettings { control: Some(control), .. }, .. }) => {
                return Ok(vec![control.clone()]);
            }
            Some(config) => config.state.clone(),
            None => Some(self.state.clone().unwrap_or_else(|| "state".into())),
        };
        Ok(place::candidates(state.as_deref(), &environment))
    }
}

/// `in_epoch`: what was done is part of an epoch.
fn print_outcome(done: &ChangeOutcome, in_epoch: bool) {
    match done.epoch.filter(|_| done.changed && in_epoch) {
        Some(epoch) => print::line(&format!("{} (epoch {epoch})", done.did)),
        None => print::line(&done.did),
    }
    print::line(&done.means);
}

/// A newer sidecar may answer what this version does not know.
pub(super) fn unexpected(answer: &ControlAnswer) -> CommandFailure {
    let answer = serde_json::to_string(answer).unwrap_or_default();
    CommandFailure::Failed(anyhow::anyhow!("the sidecar sent an unexpected answer: {answer}"))
}
