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

use super::keep::Keep;
use super::seen::{self, Seen};
use super::{Acceptor, Alpn, Connector};
use crate::keyring::Asked;
use crate::pki::Fingerprint;

/// What was negotiated; unknown things are `None`.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `1.3` or `1.2`.
    pub version: Option<&'static str>,
    /// The IANA name of the cipher suite.
    pub cipher: Option<&'static str>,
    /// The group's name.
    pub group: Option<&'static str>,
    /// What was agreed on; `Http11` where the peer offered nothing.
    pub alpn: Option<Alpn>,
    /// A resumed session.
    pub resumed: bool,
    /// SNI.
    pub server_name: Option<Arc<str>>,
}

/// A finished handshake.
pub struct Established<T> {
    /// The stream.
    pub stream: T,
    /// What was negotiated.
    pub facts: Facts,
    /// The other side's chain, end entity first; empty = none shown. Also there when resumed.
    pub chain: Vec<CertificateDer<'static>>,
    /// Egress: what the CertificateRequest asked for; `None` = no certificate was asked for (or resumed).
    pub asked: Option<Asked>,
}

/// A failed one, with whatever was seen.
pub struct Failed {
    /// What went wrong.
    pub cause: Cause,
    /// What was negotiated or offered until then.
    pub facts: Facts,
    /// What our hooks saw.
    pub seen: Seen,
    /// The first bytes that came (up to 11), to name a protocol that is not TLS, or a version that is too old.
    pub first_bytes: Vec<u8>,
}

impl Failed {
    /// The alert that the other side ended it with (the snake_case name of RFC 8446 6).
    pub fn alert(&self) -> Option<&'static str> {
        match &self.cause {
            Cause::Tls(rustls::Error::AlertReceived(alert)) => Some(super::explain::alert_name(*alert)),
            _ => None,
        }
    }
}

/// What went wrong.
#[derive(Debug)]
pub enum Cause {
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

impl Cause {
    /// What an error of the stream means; `no_byte`: nothing had come before it.
    pub fn of(error: io::Error, no_byte: bool) -> Self {
        cause(error, no_byte)
    }

    /// An error of ours, after which an alert was sent.
    fn is_ours(&self) -> bool {
        matches!(self, Self::Tls(error) if !matches!(error, rustls::Error::AlertReceived(_)))
    }
}

/// A server-side TLS stream.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<FirstBytes<S>>;
/// A client-side TLS stream.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<FirstBytes<Keep<S>>>;

/// Passes everything through (vectored writes too) and remembers the first bytes that were read: of a
/// ClientHello those up to its `legacy_version` (RFC 8446 4.1.2).
#[derive(Debug)]
pub struct FirstBytes<S> {
    inner: S,
    bytes: [u8; 11],
    count: usize,
}

impl<S> FirstBytes<S> {
    fn new(inner: S) -> Self {
        Self { inner, bytes: [0; 11], count: 0 }
    }
    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
    fn first(&self) -> Vec<u8> {
        self.bytes[..self.count].to_vec()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.count < self.bytes.len() {
            let this = &mut *self;
            for (slot, byte) in this.bytes[this.count..].iter_mut().zip(&buf.filled()[before..]) {
                *slot = *byte;
                this.count += 1;
            }
            seen::note(|seen| seen.first_bytes = this.first());
        }
        polled
    }
}

super::passing::passes_writes!(FirstBytes.inner);

/// A ClientHello that was read; nothing has been answered yet.
pub struct Hello<S> {
    start: StartHandshake<FirstBytes<S>>,
    asked: Asked,
}

/// Reads a ClientHello.
pub async fn hello<S: AsyncRead + AsyncWrite + Unpin>(stream: S, deadline: Instant) -> Result<Hello<S>, Box<Failed>> {
    let mut reading = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), FirstBytes::new(stream));
    let ended = tokio::time::timeout_at(deadline, &mut reading).await;
    let cause = match ended {
        Ok(Ok(start)) => {
            let asked = asked(&start.client_hello());
            return Ok(Hello { start, asked });
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Cause::TimedOut { hello: true }),
    };
    let io = reading.take_io();
    let first_bytes = io.as_ref().map(FirstBytes::first).unwrap_or_default();
    let cause = cause.unwrap_or_else(|error| self::cause(error, first_bytes.is_empty()));
    if let (Some(io), true) = (io, cause.is_ours()) {
        linger(io).await;
    }
    Err(Box::new(Failed { cause, facts: Facts::default(), seen: Seen::default(), first_bytes }))
}

fn asked(hello: &rustls::server::ClientHello<'_>) -> Asked {
    let authorities = hello.certificate_authorities().unwrap_or_default();
    Asked {
        server_name: hello.server_name().map(|name| name.to_ascii_lowercase().into()),
        schemes: hello.signature_schemes().iter().map(|scheme| u16::from(*scheme)).collect(),
        authorities: authorities.iter().map(|name| name.as_ref().to_vec()).collect(),
        offer: offer(hello),
    }
}

