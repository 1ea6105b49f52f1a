//! The record of one handshake (contract section 6): the same fields on success and on failure.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::keyring::{ChosenBy, Standing};
use crate::pki::Fingerprint;
use crate::snapshot::{Epoch, Side};
use crate::tls::{Facts, Outcome};

/// One handshake. What a failed one leaves unknown is absent.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// When it ended.
    pub time: Timestamp,
    /// Side.
    pub side: Side,
    /// Listener.
    pub listener: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The peer's socket address; for an upstream, its address.
    pub peer_addr: Option<SocketAddr>,
    /// What was negotiated.
    pub facts: Facts,
    /// Keyring of what we showed.
    pub keyring: Option<Arc<str>>,
    /// What we showed.
    pub key_pair: Option<Fingerprint>,
    /// Its standing.
    pub standing: Option<Standing>,
    /// Why it was chosen.
    pub chosen_by: Option<ChosenBy>,
    /// The snapshot that decided.
    pub epoch: Epoch,
    /// The other side's certificate, if one was seen.
    pub peer: Option<PeerFacts>,
    /// `peer.identity`, only from a verified path.
    pub identity: Option<String>,
    /// The partner it is.
    pub partner: Option<Arc<str>>,
    /// Alert we sent.
    pub alert_sent: Option<&'static str>,
    /// Alert we received.
    pub alert_received: Option<&'static str>,
    /// Stable code; `ok` on success.
    pub reason: &'static str,
    /// One printable sentence.
    pub explanation: String,
    /// Number of the connection, unique in this process.
    pub connection: u64,
    /// From accept (or dial) to the end, in microseconds.
    pub duration_us: u64,
    /// On failure: one line per certificate that the peer sent.
    pub chain_summary: Vec<String>,
}

/// Facts about the other side's end entity, printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Subject.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial, hex.
    pub serial: String,
    /// Fingerprint.
    pub fingerprint: Fingerprint,
    /// End of validity.
    pub not_after: Timestamp,
}
