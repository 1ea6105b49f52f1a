//! One request → one response, either side, never an error.
//!
//! What both sides have in common: the form of an outgoing request, the form of the returned response, and
//! the sidecar's own response where there is none.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use super::Error;
use super::access::Record;
use super::body::{Body, Outgoing, Relay, Upload};
use super::expect::Held;
use super::fields::{Cleaned, Strip, clean_response};
use super::jwt;
use super::link::{Destination, Link};
use super::open::Signal;
use super::pool::{self, Origin};
use super::upgrade::{self, Tunnel};
use super::waits::Waits;
use crate::snapshot::Side;
use crate::snapshot::ingress::Limits;

/// What forwarding a response needs.
pub(super) struct Terms<'a> {
    pub(super) limits: &'a Limits,
    pub(super) strip: &'a Rc<Strip>,
    pub(super) waits: &'a Rc<Waits>,
}

/// A checked and cleaned request, ready to be sent.
pub(super) struct Outbound {
    /// Present until it is sent.
    pub(super) request: Option<Request<Outgoing>>,
    pub(super) websocket: Option<OnUpgrade>,
    /// The progress of its body, if it has one.
    upload: Option<Rc<Upload>>,
}

impl Outbound {
    /// Puts a cleaned request into the form of HTTP/1.1; the connection that carries it decides in the end.
    pub(super) fn new(mut request: Request<Incoming>, host: &HeaderValue, cleaned: Cleaned, terms: &Terms<'_>) -> Self {
        let websocket = upgrade::asked(&mut request, cleaned);
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        match parts.version {
            Version::HTTP_2 => join_cookies(&mut parts.headers),
            // RFC 9110 10.1.1: an expectation in HTTP/1.0 is none.
            Version::HTTP_10 => drop(parts.headers.remove(EXPECT)),
            _ => {}
        }
        // A peer on HTTP/2 sends when it likes: hyper has no way to ask it for a body.
        let holds = cleaned.expect_continue && parts.version == Version::HTTP_11 && !body.is_end_stream();
        parts.version = Version::HTTP_11;
        parts.headers.insert(HOST, host.clone());
        if websocket.is_some() {
            upgrade::name_it(&mut parts.headers);
        }
        let mut request = Request::from_parts(parts, Outgoing::Empty);
        let mut upload = None;
        if !body.is_end_stream() {
            let relay = Relay::new(body, terms.limits.body_idle, terms.waits, terms.strip);
            let relay = relay.telling(upload.insert(Rc::default()));
            let relay = if holds { relay.hold(Held::new(&mut request, terms.waits)) } else { relay };
            *request.body_mut() = Outgoing::Relay(Box::new(relay));
        }
        Self { request: Some(request), websocket, upload }
    }

    /// The error of a failed exchange: more precise where the library only reports that a body broke off.
    pub(super) fn blame(&self, error: Error) -> Error {
        if self.upload.as_ref().is_some_and(|upload| upload.is_late()) { Error::BodyLate } else { error }
    }
}

/// Sends a request and prepares its response for the client; the record ends with the response's last byte.
pub(super) async fn send(
    origin: &impl Origin,
    outbound: &mut Outbound,
    to: &Destination,
    terms: &Terms<'_>,
    record: &mut Option<Record>,
) -> Result<Response<Body>, Error> {
    let limit = terms.limits.response;
    let exchanged = pool::exchange(origin, &mut outbound.request, to, terms.waits, limit).await;
    let (response, link) = exchanged.map_err(|error| outbound.blame(error))?;
    respond(response, link, outbound.websocket.take(), terms, record)
}

