//! Runs handshakes: the ClientHello first, then the rest with the chosen pair; or a connect. Always under a deadline.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector};

use super::alert_name::rfc_name;
use super::explain::sent_alert;
use super::first_bytes::FirstBytesStream;
use super::hello::{self, read_requirements};
use super::keep::AlertPreservingStream;
use super::records::RecordStream;
use super::records::accept::finish_handshake;
use super::seen::{self, HandshakeObservation};
use super::tls12_alert::CertificateAlertStream;
use super::{AlpnProtocol, EgressConnector, IngressAcceptor, TlsSettings, restated};
use crate::keyring::PeerRequirements;
use crate::pki::Fingerprint;
use crate::trust::PresentedChain;

/// What was negotiated; unknown things are `None`.
#[derive(Clone, Debug, Default)]
pub struct HandshakeFacts {
    /// `1.3` or `1.2`.
    pub version: Option<&'static str>,
    /// The IANA name of the cipher suite.
    pub cipher: Option<&'static str>,
    /// The group's name.
    pub group: Option<&'static str>,
    /// What was agreed on; `Http11` where the peer offered nothing.
    pub alpn: Option<AlpnProtocol>,
    /// A resumed session.
    pub resumed: bool,
    /// SNI.
    pub server_name: Option<Arc<str>>,
}

/// A finished handshake.
pub struct CompletedHandshake<T> {
    /// The stream.
    pub stream: T,
    /// What was negotiated.
    pub facts: HandshakeFacts,
    /// The other side's chain, end entity first; empty = none shown. Also there when resumed.
    pub chain: PresentedChain,
    /// Egress: what the CertificateRequest asked for; `None` = no certificate was asked for (or resumed).
    pub asked: Option<PeerRequirements>,
    /// Egress: the CertificateRequest led to this pair instead of the connector's own.
    pub shown_instead: Option<Fingerprint>,
    /// Egress: a certificate was asked for, in this handshake or in the one that a resumed session began with.
    pub is_mutual: bool,
}

/// A failed one, with whatever was seen.
pub struct FailedHandshake {
    /// What went wrong.
    pub cause: HandshakeFailureCause,
    /// What was negotiated or offered until then.
    pub facts: HandshakeFacts,
    /// What our hooks saw.
    pub seen: HandshakeObservation,
    /// The first bytes that came (up to 11), to name a protocol that is not TLS, or a version that is too old.
    pub first_bytes: Vec<u8>,
}

impl FailedHandshake {
    /// The alert that the other side ended it with (the snake_case name of RFC 8446 6).
    pub fn alert(&self) -> Option<&'static str> {
        match &self.cause {
            HandshakeFailureCause::Tls(rustls::Error::AlertReceived(alert)) => Some(rfc_name(*alert)),
            _ => None,
        }
    }
}

/// The alert with which the other side ended a stream, if this error of it says so (the snake_case name of RFC 8446 6).
pub fn received_alert(error: &io::Error) -> Option<&'static str> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(rfc_name(*alert)),
        _ => None,
    }
}

/// What went wrong.
#[derive(Debug)]
pub enum HandshakeFailureCause {
    /// rustls says so: our refusal, or the peer's alert (`AlertReceived`).
    Tls(rustls::Error),
    /// The connection ended before it sent a byte (health checks).
    NoByte,
    /// EOF in the middle.
    Closed,
    /// Reset.
    Reset,
    /// The deadline passed.
    TimedOut {
        /// Ingress: before the ClientHello was whole. Egress: before the upstream sent a byte.
        hello: bool,
    },
    /// No candidate fits what the hello accepts (said by the caller).
    NoKeyPair,
    /// Any other I/O error.
    Io(io::Error),
}

impl HandshakeFailureCause {
    /// What an error of the stream means; `no_byte`: nothing had come before it.
    pub fn from_io_error(error: io::Error, no_byte: bool) -> Self {
        classify_error(error, no_byte)
    }

    /// An error of ours, after which an alert was sent.
    fn is_ours(&self) -> bool {
        matches!(self, Self::Tls(error) if !matches!(error, rustls::Error::AlertReceived(_)))
    }
}

/// A server-side TLS stream. Boxed: it passes through many hands until it is served, and none of them keeps room for it.
pub type ServerStream<S> = Box<RecordStream<FirstBytesStream<CertificateAlertStream<S>>>>;
/// A client-side TLS stream.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<FirstBytesStream<AlertPreservingStream<S>>>;

