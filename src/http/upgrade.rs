//! WebSockets: requested by a GET without content, granted only by a 101 that names it (RFC 6455). The rules; the bytes that
//! follow are `dataplane::exchange::tunnel`'s.

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use super::fields::RequestedFeatures;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// The client's half of a WebSocket, if the request asks for one and may have it.
pub(crate) fn take_upgrade(request: &mut Request<Incoming>, cleaned: RequestedFeatures) -> Option<OnUpgrade> {
    let may = cleaned.websocket
        && request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream();
    may.then(|| hyper::upgrade::on(request))
}

/// Sets the fields that request, or grant, a WebSocket on this hop.
pub(crate) fn set_upgrade_fields(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// Whether a 101 grants what was requested.
pub(crate) fn is_granted<B>(response: &Response<B>) -> bool {
    let mut named = response.headers().get_all(UPGRADE).iter();
    named.next().is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
        && named.next().is_none()
}