/// Prepares a response for the client.
pub(super) fn respond(
    response: Response<Incoming>,
    link: Link,
    websocket: Option<OnUpgrade>,
    terms: &Terms<'_>,
    record: &mut Option<Record>,
) -> Result<Response<Body>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(response, link, websocket, record);
    }
    let (mut parts, incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 6.3: the coding wins, and an intermediary removes the length. A sender of both may mean the length.
        if parts.headers.remove(CONTENT_LENGTH).is_some() {
            link.retire();
        }
    }
    clean_response(&mut parts.headers);
    let Some(mut record) = record.take() else { return Err(Error::Late) };
    record.answered(parts.status, None);
    if record.flight().open().signal() == Signal::Drain {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let relay = Relay::new(incoming, terms.limits.body_idle, terms.waits, terms.strip);
    Ok(Response::from_parts(parts, Body::relay(relay, link, record)))
}

/// A 101 that was asked for opens the tunnel; any other is not forwarded.
fn switch(
    mut response: Response<Incoming>,
    mut link: Link,
    websocket: Option<OnUpgrade>,
    record: &mut Option<Record>,
) -> Result<Response<Body>, Error> {
    let Some(asker) = websocket.filter(|_| upgrade::granted(&response)) else { return Err(Error::Unasked) };
    let Some(mut record) = record.take() else { return Err(Error::Late) };
    let answerer = hyper::upgrade::on(&mut response);
    link.detach();
    let (mut parts, _) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    clean_response(&mut parts.headers);
    upgrade::name_it(&mut parts.headers);
    record.answered(parts.status, None);
    let open = record.flight().open();
    let (flight, whole) = (open.flight(), open.whole());
    upgrade::open(Tunnel { asker, answerer, flight, whole, link });
    Ok(Response::from_parts(parts, Body::empty(Some(record))))
}

/// Where the sidecar's own response comes from, for the log.
pub(super) struct Asked<'a> {
    pub(super) side: Side,
    pub(super) listener: &'a str,
    pub(super) connection: u64,
    pub(super) http2: bool,
}

/// The sidecar's own response: a status that says what, and nothing that says why. The log has the reason.
pub(super) fn refuse(error: &Error, asked: &Asked<'_>, record: Option<Record>) -> Response<Body> {
    let status = error.status();
    let (fault, reason) = (error.fault(asked.side), error.reason());
    let Asked { side, listener, connection, http2 } = asked;
    let side = side.as_str();
    if error.is_refusal() {
        tracing::info!(target: "proxy", side, listener, connection, fault, reason, status = status.as_u16(), %error, "request refused");
    } else {
        tracing::warn!(target: "proxy", side, listener, connection, fault, reason, status = status.as_u16(), %error, "request failed");
    }
    let record = record.map(|mut record| {
        record.answered(status, Some(reason));
        record.failed(fault);
        if error.is_refusal() {
            record.refused(reason);
        }
        if let Some(limit) = error.limit() {
            record.limited(limit);
        }
        record
    });
    let text = Bytes::from(format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or("")));
    let mut response = Response::new(Body::text(text, record));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Error::Jwt(refused) = error
        && let Some(challenge) = jwt::challenge(refused, listener)
    {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.closes() && !http2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// HTTP/2 sends cookies in crumbs; HTTP/1.1 has one field (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(crumbs.join(&b"; "[..]))) {
        headers.insert(COOKIE, joined);
    }
}

/// Checks the listener's limit on the number of fields.
pub(super) fn within(headers: &HeaderMap, limits: &Limits) -> Result<(), Error> {
    if headers.len() > limits.fields { Err(Error::TooManyFields { limit: limits.fields }) } else { Ok(()) }
}

/// How long idle connections to the other side are kept: a little shorter than most servers keep them.
pub(super) const KEEP: Duration = Duration::from_secs(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_crumbs_become_one_field() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        join_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "a=1");
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn an_answer_of_ours_says_what_and_never_why() {
        let asked = Asked { side: Side::Ingress, listener: "api", connection: 1, http2: false };
        let response = refuse(&Error::NoKeyPair, &asked, None);
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
            (503, &HeaderValue::from_static("1"))
        );
        let response = refuse(&Error::Malformed("several Host fields"), &asked, None);
        assert_eq!(response.headers()[CONNECTION], "close");
        assert!(refuse(&Error::Method, &asked, None).headers().contains_key(ALLOW));
    }
}
