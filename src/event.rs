//! Events: each is reported once, to the log, the counters, and a bounded queue for each follower.
//!
//! `emit` never blocks. Requests are not Events: one counter and one access line each. `list` has every Event, each
//! with a struct that names its fields and describes it; `bus` reports them, and `repeats` decides which failures are
//! summed up.
//!
//! Levels. error: the operator must act (an expired pair in use, a rejected configuration). warn: degraded but serving
//! (a refused drop, a refused handshake, an unusable trust file). info: state changed, a handshake succeeded. debug:
//! single steps, and connections closed without a byte.

mod alert;
mod bus;
mod doubts;
mod fields;
mod folder;
mod follower;
pub mod handshake;
mod history_request;
mod keyring;
mod ledger;
mod lesson;
mod list;
mod peer_proof;
mod process;
mod proof;
mod recent;
mod refused_files;
mod repeats;
mod token;
mod trust;

pub use alert::{AlertRecord, DeliveryRecord};
pub use bus::EventBus;
pub use doubts::{DoubtKind, UpstreamDoubt};
pub use folder::FolderRecord;
pub use follower::EventFollower;
pub(crate) use follower::GATHERING_DELAY;
pub use handshake::HandshakeRecord;
pub use history_request::HistoryRequests;
pub use keyring::KeyringRecord;
pub use lesson::LessonRecord;
pub use list::Event;
pub use peer_proof::{ANONYMOUS_IDENTITY, PeerProofOutcome, PeerProofRecord};
pub use process::{ClockRecord, DrainRecord, EpochRecord, RegistryRecord, ReloadRecord, SaveFailure};
pub use proof::{EXCLUDED_BY_AUTHORITIES, ProofRecord, VerdictRecord};
pub use token::{TokenOutcome, TokenRecord};
pub use trust::TrustRecord;

pub use crate::evidence::UpstreamVerdict;
pub use crate::evidence::learned::RefusalStatus;
