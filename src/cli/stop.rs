//! `sidekey stop`: drains and ends the sidecar, as SIGTERM does. For Jobs, whose sidecar has to end after their work.

use super::ask::ControlArguments;
use super::failure::CommandFailure;
use crate::control::ControlRequest;

#[derive(clap::Args)]
pub(super) struct StopArguments {
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &StopArguments) -> Result<(), CommandFailure> {
    arguments.ask.change(&ControlRequest::Stop {})
}
