//! `sidekey run`: runs the sidecar until it gets a stop signal.

use super::failure::CommandFailure;
use super::source::ConfigSource;
use crate::app;

#[derive(clap::Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    pub(super) source: ConfigSource,
    /// Take over listeners, control socket and state from the sidecar that runs with this control socket, without refusing a
    /// connection; where none runs, start as usual
    #[arg(long)]
    pub(super) take_over: bool,
}

pub(super) fn run(arguments: &RunArguments) -> Result<(), CommandFailure> {
    let config = arguments.source.load()?;
    match app::run(config, arguments.take_over) {
        Ok(()) => Ok(()),
        Err(app::AppError::Usage(error)) => Err(CommandFailure::Wrong(anyhow::anyhow!(error))),
        Err(error) => Err(CommandFailure::Failed(error.into())),
    }
}
