//! A request that may have to be sent again: its head, and as much of its body as is kept for that.
//!
//! The body streams while it is kept: nothing waits for it to be whole. Sent again, it begins with what was kept and
//! goes on with what is still to come. A body that has outgrown the limit has been streamed away, and cannot be sent
//! again.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Extensions, HeaderMap, Method, Request, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::http::body::{BodyError, OutgoingBody, UploadProgress};

/// A request that can be sent more than once.
pub(crate) struct ReplayableRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// Among them the callback for a 100.
    extensions: Extensions,
    body: Option<Rc<RefCell<ReplayBuffer>>>,
}

impl ReplayableRequest {
    /// Keeps `limit` bytes of the body at most.
    pub(crate) fn new(request: Request<OutgoingBody>, limit: usize) -> Self {
        let (parts, body) = request.into_parts();
        let body = (!body.is_end_stream()).then(|| Rc::new(RefCell::new(ReplayBuffer::new(body, limit))));
        Self { method: parts.method, uri: parts.uri, headers: parts.headers, extensions: parts.extensions, body }
    }

    /// Whether it may be processed twice, and is sure to fit the limit: known before a byte of it is sent.
    pub(crate) fn is_harmless(&self) -> bool {
        let fits = self.body.as_ref().is_none_or(|body| {
            let kept = body.borrow();
            kept.rest.size_hint().upper().is_some_and(|size| size <= kept.limit as u64)
        });
        self.method.is_idempotent() && fits
    }

    /// Sets the token for all further sendings.
    pub(crate) fn authorize(&mut self, token: &HeaderValue) {
        self.headers.insert(AUTHORIZATION, token.clone());
    }

    /// Whether it may be processed twice.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// Whether all of it is still there.
    pub(crate) fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(|body| !body.borrow().is_gone)
    }

    /// The request, from its beginning. An earlier sending breaks off.
    pub(crate) fn request(&self) -> Request<OutgoingBody> {
        let body = match &self.body {
            None => OutgoingBody::Empty,
            Some(kept) => {
                let turn = kept.borrow_mut().next_turn();
                OutgoingBody::Kept(ReplayBody { kept: Rc::clone(kept), turn, at: 0 })
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        request
    }
}

/// Keeps the body of a request while it is sent; the head is kept elsewhere.
pub(crate) struct BodyRetention {
    kept: Rc<RefCell<ReplayBuffer>>,
    /// There is no other user of what is kept.
    alone: bool,
}

impl BodyRetention {
    /// Keeps `limit` bytes at most from now on; more where more is kept already. `None` for a body that is held back
    /// until it is requested: it must stay as it is.
    pub(crate) fn from_body(body: &mut OutgoingBody, limit: usize) -> Option<Self> {
        if let OutgoingBody::Kept(turn) = body {
            return Some(Self { kept: Rc::clone(&turn.kept), alone: false });
        }
        if body.gate().is_some() {
            return None;
        }
        let rest = std::mem::replace(body, OutgoingBody::Empty);
        let kept = Rc::new(RefCell::new(ReplayBuffer::new(rest, limit)));
        let turn = kept.borrow_mut().next_turn();
        *body = OutgoingBody::Kept(ReplayBody { kept: Rc::clone(&kept), turn, at: 0 });
        Some(Self { kept, alone: true })
    }

    /// The body from its beginning, if all of it is still there. An earlier sending breaks off.
    pub(crate) fn restart_body(&self) -> Option<OutgoingBody> {
        let mut kept = self.kept.borrow_mut();
        let turn = (!kept.is_gone).then(|| kept.next_turn())?;
        Some(OutgoingBody::Kept(ReplayBody { kept: Rc::clone(&self.kept), turn, at: 0 }))
    }

    /// Stops keeping what comes from now on.
    pub(crate) fn stop_retaining(self) {
        if self.alone {
            // The next frame discards what was kept; until then a later sending may still need it.
            self.kept.borrow_mut().limit = 0;
        }
    }
}

/// A body, and what is kept of it.
pub(crate) struct ReplayBuffer {
    rest: OutgoingBody,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: usize,
    limit: usize,
    /// It has ended.
    ended: bool,
    /// Its beginning was not kept, or it has broken off.
    is_gone: bool,
    turn: u32,
    /// Woken when the next frame arrives or another sending starts.
    waiting: Option<Waker>,
}

impl ReplayBuffer {
    fn new(rest: OutgoingBody, limit: usize) -> Self {
        Self {
            rest,
            frames: Vec::new(),
            trailers: None,
            size: 0,
            limit,
            ended: false,
            is_gone: false,
            turn: 0,
            waiting: None,
        }
    }

    fn next_turn(&mut self) -> u32 {
        self.turn += 1;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        self.turn
    }

    /// Polls the source for the next frame, and keeps it while there is room.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.rest).poll_frame(cx) else {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.retain_data(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                }
            }
            Some(Err(_)) => self.is_gone = true,
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn retain_data(&mut self, data: &Bytes) {
        self.size += data.len();
        if self.size > self.limit {
            self.is_gone = true;
            self.frames = Vec::new();
        } else if !self.is_gone {
            self.frames.push(data.clone());
        }
    }
}

