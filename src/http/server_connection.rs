//! One HTTP/1.1 connection to a backend or upstream, for requests without content: the head goes out and the response comes in
//! within the request's own task, without hyper's dispatcher between them.
//!
//! Generic over the stream, which is boxed. Requests with content or an upgrade are hyper's: it gets the stream. What a response
//! looks like is `head`'s, how its content is told apart is `decoder`'s, and reading it is `response_content`'s.

pub mod decoder;
pub mod fault;
pub mod head;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use self::decoder::{ChunkDecoder, ChunkStep, ContentDecoder};
use self::fault::{MAX_HEAD_BYTES, ResponseFault};
use self::head::{ReceivedHead, encode_request_head, is_head_complete, parse_response_head};
use super::interim::InterimWatch;

/// Room that a read finds at least, and the room that is made where it finds less: usually, and for content that is known to be
/// long. Several reads share what is made.
const LEAST_ROOM: usize = 2 * 1024;
const USUAL_ROOM: usize = 8 * 1024;
const LEAST_CONTENT_ROOM: usize = 16 * 1024;
const CONTENT_ROOM: usize = 64 * 1024;
/// A head that was larger gives its buffer back.
const KEPT_OUTPUT_BYTES: usize = 4 * 1024;

/// A stream of bytes, whatever it is made of.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for S {}

/// How far the present request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExchangePhase {
    /// None runs.
    Idle,
    /// Nothing of it is sent: first it is seen whether the server has closed the connection.
    Unsent,
    /// Its head is being sent, or its response awaited.
    Sent,
    /// The response's head is here, its content is not over.
    Content,
    /// Nothing further can be exchanged.
    Over,
}

/// A connection that carries one request after another.
pub(crate) struct ServerConnection {
    /// Gone once hyper has it, or once it is closed.
    stream: Option<Box<dyn ByteStream>>,
    /// What has come and is not used yet.
    received: BytesMut,
    /// How far the end of a head has been searched for.
    searched: usize,
    /// The head that is being sent, and how much of it is.
    output: Vec<u8>,
    written: usize,
    flushed: bool,
    phase: ExchangePhase,
    /// The server keeps the connection open after the present response.
    keeps_alive: bool,
}

impl ServerConnection {
    /// On a connected stream.
    pub(crate) fn new(stream: impl ByteStream) -> Self {
        Self {
            stream: Some(Box::new(stream)),
            received: BytesMut::new(),
            searched: 0,
            output: Vec::new(),
            written: 0,
            flushed: true,
            phase: ExchangePhase::Idle,
            keeps_alive: true,
        }
    }

    /// Gives the stream to another owner; `None` where it is not between two requests.
    pub(crate) fn release_stream(&mut self) -> Option<Box<dyn ByteStream>> {
        if !self.is_reusable() {
            return None;
        }
        self.phase = ExchangePhase::Over;
        self.stream.take()
    }

    /// Closes it: what still waits for bytes of it gets an error.
    pub(crate) fn close(&mut self) {
        self.phase = ExchangePhase::Over;
        self.stream = None;
    }

    /// Whether it stands between two requests, and may carry another.
    pub(crate) fn is_reusable(&self) -> bool {
        self.phase == ExchangePhase::Idle && self.keeps_alive && self.received.is_empty() && self.stream.is_some()
    }

    /// Whether the server has neither closed it nor sent anything since the last response.
    pub(crate) fn poll_silent(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_reusable() && self.poll_receive(cx, 0).is_pending()
    }

    /// Whether anything of the present request may have been sent.
    pub(crate) fn has_sent(&self) -> bool {
        self.phase != ExchangePhase::Unsent
    }

    /// Begins a request, whose content is not sent.
    pub(crate) fn begin_request<B>(&mut self, request: &Request<B>) {
        self.output.clear();
        encode_request_head(request, &mut self.output);
        (self.written, self.flushed, self.searched) = (0, false, 0);
        self.phase = ExchangePhase::Unsent;
    }

