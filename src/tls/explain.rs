//! A failed handshake → one reason code and one sentence that says what happened, with the values, and what to do.
//!
//! Pure. The codes are public and listed in `docs/handshakes.md`; a test holds both lists together ([`REASONS`]).

mod alert;
mod certificate;
mod dial;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt::Write as _;

use jiff::Timestamp;

use super::FailedHandshake;
use super::handshake::HandshakeFailureCause;
use crate::keyring::Standing;
use crate::pki::{Certificate, Fingerprint, format_day, format_minute};
use crate::trust::{Trust, TrustError};

pub(super) use alert::rfc_name as alert_name;
pub use dial::{DialFailure, explain_dial};

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandshakeOutcome {
    /// It served.
    Accepted,
    /// One side refused the other's certificate, name or offer.
    Refused,
    /// Anything else.
    Failed,
    /// Egress in TLS 1.3: whether the upstream accepts our pair is not known yet.
    Unproved,
}

impl HandshakeOutcome {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unproved => "unproved",
        }
    }
}

/// What an explanation needs to know beside the failure.
pub struct FailureContext<'a> {
    /// True on ingress.
    pub ingress: bool,
    /// Listener or upstream name.
    pub listener: &'a str,
    /// The trust that the peer was verified against.
    pub trust: &'a Trust,
    /// What we showed.
    pub shown: Option<(Fingerprint, Standing)>,
    /// The standing of what it is shown next time, because it refused this (ingress, while an overlap lasts).
    pub shown_next: Option<Standing>,
    /// Now.
    pub now: Timestamp,
}

/// The explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureExplanation {
    /// `Refused` or `Failed`.
    pub outcome: HandshakeOutcome,
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// One printable sentence with the values and what to do.
    pub explanation: String,
    /// The alert we sent (snake_case name of RFC 8446 6).
    pub alert_sent: Option<&'static str>,
    /// The alert the other side sent.
    pub alert_received: Option<&'static str>,
}

/// Every reason code there is, in the order of `docs/handshakes.md`. `ok` is not among them: it marks success.
pub const REASONS: &[&str] = &[
    // The other side's certificate, refused by us.
    "no_certificate",
    "malformed_certificate",
    "expired",
    "not_yet_valid",
    "unknown_issuer",
    "self_signed",
    "bad_signature",
    "bad_proof",
    "weak",
    "wrong_usage",
    "not_an_end_entity",
    "wrong_name",
    "no_pin",
    "revoked",
    "revocation_unknown",
    "untrusted",
    // Accepted all the same, for a while.
    "expired_accepted",
    // Our certificate, refused by the other side with an alert.
    "refused_unknown_ca",
    "refused_bad_certificate",
    "refused_unsupported_certificate",
    "refused_certificate_revoked",
    "refused_certificate_expired",
    "refused_certificate_unknown",
    "refused_access_denied",
    "refused_certificate_required",
    "refused_decrypt_error",
    // Other alerts.
    "alert_handshake_failure",
    "alert_protocol_version",
    "alert_unrecognized_name",
    "alert_no_application_protocol",
    "alert_other",
    "renegotiation_wanted",
    // Nothing in common.
    "no_key_pair_fits",
    "no_common_version",
    "no_common_cipher_suite",
    "no_common_group",
    "no_common_signature_scheme",
    "no_common_protocol",
    // No TLS.
    "plain_http",
    "plain_http2",
    "proxy_header",
    "sslv2",
    "not_tls",
    "plain_text_upstream",
    "malformed_tls",
    "peer_misbehaved",
    // The connection.
    "closed_without_byte",
    "closed",
    "reset",
    "timed_out_before_hello",
    "timed_out_after_hello",
    "io_error",
    "internal_error",
    // Dialling an upstream.
    "connection_refused",
    "unreachable",
    "name_not_resolved",
    "connect_timed_out",
    "connect_failed",
    // Turned away before a handshake, by the proxy.
    "no_key_pair",
    "too_many_connections",
    "too_many_waiting",
    "too_many_handshakes",
    "too_many_from_source",
    "too_many_of_partner",
    "proxy_header_missing",
    "proxy_header_malformed",
];

