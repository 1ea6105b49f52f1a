//! `sidekey keyring …`: one subcommand a file; `change` has the four that change a running sidecar, `offline` the four that
//! work on the watched folder.

mod ack;
mod change;
mod list;
pub(super) mod offline;
mod show;

use clap::Subcommand;

use super::Failure;
pub(super) use list::of;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every keyring: what is current, what waits, how long overlaps last
    List(list::Arguments),
    /// One keyring with every key pair, and why each stands where it does
    Show(show::Arguments),
    /// Make a key pair in the watched folder; beside a current one it is staged until `promote`
    New(Box<offline::Make>),
    /// Print a certification request for a CA; a new key waits in the watched folder for its certificate
    Csr(Box<offline::Csr>),
    /// Put a CA's answer beside the key that waits for it, or a PKCS#12 keystore into the watched folder
    Import(offline::Bring),
    /// A key pair's certificate and chain for a partner
    Export(offline::Export),
    /// Make a staged, previous or retired key pair current
    Promote(change::Promote),
    /// Make the key pair that was current before current again
    Rollback(change::Rollback),
    /// End a previous key pair's overlap now
    Retire(change::Retire),
    /// Never show a key pair again, and delete what was kept of it
    Revoke(change::Revoke),
    /// Say that an expiry is known, and why: webhooks and mail fall silent until the last threshold
    Ack(Box<ack::Arguments>),
}

impl Arguments {
    /// Where the configuration comes from, for the one subcommand that is told so like `run`.
    pub(super) fn source(&mut self) -> Option<&mut super::Source> {
        match &mut self.command {
            Command::Ack(arguments) => Some(arguments.source()),
            _ => None,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments),
        Command::Show(arguments) => show::run(arguments),
        Command::New(arguments) => arguments.run(),
        Command::Csr(arguments) => arguments.run(),
        Command::Import(arguments) => arguments.run(),
        Command::Export(arguments) => arguments.run(),
        Command::Promote(arguments) => arguments.run(),
        Command::Rollback(arguments) => arguments.run(),
        Command::Retire(arguments) => arguments.run(),
        Command::Revoke(arguments) => arguments.run(),
        Command::Ack(arguments) => arguments.run(),
    }
}
