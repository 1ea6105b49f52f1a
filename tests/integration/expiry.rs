//! No connection outlives the certificate that authenticated it, on either side, pooled or resumed, idle or busy.
//!
//! Must hold: what is idle leaves in time, what runs is closed at the end, and nothing new is made or resumed after it; by
//! the manual clock, and once for real with certificates of a few seconds.

use std::net::SocketAddr;

use http::Response;
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use sidekey::event::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::backend::{Backend, full};
use crate::support::ca::{Ca, today};
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::raw_ca::{RawCa, ends};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Upstream;

/// How long the certificates of these tests last: longer than a handshake on a busy machine, shorter than patience.
const LIFE: i64 = 6;

/// A backend that answers at once, but `/slow`, which it never finishes.
async fn backend() -> Backend {
    Backend::with(|seen, _| {
        if seen.uri.path() != "/slow" {
            return Response::new(full("quick"));
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move { sender.closed().await });
        Response::new(http_body_util::StreamBody::new(crate::http::Received(receiver)).boxed_unsync())
    })
    .await
}

/// An ingress whose drains take a second.
async fn ingress(ca: &RawCa, backend: SocketAddr, now: Option<Timestamp>) -> Sidecar {
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.issue("localhost", &|_| ()));
    put(folder.path(), "ca.crt", &ca.pem);
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nbackend = \"http://{backend}\"\n[shutdown]\ndrain = \"1s\"\n"
    );
    match now {
        Some(now) => Sidecar::start_at(folder, &toml, now).await,
        None => Sidecar::start(folder, &toml).await,
    }
}

async fn nothing_outlives_a_peer(real: bool) {
    let (ca, backend, now) = (RawCa::new("CA"), backend().await, today());
    let life = if real { SignedDuration::from_secs(LIFE) } else { SignedDuration::from_hours(1) };
    let client = ca.issue("a.example", &|params| ends(params, now + life));
    let mut sidecar = ingress(&ca, backend.address, (!real).then_some(now)).await;
    let address = sidecar.ingress("api");
    let mut idle = Vec::new();
    let mut busy = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[&ca.pem], Some(&client)).alpn(&[alpn]);
        let mut first = peer.connect(address).await.expect("connected");
        first.get("/").await.expect("served");
        let mut resumed = peer.connect(address).await.expect("connected");
        assert!(resumed.resumed, "or it shows nothing");
        resumed.get("/").await.expect("served");
        let mut running = peer.connect(address).await.expect("connected");
        busy.push(tokio::spawn(async move { running.get("/slow").await.is_ok() }));
        idle.extend([first, resumed]);
    }
    eventually("the slow requests run", || {
        backend.seen().iter().filter(|seen| seen.uri.path() == "/slow").count() == 2
    })
    .await;
    if !real {
        sidecar.move_to(now + life - SignedDuration::from_secs(1));
    }
    for _ in 0..6 {
        assert_eq!(sidecar.drained().await, "peer_certificate_expired");
    }
    for connection in idle {
        connection.ended.await.expect("it has left");
    }
    if !real {
        sidecar.move_to(now + life + SignedDuration::from_secs(1));
    }
    for request in busy {
        assert!(!request.await.expect("joined"), "a request went on after its peer's certificate had expired");
    }
    // A drain may be over a moment before the certificate is.
    eventually("its certificate is over", || !real || today() > now + life).await;
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[&ca.pem], Some(&client)).alpn(&[alpn]);
        assert!(peer.get(address, "/").await.is_err());
    }
    assert_eq!(sidecar.handshake().await.reason, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_peer_outlives_its_certificate() {
    nothing_outlives_a_peer(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_peer_outlives_its_certificate_for_real() {
    nothing_outlives_a_peer(true).await;
}

/// One request of the application; the status line's code.
async fn ask(to: SocketAddr) -> u16 {
    let mut application = TcpStream::connect(to).await.expect("connected");
    application.write_all(b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    application.read_to_end(&mut answer).await.expect("answered");
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

async fn nothing_outlives_an_upstream(real: bool) {
    let now = today();
    let life = if real { SignedDuration::from_secs(LIFE) } else { SignedDuration::from_hours(1) };
    for alpn in ["h2", "http/1.1"] {
        let (ca, begin) = (RawCa::new("CA"), if real { today() } else { now });
        let server = ca.issue("localhost", &|params| ends(params, begin + life));
        let ours = Ca::new("Our CA");
        let upstream = Upstream::start(&server, &[ours.pem()], &[alpn]).await;
        let folder = folder();
        drop_pair(folder.path(), "out/tls", &ours.client("ours", 5));
        put(folder.path(), "out/ca.crt", &ca.pem);
        let toml = format!(
            "certs = \"certs\"\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://{}\"\nkeyring = \"out\"\nserver_name = \"localhost\"\n[shutdown]\ndrain = \"1s\"\n",
            upstream.address
        );
        let mut sidecar = match real {
            true => Sidecar::start(folder, &toml).await,
            false => Sidecar::start_at(folder, &toml, now).await,
        };
        let to = sidecar.egress("out");
        assert_eq!((ask(to).await, ask(to).await), (200, 200));
        if !real {
            sidecar.move_to(now + life - SignedDuration::from_secs(1));
        }
        assert_eq!(sidecar.drained().await, "peer_certificate_expired", "{alpn}");
        if !real {
            sidecar.move_to(now + life + SignedDuration::from_secs(1));
        }
        eventually("its certificate is over", || !real || today() > begin + life).await;
        let served = upstream.seen().len();
        assert_eq!(ask(to).await, 502, "{alpn}");
        assert_eq!(upstream.seen().len(), served, "{alpn}: a pooled connection or a session outlived it");
        let expired = |event: &Event| match event {
            Event::Handshake(handshake) if handshake.reason != "ok" => Some(handshake.reason),
            _ => None,
        };
        assert_eq!(sidecar.event("a refused handshake", expired).await, "expired", "{alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_an_upstream_outlives_its_certificate() {
    nothing_outlives_an_upstream(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_an_upstream_outlives_its_certificate_for_real() {
    nothing_outlives_an_upstream(true).await;
}