/// A reason and its sentence, before the alerts are added.
struct FailureReason {
    outcome: HandshakeOutcome,
    reason: &'static str,
    explanation: String,
}

impl FailureReason {
    fn refused(reason: &'static str, explanation: String) -> Self {
        Self { outcome: HandshakeOutcome::Refused, reason, explanation }
    }
    fn failed(reason: &'static str, explanation: String) -> Self {
        Self { outcome: HandshakeOutcome::Failed, reason, explanation }
    }
    fn with_alerts(self, alert_sent: Option<&'static str>, alert_received: Option<&'static str>) -> FailureExplanation {
        let Self { outcome, reason, explanation } = self;
        FailureExplanation { outcome, reason, explanation, alert_sent, alert_received }
    }
}

/// Explains a failed handshake.
pub fn explain(failed: &FailedHandshake, context: &FailureContext<'_>) -> FailureExplanation {
    let received = failed.alert();
    let end_entity = failed.seen.chain.first().and_then(|der| Certificate::parse(der.clone()).ok());
    let said = if let Some(untrusted) = &failed.seen.untrusted {
        certificate::explain_chain_error(untrusted, end_entity.as_deref(), context)
    } else if failed.seen.bad_signature {
        certificate::explain_bad_proof(end_entity.as_deref(), context)
    } else if let Some(said) = traffic::explain_not_tls(&failed.first_bytes, context) {
        said
    } else {
        match &failed.cause {
            HandshakeFailureCause::Tls(rustls::Error::AlertReceived(alert)) => {
                alert::explain_received(*alert, failed, context)
            }
            HandshakeFailureCause::Tls(error) => traffic::explain_tls_error(error, failed, context),
            other => traffic::explain_connection_end(other, context),
        }
    };
    said.with_alerts(alert::sent_alert(&failed.cause), received)
}

/// Explains a chain that a finished (resumed) handshake carried and that no longer verifies; also used for chains of open
/// connections at a new epoch.
pub fn explain_untrusted(untrusted: &TrustError, context: &FailureContext<'_>) -> FailureExplanation {
    certificate::explain_chain_error(untrusted, None, context).with_alerts(None, None)
}

impl FailureContext<'_> {
    /// The other side, as texts call it.
    fn other_side(&self) -> &'static str {
        if self.ingress { "peer" } else { "upstream" }
    }

    /// `our key pair 3fa91c… (current)`.
    fn our_key_pair(&self) -> String {
        match self.shown {
            Some((key_pair, standing)) => format!("our key pair {} ({})", key_pair.short(), standing.as_str()),
            None => "our key pair".to_owned(),
        }
    }

    /// What an operator can do about it within an overlap.
    fn other_pair_hint(&self) -> &'static str {
        match self.shown_next {
            Some(Standing::Current) => return "; shown the current pair next time",
            Some(_) => return "; shown the previous pair next time",
            None => {}
        }
        match self.shown.map(|(_, standing)| standing) {
            Some(Standing::Previous) => {
                "; this was the previous pair of an overlap: prefer = \"new\" shows the current one"
            }
            Some(Standing::Current) => {
                "; while an overlap lasts, prefer = \"old\" on the keyring shows the previous pair to every peer"
            }
            _ => "",
        }
    }
}

/// Names of certificates and files may be long, and a log line is not: at most 200 characters of each.
fn clip(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(end, _)| &text[..end])
}

/// `"a", "b"`; at most nine of them, as the trust lists them.
fn quoted_list(items: &[String]) -> String {
    let mut out = String::new();
    for item in items.iter().take(9) {
        let comma = if out.is_empty() { "" } else { ", " };
        let quote = if item.starts_with("and ") { "" } else { "\"" };
        let _ = write!(out, "{comma}{quote}{}{quote}", clip(item));
    }
    out
}

/// How far away, in the largest unit that says it: `3 days`, `1 hour`, `20 seconds`.
fn distance(from: Timestamp, to: Timestamp) -> String {
    let seconds = from.as_second().abs_diff(to.as_second());
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The day (UTC); with the time of day where it is less than a day away.
fn date(at: Timestamp, now: Timestamp) -> String {
    let near = at.as_second().abs_diff(now.as_second()) < 86_400;
    if near { format_minute(at) } else { format_day(at) }
}
