//! `sidekey completions SHELL`: prints the shell's completion script.

use clap::CommandFactory;

use super::{CommandFailure, CommandLine, print};

#[derive(clap::Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &CompletionsArguments) -> Result<(), CommandFailure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "sidekey", &mut script);
    print::bytes(&script);
    Ok(())
}
