//! A served TLS stream over rustls' unbuffered connection: an idle one keeps no buffer, and what comes is read in large pieces
//! into room that all streams of a thread share.
//!
//! rustls' own stream keeps 4 KiB for the next record of every connection, and reads no more than that at once
//! (docs/decisions/0048-record-stream.md). Records, keys and alerts are rustls' as before: `session` moves bytes to it and from
//! it, here they come from the stream below. The handshake before is `accept`'s.

pub(super) mod accept;
mod room;
mod session;

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use room::{RECORD_BYTES, with_room};
use session::{ReadEnd, ServerSession};

/// What is read beside content: the heads and tags of records, as a share of the content, and of the first of them.
const READ_AHEAD_SHARE: usize = 64;
const MIN_ROOM_BYTES: usize = 512;

/// A first response that takes longer is not waited for: tickets go out with the next flush or read. A tick of the worker, which comes later
/// than this, sees to it that there is one.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

/// A server's end of an established TLS connection.
pub struct RecordStream<S> {
    stream: S,
    session: ServerSession,
    /// What waits to be sent are tickets, held since then to go with the first response: a send of their own costs more than all that
    /// resuming takes besides its cryptography. Nothing else is ever held, and nothing that is written waits for them.
    held_since: Option<Instant>,
    /// Content that has come and was not asked for yet, and how much of it was handed over.
    content: Vec<u8>,
    taken: usize,
}

impl<S> RecordStream<S> {
    /// After the handshake, whose `tickets` are not sent yet; `incoming` is what came behind it, where the client has not `closed` its
    /// half already. It is opened here: rustls keeps content, and writes nothing before that is taken from it.
    fn new(
        stream: S,
        connection: UnbufferedServerConnection,
        (mut incoming, closed): (Vec<u8>, bool),
        tickets: &[u8],
    ) -> Self {
        let (mut session, mut content) = (ServerSession::new(connection), Vec::new());
        session.queue_records(tickets);
        session.open_records(&mut incoming, |opened| content.extend_from_slice(opened));
        if closed {
            session.end_reading(ReadEnd::Closed);
        }
        let held_since = (!tickets.is_empty()).then(Instant::now);
        Self { stream, session, held_since, content, taken: 0 }
    }

    /// What was negotiated.
    pub fn state(&self) -> &CommonState {
        self.session.state()
    }

    /// The stream below, what waits to be sent, and the keys for what comes after that: for a record that rustls would not write.
    pub fn into_secrets(self) -> (S, Vec<u8>, Result<ExtractedSecrets, rustls::Error>) {
        let waiting = self.session.outgoing().map(<[u8]>::to_vec).unwrap_or_default();
        (self.stream, waiting, self.session.into_secrets())
    }

    /// Whether no response has come that tickets could go with.
    fn has_held_long(&self) -> bool {
        self.held_since.is_some_and(|since| since.elapsed() >= LONGEST_HOLD)
    }

    /// Bytes for which memory is kept.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.content.capacity() + self.session.kept_bytes()
    }

    /// Hands over content that has come.
    fn give_content(&mut self, buf: &mut ReadBuf<'_>) {
        let count = buf.remaining().min(self.content.len() - self.taken);
        buf.put_slice(&self.content[self.taken..self.taken + count]);
        self.taken += count;
        if self.taken == self.content.len() {
            (self.content, self.taken) = (Vec::new(), 0);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RecordStream<S> {
    /// Reads what is there and opens its records. Ready where content has come, or nothing will.
    fn poll_receive(&mut self, cx: &mut Context<'_>, room: &mut [u8], buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let has_given = buf.filled().len() > before;
            // A large buffer is filled with what is there: an upload that goes on in large pieces costs the kernel less.
            if has_given && (buf.remaining() < RECORD_BYTES || self.session.ended().is_some()) {
                return Poll::Ready(Ok(()));
            }
            if let Some(ended) = self.session.ended() {
                let result = ended.result();
                if self.session.has_failed() {
                    // Our alert goes out as far as it can; what counts is the error.
                    let _ = self.poll_send(cx);
                }
                return Poll::Ready(result);
            }
            let held = self.session.take_held(room)?;
            // No more than `buf` takes, as far as whole records allow.
            let most = held + (buf.remaining() + buf.remaining() / READ_AHEAD_SHARE).max(RECORD_BYTES) + MIN_ROOM_BYTES;
            let most = most.min(room.len());
            let mut arriving = ReadBuf::new(&mut room[held..most]);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut arriving);
            let count = arriving.filled().len();
            if matches!(read, Poll::Ready(Ok(()))) && count > 0 {
                self.open_records(&mut room[..held + count], buf);
                continue;
            }
            self.session.hold(&room[..held]);
            match read {
                Poll::Pending if has_given => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    // A parked connection is not flushed, only read.
                    if self.has_held_long() {
                        let _ = self.poll_send(cx);
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) if !has_given => return Poll::Ready(Err(error)),
                // After an error the next read finds the end.
                Poll::Ready(_) => self.session.end_reading(ReadEnd::Broken),
            }
        }
    }

    /// Opens the records in `bytes`: as much of their content as fits goes into `buf`, the rest waits.
    fn open_records(&mut self, bytes: &mut [u8], buf: &mut ReadBuf<'_>) {
        let content = &mut self.content;
        self.session.open_records(bytes, |opened| {
            let fits = if content.is_empty() { opened.len().min(buf.remaining()) } else { 0 };
            buf.put_slice(&opened[..fits]);
            content.extend_from_slice(&opened[fits..]);
        });
    }

    /// Sends the records that wait, tickets among them.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held_since = None;
        while let Some(records) = self.session.outgoing() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, records))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.session.record_sent(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Seals the beginning of `pieces` and sends it: how much of it. What the stream does not take waits.
    fn poll_seal(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.held_since.is_none() {
            ready!(self.poll_send(cx))?;
        }
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        with_room(|room| {
            let (joined, sealed) = room.split_at_mut(RECORD_BYTES);
            let (content, records) = self.session.seal(pieces, joined, sealed)?;
            if self.session.outgoing().is_some() {
                // What rustls had to say goes first, in the same piece.
                self.session.queue_records(&sealed[..records]);
                return match self.poll_send(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Ready(Ok(content)),
                };
            }
            let mut sent = 0;
            while sent < records {
                match Pin::new(&mut self.stream).poll_write(cx, &sealed[sent..records]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => sent += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            self.session.queue_records(&sealed[sent..records]);
            Poll::Ready(Ok(content))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RecordStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.content.is_empty() {
            this.give_content(buf);
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        with_room(|room| this.poll_receive(cx, room, buf))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RecordStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Tickets are not what was written before a flush.
        if this.held_since.is_none() || this.has_held_long() {
            ready!(this.poll_send(cx))?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.session.queue_close();
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.stream).poll_shutdown(cx)) {
            // The other side has closed it already.
            Err(error) if error.kind() == ErrorKind::NotConnected => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}
