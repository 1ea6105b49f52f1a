//! `sidekey stop`: drains and ends the sidecar, as SIGTERM does. For Jobs, whose sidecar has to end after their work.

use super::Failure;
use super::ask::Ask;
use crate::control::Request;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    arguments.ask.change(&Request::Stop {})
}
