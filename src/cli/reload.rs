//! `sidekey reload`: the configuration and the folder are read again, as on SIGHUP, and it is said what came of it.

use super::Failure;
use super::ask::Ask;
use crate::control::Request;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    arguments.ask.change(&Request::Reload {})
}
