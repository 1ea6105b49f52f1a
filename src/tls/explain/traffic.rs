//! What is wrong with the bytes or the connection: other protocols, nothing in common, ends and time-outs.

use std::fmt::Write as _;

use rustls::{Error, HandshakeType, PeerIncompatible, PeerMisbehaved};

use super::context::{FailureContext, FailureReason, clip};
use super::{alert, certificate};
use crate::pki::printable;
use crate::tls::handshake::{FailedHandshake, HandshakeFailureCause};

/// Names a protocol that is not TLS by its first bytes. A TLS record begins with 20 to 23 (RFC 8446 5.1).
pub(super) fn explain_not_tls(first: &[u8], context: &FailureContext<'_>) -> Option<FailureReason> {
    if first.first().is_none_or(|byte| (20..=23).contains(byte)) {
        return None;
    }
    if !context.ingress {
        let why = format!(
            "upstream answered in plain text ({}): this port does not speak TLS; configure its TLS port, Sidekey never \
             sends plain text",
            format_bytes(first)
        );
        return Some(FailureReason::failed("plain_text_upstream", why));
    }
    let method = [&b"GET "[..], b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC"];
    let is_http =
        method.iter().any(|method| first.starts_with(method) || first.len() >= 3 && method.starts_with(first));
    let (reason, why) = if is_http {
        ("plain_http", "peer speaks plain HTTP on a TLS port: use https:// in the client".to_owned())
    } else if first.starts_with(b"PRI ") {
        ("plain_http2", "peer speaks HTTP/2 without TLS (prior knowledge) on a TLS port: use TLS instead".to_owned())
    } else if first.starts_with(b"PROXY ") || first.starts_with(b"\r\n\r\n\0\r\nQ") {
        let why = "peer sent a PROXY header, which this listener does not expect: add the load balancer's network to \
                   proxy_protocol_from, or turn PROXY protocol off at the load balancer";
        ("proxy_header", why.to_owned())
    } else if matches!(first, [high, _, 1, ..] if high & 0x80 != 0) {
        (
            "sslv2",
            "peer sent an SSLv2 hello, which is insecure and not supported: the client needs TLS 1.2 or newer"
                .to_owned(),
        )
    } else if first.starts_with(b"SSH-") {
        ("not_tls", "peer speaks SSH on a TLS port: the client uses the wrong port".to_owned())
    } else {
        (
            "not_tls",
            format!(
                "peer does not speak TLS: it sent {} first; it uses the wrong port or protocol",
                format_bytes(first)
            ),
        )
    };
    Some(FailureReason::failed(reason, why))
}

/// `"GET / HT"` where it is text, else hex.
fn format_bytes(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(8)];
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(|c| !c.is_control() || matches!(c, '\r' | '\n')) => {
            format!("\"{}\"", text.escape_default())
        }
        _ => bytes.iter().enumerate().fold(String::new(), |mut out, (index, byte)| {
            let _ = write!(out, "{}{byte:02x}", if index == 0 { "" } else { " " });
            out
        }),
    }
}

/// The version that a ClientHello offers at most, where it is one that ended before TLS 1.2: RFC 8446 4.1.2 fixes the field
/// for all newer ones.
fn outdated_version(first: &[u8]) -> Option<&'static str> {
    match first {
        // A record with a handshake message, which is a ClientHello, and its version.
        [22, _, _, _, _, 1, _, _, _, 3, minor @ 0..3] => Some(["SSL 3.0", "TLS 1.0", "TLS 1.1"][usize::from(*minor)]),
        _ => None,
    }
}

/// An error of the protocol itself.
pub(super) fn explain_tls_error(
    error: &Error,
    failed: &FailedHandshake,
    context: &FailureContext<'_>,
) -> FailureReason {
    let who = context.other_side();
    match error {
        Error::NoCertificatesPresented => {
            certificate::explain_chain_error(&crate::trust::TrustError::Empty, None, context)
        }
        Error::NoApplicationProtocol => FailureReason::refused(
            "no_common_protocol",
            format!(
                "{who} offers no ALPN protocol that this listener supports (alpn); HTTP/1.1 clients may offer none"
            ),
        ),
        Error::PeerIncompatible(error) => explain_incompatible(error, outdated_version(&failed.first_bytes), context),
        Error::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiationRequests) => alert::explain_renegotiation(context),
        // A CertificateRequest after the handshake (RFC 8446 4.6.2), which we never offer.
        Error::InappropriateHandshakeMessage { got_type: HandshakeType::CertificateRequest, .. }
            if !context.ingress =>
        {
            alert::explain_renegotiation(context)
        }
        Error::PeerMisbehaved(what) => FailureReason::failed(
            "peer_misbehaved",
            format!("{who} violated the TLS protocol: {}; its TLS library is faulty", variant_words(what)),
        ),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => FailureReason::failed(
            "peer_misbehaved",
            format!(
                "{who} sent an unexpected TLS message; its TLS library is faulty, or a device on the path changed \
                 the bytes"
            ),
        ),
        Error::InvalidMessage(what) => explain_malformed(&variant_words(what), context),
        Error::PeerSentOversizedRecord => explain_malformed("a record over the size limit", context),
        Error::DecryptError => explain_malformed("a record that does not decrypt", context),
        // Our own resolver: no chain for the schemes that were offered.
        Error::General(_) if context.ingress && failed.seen.chain.is_empty() && is_unresolved(error) => {
            explain_no_key_pair(context)
        }
        Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => FailureReason::refused(
            "untrusted",
            format!("{who}'s certificate was rejected: {}", clip(&printable(&error.to_string()))),
        ),
        other => FailureReason::failed(
            "internal_error",
            format!("TLS failed on our side: {}; report this log line", clip(&printable(&other.to_string()))),
        ),
    }
}

