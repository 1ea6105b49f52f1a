//! What the writer works through and what it answers: the settings, the inputs, the view, the rejections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::folder::FolderContents;
use crate::keyring::{KeyringCommand, KeyringName};
use crate::pki::{Certificate, FolderProblem};
use crate::snapshot::Epoch;
use crate::{evidence, keyring, snapshot, trust};

/// Everything the configuration says that a snapshot is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterSettings {
    /// Configured keyrings. A folder without a section is a keyring too.
    pub keyrings: BTreeMap<KeyringName, keyring::KeyringSettings>,
    /// Configured trusts.
    pub trusts: BTreeMap<trust::TrustName, trust::TrustSettings>,
    /// Configured partners, in order.
    pub partners: Vec<trust::partner::PartnerSettings>,
    /// Ingress listeners, in order.
    pub ingresses: Vec<snapshot::ingress::IngressSettings>,
    /// Egress listeners, in order.
    pub egresses: Vec<snapshot::egress::EgressSettings>,
    /// The default skew of keyrings without a section.
    pub skew: Duration,
    /// `state` is configured: decisions are remembered.
    pub remembers: bool,
    /// The platform's trust anchors, what `"system"` stands for; loaded by a caller that may read files.
    pub system_anchors: Arc<Vec<Arc<Certificate>>>,
}

/// What the writer works through, one after the other.
pub enum WriterInput {
    /// What the folder holds now.
    Folder(FolderContents),
    /// Other settings, from a reload; the answer carries the epoch in which they are in use.
    Settings(Box<WriterSettings>, oneshot::Sender<Result<Epoch, CommandRejection>>),
    /// Time passes.
    Tick,
    /// The lessons of sources that must survive a restart, all of them; sent also where only live facts are to be saved.
    Learned(Vec<evidence::learned::PersistedRefusal>),
    /// An operator's command; the answer carries the epoch in which it is true.
    Command {
        /// Which keyring.
        keyring: KeyringName,
        /// What.
        command: KeyringCommand,
        /// Its requester, as the history records it.
        by: Arc<str>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(Epoch, Vec<keyring::KeyringEvent>), CommandRejection>>,
    },
    /// An operator shows a source the new pair again; the answer carries the epoch in which it is true.
    Forget {
        /// The source, as the rotation report names it.
        source: String,
        /// Where the answer goes: the number of refusals that were forgotten.
        reply: oneshot::Sender<(Epoch, usize)>,
    },
    /// A new process takes over: everything stays as it is until that is decided.
    HandOver(HandOverOrder),
    /// The process that this one takes over from has let go of the state: it is saved from now on.
    BeginWriting {
        /// Once it is saved, or was reported as not saved.
        reply: oneshot::Sender<()>,
    },
    /// A request for what the writer alone knows; nothing changes.
    Look {
        /// Where the answer goes.
        reply: oneshot::Sender<WriterView>,
    },
}

/// The steps of handing the state over to a new process.
pub struct HandOverOrder {
    /// Told once everything is saved; no input is worked through from then on.
    pub held: oneshot::Sender<()>,
    /// Tells that the new process serves. Dropped: it does not, and this one goes on as before.
    pub decided: oneshot::Receiver<()>,
    /// Told once the state belongs to the new process: this one remembers in memory only, for the connections that it still has.
    pub released: oneshot::Sender<()>,
}

/// What the writer alone knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterView {
    /// Problems of the folder as it is now, by keyring.
    pub problems: Vec<(Option<Arc<str>>, FolderProblem)>,
    /// Why decisions of the last run could not be read.
    pub unreadable: Option<String>,
    /// Why the last save failed.
    pub not_saved: Option<String>,
    /// Why what the folder holds now is not served; the previous state stays in use.
    pub not_served: Option<String>,
}

/// Why an input was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandRejection {
    /// No such keyring.
    #[error("keyring {0:?} does not exist")]
    NoKeyring(String),
    /// The keyring refuses.
    #[error(transparent)]
    Keyring(#[from] keyring::rotation::CommandError),
    /// The keyring's remembered decisions could not be read: it refuses changes until they are.
    #[error("decisions of keyring {0:?} could not be read: {1}")]
    Unreadable(String, String),
    /// No snapshot can be built from it.
    #[error(transparent)]
    Build(#[from] snapshot::build::BuildError),
}
