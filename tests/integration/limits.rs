//! Limits: who is slow, silent or too many is closed, with its reason and its count, and everybody else is
//! served meanwhile.
//!
//! Must hold: slow handshakes, heads, bodies and readers are closed; old connections drain; where connections run out, those
//! that say nothing go first. Floods are in `floods`.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::backend::{Backend, full};
use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::{PATIENCE, eventually};

/// An ingress in front of `backend`: `keys` below `[[ingress]]`, and what comes before it.
async fn front(backend: SocketAddr, before: &str, keys: &str) -> (Ca, Sidecar) {
    let ca = Ca::new("Test CA");
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(10));
    put(folder.path(), "ca.crt", ca.pem());
    put(folder.path(), "trust/ca.pem", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n{before}\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{backend}\"\n{keys}\n"
    );
    (ca, Sidecar::start(folder, &toml).await)
}

pub fn reached(sidecar: &Sidecar, limit: &str) -> u64 {
    let line = format!("sidekey_limit_reached_total{{side=\"ingress\",listener=\"api\",limit=\"{limit}\"}} ");
    count(sidecar, &line)
}

fn count(sidecar: &Sidecar, line: &str) -> u64 {
    let text = sidecar.app.metrics_text();
    text.lines().find_map(|found| found.strip_prefix(line)?.parse().ok()).unwrap_or(0)
}

