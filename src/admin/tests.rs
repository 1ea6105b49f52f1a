use std::collections::BTreeSet;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::routes::{HostPolicy, answer};
use super::*;
use crate::clock::Clock;
use crate::event::EventBus;
use crate::keyring::Standing;
use crate::log::{LogFormat, LogQueue, LogSettings};
use crate::metrics::{Metrics, MetricsFormat};
use crate::net::ListenAddress;
use crate::pki::Fingerprint;
use crate::process::{ShutdownController, shutdown_channel};
use crate::snapshot::{KeyPairView, KeyringView, ListenerId, Side, Snapshot, sample, snapshot_channel};

fn parse_time(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

fn pair(byte: u8, standing: Standing, overlap_ends: Option<jiff::Timestamp>) -> KeyPairView {
    let in_folder = standing != Standing::Previous;
    KeyPairView { overlap_ends, in_folder, survives_restart: in_folder, ..sample::sample_pair(&[byte; 32], standing) }
}

pub(super) fn views(waiting: Vec<(ListenerId, String)>) -> (RuntimeViews, ShutdownController) {
    views_with(|snapshot| snapshot.waiting = waiting)
}

/// One keyring, and whatever else is set.
pub(super) fn views_with(change: impl FnOnce(&mut Snapshot)) -> (RuntimeViews, ShutdownController) {
    let key_pairs = vec![
        pair(0x3f, Standing::Current, None),
        pair(0x77, Standing::Previous, Some(parse_time("2026-12-01T00:00:00Z"))),
        pair(0x99, Standing::Refused, None),
    ];
    let keyring = KeyringView {
        diverges: Some((Fingerprint::from_bytes([0x99; 32]), parse_time("2026-11-25T08:59:00Z"))),
        ..sample::sample_keyring(key_pairs)
    };
    views_of(vec![keyring], change)
}

pub(super) fn views_of(
    keyrings: Vec<KeyringView>,
    change: impl FnOnce(&mut Snapshot),
) -> (RuntimeViews, ShutdownController) {
    let mut snapshot = sample::sample_snapshot(keyrings);
    change(&mut snapshot);
    let (_, reader) = snapshot_channel(snapshot);
    let (lines, _) = LogQueue::channel(LogFormat::Json);
    let metrics = Arc::new(Metrics::new());
    let (clock, _) = Clock::manual(parse_time("2026-11-25T09:00:00Z"));
    let events = EventBus::new(lines, Arc::clone(&metrics), &LogSettings::default(), clock).unwrap();
    let (stopping, shutdown) = shutdown_channel();
    (RuntimeViews::new(reader, metrics, Arc::new(events), shutdown), stopping)
}

fn waiting(side: Side, name: &str) -> (ListenerId, String) {
    (ListenerId { side, name: Arc::from(name) }, "a key pair in certs/acme".to_owned())
}

fn local() -> HostPolicy {
    HostPolicy::for_listener(Some("192.0.2.1:9900".parse().unwrap()))
}

pub(super) fn build_request(method: Method, target: &str, hosts: &[&str]) -> Parts {
    let mut request = Request::builder().method(method).uri(target).body(()).unwrap();
    for host in hosts {
        request.headers_mut().append(http::header::HOST, HeaderValue::from_str(host).unwrap());
    }
    request.into_parts().0
}

async fn get(target: &str, kind: AdminListenerKind, views: &RuntimeViews) -> (StatusCode, String) {
    let response = answer(&build_request(Method::GET, target, &[]), (kind, HostPolicy::Any), views).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn an_ingress_that_waits_is_not_ready_and_only_admin_says_what_for() {
    let (views, _stopping) = views(vec![waiting(Side::Ingress, "api"), waiting(Side::Egress, "salesforce")]);
    assert!(!views.is_ready());
    let (status, body) = get("/readyz", AdminListenerKind::Admin, &views).await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (
            503,
            "ingress \"api\" waits for a key pair in certs/acme\negress \"salesforce\" waits for a key pair in certs/acme\n"
        )
    );
    let (status, body) = get("/readyz", AdminListenerKind::Probes, &views).await;
    assert_eq!((status.as_u16(), body.as_str()), (503, "ingress \"api\" waits\negress \"salesforce\" waits\n"));
    assert_eq!(get("/livez", AdminListenerKind::Probes, &views).await, (StatusCode::OK, "ok\n".to_owned()));
}

#[tokio::test]
async fn the_key_set_is_for_the_admin_listener_only() {
    let (views, _stopping) = views(Vec::new());
    let set = get("/.well-known/jwks.json", AdminListenerKind::Admin, &views).await;
    assert_eq!(set, (StatusCode::OK, "{\"keys\":[]}".to_owned()));
    assert_eq!(get("/.well-known/jwks.json", AdminListenerKind::Probes, &views).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_waiting_egress_is_not_ready_and_neither_is_what_stops() {
    let (waits, _stopping) = views(vec![waiting(Side::Egress, "salesforce")]);
    let not_ready = get("/readyz", AdminListenerKind::Probes, &waits).await;
    assert_eq!(not_ready, (StatusCode::SERVICE_UNAVAILABLE, "egress \"salesforce\" waits\n".to_owned()));
    let (views, stopping) = views(Vec::new());
    assert_eq!(get("/readyz", AdminListenerKind::Probes, &views).await, (StatusCode::OK, "ready\n".to_owned()));
    stopping.advance(ShutdownPhase::Unready);
    assert_eq!(get("/readyz", AdminListenerKind::Probes, &views).await.1, "stopping\n");
    assert_eq!(get("/livez", AdminListenerKind::Probes, &views).await.0, StatusCode::OK);
}

#[tokio::test]
async fn stopping_learns_from_readyz_alone_that_a_client_watches_it() {
    let (views, _stopping) = views(Vec::new());
    let is_watched = || views.readiness_requests.is_recent(views.events.now());
    get("/livez", AdminListenerKind::Probes, &views).await;
    get("/metrics", AdminListenerKind::Probes, &views).await;
    let foreign = build_request(Method::GET, "/readyz", &["evil.example"]);
    answer(&foreign, (AdminListenerKind::Admin, local()), &views).await;
    assert!(!is_watched());
    get("/readyz", AdminListenerKind::Probes, &views).await;
    assert!(is_watched());
}

#[tokio::test]
async fn no_request_changes_anything() {
    let (views, _stopping) = views(Vec::new());
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE, Method::PATCH] {
        let request = build_request(method, "/metrics", &["localhost"]);
        let response = answer(&request, (AdminListenerKind::Admin, local()), &views).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
}

#[tokio::test]
async fn every_answer_is_kept_from_caches_frames_and_other_pages() {
    let (views, _stopping) = views(Vec::new());
    for target in ["/livez", "/metrics", "/nothing/here"] {
        let request = build_request(Method::GET, target, &["localhost"]);
        let response = answer(&request, (AdminListenerKind::Admin, local()), &views).await;
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert!(response.headers().contains_key("content-security-policy"));
    }
}

#[tokio::test]
async fn foreign_host_is_refused() {
    let (views, _stopping) = views(Vec::new());
    let status =
        async |request: Parts| answer(&request, (AdminListenerKind::Admin, local()), &views).await.status().as_u16();
    for host in ["localhost", "LOCALHOST:9900", "localhost.", "127.0.0.1:9900", "[::1]:9900", "127.8.8.8", "192.0.2.1"]
    {
        assert_eq!(status(build_request(Method::GET, "/livez", &[host])).await, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1:9900", "[::2]:1", "127.0.0.1.evil.example"] {
        assert_eq!(status(build_request(Method::GET, "/livez", &[host])).await, 421, "{host}");
    }
    for hosts in [&[][..], &[""], &["a b"], &["localhost", "localhost"]] {
        assert_eq!(status(build_request(Method::GET, "/livez", hosts)).await, 400, "{hosts:?}");
    }
    assert_eq!(status(build_request(Method::GET, "http://evil.example/livez", &["localhost"])).await, 421);
    assert_eq!(HostPolicy::for_listener(None), HostPolicy::Any, "a Unix socket");
}

#[test]
fn metrics_say_what_the_snapshot_says() {
    let (views, _stopping) = views(vec![waiting(Side::Ingress, "api")]);
    let text = views.metrics_text(MetricsFormat::Prometheus);
    for line in [
        "sidekey_epoch 7",
        "sidekey_listeners_waiting 1",
        r#"sidekey_certificate_not_after_timestamp_seconds{keyring="api",standing="current",key_pair="3f3f3f3f3f3f"} 1798761600"#,
        r#"sidekey_overlap_ends_timestamp_seconds{keyring="api"} 1796083200"#,
        r#"sidekey_keyring_divergence_seconds{keyring="api"} 60"#,
        r#"sidekey_folder_refused{keyring="api"} 1"#,
        "sidekey_log_lines_dropped_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn metrics_are_documented() {
    let (views, _stopping) = views(Vec::new());
    let metrics = &views.metrics;
    metrics.worker_counters("ingress", "api").request(200, Duration::ZERO);
    metrics.handshake(("ingress", "api"), ("accepted", "ok"), Duration::ZERO);
    metrics.count_key_pair_refusal("ingress", "api", "unknown_ca");
    metrics.count_replay("out", "alert");
    metrics.count_proof("out", "doubted", "status_403");
    metrics.count_token("out", "fetched", "ok");
    views.metrics.count_alert("expires", "log", "sent");
    views.metrics.set_active_alerts(&[(("expires", "api".to_owned()), 1)].into());
    views.metrics.count_dropped_registry_rows("peer", 1);
    metrics.rotation("api", "done");
    metrics.count_drained("overlap_ended");
    let text = views.metrics_text(MetricsFormat::Prometheus);
    let live: BTreeSet<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let documented: BTreeSet<(&str, &str)> = include_str!("../../docs/metrics.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some((cells.next()?.strip_suffix('`')?, cells.next()?))
        })
        .collect();
    assert_eq!(live, documented);
}

#[tokio::test]
async fn the_next_connection_ends_the_oldest_when_all_are_taken() {
    let (views, stopping) = views(Vec::new());
    let bound = BoundSocket::bind(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let addr = bound.local_addr().unwrap();
    let clients = async {
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = loop {
                // Refused until it listens.
                if let Ok(client) = TcpStream::connect(addr).await {
                    break client;
                }
                tokio::task::yield_now().await;
            };
            client.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            client.read_exact(&mut [0; 12]).await.unwrap();
            idle.push(client);
        }
        let mut one_more = TcpStream::connect(addr).await.unwrap();
        one_more.write_all(b"HEAD /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut heard = String::new();
        one_more.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 200 OK") && heard.ends_with("\r\n\r\n"), "{heard}");
        // The oldest is closed (or reset): what is left of its first answer is all there is.
        let mut rest = Vec::new();
        let _ = idle[0].read_to_end(&mut rest).await;
        stopping.advance(ShutdownPhase::Over);
    };
    let (served, ()) = tokio::join!(serve(bound, AdminListenerKind::Admin, views), clients);
    served.unwrap();
}

#[tokio::test]
async fn an_ingress_that_does_not_listen_yet_is_not_ready() {
    use crate::net::{BoundSocket, ListenAddress};
    let (views, _stopping) = views(vec![waiting(Side::Ingress, "waits")]);
    let bound = BoundSocket::bind(&ListenAddress::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
    let id = |side, name: &str| ListenerId { side, name: name.into() };
    let sockets = [id(Side::Ingress, "api"), id(Side::Egress, "out"), id(Side::Ingress, "waits")];
    let views = views.watching(sockets.map(|id| (id, bound.listen_state())));
    let missing = || views.missing().iter().map(ToString::to_string).collect::<Vec<_>>();
    let waits = "ingress \"waits\" waits for a key pair in certs/acme";
    assert_eq!(missing(), [waits, "ingress \"api\" does not listen yet"]);
    let _listening = bound.listen().unwrap();
    assert_eq!(missing(), [waits]);
}
