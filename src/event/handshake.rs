//! The record of one handshake (contract section 6): the same fields on success and on failure.
//!
//! The code that ran the handshake makes it; this module only formats it. Recent handshakes, counters, followers and
//! summaries of repeated failures are up to [`super::EventBus`].

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::fields::{EventDescription, write_fields};
use crate::keyring::{SelectionReason, Standing};
use crate::log::line::LineColour;
use crate::log::{Level, LineStyle, LogFormat, LogLine};
use crate::pki::{Fingerprint, SpkiHash};
use crate::snapshot::{Epoch, Side};
use crate::tls::{AlpnProtocol, HandshakeFacts, HandshakeOutcome};

/// The reason of a TCP connection that closed without a byte, as load balancers' health checks do: counted, and logged
/// only at debug.
pub const CLOSED_WITHOUT_BYTE: &str = "closed_without_byte";

/// The reason of a handshake accepted although the peer's certificate has expired (`accept_expired_until`).
pub const EXPIRED_ACCEPTED: &str = "expired_accepted";

/// The reason of a handshake with an upstream that asked for no certificate.
pub const NO_CERTIFICATE_ASKED: &str = "no_certificate_asked";

/// One handshake. Fields that a failure leaves unknown are absent.
#[derive(Clone, Debug)]
pub struct HandshakeRecord {
    /// When it ended.
    pub time: Timestamp,
    /// Side.
    pub side: Side,
    /// Listener.
    pub listener: Arc<str>,
    /// How it ended.
    pub outcome: HandshakeOutcome,
    /// The peer's socket address; for an upstream, its address.
    pub peer_addr: Option<SocketAddr>,
    /// What was negotiated.
    pub facts: HandshakeFacts,
    /// Keyring of the pair that we showed.
    pub keyring: Option<Arc<str>>,
    /// The pair that we showed.
    pub key_pair: Option<Fingerprint>,
    /// Its standing.
    pub standing: Option<Standing>,
    /// Why it was chosen.
    pub chosen_by: Option<SelectionReason>,
    /// The snapshot that decided.
    pub epoch: Epoch,
    /// The peer's certificate, if it sent one.
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
    /// It came from a health checker (`quiet_from`) without a certificate: a failure is logged only at debug.
    pub quiet: bool,
    /// On failure: one line per certificate that the peer sent.
    pub chain_summary: Vec<String>,
    /// The certificates that the peer sent, at most eight and 16 KiB: for `handshakes show`, never logged. Shared with its
    /// connection.
    pub peer_chain: Arc<[CertificateDer<'static>]>,
}

/// Facts about the peer's end-entity certificate, printable.
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
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The trust anchor of its verified path; `None` without one.
    pub anchor: Option<Fingerprint>,
    /// The pin that matched, if the trust has pins.
    pub pin: Option<SpkiHash>,
}

impl HandshakeRecord {
    /// Whether it did not lead to a usable connection.
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, HandshakeOutcome::Refused | HandshakeOutcome::Failed | HandshakeOutcome::Doubted)
    }

    /// What stays of it when it is amended, and belongs to it alone: a connection to an upstream may have several, each with another
    /// pair.
    pub fn name_handshake(&self) -> (Side, u64, Option<Fingerprint>) {
        (self.side, self.connection, self.key_pair)
    }

    /// Whether to log it only at debug: a peer closed without a byte, or a known health checker failed without a
    /// certificate. An upstream that does so is a failure like any other.
    pub fn is_silent(&self) -> bool {
        self.side == Side::Ingress && (self.reason == CLOSED_WITHOUT_BYTE || self.quiet && self.is_failure())
    }

    /// The alert that it received, if that is about the certificate that we showed (RFC 8446 6.2; contract section 4).
    pub(super) fn refused_by_alert(&self) -> Option<&'static str> {
        self.alert_received.filter(|alert| {
            matches!(
                *alert,
                "bad_certificate"
                    | "unsupported_certificate"
                    | "certificate_revoked"
                    | "certificate_expired"
                    | "certificate_unknown"
                    | "unknown_ca"
                    | "access_denied"
            )
        })
    }

    /// The level of its line: info on success, warn on failure or where an exception was made, debug where the peer
    /// sent nothing.
    pub fn level(&self) -> Level {
        match (self.is_silent(), self.is_failure()) {
            (true, _) => Level::DEBUG,
            (false, true) => Level::WARN,
            (false, false) if self.reason == EXPIRED_ACCEPTED => Level::WARN,
            (false, false) => Level::INFO,
        }
    }

    /// The application protocol that was agreed on.
    pub fn alpn(&self) -> Option<&'static str> {
        self.facts.alpn.map(alpn_name)
    }

    /// Its line.
    pub fn line(&self, style: LineStyle) -> Vec<u8> {
        let mut line = LogLine::new(style, self.time, self.level(), "handshake");
        match style.format {
            LogFormat::Json => write_fields(&mut line, self),
            LogFormat::Text => self.write_text(&mut line),
        }
        line.finish()
    }

    /// Outcome, peer and reason come first; then what was negotiated and shown; then numbers.
    fn write_text(&self, line: &mut LogLine) {
        line.word(self.side.as_str())
            .word(&self.listener)
            .coloured_word(&format!("{:<8}", self.outcome.as_str()), outcome_colour(self.outcome));
        if self.is_failure() {
            line.text("reason", self.reason).quoted_text(&self.explanation);
        }
        self.write_peer(line);
        if let Some(version) = self.facts.version {
            line.word(&format!("TLS{version}"));
        }
        if let Some(group) = self.facts.group {
            line.word(group);
        }
        if let Some(agreed) = self.alpn() {
            line.word(agreed);
        }
        if self.facts.resumed {
            line.word("resumed");
        }
        self.write_key_pair(line);
        line.optional_text("alert_sent", self.alert_sent).optional_text("alert_received", self.alert_received);
        line.number("epoch", self.epoch.0).number("connection", self.connection);
        line.text("took", &format_milliseconds(self.duration_us));
        if self.is_failure() {
            line.list("chain", &self.chain_summary);
        }
    }

    /// The peer: its identity if verified, else the certificate's names.
    fn write_peer(&self, line: &mut LogLine) {
        line.optional_text("peer", self.identity.as_deref()).optional_text("partner", self.partner.as_deref());
        let preposition = if self.side == Side::Ingress { "from" } else { "to" };
        line.optional_text(preposition, self.peer_addr.map(|addr| addr.to_string()).as_deref());
        line.optional_text("sni", self.facts.server_name.as_deref());
        match &self.peer {
            Some(peer) if self.is_failure() || self.identity.is_none() => {
                line.text("subject", &peer.subject)
                    .text("issuer", &peer.issuer)
                    .text("certificate", &peer.fingerprint.short());
            }
            _ => {}
        }
    }

    /// `key_pair=3fa9… (api, current, prefer)`.
    fn write_key_pair(&self, line: &mut LogLine) {
        let Some(key_pair) = self.key_pair else { return };
        line.text("key_pair", &key_pair.short());
        let why =
            [self.keyring.as_deref(), self.standing.map(Standing::as_str), self.chosen_by.map(SelectionReason::as_str)];
        let why: Vec<&str> = why.into_iter().flatten().collect();
        if !why.is_empty() {
            line.remark(&why.join(", "));
        }
    }
}

