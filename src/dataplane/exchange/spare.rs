//! The copy of a request that is kept in case it has to be sent again.
//!
//! Its head is kept as flat text: almost none is ever needed, and a copy of the map would cost an allocation for most
//! values.

use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Extensions, Method, Request, Uri, Version};
use hyper::body::Body as _;

use super::replay::BodyRetention;
use super::request_body::OutgoingBody;

/// Room for a usual request's head, so that keeping it costs one allocation.
const HEAD_CAPACITY: usize = 1024;

/// A copy of a request, to send it again.
pub(super) struct RetryCopy {
    method: Method,
    version: Version,
    path: usize,
    text: Vec<u8>,
    /// Among them the callback for a 100.
    extensions: Extensions,
    content: Option<BodyRetention>,
}

/// Marks the length of a name with a value that must not be indexed (RFC 7541 7.1.3).
const SENSITIVE_FLAG: u32 = 1 << 31;

impl RetryCopy {
    /// Copies an idempotent request without content.
    pub(super) fn from_idempotent(request: &Request<OutgoingBody>) -> Option<Self> {
        let harmless = request.method().is_idempotent() && request.body().is_end_stream();
        if harmless { Self::copy_head(request) } else { None }
    }

    /// Copies any request; its content is kept from now on, `limit` bytes at most.
    pub(super) fn with_content(request: &mut Request<OutgoingBody>, limit: usize) -> Option<Self> {
        if request.body().is_end_stream() {
            return Self::copy_head(request);
        }
        let content = BodyRetention::from_body(request.body_mut(), limit);
        Some(Self { content: Some(content), ..Self::copy_head(request)? })
    }

    fn copy_head(request: &Request<OutgoingBody>) -> Option<Self> {
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let mut text = Vec::with_capacity(HEAD_CAPACITY);
        text.extend_from_slice(path.as_bytes());
        for (name, value) in request.headers() {
            let (name, sensitive) = (name.as_str().as_bytes(), if value.is_sensitive() { SENSITIVE_FLAG } else { 0 });
            text.extend_from_slice(&(u32::try_from(name.len()).ok()? | sensitive).to_ne_bytes());
            text.extend_from_slice(&u32::try_from(value.len()).ok()?.to_ne_bytes());
            text.extend_from_slice(name);
            text.extend_from_slice(value.as_bytes());
        }
        Some(Self {
            method: request.method().clone(),
            version: request.version(),
            path: path.len(),
            text,
            extensions: request.extensions().clone(),
            content: None,
        })
    }

    /// Whether it may be processed twice, and has no content.
    pub(super) fn is_harmless(&self) -> bool {
        self.content.is_none() && self.method.is_idempotent()
    }

    /// Releases the copy: it is not needed any more.
    pub(super) fn release(self) {
        if let Some(content) = self.content {
            content.stop_retaining();
        }
    }

    /// The request, its target in origin form: the connection that carries it adapts it.
    /// `None` where the content is gone.
    pub(super) fn into_request(self) -> Option<Request<OutgoingBody>> {
        let mut request = Request::new(match &self.content {
            None => OutgoingBody::Empty,
            Some(content) => content.restart_body()?,
        });
        let (path, mut fields) = self.text.split_at_checked(self.path)?;
        *request.uri_mut() = Uri::try_from(path).ok()?;
        while let Some((length, rest)) = fields.split_first_chunk() {
            let (value_length, rest) = rest.split_first_chunk()?;
            let length = u32::from_ne_bytes(*length);
            let (name, rest) = rest.split_at_checked((length & !SENSITIVE_FLAG) as usize)?;
            let (value, rest) = rest.split_at_checked(u32::from_ne_bytes(*value_length) as usize)?;
            let mut value = HeaderValue::from_bytes(value).ok()?;
            value.set_sensitive(length & SENSITIVE_FLAG != 0);
            request.headers_mut().append(HeaderName::from_bytes(name).ok()?, value);
            fields = rest;
        }
        *request.method_mut() = self.method;
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions;
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::header::{AUTHORIZATION, COOKIE, HOST};
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_request_without_content_can_be_made_again_field_by_field() {
        let mut secret = HeaderValue::from_static("Bearer a");
        secret.set_sensitive(true);
        let request = Request::delete("/a/b?c=%20")
            .header(HOST, "api.example")
            .header(AUTHORIZATION, secret)
            .header(COOKIE, "a=1")
            .header(COOKIE, "")
            .header("x-name", HeaderValue::from_bytes(b"\xff, b").unwrap())
            .body(OutgoingBody::Empty)
            .unwrap();
        let again = RetryCopy::from_idempotent(&request).unwrap().into_request().unwrap();
        assert_eq!((again.method(), again.uri()), (request.method(), request.uri()));
        assert_eq!(again.headers(), request.headers());
        assert!(again.headers()[AUTHORIZATION].is_sensitive() && !again.headers()[HOST].is_sensitive());
    }

    #[test]
    fn a_request_that_changes_something_each_time_or_has_content_is_not_kept() {
        assert!(RetryCopy::from_idempotent(&Request::post("/").body(OutgoingBody::Empty).unwrap()).is_none());
        let content = OutgoingBody::from_frames(vec![Bytes::from_static(b"a")], None);
        assert!(RetryCopy::from_idempotent(&Request::put("/").body(content).unwrap()).is_none());
    }

    #[tokio::test]
    async fn content_can_be_sent_again_as_long_as_it_fits_and_its_answer_has_not_come() {
        let post = || {
            let content = OutgoingBody::from_frames(vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")], None);
            Request::post("/").body(content).unwrap()
        };
        let mut request = post();
        let spare = RetryCopy::with_content(&mut request, 3).unwrap();
        assert!(!spare.is_harmless());
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "abc");
        assert_eq!(spare.into_request().unwrap().into_body().collect().await.unwrap().to_bytes(), "abc");
        let mut request = post();
        let spare = RetryCopy::with_content(&mut request, 2).unwrap();
        request.into_body().collect().await.unwrap();
        assert!(spare.into_request().is_none());
        let mut request = post();
        RetryCopy::with_content(&mut request, 3).unwrap().release();
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "abc");
    }
}
