//! Does the other side refuse the key pair that we showed? Alerts and ends of a handshake that say so (contract section 4).
//!
//! Facts only. What follows from a refusal, and how it reads, is for `dataplane` and `explain`.

use rustls::{AlertDescription, Error};

use super::handshake::{FailedHandshake, HandshakeFailureCause};

/// Whether this is an alert about the certificate that we showed, in any version: the contract's 42 to 46, 48 and 49, and
/// `decrypt_error` (51), with which servers say that our issuer's name is known to them with another key.
pub(super) fn is_about_certificate(error: &Error) -> bool {
    let Error::AlertReceived(alert) = error else { return false };
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

impl FailedHandshake {
    /// Whether a handshake as a client failed because the other side refuses our key pair: it says so by an alert, or in TLS
    /// 1.2 by `handshake_failure` after it had asked for a certificate. Nothing has been processed then.
    pub fn refuses_key_pair(&self) -> bool {
        let HandshakeFailureCause::Tls(error) = &self.cause else { return false };
        let vague = *error == Error::AlertReceived(AlertDescription::HandshakeFailure)
            && self.facts.version == Some("1.2")
            && self.seen.asked.is_some();
        vague || is_about_certificate(error)
    }

    /// Whether a connection as a client that showed no certificate failed because the other side demands one: it says so by an
    /// alert about certificates (RFC 8446 6.2), in TLS 1.2 also by `handshake_failure` after it had asked for one. An end without an alert
    /// may have any other reason.
    pub fn demands_certificate(&self) -> bool {
        let HandshakeFailureCause::Tls(error) = &self.cause else { return false };
        *error == Error::AlertReceived(AlertDescription::CertificateRequired) || self.refuses_key_pair()
    }

    /// Whether a handshake as a server ended without an alert, after our certificate was on its way.
    pub fn ended_without_alert(&self) -> bool {
        matches!(self.cause, HandshakeFailureCause::Closed | HandshakeFailureCause::Reset)
    }

    /// Whether it ended without a word after the other side had asked for our certificate. That may be a refusal.
    pub fn ended_after_certificate_request(&self) -> bool {
        matches!(self.cause, HandshakeFailureCause::Closed | HandshakeFailureCause::Reset) && self.seen.asked.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::PeerRequirements;
    use crate::tls::HandshakeFacts;
    use crate::tls::seen::HandshakeObservation;

    fn failed_handshake(cause: HandshakeFailureCause, version: &'static str, asked: bool) -> FailedHandshake {
        let facts = HandshakeFacts { version: Some(version), ..HandshakeFacts::default() };
        let seen =
            HandshakeObservation { asked: asked.then(PeerRequirements::default), ..HandshakeObservation::default() };
        FailedHandshake { cause, facts, seen, first_bytes: Vec::new() }
    }

    /// The alerts of which this is true, by number.
    fn alerts_that(is_so: fn(&FailedHandshake) -> bool) -> Vec<u8> {
        let failed = |code: u8| HandshakeFailureCause::Tls(Error::AlertReceived(AlertDescription::from(code)));
        (0..=255).filter(|code| is_so(&failed_handshake(failed(*code), "1.3", true))).collect()
    }

    #[test]
    fn certificate_alerts_refuse_the_pair_and_no_other_does() {
        assert_eq!(alerts_that(FailedHandshake::refuses_key_pair), [42, 43, 44, 45, 46, 48, 49, 51]);
    }

    #[test]
    fn handshake_failure_refuses_it_in_tls_1_2_once_a_certificate_was_asked_for() {
        let alert = || HandshakeFailureCause::Tls(Error::AlertReceived(AlertDescription::HandshakeFailure));
        assert!(failed_handshake(alert(), "1.2", true).refuses_key_pair());
        assert!(!failed_handshake(alert(), "1.2", false).refuses_key_pair());
        assert!(!failed_handshake(alert(), "1.3", true).refuses_key_pair());
    }

    #[test]
    fn only_an_alert_about_certificates_demands_one() {
        assert_eq!(alerts_that(FailedHandshake::demands_certificate), [42, 43, 44, 45, 46, 48, 49, 51, 116]);
        let vague = HandshakeFailureCause::Tls(Error::AlertReceived(AlertDescription::HandshakeFailure));
        assert!(failed_handshake(vague, "1.2", true).demands_certificate());
        for end in [HandshakeFailureCause::Closed, HandshakeFailureCause::Reset, HandshakeFailureCause::NoByte] {
            assert!(!failed_handshake(end, "1.2", true).demands_certificate());
        }
    }

    #[test]
    fn a_silent_end_counts_only_after_the_certificate_was_asked_for() {
        assert!(failed_handshake(HandshakeFailureCause::Closed, "1.2", true).ended_after_certificate_request());
        assert!(failed_handshake(HandshakeFailureCause::Reset, "1.2", true).ended_after_certificate_request());
        assert!(!failed_handshake(HandshakeFailureCause::Closed, "1.2", false).ended_after_certificate_request());
        assert!(!failed_handshake(HandshakeFailureCause::NoByte, "1.2", true).ended_after_certificate_request());
    }
}