/// Every field under the contract's name. Fields that a peer can make long come after the short ones.
impl Serialize for HandshakeRecord {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut fields = out.serialize_struct("HandshakeRecord", 30)?;
        fields.serialize_field("side", self.side.as_str())?;
        fields.serialize_field("listener", &self.listener)?;
        fields.serialize_field("outcome", self.outcome.as_str())?;
        fields.serialize_field("reason", self.reason)?;
        fields.serialize_field("peer.addr", &self.peer_addr)?;
        fields.serialize_field("tls.protocol.version", &self.facts.version)?;
        fields.serialize_field("tls.cipher", &self.facts.cipher)?;
        fields.serialize_field("tls.group", &self.facts.group)?;
        fields.serialize_field("tls.alpn", &self.alpn())?;
        fields.serialize_field("tls.resumed", &self.facts.version.map(|_| self.facts.resumed))?;
        fields.serialize_field("keyring", &self.keyring)?;
        fields.serialize_field("key_pair", &self.key_pair.map(|key_pair| key_pair.short()))?;
        fields.serialize_field("standing", &self.standing)?;
        fields.serialize_field("chosen_by", &self.chosen_by.map(SelectionReason::as_str))?;
        fields.serialize_field("epoch", &self.epoch)?;
        fields.serialize_field("alert.sent", &self.alert_sent)?;
        fields.serialize_field("alert.received", &self.alert_received)?;
        fields.serialize_field("connection", &self.connection)?;
        fields.serialize_field("duration_us", &self.duration_us)?;
        fields.serialize_field("partner", &self.partner)?;
        fields.serialize_field("server.name", &self.facts.server_name)?;
        fields.serialize_field("explanation", &self.explanation)?;
        fields.serialize_field("peer.identity", &self.identity)?;
        if let Some(peer) = &self.peer {
            fields.serialize_field("peer.fingerprint", &peer.fingerprint.hex())?;
            fields.serialize_field("peer.not_after", &peer.not_after.to_string())?;
            fields.serialize_field("peer.serial", &peer.serial)?;
            fields.serialize_field("peer.subject", &peer.subject)?;
            fields.serialize_field("peer.issuer", &peer.issuer)?;
        }
        if self.is_failure() {
            fields.serialize_field("chain", &self.chain_summary)?;
        }
        fields.end()
    }
}

impl EventDescription for HandshakeRecord {
    fn target(&self) -> &'static str {
        "handshake"
    }

    fn level(&self) -> Level {
        Self::level(self)
    }

    fn message(&self) -> &'static str {
        ""
    }
}

/// As the peer named it in its ALPN extension.
pub(super) const fn alpn_name(alpn: AlpnProtocol) -> &'static str {
    match alpn {
        AlpnProtocol::H2 => "h2",
        AlpnProtocol::Http11 => "http/1.1",
    }
}

/// The colour of an outcome.
pub(super) const fn outcome_colour(outcome: HandshakeOutcome) -> LineColour {
    match outcome {
        HandshakeOutcome::Accepted => LineColour::Green,
        HandshakeOutcome::Unproved | HandshakeOutcome::Doubted => LineColour::Yellow,
        HandshakeOutcome::Refused | HandshakeOutcome::Failed => LineColour::Red,
    }
}

/// `1.2ms`.
fn format_milliseconds(micros: u64) -> String {
    format!("{}.{}ms", micros / 1000, micros % 1000 / 100)
}

#[cfg(test)]
pub(crate) mod tests;
