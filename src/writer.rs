//! The writer: the one hand that changes what is served. Five steps: apply, build, save, publish, emit.
//!
//! `apply` and `build` are all that can refuse, and they work on a copy; `save` may fail but only warns; `publish` and
//! `emit` cannot fail. No half-done change exists.

pub mod memory;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::event::Events;
use crate::folder::Contents;
use crate::keyring::{Command, KeyringName};
use crate::snapshot::{Epoch, Publisher};
use crate::{keyring, snapshot, trust};

pub use memory::Memory;
pub use state::State;

/// Everything the configuration says that a snapshot is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Configured keyrings. A folder without a section is a keyring too.
    pub keyrings: BTreeMap<KeyringName, keyring::Settings>,
    /// Configured trusts.
    pub trusts: BTreeMap<trust::TrustName, trust::Settings>,
    /// Configured partners, in order.
    pub partners: Vec<trust::partner::Settings>,
    /// Ingress listeners, in order.
    pub ingresses: Vec<snapshot::ingress::Settings>,
    /// Egress listeners, in order.
    pub egresses: Vec<snapshot::egress::Settings>,
    /// The default skew of keyrings without a section.
    pub skew: std::time::Duration,
    /// `state` is configured: decisions are remembered.
    pub remembers: bool,
}

/// What the writer works through, one after the other.
pub enum Input {
    /// What the folder holds now.
    Folder(Contents),
    /// Other settings, from a reload.
    Settings(Box<Settings>),
    /// Time passes.
    Tick,
    /// An operator asks; the answer says in which epoch it is true.
    Command {
        /// Which keyring.
        keyring: KeyringName,
        /// What.
        command: Command,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(Epoch, Vec<keyring::Event>), NotDone>>,
    },
}

/// Why an input was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// No such keyring.
    #[error("there is no keyring {0:?}")]
    NoKeyring(String),
    /// The keyring refuses.
    #[error(transparent)]
    Keyring(#[from] keyring::rotation::NotDone),
    /// The keyring's remembered decisions could not be read: it refuses changes until they are.
    #[error("decisions of keyring {0:?} could not be read: {1}")]
    Unreadable(String, String),
    /// No snapshot can be built from it.
    #[error(transparent)]
    Build(#[from] snapshot::build::Error),
}

/// Works through `inputs` until they end. A tick that finds nothing due publishes nothing.
pub async fn run(
    state: State,
    inputs: mpsc::Receiver<Input>,
    memory: Memory,
    publisher: Publisher,
    (events, clock): (Arc<Events>, Clock),
) {
    let _ = (state, inputs, memory, publisher, events, clock);
    todo!()
}