/// One sending of a kept body.
pub(crate) struct ReplayBody {
    kept: Rc<RefCell<ReplayBuffer>>,
    turn: u32,
    /// How many of the kept frames have been sent.
    at: usize,
}

impl ReplayBody {
    /// The progress of the body, as the client sends it.
    pub(crate) fn upload(&self) -> Option<Rc<UploadProgress>> {
        self.kept.borrow().rest.upload()
    }
}

impl HttpBody for ReplayBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut kept = this.kept.borrow_mut();
        if kept.turn != this.turn {
            return Poll::Ready(Some(Err(BodyError::SentAgain)));
        }
        if let Some(data) = kept.frames.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if let Some(trailers) = kept.trailers.as_ref().filter(|_| this.at == kept.frames.len()) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        let polled = kept.poll(cx);
        this.at = kept.frames.len() + usize::from(kept.trailers.is_some());
        polled
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        let given = self.at >= kept.frames.len() + usize::from(kept.trailers.is_some());
        given && (kept.ended || kept.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let left: usize = kept.frames.iter().skip(self.at).map(Bytes::len).sum();
        let rest = kept.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + left as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + left as u64);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    fn post_request(frames: &[Bytes], trailers: bool) -> Request<OutgoingBody> {
        let trailers = trailers.then(|| HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]));
        let mut request = Request::new(OutgoingBody::from_frames(frames.to_vec(), trailers));
        *request.method_mut() = Method::POST;
        request
    }

    /// Takes so many frames.
    fn poll_one_frame(body: &mut OutgoingBody, count: usize) -> Vec<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = Vec::new();
        while taken.len() < count {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => taken.extend(frame.into_data()),
                _ => break,
            }
        }
        taken
    }

    #[tokio::test]
    async fn a_request_sent_again_breaks_the_first_sending_off() {
        let replay = ReplayableRequest::new(post_request(&[Bytes::from("a"), Bytes::from("b")], false), 10);
        let mut first = replay.request().into_body();
        assert_eq!(poll_one_frame(&mut first, 1), ["a"]);
        let second = replay.request().into_body();
        assert_eq!(second.size_hint().exact(), Some(2));
        assert_eq!(second.collect().await.unwrap().to_bytes(), "ab");
        assert!(matches!(first.frame().await, Some(Err(BodyError::SentAgain))));
    }

    #[test]
    fn only_idempotent_requests_that_fit_are_harmless() {
        let with = |method: Method, limit: usize| {
            let mut request = post_request(&[Bytes::from("four")], false);
            *request.method_mut() = method;
            ReplayableRequest::new(request, limit).is_harmless()
        };
        assert!(with(Method::PUT, 4) && with(Method::DELETE, 4));
        assert!(!with(Method::PUT, 3) && !with(Method::POST, 4));
        assert!(ReplayableRequest::new(Request::new(OutgoingBody::Empty), 0).is_harmless());
    }

    proptest! {
        /// Whatever was taken before, a request is the same when it is sent again, or it is known to be gone.
        #[test]
        fn it_is_whole_again_or_known_to_be_gone(
            frames in proptest::collection::vec("[a-z]{1,5}", 0..6), trailers: bool, limit in 0usize..30,
            taken in proptest::collection::vec(0usize..8, 0..4),
        ) {
            let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
            let all: Vec<u8> = frames.concat();
            let replay = ReplayableRequest::new(post_request(&frames, trailers), limit);
            let mut most = 0;
            for count in taken {
                let mut body = replay.request().into_body();
                if !replay.is_whole() {
                    break;
                }
                let got = poll_one_frame(&mut body, count).concat();
                prop_assert_eq!(&all[..got.len()], &got[..]);
                most = most.max(got.len());
            }
            prop_assert_eq!(replay.is_whole(), most <= limit);
            if replay.is_whole() {
                let whole = block_on(replay.request().into_body().collect()).unwrap();
                prop_assert_eq!(whole.trailers().is_some(), trailers);
                prop_assert_eq!(whole.to_bytes(), all);
            }
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
}
