//! The command line: one file per command, named like the command; what a command does with several areas
//! goes through `app`.

mod ask;
mod check;
mod completions;
mod demo;
mod examples;
mod failure;
mod folder;
mod handshakes;
mod inspect;
mod keyring;
mod man;
mod print;
mod probe;
mod registry;
mod reload;
mod rotation;
mod run;
mod source;
mod status;
mod stop;
mod token;
mod wait;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::process::harden::harden;
use source::FlagSource;

/// A mutual-TLS proxy sidecar: old and new key pairs stay valid together during a rotation.
#[derive(Parser)]
#[command(name = "sidekey", version, max_term_width = 110, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Run the sidecar
    Run(run::RunArguments),
    /// Show what needs attention (exit code 1 if anything does)
    Status(status::StatusArguments),
    /// Check the configuration and the folder offline, and show what would be accepted
    Check(check::CheckArguments),
    /// Demonstrate a rotation: make a PKI, run both sides, rotate live under load
    Demo(demo::DemoArguments),
    /// Show and change keyrings; make, request, import and export key pairs
    Keyring(keyring::KeyringArguments),
    /// Show which peers have proved the new key pair, which still need the old one, and whether it can be retired
    Rotation(rotation::RotationArguments),
    /// Show recent handshakes, explained
    Handshakes(handshakes::HandshakesArguments),
    /// Explain certificate, key and keystore files
    Inspect(inspect::InspectArguments),
    /// Test handshakes with a partner, one per key pair, and explain them; no request is sent
    Probe(Box<probe::ProbeArguments>),
    /// Export, audit and search the registry of everything that Sidekey has seen
    Registry(registry::RegistryArguments),
    /// Print a JWT signed by a key pair
    Token(Box<token::TokenArguments>),
    /// Wait until a running sidecar is ready
    Wait(wait::WaitArguments),
    /// Make a running sidecar reload its configuration and folder
    Reload(reload::ReloadArguments),
    /// Drain and stop a running sidecar
    Stop(stop::StopArguments),
    /// Print a shell completion script
    Completions(completions::CompletionsArguments),
    /// Write manual pages, one for each command
    Man(man::ManArguments),
}

impl CliCommand {
    fn source(&mut self) -> Option<&mut dyn FlagSource> {
        match self {
            Self::Run(arguments) => Some(&mut arguments.source),
            Self::Check(arguments) => Some(&mut arguments.source),
            Self::Wait(arguments) => Some(arguments),
            Self::Registry(arguments) => Some(arguments.source()),
            Self::Keyring(arguments) => arguments.source(),
            _ => None,
        }
    }
}

/// The arguments of the last subcommand: `export` of `registry export` has the flags.
fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// The command line with the examples of every command.
fn command_line() -> clap::Command {
    examples::add_examples(CommandLine::command())
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    // Commands hold keys too. What the kernel refuses, `run` logs when it has a log.
    let _ = harden();
    let matches = command_line().get_matches();
    let mut typed = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // `wait` takes the listener beside a file: it only asks.
    let may_both = matches!(typed.command, CliCommand::Wait(_));
    if let (matches, Some(source)) = (innermost(&matches), typed.command.source())
        && let Err(failure) = source::prefer_file(source, matches, may_both)
    {
        return failure.report();
    }
    let done = match typed.command {
        CliCommand::Run(arguments) => run::run(&arguments),
        CliCommand::Status(arguments) => status::run(&arguments),
        CliCommand::Check(arguments) => check::run(&arguments),
        CliCommand::Demo(arguments) => demo::run(&arguments),
        CliCommand::Keyring(arguments) => keyring::run(&arguments),
        CliCommand::Rotation(arguments) => rotation::run(&arguments),
        CliCommand::Handshakes(arguments) => handshakes::run(&arguments),
        CliCommand::Inspect(arguments) => inspect::run(&arguments),
        CliCommand::Probe(arguments) => probe::run(&arguments),
        CliCommand::Registry(arguments) => registry::run(&arguments),
        CliCommand::Token(arguments) => token::run(&arguments),
        CliCommand::Wait(arguments) => wait::run(&arguments),
        CliCommand::Reload(arguments) => reload::run(&arguments),
        CliCommand::Stop(arguments) => stop::run(&arguments),
        CliCommand::Completions(arguments) => completions::run(&arguments, command_line()),
        CliCommand::Man(arguments) => man::run(&arguments, command_line()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
