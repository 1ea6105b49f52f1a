//! Listens, above TLS, for the alert that comes after the handshake: in TLS 1.3 an upstream refuses our key pair only then.
//!
//! HTTP libraries flatten such an error to text, or lose it in a task of their own; the one reliable place is the stream.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::handshake::{Cause, Facts, Failed};
use super::seen::Seen;

/// What was heard on one stream.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<OnceLock<rustls::Error>>);

impl Heard {
    /// The failure, if TLS ended with one: in the shape that `super::explain` takes.
    pub fn failed(&self, facts: &Facts) -> Option<Failed> {
        let cause = Cause::Tls(self.0.get()?.clone());
        Some(Failed { cause, facts: facts.clone(), seen: Seen::default(), first_bytes: Vec::new() })
    }
}

/// A TLS stream that remembers how reading from it failed.
pub struct Recorder<S> {
    stream: S,
    heard: Heard,
}

impl<S> Recorder<S> {
    /// Around `stream`.
    pub fn new(stream: S) -> (Self, Heard) {
        let heard = Heard::default();
        (Self { stream, heard: heard.clone() }, heard)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorder<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read
            && let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            let _ = self.heard.0.set(error.clone());
        }
        read
    }
}

super::passing::passes_writes!(Recorder.stream);