/// A ClientHello that was read; nothing has been answered yet.
pub struct ReceivedClientHello<S> {
    start: Box<StartHandshake<FirstBytesStream<CertificateAlertStream<S>>>>,
    asked: PeerRequirements,
}

/// Reads a ClientHello.
pub async fn read_client_hello<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    deadline: Instant,
) -> Result<ReceivedClientHello<S>, Box<FailedHandshake>> {
    let stream = FirstBytesStream::recording(CertificateAlertStream::new(stream));
    let mut reading = Box::new(LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream));
    let ended = tokio::time::timeout_at(deadline, &mut reading).await;
    let cause = match ended {
        Ok(Ok(start)) => {
            let asked = read_requirements(&start.client_hello());
            return Ok(ReceivedClientHello { start: Box::new(start), asked });
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(HandshakeFailureCause::TimedOut { hello: true }),
    };
    let io = reading.take_io();
    let first_bytes = io.as_ref().map(FirstBytesStream::first_bytes).unwrap_or_default();
    let cause = cause.unwrap_or_else(|error| self::classify_error(error, first_bytes.is_empty()));
    let cause = restated::restate_hello_failure(cause, io.as_ref().is_none_or(|io| io.ended));
    if let (Some(mut io), true) = (io, cause.is_ours()) {
        // Not all errors of rustls before there is a connection come with their alert.
        if !io.get_ref().has_written()
            && let Some(alert) = sent_alert(&cause, false)
        {
            let _ = io.write_all(&[21, 3, 3, 0, 2, 2, u8::from(alert)]).await;
        }
        linger(io).await;
    }
    Err(Box::new(FailedHandshake {
        cause,
        facts: HandshakeFacts::default(),
        seen: HandshakeObservation::default(),
        first_bytes,
    }))
}

impl<S: AsyncRead + AsyncWrite + Unpin> ReceivedClientHello<S> {
    /// Leaves out the cipher suites of versions that a listener with these settings does not speak.
    pub fn restrict_versions(&mut self, settings: &TlsSettings) {
        hello::restrict_suites(&mut self.asked, settings);
    }

    /// What the ClientHello says about the certificate it wants.
    pub fn asked(&self) -> &PeerRequirements {
        &self.asked
    }

    /// Finishes with this acceptor. On failure the alert is sent, the writing half shut, and up to 100 ms of what still
    /// comes is drained, so that a reset does not overtake the alert.
    pub async fn finish(
        self,
        acceptor: &IngressAcceptor,
        deadline: Instant,
    ) -> Result<CompletedHandshake<ServerStream<S>>, Box<FailedHandshake>> {
        let first_bytes = self.start.io.first_bytes();
        let server_name = self.asked.server_name;
        let shares_suite = restated::shares_cipher_suite(self.start.client_hello().cipher_suites(), acceptor);
        let StartHandshake { mut io, .. } = *self.start;
        let received = io.take_recorded();
        // Within the slot from here on: the ClientHello, and with it a ticket, is looked at again.
        let accept = Box::pin(finish_handshake(io, Arc::clone(&acceptor.config), received));
        let (ended, seen) = seen::observe_handshake(tokio::time::timeout_at(deadline, accept)).await;
        match ended {
            Ok(Ok(stream)) => {
                let facts = HandshakeFacts { server_name, ..facts(stream.state()) };
                let chain = peer_chain(seen, stream.state());
                let is_mutual = !chain.is_empty();
                Ok(CompletedHandshake { facts, chain, asked: None, shown_instead: None, is_mutual, stream })
            }
            Ok(Err((error, io))) => {
                let cause = restated::restate_incompatibility(classify_error(error, false), shares_suite);
                if cause.is_ours() {
                    linger(io).await;
                }
                Err(failed_handshake(cause, server_name, seen, first_bytes))
            }
            Err(_) => {
                Err(failed_handshake(HandshakeFailureCause::TimedOut { hello: false }, server_name, seen, first_bytes))
            }
        }
    }

    /// Ends it with a handshake_failure alert because no candidate fits.
    pub async fn refuse(self) -> Box<FailedHandshake> {
        let first_bytes = self.start.io.first_bytes();
        let mut io = self.start.io;
        // An alert record in the clear (RFC 8446 5.1 and 6): fatal, handshake_failure. Nothing has been answered yet.
        if io.write_all(&[21, 3, 3, 0, 2, 2, 40]).await.is_ok() {
            linger(io).await;
        }
        failed_handshake(
            HandshakeFailureCause::NoKeyPair,
            self.asked.server_name,
            HandshakeObservation::default(),
            first_bytes,
        )
    }
}

