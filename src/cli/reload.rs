//! `sidekey reload`: the configuration and the folder are read again, as on SIGHUP, and it is said what came of it.

use super::CommandFailure;
use super::ask::ControlArguments;
use crate::control::ControlRequest;

#[derive(clap::Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &ReloadArguments) -> Result<(), CommandFailure> {
    arguments.ask.change(&ControlRequest::Reload {})
}
