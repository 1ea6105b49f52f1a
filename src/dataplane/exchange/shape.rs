//! The form of a request on the connection that carries it, and the size of the response that comes back.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use hyper::body::Body as _;

use super::request_body::OutgoingBody;
use crate::http::error::RequestError as Error;
use crate::http::target::origin_form;

/// A response larger than this is worth a task of its own.
const SMALL_RESPONSE_LIMIT: u64 = 64 * 1024;

/// Where a request goes, in both protocols' terms.
pub(crate) struct RequestDestination {
    pub(crate) host: HeaderValue,
    pub(crate) scheme: Scheme,
}

/// Whether a response's body is worth a task of its own: of any length that is not known to be small.
pub(super) fn is_large(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_none_or(|length| length > SMALL_RESPONSE_LIMIT)
}

/// Gives a request the form of the protocol: origin form and Host, or an absolute URI without. Either can be made of
/// the other, because a request that was not sent may go to another connection.
pub(super) fn shape_request(
    request: &mut Request<OutgoingBody>,
    to: &RequestDestination,
    http2: bool,
) -> Result<(), Error> {
    if !http2 {
        if *request.version_mut() == Version::HTTP_2 {
            *request.uri_mut() = origin_form(request.uri(), None)?;
            request.headers_mut().insert(HOST, to.host.clone());
        }
        *request.version_mut() = Version::HTTP_11;
        if request.headers().contains_key(TE) {
            // RFC 9110 10.1.4: TE is for this hop only, so it is named.
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
        }
        if has_unannounced_content(request) {
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        return Ok(());
    }
    if request.headers().contains_key(UPGRADE) {
        return Err(Error::UpgradeNeedsHttp1);
    }
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(HOST);
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    let authority = Authority::try_from(to.host.as_bytes()).map_err(|_| Error::Malformed("invalid Host"))?;
    let path = request.uri().path_and_query().cloned();
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(to.scheme.clone());
    parts.authority = Some(authority);
    parts.path_and_query = Some(path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Error::Malformed("invalid target"))?;
    Ok(())
}

/// Whether there is content of unknown length that the library would leave out: it takes a GET or HEAD without a
/// framing field for one without content. (CONNECT is one more such method, and never forwarded.) To every other method
/// it gives the field itself.
fn has_unannounced_content(request: &Request<OutgoingBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key(CONTENT_LENGTH)
        && !request.body().is_end_stream()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_the_shape_of_either_protocol_and_back() {
        let to = RequestDestination { host: HeaderValue::from_static("api.example"), scheme: Scheme::HTTPS };
        let mut request = Request::builder()
            .uri("/a?b")
            .header(HOST, "api.example")
            .header(TE, "trailers")
            .body(OutgoingBody::Empty)
            .unwrap();
        shape_request(&mut request, &to, true).unwrap();
        assert_eq!(request.uri(), "https://api.example/a?b");
        assert!(!request.headers().contains_key(HOST) && !request.headers().contains_key(CONNECTION));
        shape_request(&mut request, &to, false).unwrap();
        assert_eq!((request.uri().to_string().as_str(), request.version()), ("/a?b", Version::HTTP_11));
        assert_eq!(request.headers()[HOST], "api.example");
        assert_eq!(request.headers()[CONNECTION], "te");
    }

    #[test]
    fn content_of_unknown_length_is_announced_towards_http_1_and_only_there() {
        let to = RequestDestination { host: HeaderValue::from_static("api.example"), scheme: Scheme::HTTPS };
        let content = || OutgoingBody::from_frames(vec!["hello".into()], None);
        for (method, length, body, announced) in [
            ("GET", None, content(), true),
            ("HEAD", None, content(), true),
            ("GET", Some("5"), content(), false),
            ("GET", None, OutgoingBody::Empty, false),
        ] {
            let mut request = Request::builder().method(method).uri("/a").header(HOST, "api.example");
            if let Some(length) = length {
                request = request.header(CONTENT_LENGTH, length);
            }
            let mut request = request.body(body).unwrap();
            shape_request(&mut request, &to, false).unwrap();
            assert_eq!(request.headers().contains_key(TRANSFER_ENCODING), announced, "{method} {length:?}");
            shape_request(&mut request, &to, true).unwrap();
            assert!(!request.headers().contains_key(TRANSFER_ENCODING));
        }
    }

    #[test]
    fn only_a_short_announced_response_is_small() {
        let mut headers = HeaderMap::new();
        assert!(is_large(&headers));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("65536"));
        assert!(!is_large(&headers));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("65537"));
        assert!(is_large(&headers));
    }
}
