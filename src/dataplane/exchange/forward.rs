//! A cleaned request becomes an outgoing one, its response is prepared for the client, and an error becomes a response.
//!
//! What both sides have in common: the form of an outgoing request, the form of the returned response, and
//! the sidecar's own response where there is none.

use std::rc::Rc;
use std::sync::Arc;
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
use crate::http::activity::StreamActivity;
use crate::http::body::{AnswerWatch, BodyRelay};
use crate::http::content::MessageContent;
use crate::http::error::RequestError as Error;
use crate::http::expect::BodyHold;
use crate::http::fields::{RequestedFeatures, StripList, clean_response};
use crate::http::framing::{FramingLimits, parse_decimal};
use crate::http::interim::{InterimSender, InterimWatch};
use crate::http::progress::{AnswerPatience, BodyLimit, ContentKind, UploadProgress};
use crate::http::upgrade;
use crate::snapshot::Side;
use crate::snapshot::ingress::ListenerLimits;

/// What each field of a list counts beside its name and value (RFC 9113 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// What the four pseudo-fields of a request count beside method, target and authority.
const PSEUDO_FIELD_BYTES: usize = 4 * FIELD_OVERHEAD + ":method:scheme:authority:pathhttps".len();

/// What forwarding a response needs.
pub(crate) struct ForwardContext<'a> {
    pub(crate) limits: &'a ListenerLimits,
    pub(crate) strip: &'a Rc<StripList>,
    pub(crate) waits: &'a Rc<WaitTable>,
    /// The client's connection.
    pub(crate) client: &'a Arc<StreamActivity>,
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
        interim: Option<InterimSender>,
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
        // A peer on HTTP/2 sends when it likes; the backend's 100 is passed on to it.
        let holds = cleaned.expect_continue && parts.version == Version::HTTP_11 && !body.is_end_stream();
        parts.version = Version::HTTP_11;
        parts.headers.insert(HOST, host.clone());
        if websocket.is_some() {
            upgrade::set_upgrade_fields(&mut parts.headers);
        }
        let mut request = Request::from_parts(parts, OutgoingBody::Empty);
        let (mut upload, mut gate) = (None, None);
        if !body.is_end_stream() {
            let progress = upload.insert(UploadProgress::new(terms.waits));
            progress.set_client(terms.client);
            if ContentKind::of_fields(request.headers()) == ContentKind::Grpc {
                progress.set_endless();
            }
            let relay = BodyRelay::from_request(body.into(), (terms.limits, terms.waits, terms.strip), progress);
            let hold = holds.then(|| BodyHold::new(terms.waits, terms.limits.continue_wait));
            gate = hold.as_ref().map(|hold| Arc::clone(hold.gate()));
            let relay = if let Some(hold) = hold { relay.with_hold(hold) } else { relay };
            *request.body_mut() = OutgoingBody::Relay(Box::new(relay));
        }
        let limits = FramingLimits { head_size: terms.limits.head_size, fields: terms.limits.fields };
        InterimWatch::set_on(&mut request, interim, gate, limits);
        Self { request: Some(request), websocket, upload }
    }

    /// The error of a failed exchange: more precise where the library only reports that a body broke off.
    pub(crate) fn refine_error(&self, error: Error) -> Error {
        match self.upload.as_ref().and_then(|upload| upload.ended_by()) {
            Some(BodyLimit::Rate) => Error::BodySlow,
            Some(_) => Error::BodyLate,
            None => error,
        }
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
    response: Response<MessageContent>,
    link: PooledConnection,
    outbound: &mut OutboundRequest,
    terms: &ForwardContext<'_>,
    record: &mut Option<AccessRecord>,
) -> Result<Response<ResponseBody>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch_protocols(response, link, outbound.websocket.take(), (terms.limits.answer_idle, record));
    }
    let (mut parts, incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 6.3: the coding wins, and an intermediary removes the length. A sender of both may mean the length.
        if parts.headers.remove(CONTENT_LENGTH).is_some() {
            link.retire();
        }
    } else {
        unite_lengths(&mut parts.headers)?;
    }
    clean_response(&mut parts.headers);
    let Some(mut record) = record.take() else { return Err(Error::Late) };
    let upload = outbound.upload.clone();
    let unasked = upload.as_ref().is_some_and(|upload| upload.was_unasked());
    // Where an upstream may refuse our certificate by this status, the line says so.
    let doubt = link.proof().and_then(|proof| proof.doubt.get());
    let reason = doubt.or(if unasked { Some("continue_late") } else { None });
    record.set_status(parts.status, reason);
    if unasked {
        record.count_limit("continue_wait");
    }
    let kind = ContentKind::of_fields(&parts.headers);
    if let Some(upload) = &upload {
        upload.record_answer(terms.waits.now());
        if kind != ContentKind::Whole {
            upload.set_endless();
        }
    }
    let patience = AnswerPatience::new(terms.limits, kind);
    let watch = AnswerWatch { patience, upload, client: Arc::clone(terms.client), ended: false };
    let relay = BodyRelay::from_response(incoming, (terms.waits, terms.strip), watch);
    let body = ResponseBody::from_relay(relay, link, record);
    Ok(Response::from_parts(parts, if kind == ContentKind::Grpc { body.with_grpc_end() } else { body }))
}

