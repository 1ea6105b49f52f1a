//! `sidekey keyring …`: one subcommand a file; `change` has the four that change a running sidecar, `offline` the four that
//! work on the watched folder.

mod ack;
mod change;
mod list;
mod offline;
mod show;

use clap::Subcommand;

use super::failure::CommandFailure;
use super::source::FlagSource;

#[derive(clap::Args)]
pub(super) struct KeyringArguments {
    #[command(subcommand)]
    command: KeyringSubcommand,
}

#[derive(Subcommand)]
enum KeyringSubcommand {
    /// Every keyring: what is current, what waits, how long overlaps last
    List(list::KeyringListArguments),
    /// One keyring with every key pair, and why each stands where it does
    Show(show::KeyringShowArguments),
    /// Make a key pair in the watched folder; beside a current one it is staged until `promote`
    New(Box<offline::KeyringNewArguments>),
    /// Print a certification request for a CA; a new key waits in the watched folder for its certificate
    Csr(Box<offline::KeyringCsrArguments>),
    /// Put a CA's answer beside the key that waits for it, or a PKCS#12 keystore into the watched folder
    Import(offline::KeyringImportArguments),
    /// A key pair's certificate and chain for a partner
    Export(offline::KeyringExportArguments),
    /// Make a staged, previous or retired key pair current
    Promote(change::PromoteArguments),
    /// Make the key pair that was current before current again
    Rollback(change::RollbackArguments),
    /// End a previous key pair's overlap now
    Retire(change::RetireArguments),
    /// Never show a key pair again, and delete what was kept of it
    Revoke(change::RevokeArguments),
    /// Say that an expiry is known, and why: webhooks and mail fall silent until the last threshold
    Ack(Box<ack::AckArguments>),
}

impl KeyringArguments {
    /// Where the registry is, for the one subcommand that works on it.
    pub(super) fn source(&mut self) -> Option<&mut dyn FlagSource> {
        match &mut self.command {
            KeyringSubcommand::Ack(arguments) => Some(arguments.source()),
            _ => None,
        }
    }
}

pub(super) fn run(arguments: &KeyringArguments) -> Result<(), CommandFailure> {
    match &arguments.command {
        KeyringSubcommand::List(arguments) => list::run(arguments),
        KeyringSubcommand::Show(arguments) => show::run(arguments),
        KeyringSubcommand::New(arguments) => arguments.run(),
        KeyringSubcommand::Csr(arguments) => arguments.run(),
        KeyringSubcommand::Import(arguments) => arguments.run(),
        KeyringSubcommand::Export(arguments) => arguments.run(),
        KeyringSubcommand::Promote(arguments) => arguments.run(),
        KeyringSubcommand::Rollback(arguments) => arguments.run(),
        KeyringSubcommand::Retire(arguments) => arguments.run(),
        KeyringSubcommand::Revoke(arguments) => arguments.run(),
        KeyringSubcommand::Ack(arguments) => arguments.run(),
    }
}
