//! Waits for the first application data of a peer: the only proof that it accepts the key pair it was shown (contract
//! section 4). Many clients judge a certificate after the handshake (pins, host name verifiers) and just leave.
//!
//! A stream right above TLS looks at what is read until there is a verdict, once a connection, and only while the pair's
//! keyring is in overlap. What follows from the verdict is for `evidence` to say.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::learning::ConnectionLesson;
use crate::dataplane::attempt::HandshakeAttempt;
use crate::event::{ANONYMOUS_IDENTITY, Event, EventBus, PeerProofOutcome, PeerProofRecord};
use crate::keyring::KeyPairCandidate;
use crate::tls::handshake::received_alert;
use crate::tls::{AlpnProtocol, HandshakeFacts};
use crate::trust::Peer;

/// The client's connection preface of HTTP/2 (RFC 9113 3.4), without its SETTINGS frame.
const PREFACE_LENGTH: usize = 24;
/// A frame's header (RFC 9113 4.1).
const FRAME_HEADER_LENGTH: usize = 9;

/// A stream that watches for its first application data.
pub(super) struct FirstDataStream<S> {
    stream: S,
    /// `None`: there is a verdict, or none is wanted.
    watch: Option<Box<FirstDataWatch>>,
}

/// What waits for a verdict, and the peer and pair that it is about.
pub(super) struct FirstDataWatch {
    events: Arc<EventBus>,
    /// What will be reported, without a verdict yet.
    record: PeerProofRecord,
    /// Where it is remembered, if anything may be learned from it.
    lesson: Option<ConnectionLesson>,
    /// On HTTP/2: where the first request begins.
    frames: Option<RequestFrameScanner>,
}

impl<S> FirstDataStream<S> {
    pub(super) fn new(stream: S, watch: Option<Box<FirstDataWatch>>) -> Self {
        Self { stream, watch }
    }

    /// Looks at what a read has given: `received` are its bytes, `end` says that it was the last.
    fn observe_read(&mut self, received: &[u8], end: Option<&io::Result<()>>) {
        let Some(watch) = &mut self.watch else { return };
        if watch.frames.as_mut().map_or(!received.is_empty(), |frames| frames.find_request(received)) {
            watch.report(PeerProofRecord::proved);
        } else if let Some(end) = end {
            let alert = end.as_ref().err().and_then(received_alert);
            watch.report(|record| record.ended(alert));
        } else {
            return;
        }
        self.watch = None;
    }

    /// Looks at the outcome of a write: a peer that has left is noticed by the first thing that is written to it.
    fn observe_write<T>(&mut self, polled: &Poll<io::Result<T>>) {
        if let (Some(watch), Poll::Ready(Err(error))) = (&mut self.watch, polled) {
            let alert = received_alert(error);
            watch.report(|record| record.ended(alert));
            self.watch = None;
        }
    }
}

impl FirstDataWatch {
    /// Of a connection that showed this pair to this peer.
    pub(super) fn new(
        events: &Arc<EventBus>,
        shown: &KeyPairCandidate,
        (facts, peer): (&HandshakeFacts, Option<&Peer>),
        attempt: &HandshakeAttempt,
        lesson: Option<ConnectionLesson>,
    ) -> Box<Self> {
        let record = PeerProofRecord {
            listener: Arc::clone(&attempt.listener),
            keyring: Arc::clone(&shown.keyring),
            key_pair: shown.key_pair,
            outcome: PeerProofOutcome::UnexplainedEnd,
            reason: "",
            identity: peer.map_or(ANONYMOUS_IDENTITY, Peer::identity).into(),
            partner: peer.and_then(Peer::partner).cloned(),
            certificate: peer.map(|peer| peer.certificate().fingerprint()),
            source: attempt.address.map(|from| from.ip().to_canonical()),
            explanation: String::new(),
            connection: attempt.connection,
            epoch: attempt.epoch,
        };
        let frames = (facts.alpn == Some(AlpnProtocol::H2)).then(RequestFrameScanner::default);
        Box::new(Self { events: Arc::clone(events), record, lesson, frames })
    }

    fn report(&self, conclude: impl FnOnce(PeerProofRecord) -> PeerProofRecord) {
        let proof = Arc::new(conclude(self.record.clone()));
        self.events.emit(Event::PeerProof(Arc::clone(&proof)));
        if let Some(lesson) = &self.lesson {
            lesson.record(&proof, self.events.recording_now());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstDataStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining() > 0);
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.watch.is_some()
            && let Poll::Ready(outcome) = &read
        {
            let received = &buf.filled()[before..];
            let ended = outcome.is_err() || received.is_empty() && room;
            self.observe_read(received, ended.then_some(outcome));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstDataStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.observe_write(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.observe_write(&polled);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.observe_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Finds the first frame of HTTP/2 that belongs to a request. The preface and SETTINGS prove nothing: a client's library
/// may write them as soon as TLS is there, before its application has looked at our certificate.
#[derive(Clone, Debug)]
pub(super) struct RequestFrameScanner {
    skip: usize,
    header: [u8; FRAME_HEADER_LENGTH],
    filled: usize,
}

impl Default for RequestFrameScanner {
    fn default() -> Self {
        Self { skip: PREFACE_LENGTH, header: [0; FRAME_HEADER_LENGTH], filled: 0 }
    }
}

impl RequestFrameScanner {
    /// Whether a HEADERS or DATA frame has begun within these bytes, which follow those of the last call.
    fn find_request(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let Some((first, rest)) = bytes.split_first() else { return false };
            (self.header[self.filled], self.filled, bytes) = (*first, self.filled + 1, rest);
            if self.filled == FRAME_HEADER_LENGTH {
                let [high, middle, low, kind, ..] = self.header;
                if kind <= 1 {
                    return true;
                }
                self.filled = 0;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        [vec![0, 0, length, kind, 0, 0, 0, 0, 0], vec![1; usize::from(length)]].concat()
    }

    #[test]
    fn a_request_of_http_2_begins_with_its_headers_and_not_with_the_preface_however_it_is_cut() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let [settings, window, acknowledged, headers] = [frame(4, 18), frame(8, 4), frame(4, 0), frame(1, 30)];
        let hello = [preface, settings, window, acknowledged].concat();
        for step in [1, 2, 3, 9, 24, 500] {
            let mut frames = RequestFrameScanner::default();
            assert!(!hello.chunks(step).any(|chunk| frames.find_request(chunk)), "{step}");
            assert!(headers.chunks(step).any(|chunk| frames.find_request(chunk)), "{step}");
        }
        let mut frames = RequestFrameScanner::default();
        assert!(frames.find_request(&[hello, headers].concat()));
    }
}
