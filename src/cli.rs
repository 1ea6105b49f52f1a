//! The command line: one file per command, named like the command; what a command does with several areas
//! goes through `app`.

mod ask;
mod check;
mod completions;
mod demo;
mod handshakes;
mod inspect;
mod keyring;
mod print;
mod probe;
mod registry;
mod reload;
mod rotation;
mod run;
mod status;
mod stop;
mod token;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::process::harden::harden;

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
    /// Print a shell's completion script
    Completions(completions::CompletionsArguments),
}

/// Where the configuration comes from: a file, or flags and environment alone.
#[derive(clap::Args, Clone, Debug, Default)]
struct ConfigSource {
    /// Configuration file [default: ./sidekey.toml, then /etc/sidekey/sidekey.toml, if there is one]
    #[arg(long, env = "SIDEKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The application's address, without a configuration file: http://HOST:PORT, h2c://HOST:PORT or unix:PATH
    #[arg(long, env = "SIDEKEY_BACKEND", value_name = "URL")]
    backend: Option<String>,
    /// Address that peers connect to [default: [::]:8443]
    #[arg(long, env = "SIDEKEY_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// The watched folder [default: certs]
    #[arg(long, env = "SIDEKEY_CERTS", value_name = "FOLDER")]
    certs: Option<PathBuf>,
    /// CA file that clients are verified against, in place of the folder's ca.crt
    #[arg(long, env = "SIDEKEY_CLIENT_CA", value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Folder where decisions survive a restart [default: memory only]
    #[arg(long, env = "SIDEKEY_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Address of the probes listener, with /livez, /readyz and /metrics
    #[arg(long, env = "SIDEKEY_PROBES", value_name = "ADDRESS")]
    probes: Option<String>,
    /// Address of the admin listener (loopback or unix:PATH)
    #[arg(long, env = "SIDEKEY_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    /// Control socket [default: in $RUNTIME_DIRECTORY, else the state folder, $XDG_RUNTIME_DIR, /run/sidekey]
    #[arg(long, env = "SIDEKEY_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
    /// Log format, text or json [default: text on a terminal, json otherwise]
    #[arg(long, env = "SIDEKEY_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<String>,
}

/// How a command failed.
#[derive(Debug)]
enum CommandFailure {
    /// Exit code 2: usage, configuration or folder.
    Wrong(anyhow::Error),
    /// Exit code 1: anything else.
    Failed(anyhow::Error),
    /// Exit code as given; the message has been printed.
    Said(u8),
}

impl<E: Into<anyhow::Error>> From<E> for CommandFailure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl CliCommand {
    fn source(&mut self) -> Option<&mut ConfigSource> {
        match self {
            Self::Run(arguments) => Some(&mut arguments.source),
            Self::Check(arguments) => Some(&mut arguments.source),
            Self::Wait(arguments) => Some(&mut arguments.source),
            Self::Registry(arguments) => Some(arguments.source()),
            Self::Keyring(arguments) => arguments.source(),
            _ => None,
        }
    }
}

/// What says the same as a key of the configuration file, by clap's ids.
/// `control` is not among them: every command takes it, and all must mean the same place.
const FLAGS: [&str; 8] = ["backend", "listen", "certs", "client_ca", "state", "probes", "admin", "log_format"];

/// The flags that come from there and say the same as a key of the file.
fn beside_file(command: &ArgMatches, from: ValueSource) -> Vec<&'static str> {
    FLAGS.into_iter().filter(|id| command.value_source(id) == Some(from)).collect()
}

impl ConfigSource {
    /// Where there is a configuration file, named or found, it alone counts. Flags given beside it are an error, unless
    /// they only name the listener to ask; environment variables (the image sets some) are ignored with a message.
    fn beside_file(&mut self, command: &ArgMatches, may_both: bool) -> Result<(), CommandFailure> {
        let Some(file) = self.file() else { return Ok(()) };
        if let (false, [flag, ..]) = (may_both, &beside_file(command, ValueSource::CommandLine)[..]) {
            let (flag, file) = (flag.replace('_', "-"), file.display());
            return Err(CommandFailure::Wrong(anyhow::anyhow!(
                "--{flag} conflicts with {file}, which sets the same value: use only one of them"
            )));
        }
        self.forget_environment(command);
        Ok(())
    }

    fn forget_environment(&mut self, command: &ArgMatches) {
        let ids = beside_file(command, ValueSource::EnvVariable);
        if ids.is_empty() {
            return;
        }
        for id in &ids {
            match *id {
                "backend" => self.backend = None,
                "listen" => self.listen = None,
                "certs" => self.certs = None,
                "client_ca" => self.client_ca = None,
                "state" => self.state = None,
                "probes" => self.probes = None,
                "admin" => self.admin = None,
                _ => self.log_format = None,
            }
        }
        let names: Vec<_> = ids.iter().map(|id| format!("SIDEKEY_{}", id.to_uppercase())).collect();
        print::talk(&format!("sidekey: the configuration file takes precedence; ignoring {}", names.join(", ")));
    }
}

/// The arguments of the last subcommand: `export` of `registry export` has the flags.
fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    // Commands hold keys too. What the kernel refuses, `run` logs when it has a log.
    let _ = harden();
    let matches = CommandLine::command().get_matches();
    let mut typed = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // `wait` takes the listener beside a file: it only asks.
    let may_both = matches!(typed.command, CliCommand::Wait(_));
    if let (matches, Some(source)) = (innermost(&matches), typed.command.source())
        && let Err(failure) = source.beside_file(matches, may_both)
    {
        return code(&failure);
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
        CliCommand::Completions(arguments) => completions::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => code(&failure),
    }
}

/// Prints what went wrong, unless that was done, and returns the exit code.
fn code(failure: &CommandFailure) -> ExitCode {
    match failure {
        CommandFailure::Said(code) => ExitCode::from(*code),
        CommandFailure::Wrong(error) => {
            print::error(error);
            ExitCode::from(2)
        }
        CommandFailure::Failed(error) => {
            print::error(error);
            ExitCode::from(1)
        }
    }
}
