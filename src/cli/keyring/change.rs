//! `sidekey keyring promote|rollback|retire|revoke`: what changes a keyring of a running sidecar.

use super::super::Failure;
use super::super::ask::Ask;
use crate::control::{Change, Request};

#[derive(clap::Args)]
pub(super) struct Promote {
    /// Which keyring
    keyring: String,
    /// Which key pair, by the beginning of its fingerprint; left out: the one that is staged
    key_pair: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
pub(super) struct Rollback {
    /// Which keyring
    keyring: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
pub(super) struct Retire {
    /// Which keyring
    keyring: String,
    /// Which key pair, by the beginning of its fingerprint; left out: the one that is previous
    key_pair: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
pub(super) struct Revoke {
    /// Which keyring
    keyring: String,
    /// Which key pair, by the beginning of its fingerprint
    key_pair: String,
    /// The sidecar has no state folder: revoke all the same, until it restarts
    #[arg(long)]
    until_restart: bool,
    #[command(flatten)]
    ask: Ask,
}

impl Promote {
    pub(super) fn run(&self) -> Result<(), Failure> {
        self.ask.change(&request(&self.keyring, Change::Promote, self.key_pair.as_deref(), false))
    }
}

impl Rollback {
    pub(super) fn run(&self) -> Result<(), Failure> {
        self.ask.change(&request(&self.keyring, Change::Rollback, None, false))
    }
}

impl Retire {
    pub(super) fn run(&self) -> Result<(), Failure> {
        self.ask.change(&request(&self.keyring, Change::Retire, self.key_pair.as_deref(), false))
    }
}

impl Revoke {
    pub(super) fn run(&self) -> Result<(), Failure> {
        self.ask.change(&request(&self.keyring, Change::Revoke, Some(&self.key_pair), self.until_restart))
    }
}

fn request(keyring: &str, change: Change, key_pair: Option<&str>, until_restart: bool) -> Request {
    Request::Change { keyring: keyring.to_owned(), change, key_pair: key_pair.map(str::to_owned), until_restart }
}