/// The same number for ClientHellos that offer the same suites, groups and schemes, in whatever order. GREASE values
/// (RFC 8701), which some clients draw anew for each hello, do not count.
fn offer(hello: &rustls::server::ClientHello<'_>) -> u64 {
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

impl<S: AsyncRead + AsyncWrite + Unpin> Hello<S> {
    /// What the ClientHello says about the certificate it wants.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Finishes with this acceptor. On failure the alert is sent, the writing half shut, and up to 100 ms of what still
    /// comes is drained, so that a reset does not overtake the alert.
    pub async fn finish(
        self,
        acceptor: &Acceptor,
        deadline: Instant,
    ) -> Result<Established<ServerStream<S>>, Box<Failed>> {
        let first_bytes = self.start.io.first();
        let server_name = self.asked.server_name;
        let accept = self.start.into_stream(Arc::clone(&acceptor.config)).into_fallible();
        let (ended, seen) = seen::watched(tokio::time::timeout_at(deadline, accept)).await;
        match ended {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let facts = Facts { server_name, ..facts(session) };
                let chain = chain(seen, session);
                Ok(Established { facts, chain, asked: None, stream })
            }
            Ok(Err((error, io))) => {
                let cause = cause(error, false);
                if cause.is_ours() {
                    linger(io).await;
                }
                Err(failed(cause, server_name, seen, first_bytes))
            }
            Err(_) => Err(failed(Cause::TimedOut { hello: false }, server_name, seen, first_bytes)),
        }
    }

    /// Ends it with a handshake_failure alert because no candidate fits.
    pub async fn refuse(self) -> Box<Failed> {
        let first_bytes = self.start.io.first();
        let mut io = self.start.io;
        // An alert record in the clear (RFC 8446 5.1 and 6): fatal, handshake_failure. Nothing has been answered yet.
        if io.write_all(&[21, 3, 3, 0, 2, 2, 40]).await.is_ok() {
            linger(io).await;
        }
        failed(Cause::NoKeyPair, self.asked.server_name, Seen::default(), first_bytes)
    }
}

/// Connects.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    connector: &Connector,
    deadline: Instant,
) -> Result<Established<ClientStream<S>>, Box<Failed>> {
    let connecting = TlsConnector::from(Arc::clone(&connector.config))
        .connect(connector.server_name.clone(), FirstBytes::new(Keep::new(stream)))
        .into_fallible();
    let (ended, mut seen) = seen::watched(tokio::time::timeout_at(deadline, connecting)).await;
    let server_name = match &connector.server_name {
        rustls_pki_types::ServerName::DnsName(name) => Some(Arc::from(name.as_ref())),
        _ => None,
    };
    match ended {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let facts = Facts { server_name, ..facts(session) };
            let asked = seen.asked.take();
            let chain = chain(seen, session);
            Ok(Established { facts, chain, asked, stream })
        }
        Ok(Err((error, io))) => {
            let first_bytes = io.first();
            let cause = cause(error, first_bytes.is_empty());
            if cause.is_ours() {
                linger(io).await;
            }
            Err(failed(cause, server_name, seen, first_bytes))
        }
        Err(_) => {
            let first_bytes = std::mem::take(&mut seen.first_bytes);
            Err(failed(Cause::TimedOut { hello: first_bytes.is_empty() }, server_name, seen, first_bytes))
        }
    }
}

/// What the verifier saw in a full handshake; a resumed one carries the chain of the first.
fn chain<D>(seen: Seen, session: &rustls::ConnectionCommon<D>) -> Vec<CertificateDer<'static>> {
    if !seen.chain.is_empty() {
        return seen.chain;
    }
    session.peer_certificates().map(<[_]>::to_vec).unwrap_or_default()
}

fn facts<D>(session: &rustls::ConnectionCommon<D>) -> Facts {
    Facts {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
            Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
            _ => None,
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| iana(suite.suite())),
        group: session.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        alpn: Some(if session.alpn_protocol() == Some(Alpn::H2.name()) { Alpn::H2 } else { Alpn::Http11 }),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name: None,
    }
}

/// rustls names the suites of TLS 1.3 `TLS13_…`; IANA does not.
fn iana(suite: CipherSuite) -> Option<&'static str> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some("TLS_AES_128_GCM_SHA256"),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some("TLS_AES_256_GCM_SHA384"),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some("TLS_CHACHA20_POLY1305_SHA256"),
        other => other.as_str(),
    }
}

fn failed(cause: Cause, server_name: Option<Arc<str>>, seen: Seen, first_bytes: Vec<u8>) -> Box<Failed> {
    let version = seen.tls13.map(|tls13| if tls13 { "1.3" } else { "1.2" });
    let facts = Facts { version, server_name, ..Facts::default() };
    Box::new(Failed { cause, facts, seen, first_bytes })
}

pub(super) fn cause(error: io::Error, no_byte: bool) -> Cause {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Cause::Tls(tls.clone());
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if no_byte => {
            Cause::NoByte
        }
        io::ErrorKind::UnexpectedEof => Cause::Closed,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => Cause::Reset,
        _ => Cause::Io(error),
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
