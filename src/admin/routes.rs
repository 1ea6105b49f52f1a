//! Method, path and Host → an answer.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::{Kind, Views};
use crate::metrics;

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers one request.
pub(super) fn answer<B>(request: &Request<B>, kind: Kind, views: &Views) -> Response<Full<Bytes>> {
    let (status, content, text) = if kind == Kind::Admin && !is_this_host(request) {
        (StatusCode::MISDIRECTED_REQUEST, TEXT, "this listener answers to localhost only\n".to_owned())
    } else if ![Method::GET, Method::HEAD].contains(request.method()) {
        (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n".to_owned())
    } else {
        match request.uri().path() {
            "/livez" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/readyz" => ready(kind, views),
            "/metrics" => (StatusCode::OK, metrics::CONTENT_TYPE, views.metrics_text()),
            _ => (StatusCode::NOT_FOUND, TEXT, "there are /livez, /readyz and /metrics\n".to_owned()),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("content-security-policy", HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn ready(kind: Kind, views: &Views) -> (StatusCode, &'static str, String) {
    let missing = views.missing();
    if missing.is_empty() {
        return (StatusCode::OK, TEXT, "ready\n".to_owned());
    }
    let text = match kind {
        Kind::Admin => missing.iter().map(|what| format!("{what}\n")).collect(),
        // Probes carry no names: how many is enough for who reads them from elsewhere.
        Kind::Probes => format!("{} not ready; the log and the admin listener say why\n", missing.len()),
    };
    (StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

/// Whether `Host` is a name of this very machine: a page of another origin cannot make a browser say so (DNS rebinding).
fn is_this_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(authority) = host.to_str().unwrap_or_default().parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(host: &[&str]) -> Request<()> {
        let mut request = Request::new(());
        for value in host {
            request.headers_mut().append(HOST, HeaderValue::from_str(value).expect("a value"));
        }
        request
    }

    #[test]
    fn only_names_of_this_machine_are_this_host() {
        for host in ["localhost", "LOCALHOST:9900", "127.0.0.1:9900", "[::1]:9900", "127.8.8.8"] {
            assert!(is_this_host(&asks(&[host])), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1:9900", "", "a b", "[::2]:1"] {
            assert!(!is_this_host(&asks(&[host])), "{host}");
        }
        assert!(!is_this_host(&asks(&[])));
        assert!(!is_this_host(&asks(&["localhost", "localhost"])));
    }
}