/// Connects.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    connector: &EgressConnector,
    deadline: Instant,
) -> Result<CompletedHandshake<ClientStream<S>>, Box<FailedHandshake>> {
    let connecting = TlsConnector::from(Arc::clone(&connector.config))
        .connect(connector.server_name.clone(), FirstBytesStream::new(AlertPreservingStream::new(stream)))
        .into_fallible();
    let offered = Arc::clone(&connector.offered);
    let (ended, mut seen) = seen::observe_with_offer(offered, tokio::time::timeout_at(deadline, connecting)).await;
    let server_name = match &connector.server_name {
        rustls_pki_types::ServerName::DnsName(name) => Some(Arc::from(name.as_ref())),
        _ => None,
    };
    match ended {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let facts = HandshakeFacts { server_name, ..facts(session) };
            let (asked, shown_instead) = (seen.asked.take(), seen.shown_instead);
            let is_mutual = asked.is_some() || facts.resumed && connector.sessions.saw_request();
            let chain = peer_chain(seen, session);
            Ok(CompletedHandshake { facts, chain, asked, shown_instead, is_mutual, stream })
        }
        Ok(Err((error, io))) => {
            let first_bytes = io.first_bytes();
            let cause = classify_error(error, first_bytes.is_empty());
            if cause.is_ours() {
                linger(io).await;
            }
            Err(failed_handshake(cause, server_name, seen, first_bytes))
        }
        Err(_) => {
            let first_bytes = std::mem::take(&mut seen.first_bytes);
            Err(failed_handshake(
                HandshakeFailureCause::TimedOut { hello: first_bytes.is_empty() },
                server_name,
                seen,
                first_bytes,
            ))
        }
    }
}

/// What the verifier saw in a full handshake; a resumed one carries the chain of the first.
fn peer_chain(seen: HandshakeObservation, session: &CommonState) -> PresentedChain {
    if !seen.chain.is_empty() {
        return seen.chain;
    }
    let Some(certificates) = session.peer_certificates() else { return PresentedChain::default() };
    match seen.ticket_chain {
        Some(hash) => PresentedChain::with_known_hash(certificates.into(), hash),
        None => certificates.into(),
    }
}

fn facts(session: &CommonState) -> HandshakeFacts {
    HandshakeFacts {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
            Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
            _ => None,
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| iana_name(suite.suite())),
        group: session.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        alpn: Some(if session.alpn_protocol() == Some(AlpnProtocol::H2.name()) {
            AlpnProtocol::H2
        } else {
            AlpnProtocol::Http11
        }),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name: None,
    }
}

/// rustls names the suites of TLS 1.3 `TLS13_…`; IANA does not.
fn iana_name(suite: CipherSuite) -> Option<&'static str> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some("TLS_AES_128_GCM_SHA256"),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some("TLS_AES_256_GCM_SHA384"),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some("TLS_CHACHA20_POLY1305_SHA256"),
        other => other.as_str(),
    }
}

fn failed_handshake(
    cause: HandshakeFailureCause,
    server_name: Option<Arc<str>>,
    seen: HandshakeObservation,
    first_bytes: Vec<u8>,
) -> Box<FailedHandshake> {
    let version = seen.tls13.map(|tls13| if tls13 { "1.3" } else { "1.2" });
    let facts = HandshakeFacts { version, server_name, ..HandshakeFacts::default() };
    Box::new(FailedHandshake { cause, facts, seen, first_bytes })
}

pub(super) fn classify_error(error: io::Error, no_byte: bool) -> HandshakeFailureCause {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return HandshakeFailureCause::Tls(tls.clone());
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if no_byte => {
            HandshakeFailureCause::NoByte
        }
        io::ErrorKind::UnexpectedEof => HandshakeFailureCause::Closed,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            HandshakeFailureCause::Reset
        }
        _ => HandshakeFailureCause::Io(error),
    }
}

/// Lets an alert arrive: shuts the writing half and reads away what still comes, for at most 100 ms. A socket that is
/// closed with unread data is reset by the kernel, and the reset may overtake the alert.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) {
    let away = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(Duration::from_millis(100), away).await;
}
