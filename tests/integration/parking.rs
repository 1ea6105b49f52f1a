//! Idle connections of HTTP/1.1 that have given their buffers back.
//!
//! Must hold: what comes next is served as if nothing had been given back, however it is cut and whatever is wrong with it; a
//! parked connection has the same limits and the same ends as any other that is idle.

use sidekey::process::ShutdownPhase;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::limits::reached;
use crate::protocols::{Stand, soon, stand};
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::raw::{Raw, head, rest};
use crate::support::sidecar::Sidecar;
use crate::support::upstream::Upstream;

const GET: &str = "GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn backend() -> Raw {
    Raw::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", false).await
}

/// An ingress before a backend that says yes to every head, and the backend, which ends with it.
async fn ingress(extra: &str) -> (Stand, Raw) {
    let backend = backend().await;
    (stand(&format!("http://{}", backend.address), extra).await, backend)
}

fn count_parked(sidecar: &Sidecar, side: &str) -> u64 {
    let line = format!("sidekey_connections_parked{{side=\"{side}\"");
    let text = sidecar.app.metrics_text();
    let found = text.lines().find(|found| found.starts_with(&line)).and_then(|found| found.rsplit(' ').next());
    found.and_then(|count| count.parse().ok()).unwrap_or(0)
}

async fn until_parked(sidecar: &Sidecar, count: u64) {
    eventually("parked", || count_parked(sidecar, "ingress") == count).await;
}

/// Reads the next response, which has to be the backend's.
async fn read_yes(stream: &mut (impl AsyncRead + Unpin)) {
    let answer = soon(head(stream)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let mut body = [0; 3];
    soon(stream.read_exact(&mut body)).await.expect("its body");
    assert_eq!(&body, b"yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_serves_what_comes_next_however_it_is_cut() {
    let (stand, backend) = ingress("").await;
    let mut wire = stand.wire().await;
    // Before its first request, and after each.
    until_parked(&stand.sidecar, 1).await;
    let long = format!("GET /long HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "y".repeat(20_000));
    for (requests, count) in [(GET.to_owned(), 1), ([GET, GET, GET].concat(), 3), (long.clone(), 1), (long + GET, 2)] {
        wire.write_all(requests.as_bytes()).await.expect("written");
        for _ in 0..count {
            read_yes(&mut wire).await;
        }
        until_parked(&stand.sidecar, 1).await;
    }
    let (begun, left) = GET.split_at(1);
    wire.write_all(begun.as_bytes()).await.expect("written");
    wire.flush().await.expect("flushed");
    until_parked(&stand.sidecar, 0).await;
    wire.write_all(left.as_bytes()).await.expect("written");
    read_yes(&mut wire).await;
    let access = |line: &serde_json::Value| line["target"] == "access" && line["connection"] == 1;
    eventually("all are logged", || stand.sidecar.log().iter().filter(|line| access(line)).count() == 8).await;
    assert_eq!(backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_is_idle_as_any_other() {
    let (stand, _backend) = ingress("[ingress.limits]\nidle = \"2s\"").await;
    let mut wire = stand.wire().await;
    wire.write_all(GET.as_bytes()).await.expect("written");
    read_yes(&mut wire).await;
    until_parked(&stand.sidecar, 1).await;
    // The end is TLS's: without close_notify this is an error.
    assert_eq!(soon(wire.read(&mut [0; 8])).await.expect("an orderly end"), 0);
    assert_eq!(reached(&stand.sidecar, "idle"), 1);
    until_parked(&stand.sidecar, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_whose_next_head_is_late_is_answered_with_408() {
    let (stand, _backend) = ingress("[ingress.limits]\nhead = \"500ms\"").await;
    let mut wire = stand.wire().await;
    until_parked(&stand.sidecar, 1).await;
    wire.write_all(b"GET /late HTTP/1.1\r\n").await.expect("written");
    let answer = soon(rest(&mut wire)).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(reached(&stand.sidecar, "head"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_refuses_a_request_that_two_readers_could_cut_differently() {
    let (stand, backend) = ingress("").await;
    let mut wire = stand.wire().await;
    until_parked(&stand.sidecar, 1).await;
    let ambiguous =
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    wire.write_all(ambiguous.as_bytes()).await.expect("written");
    let answer = soon(rest(&mut wire)).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(backend.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_ends_with_its_peer() {
    let (stand, _backend) = ingress("").await;
    for orderly in [true, false] {
        let mut wire = stand.wire().await;
        until_parked(&stand.sidecar, 1).await;
        if orderly {
            wire.shutdown().await.expect("ended");
            assert_eq!(soon(rest(&mut wire)).await, "");
        } else {
            drop(wire);
        }
        let open = "sidekey_connections_open{side=\"ingress\",listener=\"api\"} 0\n";
        eventually("it is closed", || stand.sidecar.app.metrics_text().contains(open)).await;
        until_parked(&stand.sidecar, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_connection_leaves_when_it_is_old_and_when_the_process_stops() {
    let (mut stand, _backend) = ingress("[ingress.limits]\nconnection_age = \"3s\"").await;
    let mut wire = stand.wire().await;
    until_parked(&stand.sidecar, 1).await;
    assert_eq!(stand.sidecar.drained().await, "connection_age");
    assert_eq!(soon(wire.read(&mut [0; 8])).await.expect("an orderly end"), 0);

    let (stand, _backend) = ingress("[shutdown]\ndelay = \"0s\"\negress_linger = \"0s\"").await;
    let mut wire = stand.wire().await;
    until_parked(&stand.sidecar, 1).await;
    stand.sidecar.app.begin_stop();
    assert_eq!(soon(wire.read(&mut [0; 8])).await.expect("an orderly end"), 0);
    eventually("it is over", || stand.sidecar.app.phase() == ShutdownPhase::Over).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_for_its_response_is_not_parked() {
    let (tell, told) = tokio::sync::watch::channel(());
    let backend = Raw::start(move |_, mut stream: TcpStream| {
        let mut told = told.clone();
        told.mark_unchanged();
        async move {
            head(&mut stream).await;
            let _ = told.changed().await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").await;
        }
    })
    .await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut waiting = stand.wire().await;
    waiting.write_all(GET.as_bytes()).await.expect("written");
    // Another one that came later is parked, and this one is not.
    let _idle = stand.wire().await;
    until_parked(&stand.sidecar, 1).await;
    tell.send_replace(());
    read_yes(&mut waiting).await;
    until_parked(&stand.sidecar, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applications_connection_is_parked_and_serves_on() {
    let ca = Ca::new("Test CA");
    let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &["http/1.1"]).await;
    let sidecar = Sidecar::start_egress(&ca, upstream.address.port()).await;
    let mut app = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
    for _ in 0..2 {
        app.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").await.expect("written");
        let answer = soon(head(&mut app)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        eventually("parked", || count_parked(&sidecar, "egress") == 1).await;
    }
}
