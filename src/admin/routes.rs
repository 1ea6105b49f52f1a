//! Method, path and Host → an answer.
//!
//! Nothing of the request is ever repeated in an answer.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use crate::metrics;
use crate::views::RuntimeViews;
use crate::views::readiness;

/// The public keys that our tokens are verified with (RFC 7517).
const KEY_SET: &str = "/.well-known/jwks.json";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Sent with every response: nothing here is for another page, or for a cache.
const ALWAYS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// Which of the two listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminListenerKind {
    /// This host only: answers contain names, and `Host` is checked, so that no browser is led here by another name.
    Admin,
    /// Kubelet and Prometheus.
    Probes,
}

/// Which hosts a request may name: a page of another origin can make a browser connect here, but it cannot make it say
/// one of these (DNS rebinding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostPolicy {
    /// Any host: browsers cannot connect to a Unix socket, and probes reveal no names.
    Any,
    /// `localhost`, loopback addresses, and the address that is listened on.
    Local(IpAddr),
}

impl HostPolicy {
    /// Of a listener at this TCP address; `None` = a Unix socket.
    pub(crate) fn for_listener(listens_on: Option<SocketAddr>) -> Self {
        listens_on.map_or(Self::Any, |addr| Self::Local(addr.ip()))
    }

    fn allow(self, host: &str) -> bool {
        let Self::Local(own) = self else { return true };
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let address = |ip: IpAddr| ip.is_loopback() || ip == own;
        name.trim_end_matches('.').eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(address)
    }
}

/// Answers one request.
pub(crate) fn answer<B>(
    request: &Request<B>,
    (kind, hosts): (AdminListenerKind, HostPolicy),
    views: &RuntimeViews,
) -> Response<Full<Bytes>> {
    let refusal = refuse_host(request, hosts).or_else(|| refuse_method(request.method()));
    let (status, content, text) = refusal.unwrap_or_else(|| match request.uri().path() {
        "/livez" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => ready(kind, views),
        KEY_SET if kind == AdminListenerKind::Admin => {
            (StatusCode::OK, JSON, views.reader.latest().key_set.to_string())
        }
        "/metrics" => (StatusCode::OK, metrics::CONTENT_TYPE, views.metrics_text()),
        _ => (StatusCode::NOT_FOUND, TEXT, "not found: try /livez, /readyz or /metrics\n".to_owned()),
    });
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(content));
    fields.extend(ALWAYS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

type AdminResponse = (StatusCode, &'static str, String);

fn refuse_method(method: &Method) -> Option<AdminResponse> {
    let reads = [Method::GET, Method::HEAD].contains(method);
    (!reads).then(|| (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are allowed\n".to_owned()))
}

/// One Host, and a target that names no other one (RFC 9112 3.2).
fn refuse_host<B>(request: &Request<B>, hosts: HostPolicy) -> Option<AdminResponse> {
    if hosts == HostPolicy::Any {
        return None;
    }
    let mut named = request.headers().get_all(HOST).iter();
    let host = match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let Some(host) = host else {
        return Some((StatusCode::BAD_REQUEST, TEXT, "exactly one valid Host header is required\n".to_owned()));
    };
    let target = request.uri().authority();
    let ours = hosts.allow(host.host()) && target.is_none_or(|target| hosts.allow(target.host()));
    (!ours).then(|| (StatusCode::MISDIRECTED_REQUEST, TEXT, "this listener answers to localhost only\n".to_owned()))
}

fn ready(kind: AdminListenerKind, views: &RuntimeViews) -> AdminResponse {
    views.readiness_requests.record_request(views.events.now());
    let missing = views.missing();
    if missing.is_empty() {
        return (StatusCode::OK, TEXT, "ready\n".to_owned());
    }
    let say = |what: &readiness::ReadinessGap| match kind {
        AdminListenerKind::Admin => format!("{what}\n"),
        AdminListenerKind::Probes => format!("{}\n", what.without_names()),
    };
    (StatusCode::SERVICE_UNAVAILABLE, TEXT, missing.iter().map(say).collect())
}