/// The first flight of a TLS client.
pub fn client_hello(peer: &Peer) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::clone(&peer.config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a ClientHello");
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_first_when_connections_run_out() {
    let backend = Backend::echo().await;
    let (ca, mut sidecar) = front(backend.address, "", "[ingress.limits]\nconnections = 3").await;
    let to = sidecar.ingress("api");
    let client = ca.client("etl", 5);
    let peer = Peer::new(&[ca.pem()], Some(&client));
    let mut silent = TcpStream::connect(to).await.expect("connected");
    let mut first = peer.connect(to).await.expect("connected");
    let mut second = peer.connect(to).await.expect("connected");
    let mut third = peer.connect(to).await.expect("connected");
    for connection in [&mut first, &mut second, &mut third] {
        assert_eq!(connection.get("/").await.expect("answered").status, 200);
    }
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0, "the silent one went");
    assert!(peer.get(to, "/").await.is_err(), "all are serving: the next one is turned away");
    for reason in ["too_many_waiting", "too_many_connections"] {
        let found = sidecar.event(reason, |event| match event {
            sidekey::event::Event::Handshake(one) if one.reason == reason => Some(()),
            _ => None,
        });
        found.await;
    }
    assert_eq!(reached(&sidecar, "connections"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_its_time_from_accept_and_no_more() {
    let backend = Backend::echo().await;
    let (ca, mut sidecar) = front(backend.address, "", "[ingress.limits]\nhandshake = \"300ms\"").await;
    let to = sidecar.ingress("api");
    let hello = client_hello(&Peer::new(&[ca.pem()], None));
    for (bytes, reason) in [
        (&b""[..], "timed_out_before_hello"),
        (&hello[..40], "timed_out_before_hello"),
        (&hello[..], "timed_out_after_hello"),
    ] {
        let mut stream = TcpStream::connect(to).await.expect("connected");
        stream.write_all(bytes).await.expect("written");
        assert_eq!(sidecar.handshake().await.reason, reason);
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed");
    }
    assert_eq!(reached(&sidecar, "handshake"), 3);
}

/// A TLS connection of an honest peer that speaks by hand.
async fn by_hand(ca: &Ca, sidecar: &Sidecar) -> TlsStream<TcpStream> {
    let client = ca.client("etl", 5);
    let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&["http/1.1"]);
    peer.tls(sidecar.ingress("api")).await.expect("a handshake")
}

/// Everything that still comes, until the end.
async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("closed");
    String::from_utf8_lossy(&all).into_owned()
}

fn lines(sidecar: &Sidecar, reason: &str) -> Vec<serde_json::Value> {
    sidecar.log().into_iter().filter(|line| line["reason"] == reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_answered_with_408_and_closed() {
    let backend = Backend::echo().await;
    let (ca, sidecar) = front(backend.address, "", "[ingress.limits]\nhead = \"500ms\"").await;
    // The first request is whole, the second comes a field at a time.
    let mut stream = by_hand(&ca, &sidecar).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.expect("written");
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n").await.expect("written");
    let answer = rest(&mut stream).await;
    assert!(answer.contains("HTTP/1.1 408 Request Timeout\r\n") && answer.contains("connection: close"), "{answer}");
    assert_eq!(reached(&sidecar, "head"), 1);
    assert_eq!(count(&sidecar, "sidekey_requests_total{side=\"ingress\",listener=\"api\",status=\"408\"} "), 1);
    assert_eq!(backend.seen().len(), 1, "half a head reaches no backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_counts_as_its_limit() {
    let backend = Backend::echo().await;
    let (ca, sidecar) = front(backend.address, "", "[ingress.limits]\nhead_size = \"8KiB\"\nfields = 10").await;
    for (fields, limit) in [("x: y\r\n".repeat(11), "fields"), (format!("x: {}", "y".repeat(9000)), "head_size")] {
        let mut stream = by_hand(&ca, &sidecar).await;
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}").as_bytes()).await.expect("written");
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 431 "));
        assert_eq!(reached(&sidecar, limit), 1, "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_nothing_is_closed() {
    let backend = Backend::echo().await;
    let (ca, sidecar) = front(backend.address, "", "[ingress.limits]\nidle = \"500ms\"").await;
    let mut stream = by_hand(&ca, &sidecar).await;
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(reached(&sidecar, "idle"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_answered_with_408_over_either_protocol_and_to_either_backend() {
    for scheme in ["http", "h2c"] {
        let ca = Ca::new("Test CA");
        let folder = folder();
        drop_pair(folder.path(), "tls", &ca.server(10));
        put(folder.path(), "ca.crt", ca.pem());
        let toml = format!(
            "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"{scheme}://{}\"\n[ingress.limits]\nbody_idle = \"500ms\"\n",
            patient().await
        );
        let sidecar = Sidecar::start(folder, &toml).await;
        let mut stream = by_hand(&ca, &sidecar).await;
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await.expect("written");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{scheme}: {answer}");
        eventually("it is counted", || reached(&sidecar, "body_idle") == 1).await;
        assert!(!lines(&sidecar, "body_late").is_empty());
    }
}

/// A backend that answers only when the body is whole, in either protocol.
pub async fn patient() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let whole = request.into_body().collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(Response::new(Full::new(whole)))
                });
                let mut first = [0; 3];
                let h2 = matches!(stream.peek(&mut first).await, Ok(3) if &first == b"PRI");
                let io = hyper_util::rt::TokioIo::new(stream);
                if h2 {
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await;
                } else {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    address
}

/// A backend whose responses never end.
pub async fn endless() -> Backend {
    Backend::with(|seen, _| {
        if seen.uri.path() != "/endless" {
            return Response::new(full("quick"));
        }
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
        tokio::spawn(async move {
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            while sender.send(Ok(Frame::data(piece.clone()))).await.is_ok() {}
        });
        Response::new(StreamBody::new(crate::http::Received(receiver)).boxed_unsync())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_closed_over_http1() {
    let backend = endless().await;
    let (ca, sidecar) = front(backend.address, "", "[ingress.limits]\nbody_idle = \"1s\"").await;
    let mut stream = by_hand(&ca, &sidecar).await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    eventually("it is closed", || reached(&sidecar, "body_idle") == 1).await;
    eventually("and logged", || !lines(&sidecar, "body_unread").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_its_client_does_not_read_is_reset_and_its_connection_serves_on() {
    let backend = endless().await;
    let (ca, sidecar) = front(backend.address, "", "[ingress.limits]\nbody_idle = \"1s\"").await;
    let client = ca.client("etl", 5);
    let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&["h2"]);
    let stream = peer.tls(sidecar.ingress("api")).await.expect("a handshake");
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = |path: &str| {
        Request::get(format!("https://localhost{path}")).body(Full::<Bytes>::default()).expect("a request")
    };
    let unread = sender.send_request(request("/endless")).await.expect("a head");
    eventually("the stream is reset", || reached(&sidecar, "body_idle") == 1).await;
    sender.ready().await.expect("the connection lives");
    let other = sender.send_request(request("/")).await.expect("another head");
    assert_eq!(other.into_body().collect().await.expect("a body").to_bytes(), "quick");
    assert!(unread.into_body().collect().await.is_err(), "what was cut short never looks whole");
    eventually("and logged", || !lines(&sidecar, "body_unread").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_old_drains_without_losing_a_request() {
    let backend = Backend::echo().await;
    let (ca, mut sidecar) = front(backend.address, "", "[ingress.limits]\nconnection_age = \"500ms\"").await;
    let client = ca.client("etl", 5);
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
        let mut connection = peer.connect(sidecar.ingress("api")).await.expect("connected");
        assert_eq!(connection.get("/").await.expect("answered").status, 200);
        let why = sidecar.event("a drain", |event| match event {
            sidekey::event::Event::Drained(sidekey::event::DrainRecord { reason, .. }) => Some(*reason),
            _ => None,
        });
        assert_eq!(why.await, "connection_age");
        tokio::time::timeout(PATIENCE, &mut connection.ended).await.expect("closed").expect("joined");
    }
    assert_eq!(reached(&sidecar, "connection_age"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_has_as_many_connections_as_it_may() {
    let backend = Backend::echo().await;
    let before = "[trust.partners]\nanchors = [\"trust/ca.pem\"]\n[partner.acme]\nanchors = [\"trust/ca.pem\"]\n\
                  peers = [{ dns = \"etl.example\" }]\nmax_connections = 1";
    let (ca, mut sidecar) = front(backend.address, before, "trust = \"partners\"").await;
    let to = sidecar.ingress("api");
    let (etl, other) = (ca.client("etl", 5), ca.client("other", 5));
    let peer = |pair| Peer::new(&[ca.pem()], Some(pair));
    let mut first = peer(&etl).connect(to).await.expect("connected");
    assert_eq!(first.get("/").await.expect("answered").status, 200);
    assert!(peer(&etl).get(to, "/").await.is_err(), "one too many");
    assert_eq!(peer(&other).get(to, "/").await.expect("answered").status, 200);
    let told = sidecar.event("a reason", |event| match event {
        sidekey::event::Event::Handshake(one) if one.reason == "too_many_of_partner" => {
            Some((one.explanation.clone(), one.partner.clone()))
        }
        _ => None,
    });
    let (explanation, partner) = told.await;
    assert!(explanation.starts_with("partner \"acme\" has 1 open connections"), "{explanation}");
    assert_eq!(partner.as_deref(), Some("acme"));
    assert_eq!(reached(&sidecar, "partner"), 1);
    drop(first);
    eventually("its place is free", || {
        count(&sidecar, "sidekey_connections_open{side=\"ingress\",listener=\"api\"} ") == 0
    })
    .await;
    assert_eq!(peer(&etl).get(to, "/").await.expect("answered").status, 200);
}

/// An egress to an upstream over HTTP/1.1, with these limits.
async fn way_out(limits: &str) -> (crate::support::upstream::Upstream, Sidecar) {
    let ca = Ca::new("Test CA");
    let upstream = crate::support::upstream::Upstream::start(&ca.server(1), &[ca.pem()], &["http/1.1"]).await;
    let folder = folder();
    drop_pair(folder.path(), "out/tls", &ca.client("us", 5));
    put(folder.path(), "out/ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://{}\"\nserver_name = \"localhost\"\nkeyring = \"out\"\n[egress.limits]\n{limits}\n",
        upstream.address
    );
    (upstream, Sidecar::start(folder, &toml).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_answers_a_slow_application_with_408_too() {
    let (upstream, sidecar) = way_out("head = \"500ms\"\nbody_idle = \"500ms\"").await;
    for slow in ["GET / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"] {
        let mut stream = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
        stream.write_all(slow.as_bytes()).await.expect("written");
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("closed");
        assert!(read.is_ok() && answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{slow:?}: {answer}");
    }
    for limit in ["head", "body_idle"] {
        let line = format!("sidekey_limit_reached_total{{side=\"egress\",listener=\"out\",limit=\"{limit}\"}} ");
        assert_eq!(count(&sidecar, &line), 1, "{limit}");
    }
    assert!(upstream.seen().len() <= 1, "half a head reaches no backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_an_upstream_age_as_well() {
    let (_upstream, mut sidecar) = way_out("connection_age = \"500ms\"").await;
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        connections.push(sidecar.handshake().await.connection);
        let drained = connections[connections.len() - 1];
        let old = sidecar.event("a drain", |event| match event {
            sidekey::event::Event::Drained(sidekey::event::DrainRecord { connection, reason, .. })
                if *connection == drained =>
            {
                Some(*reason)
            }
            _ => None,
        });
        assert_eq!(old.await, "connection_age");
    }
    assert_ne!(connections[0], connections[1], "an old connection carries no further request");
}

/// A backend that grants every WebSocket and then sends for ever.
async fn chatterbox() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let granted = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                stream.write_all(granted).await?;
                loop {
                    stream.write_all(&[b'x'; 64 * 1024]).await?;
                }
                #[expect(unreachable_code, reason = "says what may go wrong above")]
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_its_client_does_not_read_is_closed() {
    let (ca, sidecar) = front(chatterbox().await, "", "[ingress.limits]\nbody_idle = \"1s\"").await;
    let mut stream = by_hand(&ca, &sidecar).await;
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(asked).await.expect("written");
    let mut granted = [0; 12];
    stream.read_exact(&mut granted).await.expect("an answer");
    assert_eq!(&granted, b"HTTP/1.1 101");
    let open = "sidekey_connections_open{side=\"ingress\",listener=\"api\"} ";
    assert_eq!(count(&sidecar, open), 1, "a tunnel is an open connection");
    eventually("it is closed", || reached(&sidecar, "body_idle") == 1).await;
    eventually("and gone", || count(&sidecar, open) == 0).await;
}
