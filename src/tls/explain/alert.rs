//! Alerts (RFC 8446 6): what one from the other side means, and which one we have sent.

use rustls::{AlertDescription, Error, PeerIncompatible};

use super::context::{FailureContext, FailureReason, clip};
use crate::tls::alert_name::rfc_name;
use crate::tls::handshake::{FailedHandshake, HandshakeFailureCause};

/// What the other side says with an alert.
pub(super) fn explain_received(
    alert: AlertDescription,
    failed: &FailedHandshake,
    context: &FailureContext<'_>,
) -> FailureReason {
    let (who, ours, pair) = (context.other_side(), context.our_key_pair(), context.other_pair_hint());
    let refused = |reason, what: &str, todo: &str| {
        FailureReason::refused(reason, format!("{who} refuses {ours}: {what}; {todo}{pair}"))
    };
    match alert {
        AlertDescription::UnknownCA => match context.presented.sent_alone {
            None => refused("refused_unknown_ca", "unknown CA", "send its operator our issuer's certificate to trust"),
            Some(issuer) => refused(
                "refused_unknown_ca",
                "unknown CA",
                &format!(
                    "we sent 1 certificate, and its issuer \"{0}\" was not among what we sent: append the certificate \
                     of \"{0}\" to our certificate's file, or where \"{0}\" is a root, send it to the operator of the other side to trust",
                    clip(issuer)
                ),
            ),
        },
        AlertDescription::BadCertificate => refused(
            "refused_bad_certificate",
            "bad certificate",
            "usually an unexpected name in the certificate, or an encoding that it cannot parse: ask its operator \
             what it checks",
        ),
        AlertDescription::UnsupportedCertificate => refused(
            "refused_unsupported_certificate",
            "unsupported certificate",
            "usually the extended key usage lacks a role (clientAuth, serverAuth), or it does not support the key type",
        ),
        AlertDescription::CertificateRevoked => {
            refused("refused_certificate_revoked", "revoked", "add a new key pair, and find out why this was revoked")
        }
        AlertDescription::CertificateExpired => refused(
            "refused_certificate_expired",
            "expired or not yet valid",
            "add a new key pair, or check the clocks of both sides",
        ),
        AlertDescription::CertificateUnknown => refused(
            "refused_certificate_unknown",
            "an unspecified reason (certificate_unknown)",
            "ask its operator for the log line of this failure",
        ),
        AlertDescription::AccessDenied => refused(
            "refused_access_denied",
            "access denied",
            "it accepts the certificate but does not authorize it: ask its operator to allow our name or key",
        ),
        AlertDescription::CertificateRequired => refused(
            "refused_certificate_required",
            "it requires a certificate and received none",
            "our key supports none of the signature schemes that it accepts: add a key pair with another type of key",
        ),
        AlertDescription::DecryptError => refused(
            "refused_decrypt_error",
            "a signature does not verify (decrypt_error)",
            "it may have another key under our issuer's name: send its operator our issuer's certificate again",
        ),
        other => explain_other_alert(other, failed, context),
    }
}

fn explain_other_alert(
    alert: AlertDescription,
    failed: &FailedHandshake,
    context: &FailureContext<'_>,
) -> FailureReason {
    let (who, ours) = (context.other_side(), context.our_key_pair());
    match alert {
        AlertDescription::NoRenegotiation => explain_renegotiation(context),
        AlertDescription::HandshakeFailure => {
            let todo = if context.ingress {
                "it may have no cipher suite, group or signature scheme in common with Sidekey".to_owned()
            } else {
                format!(
                    "it may refuse {ours} without giving a reason (usual in TLS 1.2), or require a cipher suite or \
                     group that Sidekey does not offer"
                )
            };
            FailureReason::refused(
                "alert_handshake_failure",
                format!("{who} ended the handshake with handshake_failure: {todo}; check its log"),
            )
        }
        AlertDescription::ProtocolVersion => FailureReason::refused(
            "alert_protocol_version",
            format!(
                "{who} accepts none of our TLS versions (1.2 and 1.3, as tls_min and tls_max allow); it may support \
                 only older ones"
            ),
        ),
        AlertDescription::UnrecognisedName => {
            let name = failed.facts.server_name.as_deref().unwrap_or("no name");
            let why = format!(
                "{who} does not serve the server name \"{}\"; set server_name to one that it serves",
                clip(name)
            );
            FailureReason::refused("alert_unrecognized_name", why)
        }
        AlertDescription::NoApplicationProtocol => FailureReason::refused(
            "alert_no_application_protocol",
            format!(
                "{who} supports none of the ALPN protocols that we offer; set alpn to what it supports, for example \
                 [\"http/1.1\"]"
            ),
        ),
        other => FailureReason::failed(
            "alert_other",
            format!(
                "{who} ended the connection with the alert {} ({}); check its log for the reason",
                rfc_name(other),
                u8::from(other)
            ),
        ),
    }
}