fn is_unresolved(error: &Error) -> bool {
    matches!(error, Error::General(text) if text.contains("certificate chain resolved"))
}

fn explain_malformed(what: &str, context: &FailureContext<'_>) -> FailureReason {
    let who = context.other_side();
    let why = format!(
        "{who} sent invalid TLS data: {what}; it does not speak TLS, or a device on the path changed the bytes"
    );
    FailureReason::failed("malformed_tls", why)
}

fn explain_incompatible(
    error: &PeerIncompatible,
    outdated: Option<&str>,
    context: &FailureContext<'_>,
) -> FailureReason {
    let who = context.other_side();
    if let (Some(version), true) = (outdated, context.ingress) {
        // What else it lacks does not matter then.
        let why =
            format!("peer speaks {version} at most, and Sidekey requires TLS 1.2 or newer: the client needs an update");
        return FailureReason::refused("no_common_version", why);
    }
    let (reason, why) = match error {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => (
            "no_common_version",
            format!(
                "{who} has no TLS version in common with Sidekey (tls_min to tls_max; 1.2 and 1.3 at most): update it, \
                 or widen tls_min and tls_max"
            ),
        ),
        PeerIncompatible::NoCipherSuitesInCommon => (
            "no_common_cipher_suite",
            format!(
                "{who} has no cipher suite in common with Sidekey, which supports in TLS 1.2 only ECDHE with AES-GCM \
                 or ChaCha20-Poly1305, and only suites for the type of our key (ECDSA or RSA)"
            ),
        ),
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired => (
            "no_common_group",
            format!(
                "{who} has no key exchange group in common with Sidekey, which offers those of X25519MLKEM768, X25519, \
                 secp256r1 and secp384r1 that groups allows"
            ),
        ),
        PeerIncompatible::SignatureAlgorithmsExtensionRequired => (
            "no_common_signature_scheme",
            format!(
                "{who} names no signature scheme, which implies SHA-1 (RFC 5246 7.4.1.4.1), and Sidekey does not sign \
                 with SHA-1: update it"
            ),
        ),
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => (
            "no_common_signature_scheme",
            format!(
                "{who} accepts no signature scheme that {} supports; add a key pair with another type of key",
                context.our_key_pair()
            ),
        ),
        other => (
            "peer_misbehaved",
            format!("{who} is incompatible with TLS as Sidekey speaks it: {}", variant_words(other)),
        ),
    };
    FailureReason::refused(reason, why)
}

/// A library's variant as lower-case words.
fn variant_words(what: &impl std::fmt::Debug) -> String {
    let mut out = String::new();
    for c in format!("{what:?}").chars().take(120) {
        if c.is_ascii_uppercase() && out.ends_with(|last: char| last.is_ascii_lowercase()) {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    printable(&out)
}

fn explain_no_key_pair(context: &FailureContext<'_>) -> FailureReason {
    let why = format!(
        "peer accepts no signature scheme that a key pair of listener \"{}\" supports, so none was shown; add a key \
         pair with \
         another type of key (ECDSA P-256 and RSA 2048 are supported everywhere)",
        clip(context.listener)
    );
    FailureReason::refused("no_key_pair_fits", why)
}

/// The connection ended, or time ran out.
pub(super) fn explain_connection_end(cause: &HandshakeFailureCause, context: &FailureContext<'_>) -> FailureReason {
    let who = context.other_side();
    let (reason, why) = match cause {
        HandshakeFailureCause::NoKeyPair => return explain_no_key_pair(context),
        HandshakeFailureCause::NoByte if context.ingress => (
            "closed_without_byte",
            "peer closed the connection without sending a byte: usually a load balancer's health \
             check"
                .to_owned(),
        ),
        HandshakeFailureCause::NoByte => (
            "closed_without_byte",
            "upstream closed the connection without sending a byte: it does not speak TLS on this port, or accepts \
             only some addresses"
                .to_owned(),
        ),
        HandshakeFailureCause::Closed => (
            "closed",
            format!(
                "{who} closed the connection during the handshake without an alert: it may have refused {} \
                 silently, or crashed{}",
                context.our_key_pair(),
                context.next_pair_hint()
            ),
        ),
        HandshakeFailureCause::Reset => (
            "reset",
            format!(
                "{who} or a device on the path reset the connection during the handshake: check for a firewall, \
                 or a crash of the {who}{}",
                context.next_pair_hint()
            ),
        ),
        HandshakeFailureCause::TimedOut { hello: true } if context.ingress => {
            ("timed_out_before_hello", "peer connected but did not send a complete ClientHello in time".to_owned())
        }
        HandshakeFailureCause::TimedOut { hello: true } => {
            ("timed_out_before_hello", "upstream did not answer our ClientHello in time".to_owned())
        }
        HandshakeFailureCause::TimedOut { hello: false } => (
            "timed_out_after_hello",
            format!(
                "{who} began the handshake but did not finish it in time (limits.handshake): it is slow, or \
                 packets are lost"
            ),
        ),
        HandshakeFailureCause::Io(error) => {
            ("io_error", format!("the connection to the {who} failed: {}", clip(&printable(&error.to_string()))))
        }
        HandshakeFailureCause::Tls(error) => {
            ("internal_error", format!("TLS failed: {}", clip(&printable(&error.to_string()))))
        }
    };
    FailureReason::failed(reason, why)
}