    /// Sends what is left of the request and waits for the head of its response. Interim responses go to the request's watch;
    /// its map of fields is used again for those of the response.
    pub(crate) fn poll_response<B>(
        &mut self,
        request: &mut Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, ContentDecoder), ResponseFault>> {
        let begins = self.phase == ExchangePhase::Unsent;
        if begins {
            // From now on this task is woken by what comes.
            if self.poll_receive(cx, 0).is_ready() {
                return Poll::Ready(Err(ResponseFault::Ended));
            }
            self.phase = ExchangePhase::Sent;
        }
        let sent = if self.flushed { Poll::Pending } else { self.poll_send(cx) };
        let Poll::Ready(Err(broken)) = sent else {
            return if begins { Poll::Pending } else { self.poll_head(request, cx) };
        };
        // A server that refuses a request may close without reading all of it, and its response may be here nevertheless.
        match self.poll_head(request, cx) {
            Poll::Ready(Ok(head)) => Poll::Ready(Ok(head)),
            _ => Poll::Ready(Err(broken.into())),
        }
    }

    /// The head of the response, as far as it has come.
    fn poll_head<B>(
        &mut self,
        request: &mut Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, ContentDecoder), ResponseFault>> {
        loop {
            while let Some(head) = self.parse_head(request)? {
                let ReceivedHead { response, content, keeps_alive } = head;
                let Some(content) = content else {
                    if let Some(watch) = request.extensions().get::<InterimWatch>() {
                        watch.pass_interim(response.status(), response.headers());
                    }
                    continue;
                };
                self.keeps_alive = keeps_alive && self.flushed;
                self.phase = ExchangePhase::Content;
                return Poll::Ready(Ok((response, content)));
            }
            if ready!(self.poll_receive(cx, 0))? == 0 {
                return Poll::Ready(Err(ResponseFault::Ended));
            }
        }
    }

    /// The next head, if it is whole.
    fn parse_head<B>(&mut self, request: &mut Request<B>) -> Result<Option<ReceivedHead>, ResponseFault> {
        let whole = self.searched == 0 || is_head_complete(&self.received, self.searched);
        let of_head = *request.method() == Method::HEAD;
        let head = if whole && !self.received.is_empty() {
            parse_response_head(&mut self.received, of_head, request.headers_mut())?
        } else {
            None
        };
        self.searched = if head.is_some() { 0 } else { self.received.len() };
        if self.searched > MAX_HEAD_BYTES {
            return Err(ResponseFault::Malformed("its head is too large"));
        }
        Ok(head)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        while self.written < self.output.len() {
            let count = ready!(Pin::new(&mut **stream).poll_write(cx, &self.output[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        ready!(Pin::new(&mut **stream).poll_flush(cx))?;
        self.flushed = true;
        if self.output.capacity() > KEPT_OUTPUT_BYTES {
            self.output = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Receives more, where `most` bytes of content are awaited: how many came, 0 at the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if self.received.capacity() - self.received.len() < most.clamp(LEAST_ROOM, LEAST_CONTENT_ROOM) {
            self.received.reserve(most.clamp(USUAL_ROOM, CONTENT_ROOM));
        }
        pin!(stream.read_buf(&mut self.received)).poll(cx)
    }

    /// Removes everything that is not content from the beginning of what was received.
    pub(super) fn decode_chunks(&mut self, chunks: &mut ChunkDecoder) -> Result<ChunkStep, ResponseFault> {
        chunks.decode(&mut self.received)
    }

    /// Receives more of what lies between two parts of content: how many bytes came, 0 at the end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_receive(cx, 0)
    }

    /// The next bytes of content, `most` at most; none at the end of the connection.
    pub(super) fn poll_content_bytes(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<Result<Bytes, ResponseFault>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if self.received.is_empty() {
            ready!(self.poll_receive(cx, most))?;
        }
        let count = most.min(self.received.len());
        Poll::Ready(Ok(self.received.split_to(count).freeze()))
    }

    /// The response is whole; `reusable`: its end did not take the end of the connection.
    pub(super) fn end_response(&mut self, reusable: bool) {
        self.keeps_alive &= reusable;
        self.phase = ExchangePhase::Idle;
    }
}

#[cfg(test)]
mod tests;