/// The upstream wants the certificate after the handshake: old IIS and Apache set-ups for single paths.
pub(super) fn explain_renegotiation(context: &FailureContext<'_>) -> FailureReason {
    let who = context.other_side();
    let why = format!(
        "{who} asks for the certificate by renegotiation, which TLS 1.3 and Sidekey do not have: on IIS enable \
         \"Negotiate \
         Client Certificate\", on Apache set SSLVerifyClient for the whole host"
    );
    FailureReason::refused("renegotiation_wanted", why)
}

/// The alert that is sent for this failure; `None` where none is, or which one is not known. `tls12`: the version is known to be
/// TLS 1.2, which has no alert for a missing certificate (RFC 5246 7.4.6).
pub(in crate::tls) fn sent_alert(cause: &HandshakeFailureCause, tls12: bool) -> Option<AlertDescription> {
    let error = match cause {
        HandshakeFailureCause::Tls(error) => error,
        HandshakeFailureCause::NoKeyPair => return Some(AlertDescription::HandshakeFailure),
        _ => return None,
    };
    Some(match error {
        Error::NoCertificatesPresented if tls12 => AlertDescription::HandshakeFailure,
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::InvalidCertificate(error) => AlertDescription::from(error.clone()),
        Error::InvalidCertRevocationList(_) => AlertDescription::HandshakeFailure,
        Error::InvalidMessage(error) => AlertDescription::from(*error),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::PeerIncompatible(error) => match error {
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => AlertDescription::ProtocolVersion,
            PeerIncompatible::NullCompressionRequired | PeerIncompatible::UncompressedEcPointsRequired => {
                AlertDescription::IllegalParameter
            }
            _ => AlertDescription::HandshakeFailure,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustls::{ContentType, InvalidMessage};

    use super::*;

    #[test]
    fn the_less_usual_failures_have_their_alert() {
        let inappropriate =
            || Error::InappropriateMessage { expect_types: Vec::new(), got_type: ContentType::ApplicationData };
        for (error, alert) in [
            (inappropriate(), "unexpected_message"),
            (Error::NoApplicationProtocol, "no_application_protocol"),
            (Error::InvalidMessage(InvalidMessage::MessageTooLarge), "decode_error"),
            (Error::PeerIncompatible(PeerIncompatible::NullCompressionRequired), "illegal_parameter"),
            (Error::PeerIncompatible(PeerIncompatible::UncompressedEcPointsRequired), "illegal_parameter"),
            (Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13), "protocol_version"),
            (Error::InvalidCertRevocationList(rustls::CertRevocationListError::ParseError), "handshake_failure"),
        ] {
            let sent = sent_alert(&HandshakeFailureCause::Tls(error.clone()), false);
            assert_eq!(sent.map(rfc_name), Some(alert), "{error:?}");
        }
        let no_pair = sent_alert(&HandshakeFailureCause::NoKeyPair, false);
        assert_eq!(no_pair, Some(AlertDescription::HandshakeFailure));
        assert_eq!(sent_alert(&HandshakeFailureCause::Closed, false), None);
    }
}
