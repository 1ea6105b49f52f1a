//! Method, path and Host → an answer.
//!
//! Nothing of the request is ever repeated in an answer.

use std::net::{IpAddr, SocketAddr};

use http::header::{ACCEPT, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Response, StatusCode};

use super::answer::{AdminAnswer, AdminBody, JSON, TEXT};
use super::{api, page};
use crate::metrics::MetricsFormat;
use crate::views::RuntimeViews;
use crate::views::readiness;

/// The public keys that our tokens are verified with (RFC 7517).
const KEY_SET: &str = "/.well-known/jwks.json";

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
pub(crate) async fn answer(
    request: &Parts,
    (kind, hosts): (AdminListenerKind, HostPolicy),
    views: &RuntimeViews,
) -> Response<AdminBody> {
    let path = request.uri.path();
    let refusal = refuse_host(request, hosts).or_else(|| refuse_method(&request.method));
    let answer = match (refusal, kind, path) {
        (Some((status, why)), ..) if api::is_below(path) => api::refuse(status, why),
        (Some((status, why)), ..) => AdminAnswer::from_text(status, TEXT, format!("{why}\n")),
        (None, _, "/livez") => AdminAnswer::from_text(StatusCode::OK, TEXT, "ok\n"),
        (None, _, "/readyz") => ready(kind, views),
        (None, _, "/metrics") => {
            let accept = request.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
            let format = MetricsFormat::from_accept(accept.unwrap_or_default());
            AdminAnswer::from_text(StatusCode::OK, format.content_type(), views.metrics_text(format))
        }
        (None, AdminListenerKind::Probes, _) => {
            AdminAnswer::from_text(StatusCode::NOT_FOUND, TEXT, "not found: try /livez, /readyz or /metrics\n")
        }
        (None, AdminListenerKind::Admin, KEY_SET) => {
            AdminAnswer::from_text(StatusCode::OK, JSON, views.reader.latest().key_set.to_string())
        }
        (None, AdminListenerKind::Admin, _) if api::is_below(path) => api::answer_api(request, views).await,
        (None, AdminListenerKind::Admin, _) => page::answer_page(request, views).await,
    };
    answer.into_response()
}

/// The status of a refusal, and why: one sentence without its full stop.
type RequestRefusal = (StatusCode, &'static str);

fn refuse_method(method: &Method) -> Option<RequestRefusal> {
    let reads = [Method::GET, Method::HEAD].contains(method);
    (!reads).then_some((StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed"))
}

/// One Host, and a target that names no other one (RFC 9112 3.2).
fn refuse_host(request: &Parts, hosts: HostPolicy) -> Option<RequestRefusal> {
    if hosts == HostPolicy::Any {
        return None;
    }
    let mut named = request.headers.get_all(HOST).iter();
    let host = match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let Some(host) = host else {
        return Some((StatusCode::BAD_REQUEST, "exactly one valid Host header is required"));
    };
    let target = request.uri.authority();
    let ours = hosts.allow(host.host()) && target.is_none_or(|target| hosts.allow(target.host()));
    (!ours).then_some((StatusCode::MISDIRECTED_REQUEST, "this listener answers to localhost only"))
}

fn ready(kind: AdminListenerKind, views: &RuntimeViews) -> AdminAnswer {
    views.readiness_requests.record_request(views.events.now());
    let missing = views.missing();
    if missing.is_empty() {
        return AdminAnswer::from_text(StatusCode::OK, TEXT, "ready\n");
    }
    let say = |what: &readiness::ReadinessGap| match kind {
        AdminListenerKind::Admin => format!("{what}\n"),
        AdminListenerKind::Probes => format!("{}\n", what.without_names()),
    };
    AdminAnswer::from_text(StatusCode::SERVICE_UNAVAILABLE, TEXT, missing.iter().map(say).collect::<String>())
}
