//! A failed handshake → one reason code and one sentence that says what happened, with the values, and what to do.
//!
//! Pure. The codes are public and listed in `docs/handshakes.md`; a test holds both lists together ([`REASONS`]).

mod alert;
mod certificate;
mod context;
mod dial;
#[cfg(test)]
mod tests;
mod traffic;

use super::handshake::{FailedHandshake, HandshakeFailureCause};
use crate::pki::Certificate;
use crate::trust::TrustError;

pub use context::{FailureContext, FailureExplanation, HandshakeOutcome};
pub use dial::{DialFailure, explain_dial};

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
    "no_certificate_asked",
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
