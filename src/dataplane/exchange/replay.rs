//! A request that may have to be sent again: its head, and as much of its body as is kept for that.
//!
//! What was streamed away cannot be sent again: `request_body` keeps the body while it is sent.

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Extensions, HeaderMap, Method, Request, Uri};
use http_body::Body as _;

use super::request_body::{OutgoingBody, ReplaySource};
use crate::evidence::proved::RequestClass;

/// A request that can be sent more than once.
pub(crate) struct ReplayableRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// Among them the callback for a 100.
    extensions: Extensions,
    body: Option<ReplaySource>,
}

impl ReplayableRequest {
    /// Keeps `limit` bytes of the body at most.
    pub(crate) fn new(request: Request<OutgoingBody>, limit: usize) -> Self {
        let (parts, body) = request.into_parts();
        let body = (!body.is_end_stream()).then(|| ReplaySource::new(body, limit));
        Self { method: parts.method, uri: parts.uri, headers: parts.headers, extensions: parts.extensions, body }
    }

    /// Whether it may be processed twice, and is sure to fit the limit: known before a byte of it is sent.
    pub(crate) fn is_harmless(&self) -> bool {
        self.method.is_idempotent() && self.body.as_ref().is_none_or(ReplaySource::fits_limit)
    }

    /// Sets the token for all further sendings.
    pub(crate) fn authorize(&mut self, token: &HeaderValue) {
        self.headers.insert(AUTHORIZATION, token.clone());
    }

    /// What it asks for, as far as answers to different key pairs are compared.
    pub(crate) fn class(&self) -> RequestClass {
        RequestClass::new(self.method.as_str(), self.uri.path())
    }

    /// Whether it may be processed twice.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// Whether all of it is still there.
    pub(crate) fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(|body| !body.is_gone())
    }

    /// The request, from its beginning. An earlier sending breaks off.
    pub(crate) fn request(&self) -> Request<OutgoingBody> {
        let body = self.body.as_ref().map_or(OutgoingBody::Empty, ReplaySource::start_sending);
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        request
    }
}

/// Keeps the body of a request while it is sent; the head is kept elsewhere.
pub(super) struct BodyRetention {
    kept: ReplaySource,
    /// There is no other user of what is kept.
    alone: bool,
}

impl BodyRetention {
    /// Keeps `limit` bytes at most from now on; more where more is kept already. `None` for a body that is held back
    /// until it is requested: it must stay as it is.
    pub(super) fn from_body(body: &mut OutgoingBody, limit: usize) -> Option<Self> {
        if let OutgoingBody::Kept(turn) = body {
            return Some(Self { kept: turn.retained().clone(), alone: false });
        }
        if body.gate().is_some() {
            return None;
        }
        let kept = ReplaySource::new(std::mem::replace(body, OutgoingBody::Empty), limit);
        *body = kept.start_sending();
        Some(Self { kept, alone: true })
    }

    /// The body from its beginning, if all of it is still there. An earlier sending breaks off.
    pub(super) fn restart_body(&self) -> Option<OutgoingBody> {
        (!self.kept.is_gone()).then(|| self.kept.start_sending())
    }

    /// Stops keeping what comes from now on.
    pub(super) fn stop_retaining(self) {
        if self.alone {
            self.kept.stop_retaining();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::http::body::BodyError;

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