/// A 101 that was asked for opens the tunnel; any other is not forwarded.
fn switch_protocols(
    mut response: Response<MessageContent>,
    mut link: PooledConnection,
    websocket: Option<OnUpgrade>,
    (idle, record): (Option<Duration>, &mut Option<AccessRecord>),
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
    let context = record.request_context();
    spawn_tunnel(WebSocketTunnel { asker, answerer, flight, whole, link, idle, context });
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

/// Several lengths that are one and the same number become one field (RFC 9110 8.6): HTTP/2 has no place for more.
fn unite_lengths(headers: &mut HeaderMap) -> Result<(), Error> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    if lengths.next().is_none() && parse_decimal(first.as_bytes()).is_some() {
        return Ok(());
    }
    let all = headers.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut numbers = all.map(|length| std::str::from_utf8(length.trim_ascii()).ok()?.parse::<u64>().ok());
    let length = numbers.next().flatten().ok_or(Error::ResponseLengths)?;
    if numbers.any(|other| other != Some(length)) {
        return Err(Error::ResponseLengths);
    }
    drop(numbers);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(())
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

/// Checks the listener's limits on the number of fields and on the size of a head. On HTTP/1 the guard has counted its bytes;
/// on HTTP/2 it is the size of the list of fields (RFC 9113 10.5.1).
pub(crate) fn check_head_size<B>(request: &Request<B>, limits: &ListenerLimits) -> Result<(), Error> {
    let headers = request.headers();
    if headers.len() > limits.fields {
        return Err(Error::TooManyFields { limit: limits.fields });
    }
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let pseudo = request.method().as_str().len() + target + authority + PSEUDO_FIELD_BYTES;
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    if pseudo + fields.sum::<usize>() > limits.head_size {
        return Err(Error::HeadTooLarge { limit: limits.head_size });
    }
    Ok(())
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
    fn a_head_of_http_2_is_measured_as_its_list_of_fields() {
        let limits = ListenerLimits { head_size: 1000, ..ListenerLimits::default() };
        let sized = |version, filler: usize| {
            let request = Request::get("https://a.example/x").version(version).header("x", "y".repeat(filler));
            check_head_size(&request.body(()).unwrap(), &limits)
        };
        // 3 + 2 + 9 bytes of the request line, 162 for the pseudo-fields, and 33 beside the value.
        assert!(sized(Version::HTTP_2, 1000 - 14 - 162 - 33).is_ok());
        let over = sized(Version::HTTP_2, 1001 - 14 - 162 - 33);
        assert!(matches!(over, Err(Error::HeadTooLarge { limit: 1000 })));
        assert!(sized(Version::HTTP_11, 2000).is_ok());
    }

    #[test]
    fn lengths_that_agree_become_one_and_others_are_refused() {
        let united = |lengths: &[&'static str]| {
            let mut headers: HeaderMap =
                lengths.iter().map(|length| (CONTENT_LENGTH, HeaderValue::from_static(length))).collect();
            unite_lengths(&mut headers).ok()?;
            let all: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().cloned().collect();
            Some(all)
        };
        assert_eq!(united(&[]).unwrap().len(), 0);
        for same in [&["5"][..], &["5", "5"], &["5", "5", "5"], &["5, 5"], &["5", "5,5"], &["05"]] {
            assert_eq!(united(same).expect("one length"), ["5"], "{same:?}");
        }
        for other in [&["5", "6"][..], &["5, 6"], &["5", ""], &["x"], &["5", "+"]] {
            assert_eq!(united(other), None, "{other:?}");
        }
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
