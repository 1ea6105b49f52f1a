//! `sidekey keyring promote|rollback|retire|revoke`: what changes a keyring of a running sidecar.

use super::super::ask::ControlArguments;
use super::super::failure::CommandFailure;
use crate::control::{ControlRequest, PairChange};

#[derive(clap::Args)]
pub(super) struct PromoteArguments {
    /// Name of the keyring
    keyring: String,
    /// Beginning of the key pair's fingerprint [default: the staged one]
    key_pair: Option<String>,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Args)]
pub(super) struct RollbackArguments {
    /// Name of the keyring
    keyring: String,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Args)]
pub(super) struct RetireArguments {
    /// Name of the keyring
    keyring: String,
    /// Beginning of the key pair's fingerprint [default: the previous one]
    key_pair: Option<String>,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Args)]
pub(super) struct RevokeArguments {
    /// Name of the keyring
    keyring: String,
    /// Beginning of the key pair's fingerprint
    key_pair: String,
    /// Revoke although the sidecar has no state folder: until it restarts
    #[arg(long)]
    until_restart: bool,
    #[command(flatten)]
    ask: ControlArguments,
}

impl PromoteArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        self.ask.change(&request(&self.keyring, PairChange::Promote, self.key_pair.as_deref(), false))
    }
}

impl RollbackArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        self.ask.change(&request(&self.keyring, PairChange::Rollback, None, false))
    }
}

impl RetireArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        self.ask.change(&request(&self.keyring, PairChange::Retire, self.key_pair.as_deref(), false))
    }
}

impl RevokeArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        self.ask.change(&request(&self.keyring, PairChange::Revoke, Some(&self.key_pair), self.until_restart))
    }
}

fn request(keyring: &str, change: PairChange, key_pair: Option<&str>, until_restart: bool) -> ControlRequest {
    ControlRequest::Change { keyring: keyring.to_owned(), change, key_pair: key_pair.map(str::to_owned), until_restart }
}
