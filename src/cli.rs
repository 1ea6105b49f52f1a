//! What was typed, and which command it is. One file a command, named as typed; what a command does with several areas
//! goes through `app`.

mod ask;
mod check;
mod completions;
mod demo;
mod failure;
mod folder;
mod handshakes;
mod inspect;
mod keyring;
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

/// A mutual-TLS proxy sidecar: old and new key pairs are valid together while they rotate.
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
    /// One screen: what to act on (exit code 1 if anything)
    Status(status::StatusArguments),
    /// Say, offline, what the configuration and the folder would be accepted as
    Check(check::CheckArguments),
    /// See it work: makes a PKI, runs both sides, rotates live under load
    Demo(demo::DemoArguments),
    /// Look at keyrings and change them; make, request, import and export key pairs
    Keyring(keyring::KeyringArguments),
    /// Who has proved the new key pair, who still needs the old one, and whether it can be retired
    Rotation(rotation::RotationArguments),
    /// The handshakes of the recent past, explained
    Handshakes(handshakes::HandshakesArguments),
    /// Explain certificate, key and keystore files
    Inspect(inspect::InspectArguments),
    /// Shake hands with a partner, with each key pair, and explain: nothing is sent
    Probe(Box<probe::ProbeArguments>),
    /// What was ever seen: export, audit, history
    Registry(registry::RegistryArguments),
    /// Print a JWT signed by a key pair
    Token(Box<token::TokenArguments>),
    /// Wait until a running sidecar is ready
    Wait(wait::WaitArguments),
    /// Let a running sidecar read its configuration and folder again
    Reload(reload::ReloadArguments),
    /// Let a running sidecar drain and end
    Stop(stop::StopArguments),
    /// Print a shell completion script
    Completions(completions::CompletionsArguments),
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

/// What was typed behind the last subcommand: `export` of `registry export` has the flags.
fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// Parses what was typed and does it.
pub fn main() -> ExitCode {
    // Commands hold keys too. What the kernel refuses, `run` logs when it has a log.
    let _ = harden();
    let matches = CommandLine::command().get_matches();
    let mut typed = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // `wait` may be told the listener beside a file: it only asks.
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
        CliCommand::Completions(arguments) => completions::run(&arguments, CommandLine::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
