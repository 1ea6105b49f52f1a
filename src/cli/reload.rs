//! `sidekey reload`: the sidecar reads the configuration and the folder again, as on SIGHUP, and reports the result.

use super::ask::ControlArguments;
use super::failure::CommandFailure;
use crate::control::ControlRequest;

#[derive(clap::Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &ReloadArguments) -> Result<(), CommandFailure> {
    arguments.ask.change(&ControlRequest::Reload {})
}
