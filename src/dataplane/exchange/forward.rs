//! A cleaned request becomes an outgoing one, its response is prepared for the client, and an error becomes a response.
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

use super::access::AccessRecord;
use super::link::PooledConnection;
use super::origin::{self, ExchangeOrigin};
use super::pool::ConnectionPool;
use super::request_body::OutgoingBody;
use super::response_body::ResponseBody;
use super::shape::RequestDestination;
use super::tunnel::{WebSocketTunnel, spawn_tunnel};
use crate::clock::deadlines::WaitTable;
use crate::dataplane::connection::ConnectionSignal;
use crate::http::body::{BodyRelay, UploadProgress};
use crate::http::error::RequestError as Error;
use crate::http::expect::BodyHold;
use crate::http::fields::{RequestedFeatures, StripList, clean_response};
use crate::http::upgrade;
use crate::snapshot::Side;
use crate::snapshot::ingress::ListenerLimits;

/// What forwarding a response needs.
pub(crate) struct ForwardContext<'a> {
    pub(crate) limits: &'a ListenerLimits,
    pub(crate) strip: &'a Rc<StripList>,
    pub(crate) waits: &'a Rc<WaitTable>,
}

/// A checked and cleaned request, ready to be sent.
pub(crate) struct OutboundRequest {
    /// Present until it is sent.
    pub(crate) request: Option<Request<OutgoingBody>>,
    websocket: Option<OnUpgrade>,
    /// The progress of its body, if it has one.
    upload: Option<Rc<UploadProgress>>,
}

impl OutboundRequest {
    /// Puts a cleaned request into the form of HTTP/1.1; the connection that carries it decides in the end.
    pub(crate) fn new(
        mut request: Request<Incoming>,
        host: &HeaderValue,
        cleaned: RequestedFeatures,
        terms: &ForwardContext<'_>,
    ) -> Self {
        let websocket = upgrade::take_upgrade(&mut request, cleaned);
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
            upgrade::set_upgrade_fields(&mut parts.headers);
        }
        let mut request = Request::from_parts(parts, OutgoingBody::Empty);
        let mut upload = None;
        if !body.is_end_stream() {
            let relay = BodyRelay::new(body, terms.limits.body_idle, terms.waits, terms.strip);
            let relay = relay.with_progress(upload.insert(Rc::default()));
            let relay = if holds { relay.with_hold(BodyHold::new(&mut request, terms.waits)) } else { relay };
            *request.body_mut() = OutgoingBody::Relay(Box::new(relay));
        }
        Self { request: Some(request), websocket, upload }
    }

    /// The error of a failed exchange: more precise where the library only reports that a body broke off.
    pub(crate) fn refine_error(&self, error: Error) -> Error {
        if self.upload.as_ref().is_some_and(|upload| upload.is_late()) { Error::BodyLate } else { error }
    }
}

/// Sends a request and prepares its response for the client; the record ends with the response's last byte.
pub(crate) async fn send<P: Fn() -> Result<Rc<ConnectionPool>, Error>>(
    origin: &ExchangeOrigin<'_, P>,
    outbound: &mut OutboundRequest,
    to: &RequestDestination,
    terms: &ForwardContext<'_>,
    record: &mut Option<AccessRecord>,
) -> Result<Response<ResponseBody>, Error> {
    let limit = terms.limits.response;
    let exchanged = origin::exchange(origin, &mut outbound.request, to, terms.waits, limit).await;
    let (response, link) = exchanged.map_err(|error| outbound.refine_error(error))?;
    respond(response, link, outbound, terms, record)
}

/// Prepares the response to a request for the client.
pub(crate) fn respond(
    response: Response<Incoming>,
    link: PooledConnection,
    outbound: &mut OutboundRequest,
    terms: &ForwardContext<'_>,
    record: &mut Option<AccessRecord>,
) -> Result<Response<ResponseBody>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch_protocols(response, link, outbound.websocket.take(), record);
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
    // Where an upstream may refuse our certificate by this status, the line says so.
    record.set_status(parts.status, link.proof().and_then(|proof| proof.doubt.get()));
    if record.flight().state().signal() == ConnectionSignal::Drain {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let relay = BodyRelay::new(incoming, terms.limits.body_idle, terms.waits, terms.strip);
    Ok(Response::from_parts(parts, ResponseBody::from_relay(relay, link, record, outbound.upload.clone())))
}

/// A 101 that was asked for opens the tunnel; any other is not forwarded.
fn switch_protocols(
    mut response: Response<Incoming>,
    mut link: PooledConnection,
    websocket: Option<OnUpgrade>,
    record: &mut Option<AccessRecord>,
) -> Result<Response<ResponseBody>, Error> {
    let Some(asker) = websocket.filter(|_| upgrade::is_granted(&response)) else { return Err(Error::Unasked) };
    let Some(mut record) = record.take() else { return Err(Error::Late) };
    let answerer = hyper::upgrade::on(&mut response);
    link.detach();
    let (mut parts, _) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    clean_response(&mut parts.headers);
    upgrade::set_upgrade_fields(&mut parts.headers);
    record.set_status(parts.status, None);
    let open = record.flight().state();
    let (flight, whole) = (open.begin_flight(), open.owner());
    spawn_tunnel(WebSocketTunnel { asker, answerer, flight, whole, link });
    Ok(Response::from_parts(parts, ResponseBody::empty(Some(record))))
}

/// A request that gets no response but the sidecar's own.
pub(crate) struct RequestFailure {
    pub(crate) error: Error,
    pub(crate) record: Option<AccessRecord>,
}

/// Where the sidecar's own response comes from, for the log.
pub(crate) struct RefusalContext<'a> {
    pub(crate) side: Side,
    pub(crate) listener: &'a str,
    pub(crate) connection: u64,
    pub(crate) http2: bool,
}

/// The sidecar's own response: a status that says what, and nothing that says why. The log has the reason.
pub(crate) fn refuse(
    error: &Error,
    asked: &RefusalContext<'_>,
    record: Option<AccessRecord>,
) -> Response<ResponseBody> {
    let status = error.status();
    let (fault, reason) = (error.fault(asked.side), error.reason());
    let RefusalContext { side, listener, connection, http2 } = asked;
    let side = side.as_str();
    if error.is_refusal() {
        tracing::info!(target: "proxy", side, listener, connection, fault, reason, status = status.as_u16(), %error, "request refused");
    } else {
        tracing::warn!(target: "proxy", side, listener, connection, fault, reason, status = status.as_u16(), %error, "request failed");
    }
    let record = record.map(|mut record| {
        record.set_status(status, Some(reason));
        record.count_error(fault);
        if error.is_refusal() {
            record.count_refusal(reason);
        }
        if let Some(limit) = error.limit() {
            record.count_limit(limit);
        }
        record
    });
    let text = Bytes::from(format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or("")));
    let mut response = Response::new(ResponseBody::from_text(text, record));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(challenge) = error.bearer_challenge(listener) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.closes_connection() && !http2 {
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
pub(crate) fn check_field_count(headers: &HeaderMap, limits: &ListenerLimits) -> Result<(), Error> {
    if headers.len() > limits.fields { Err(Error::TooManyFields { limit: limits.fields }) } else { Ok(()) }
}

/// How long idle connections to the other side are kept: a little shorter than most servers keep them.
pub(crate) const IDLE_CONNECTION_LIFETIME: Duration = Duration::from_secs(50);

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
        let asked = RefusalContext { side: Side::Ingress, listener: "api", connection: 1, http2: false };
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
