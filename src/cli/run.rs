//! `sidekey run`: runs the sidecar until it gets a stop signal.

mod detach;

use std::ffi::OsString;

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
    /// Run the new process in the background; return when it has taken over (exit code 0) or has ended (its own)
    #[arg(long, requires = "take_over")]
    pub(super) detach: bool,
}

pub(super) fn run(arguments: &RunArguments) -> Result<(), CommandFailure> {
    let config = arguments.source.load()?;
    if arguments.detach {
        let typed = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
        return detach::start_in_background(&config, &typed.collect::<Vec<OsString>>());
    }
    match app::run(config, arguments.take_over) {
        Ok(()) => Ok(()),
        Err(app::AppError::Usage(error)) => Err(CommandFailure::Wrong(anyhow::anyhow!(error))),
        Err(error) => Err(CommandFailure::Failed(error.into())),
    }
}
