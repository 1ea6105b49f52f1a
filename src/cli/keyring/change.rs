//! `sidekey keyring promote|rollback|retire|revoke`: what changes a keyring of a running sidecar.

use super::super::CommandFailure;
use super::super::ask::ControlArguments;
use crate::control::{ControlRequest, PairChange};

#[derive(clap::Args)]
pub(super) struct PromoteArguments {
    /// Which keyring
    keyring: String,
    /// Which key pair, by the beginning of its fingerprint; left out: the one that is staged
    key_pair: Option<String>,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Args)]
pub(super) struct RollbackArguments {
    /// Which keyring
    keyring: String,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Args)]
pub(super) struct RetireArguments {
    /// Which keyring
    keyring: String,
    /// Which key pair, by the beginning of its fingerprint; left out: the one that is previous
    key_pair: Option<String>,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Args)]
pub(super) struct RevokeArguments {
    /// Which keyring
    keyring: String,
    /// Which key pair, by the beginning of its fingerprint
    key_pair: String,
    /// The sidecar has no state folder: revoke all the same, until it restarts
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
