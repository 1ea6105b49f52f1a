//! Failures that rustls reports as something else than what happened, restated for the explanation.

use std::io;

use rustls::{CipherSuite, Error, InvalidMessage, PeerIncompatible};

use super::IngressAcceptor;
use super::handshake::HandshakeFailureCause;

/// A ClientHello that rustls' buffer (64 KiB) cannot hold is malformed TLS. rustls only stops reading then, or reads into no
/// room at all, which looks like the end (`ended`: it really came).
pub(super) fn restate_hello_failure(cause: HandshakeFailureCause, ended: bool) -> HandshakeFailureCause {
    let is_too_large = match &cause {
        HandshakeFailureCause::Io(error) => is_buffer_full(error),
        HandshakeFailureCause::Closed => !ended,
        _ => false,
    };
    if !is_too_large {
        return cause;
    }
    HandshakeFailureCause::Tls(Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge))
}

fn is_buffer_full(error: &io::Error) -> bool {
    error.to_string() == "message buffer full"
}

/// Whether one of these suites is one that the acceptor has too.
pub(super) fn shares_cipher_suite(offered: &[CipherSuite], acceptor: &IngressAcceptor) -> bool {
    acceptor.config.crypto_provider().cipher_suites.iter().any(|ours| offered.contains(&ours.suite()))
}

/// rustls looks at the groups before the suites, and a client without a suite for ECDHE names no groups: what it lacks is a
/// suite.
pub(super) fn restate_incompatibility(cause: HandshakeFailureCause, shares_suite: bool) -> HandshakeFailureCause {
    match cause {
        HandshakeFailureCause::Tls(Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)) if !shares_suite => {
            HandshakeFailureCause::Tls(Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon))
        }
        other => other,
    }
}
