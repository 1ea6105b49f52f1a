//! One request over HTTP/2, on a connection of h2's client: its head, its content as the server takes it, and the interim
//! responses before its response, which hyper's client would hide.
//!
//! All of it runs in the request's own task. Content that is not sent when the response is there goes on in a task of its own.
//! A request that is given up drops its stream, which h2 then resets.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body as _;
use tokio::task::spawn_local;

use super::request_body::OutgoingBody;
use crate::http::body::BodyError;
use crate::http::content::MessageContent;
use crate::http::interim::InterimWatch;
use crate::http::taken::CountedBytes;

/// The end of a connection for requests.
pub(super) type StreamOpener = SendRequest<CountedBytes>;

/// Whether the connection takes requests: it has not ended, and the server has not said that it will.
pub(super) fn is_open(opener: &mut StreamOpener) -> bool {
    !matches!(opener.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
}

/// A request that is sent, and its response.
pub(super) struct RequestStream {
    response: ResponseFuture,
    upload: Option<ContentUpload>,
    interim: Option<InterimWatch>,
    /// The server allows the stream; before that nothing of the request is sent.
    opened: bool,
}

impl RequestStream {
    /// Sends the head of a request.
    pub(super) fn start(opener: &mut StreamOpener, request: Request<OutgoingBody>) -> Result<Self, h2::Error> {
        let (mut parts, body) = request.into_parts();
        let interim = parts.extensions.remove::<InterimWatch>();
        announce_length(&parts.method, &mut parts.headers, &body);
        let whole = body.is_end_stream();
        let (response, stream) = opener.send_request(Request::from_parts(parts, ()), whole)?;
        let upload = (!whole).then_some(ContentUpload { stream, body, chunk: None });
        Ok(Self { response, upload, interim, opened: false })
    }

    /// Whether the server has allowed its stream.
    pub(super) fn is_opened(&self) -> bool {
        self.opened
    }

    /// Ready with the response, or with what the stream has ended with. `opener` is what it was started with.
    pub(super) fn poll_response(
        &mut self,
        opener: &mut StreamOpener,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<MessageContent>, h2::Error>> {
        self.opened |= matches!(opener.poll_ready(cx), Poll::Ready(Ok(())));
        if self.opened
            && let Some(upload) = &mut self.upload
            && Pin::new(upload).poll(cx).is_ready()
        {
            self.upload = None;
        }
        if let Some(interim) = &self.interim {
            while let Poll::Ready(Some(Ok(response))) = self.response.poll_informational(cx) {
                interim.pass_interim(response.status(), response.headers());
            }
        }
        let (parts, stream) = ready!(Pin::new(&mut self.response).poll(cx))?.into_parts();
        if let Some(upload) = self.upload.take() {
            spawn_local(upload);
        }
        let content = MessageContent::from_stream(stream, &parts.headers);
        Poll::Ready(Ok(Response::from_parts(parts, content)))
    }
}

/// Says how long the content is, where that is known and the request does not.
fn announce_length(method: &Method, headers: &mut HeaderMap, body: &OutgoingBody) {
    let Some(length) = body.size_hint().exact() else { return };
    if (length > 0 || matches!(*method, Method::POST | Method::PUT | Method::PATCH))
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// The content of a request on its way; ready when all of it is given to h2, or nothing more is wanted or comes.
struct ContentUpload {
    stream: SendStream<CountedBytes>,
    body: OutgoingBody,
    /// What waits until the server takes more, and whether it is the last.
    chunk: Option<(CountedBytes, bool)>,
}

/// What became of one step.
enum UploadStep {
    More,
    Done,
}

impl ContentUpload {
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<UploadStep, h2::Error>> {
        if let Some((chunk, last)) = self.chunk.take() {
            if chunk.has_remaining() && self.stream.capacity() == 0 {
                let room = match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(room)) => room?,
                    Poll::Ready(None) => return Poll::Ready(Ok(UploadStep::Done)),
                    Poll::Pending => {
                        self.chunk = Some((chunk, last));
                        return Poll::Pending;
                    }
                };
                if room == 0 {
                    self.chunk = Some((chunk, last));
                    return Poll::Ready(Ok(UploadStep::More));
                }
            }
            self.stream.send_data(chunk, last)?;
            return Poll::Ready(Ok(if last { UploadStep::Done } else { UploadStep::More }));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => self.stream.send_data(CountedBytes::new(Bytes::new(), None), true)?,
            Some(Err(broken)) => {
                self.stream.send_reset(reset_reason(&broken));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    // The least claim on the connection's window: h2 claims the rest when it has the content.
                    self.stream.reserve_capacity(usize::from(data.has_remaining()));
                    self.chunk = Some((data, self.body.is_end_stream()));
                    return Poll::Ready(Ok(UploadStep::More));
                }
                Err(frame) => {
                    self.stream.reserve_capacity(0);
                    let Ok(trailers) = frame.into_trailers() else { return Poll::Ready(Ok(UploadStep::More)) };
                    self.stream.send_trailers(trailers)?;
                }
            },
        }
        Poll::Ready(Ok(UploadStep::Done))
    }
}

impl Future for ContentUpload {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            // Also wakes this task when the server resets the stream.
            if this.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            match ready!(this.poll_step(cx)) {
                Ok(UploadStep::More) => {}
                // The request hears the same of its response.
                Ok(UploadStep::Done) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

/// What a stream is reset with whose content has broken off: what the client has said, if it was a reset.
fn reset_reason(broken: &BodyError) -> Reason {
    let mut source = broken.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        source = error.source();
    }
    Reason::INTERNAL_ERROR
}
