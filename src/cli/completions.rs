//! `sidekey completions SHELL`: the shell's completion script on standard output.

use clap::CommandFactory;

use super::{Failure, Typed, print};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Which shell
    shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Typed::command(), "sidekey", &mut script);
    print::bytes(&script);
    Ok(())
}
