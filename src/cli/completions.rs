//! `sidekey completions SHELL`: prints the shell's completion script.

use super::failure::CommandFailure;
use super::print;

#[derive(clap::Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &CompletionsArguments, mut command: clap::Command) -> Result<(), CommandFailure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "sidekey", &mut script);
    print::bytes(&script);
    Ok(())
}
