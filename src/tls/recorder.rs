//! Listens, above TLS, for the alert that comes after the handshake: in TLS 1.3 an upstream refuses our key pair only then.
//!
//! HTTP libraries flatten such an error to text, or lose it in a task of their own; the one reliable place is the stream.
//! What an alert means for the request is `dataplane`'s business; here it is only told from one that came later, when a request
//! may have been processed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::handshake::{ClientStream, FailedHandshake, HandshakeFacts, HandshakeFailureCause};
use super::seen::HandshakeObservation;

/// Bytes that are read ahead while an alert is waited for.
const READ_AHEAD_BYTES: usize = 4096;

/// How reading from one stream ended.
#[derive(Clone, Debug, Default)]
pub struct RecorderHandle(Arc<OnceLock<TlsStreamEnd>>);

#[derive(Debug)]
struct TlsStreamEnd {
    error: rustls::Error,
    /// Nothing had been received since the handshake: no ticket, no byte.
    first: bool,
}

impl RecorderHandle {
    /// The failure, if TLS ended with one: in the shape that `super::explain` takes.
    pub fn failure(&self, facts: &HandshakeFacts) -> Option<FailedHandshake> {
        let cause = HandshakeFailureCause::Tls(self.0.get()?.error.clone());
        Some(FailedHandshake {
            cause,
            facts: facts.clone(),
            seen: HandshakeObservation::default(),
            first_bytes: Vec::new(),
        })
    }

    /// Whether it ended with a refusal of our key pair as the first thing that was received after it: then the other side
    /// has not finished the handshake, and so has processed nothing.
    pub fn is_refusal(&self) -> bool {
        self.0.get().is_some_and(|ended| ended.first && super::refusal::is_about_certificate(&ended.error))
    }
}

/// What the recorder needs from the TLS session below.
pub trait SessionTickets {
    /// Tickets received so far: they are sent after a finished handshake only (RFC 8446 4.6.1).
    fn tickets(&self) -> u32;
}

impl<S> SessionTickets for ClientStream<S> {
    fn tickets(&self) -> u32 {
        self.get_ref().1.tls13_tickets_received()
    }
}

/// What waiting for an alert has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// The other side has gone on: it has finished the handshake.
    Taken,
    /// Nothing came.
    Quiet,
    /// The stream has ended; [`RecorderHandle`] says whether with an alert.
    Ended,
}

/// A TLS stream that remembers how reading from it failed.
pub struct AlertRecorder<S> {
    stream: S,
    heard: RecorderHandle,
    /// Read ahead, and not given to the reader yet.
    ahead: Vec<u8>,
    began: bool,
}

impl<S> AlertRecorder<S> {
    /// Around `stream`.
    pub fn new(stream: S) -> (Self, RecorderHandle) {
        let heard = RecorderHandle::default();
        (Self { stream, heard: heard.clone(), ahead: Vec::new(), began: false }, heard)
    }
}

impl<S: AsyncRead + SessionTickets + Unpin> AlertRecorder<S> {
    /// Waits until `deadline` for an alert or another end, or for a sign that none will come: a byte, and if `by_ticket` a
    /// ticket. Some servers finish the handshake, tickets and all, and only then look at the certificate. What is read
    /// meanwhile is kept.
    pub async fn settle(&mut self, deadline: Instant, by_ticket: bool) -> SettleOutcome {
        let mut bytes = [0; READ_AHEAD_BYTES];
        let waited = poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut bytes);
            match self.receive(cx, &mut buf) {
                Poll::Pending if by_ticket && self.stream.tickets() > 0 => Poll::Ready(SettleOutcome::Taken),
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.ahead.extend_from_slice(buf.filled());
                    Poll::Ready(SettleOutcome::Taken)
                }
                Poll::Ready(_) => Poll::Ready(SettleOutcome::Ended),
            }
        });
        timeout_at(deadline, waited).await.unwrap_or(SettleOutcome::Quiet)
    }

    fn receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) => self.began |= buf.filled().len() > before,
            Poll::Ready(Err(error)) => {
                if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    let first = !self.began && self.stream.tickets() == 0;
                    let _ = self.heard.0.set(TlsStreamEnd { error: error.clone(), first });
                }
            }
            Poll::Pending => {}
        }
        read
    }
}

impl<S: AsyncRead + SessionTickets + Unpin> AsyncRead for AlertRecorder<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return self.receive(cx, buf);
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        Poll::Ready(Ok(()))
    }
}

super::passing::passes_writes!(AlertRecorder.stream);
