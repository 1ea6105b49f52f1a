//! `sidekey keyring …`: a file per subcommand; `change` has four that change a running sidecar, `offline` four that
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
    /// List keyrings: current key pair, what waits, when overlaps end
    List(list::KeyringListArguments),
    /// Show one keyring with every key pair and the reason for its standing
    Show(show::KeyringShowArguments),
    /// Make a key pair in the watched folder; if the keyring has a current one, it is staged until `promote`
    New(Box<offline::KeyringNewArguments>),
    /// Print a certification request for a CA; a new key waits in the watched folder for its certificate
    Csr(Box<offline::KeyringCsrArguments>),
    /// Import a CA's certificate for the key that waits for it, or a PKCS#12 keystore, into the watched folder
    Import(offline::KeyringImportArguments),
    /// Export a key pair's certificate and chain for a partner
    Export(offline::KeyringExportArguments),
    /// Make a staged, previous or retired key pair current
    Promote(change::PromoteArguments),
    /// Return to the key pair that was current before
    Rollback(change::RollbackArguments),
    /// End a previous key pair's overlap now
    Retire(change::RetireArguments),
    /// Never show a key pair again, and delete its retained copy
    Revoke(change::RevokeArguments),
    /// Acknowledge an expiry, with a reason: webhooks and mail are silent until the last threshold
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
