//! Runs handshakes: the ClientHello first, then the rest with the chosen pair; or a connect. Always under a deadline.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::seen::Seen;
use super::{Acceptor, Alpn, Connector};
use crate::keyring::Asked;

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
    /// The first bytes that came (up to 8), to name a protocol that is not TLS.
    pub first_bytes: Vec<u8>,
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
    /// The deadline passed; `hello`: before the ClientHello was whole.
    TimedOut {
        /// Before the ClientHello was whole.
        hello: bool,
    },
    /// No candidate fits what the hello accepts (said by the caller).
    NoKeyPair,
    /// Any other I/O error.
    Io(std::io::Error),
}

/// A server-side TLS stream.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<FirstBytes<S>>;
/// A client-side TLS stream.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<FirstBytes<S>>;

/// Passes everything through (vectored writes too) and remembers the first 8 bytes that were read.
pub struct FirstBytes<S> {
    _inner: S,
    // yours
}

/// A ClientHello that was read; nothing has been answered yet.
pub struct Hello<S> {
    _inner: FirstBytes<S>,
    // yours: tokio_rustls::StartHandshake
}

/// Reads a ClientHello.
pub async fn hello<S: AsyncRead + AsyncWrite + Unpin>(stream: S, deadline: Instant) -> Result<Hello<S>, Box<Failed>> {
    let _ = (stream, deadline);
    todo!()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Hello<S> {
    /// What the ClientHello says about the certificate it wants.
    pub fn asked(&self) -> Asked {
        todo!()
    }
    /// Finishes with this acceptor. On failure the alert is sent, the writing half shut, and up to 100 ms of what still
    /// comes is drained, so that a reset does not overtake the alert.
    pub async fn finish(
        self,
        acceptor: &Acceptor,
        deadline: Instant,
    ) -> Result<Established<ServerStream<S>>, Box<Failed>> {
        let _ = (acceptor, deadline);
        todo!()
    }
    /// Ends it with a handshake_failure alert because no candidate fits (or access_denied).
    pub async fn refuse(self) -> Box<Failed> {
        todo!()
    }
}

/// Connects.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    connector: &Connector,
    deadline: Instant,
) -> Result<Established<ClientStream<S>>, Box<Failed>> {
    let _ = (stream, connector, deadline);
    todo!()
}
