//! Runs handshakes: the ClientHello first, then the rest with the chosen pair; or a connect. Always under a deadline.

#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector};

use super::alert_name::rfc_name;
use super::keep::AlertPreservingStream;
use super::seen::{self, HandshakeObservation};
use super::{AlpnProtocol, EgressConnector, IngressAcceptor};
use crate::keyring::PeerRequirements;
use crate::pki::Fingerprint;

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
    pub chain: Vec<CertificateDer<'static>>,
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

/// A server-side TLS stream.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<FirstBytesStream<S>>;
/// A client-side TLS stream.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<FirstBytesStream<AlertPreservingStream<S>>>;

/// Passes everything through (vectored writes too) and remembers the first bytes that were read: of a
/// ClientHello those up to its `legacy_version` (RFC 8446 4.1.2).
#[derive(Debug)]
pub struct FirstBytesStream<S> {
    inner: S,
    bytes: [u8; 11],
    count: usize,
}

impl<S> FirstBytesStream<S> {
    fn new(inner: S) -> Self {
        Self { inner, bytes: [0; 11], count: 0 }
    }
    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
    fn first_bytes(&self) -> Vec<u8> {
        self.bytes[..self.count].to_vec()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytesStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.count < self.bytes.len() {
            let this = &mut *self;
            for (slot, byte) in this.bytes[this.count..].iter_mut().zip(&buf.filled()[before..]) {
                *slot = *byte;
                this.count += 1;
            }
            seen::record_observation(|seen| seen.first_bytes = this.first_bytes());
        }
        polled
    }
}

super::passing::passes_writes!(FirstBytesStream.inner);

/// A ClientHello that was read; nothing has been answered yet.
pub struct ReceivedClientHello<S> {
    start: StartHandshake<FirstBytesStream<S>>,
    asked: PeerRequirements,
}

/// Reads a ClientHello.
pub async fn read_client_hello<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    deadline: Instant,
) -> Result<ReceivedClientHello<S>, Box<FailedHandshake>> {
    let mut reading = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), FirstBytesStream::new(stream));
    let ended = tokio::time::timeout_at(deadline, &mut reading).await;
    let cause = match ended {
        Ok(Ok(start)) => {
            let asked = hello_requirements(&start.client_hello());
            return Ok(ReceivedClientHello { start, asked });
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(HandshakeFailureCause::TimedOut { hello: true }),
    };
    let io = reading.take_io();
    let first_bytes = io.as_ref().map(FirstBytesStream::first_bytes).unwrap_or_default();
    let cause = cause.unwrap_or_else(|error| self::classify_error(error, first_bytes.is_empty()));
    if let (Some(io), true) = (io, cause.is_ours()) {
        linger(io).await;
    }
    Err(Box::new(FailedHandshake {
        cause,
        facts: HandshakeFacts::default(),
        seen: HandshakeObservation::default(),
        first_bytes,
    }))
}

fn hello_requirements(hello: &rustls::server::ClientHello<'_>) -> PeerRequirements {
    let authorities = hello.certificate_authorities().unwrap_or_default();
    PeerRequirements {
        server_name: hello.server_name().map(|name| name.to_ascii_lowercase().into()),
        schemes: hello.signature_schemes().iter().map(|scheme| u16::from(*scheme)).collect(),
        authorities: authorities.iter().map(|name| name.as_ref().to_vec()).collect(),
        offer: offer_digest(hello),
    }
}

/// The same number for ClientHellos that offer the same suites, groups and schemes, in whatever order. GREASE values
/// (RFC 8701), which some clients draw anew for each hello, do not count.
fn offer_digest(hello: &rustls::server::ClientHello<'_>) -> u64 {
    let suites = hello.cipher_suites().iter().map(|suite| (0_u8, u16::from(*suite)));
    let groups = hello.named_groups().unwrap_or_default().iter().map(|group| (1, u16::from(*group)));
    let schemes = hello.signature_schemes().iter().map(|scheme| (2, u16::from(*scheme)));
    let is_grease = |value: u16| value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff;
    let mut all: Vec<_> = suites.chain(groups).chain(schemes).filter(|(_, value)| !is_grease(*value)).collect();
    all.sort_unstable();
    all.dedup();
    let bytes: Vec<u8> = all.into_iter().flat_map(|(kind, value)| [kind, (value >> 8) as u8, value as u8]).collect();
    let mut first = [0; 8];
    first.copy_from_slice(&Fingerprint::of(&bytes).as_bytes()[..8]);
    u64::from_be_bytes(first)
}

impl<S: AsyncRead + AsyncWrite + Unpin> ReceivedClientHello<S> {
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
        let accept = self.start.into_stream(Arc::clone(&acceptor.config)).into_fallible();
        let (ended, seen) = seen::observe_handshake(tokio::time::timeout_at(deadline, accept)).await;
        match ended {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let facts = HandshakeFacts { server_name, ..facts(session) };
                let chain = peer_chain(seen, session);
                let is_mutual = !chain.is_empty();
                Ok(CompletedHandshake { facts, chain, asked: None, shown_instead: None, is_mutual, stream })
            }
            Ok(Err((error, io))) => {
                let cause = classify_error(error, false);
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
fn peer_chain<D>(seen: HandshakeObservation, session: &rustls::ConnectionCommon<D>) -> Vec<CertificateDer<'static>> {
    if !seen.chain.is_empty() {
        return seen.chain;
    }
    session.peer_certificates().map(<[_]>::to_vec).unwrap_or_default()
}

fn facts<D>(session: &rustls::ConnectionCommon<D>) -> HandshakeFacts {
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
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) {
    let away = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(Duration::from_millis(100), away).await;
}
