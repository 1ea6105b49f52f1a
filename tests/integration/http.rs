//! HTTP at the border: what a peer may not say, what the backend is told, what comes back, and what it costs when it fails.
//!
//! Must hold: no identity field from outside reaches the backend, whatever its spelling; hop-by-hop fields stop here;
//! bodies and trailers stream both ways; rules decide on the normalised path; a failing backend is a status that says
//! nothing, and a line that says everything.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::handshake::stand;
use crate::support::backend::{Backend, full};
use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

/// An ingress in front of `backend` with `extra` keys below `[[ingress]]`.
pub async fn front(backend: &str, extra: &str) -> (Ca, Sidecar) {
    let ca = Ca::new("Test CA");
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(10));
    put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"{backend}\"\n{extra}\n"
    );
    (ca, Sidecar::start(folder, &toml).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_hop_by_hop_fields_from_outside_are_removed_in_any_spelling() {
    let stand = stand("").await;
    let client = stand.ca.client("etl", 5);
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[stand.ca.pem()], Some(&client)).alpn(&[alpn]);
        let mut connection = peer.connect(stand.sidecar.ingress("api")).await.expect("connected");
        let mut request = Request::get("/");
        for name in [
            "client-cert",
            "Client_Cert",
            "x-forwarded-client-cert",
            "X-SIDEKEY-peer",
            "x_sidekey_anything",
            "client.cert.chain",
        ] {
            request = request.header(name, "forged");
        }
        request = request.header("x-forwarded-for", "6.6.6.6").header("forwarded", "for=6.6.6.6").header("kept", "yes");
        if alpn == "http/1.1" {
            request = request.header("connection", "close, secret-hop").header("secret-hop", "forged");
        }
        let answer = connection.send(request.body(Full::default()).expect("a request")).await.expect("answered");
        assert_eq!(answer.status, 200);
        let seen = stand.backend.last();
        for (name, value) in &seen.headers {
            assert_ne!(value, "forged", "{name} reached the backend over {alpn}");
            assert!(!value.to_str().unwrap_or("").contains("6.6.6.6"), "{name} reached the backend over {alpn}");
        }
        assert_eq!(seen.header("kept"), "yes");
        assert_eq!(seen.header("x-sidekey-peer"), "uri:spiffe://etl.example/app");
        assert_eq!(seen.header("host"), "localhost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_decide_on_the_normalised_path_and_the_peer() {
    let backend = Backend::echo().await;
    let (ca, sidecar) = front(
        &format!("http://{}", backend.address),
        "allow = [{ dns = \"etl.example\" }, { dns = \"ops.example\" }]\n[[ingress.rule]]\npaths = [\"/admin/**\"]\nallow = [{ dns = \"ops.example\" }]",
    )
    .await;
    let address = sidecar.ingress("api");
    let (etl, ops, other) = (ca.client("etl", 5), ca.client("ops", 5), ca.client("other", 5));
    let peer = |pair| Peer::new(&[ca.pem()], Some(pair)).alpn(&["http/1.1"]);
    for path in ["/admin", "/admin/x", "//admin/x", "/a/../admin", "/%61dmin/", "/./admin"] {
        assert_eq!(peer(&etl).get(address, path).await.expect("answered").status, 403, "{path}");
        assert_eq!(peer(&ops).get(address, path).await.expect("answered").status, 200, "{path}");
    }
    for path in ["/a%2fadmin", "/admin;x", "/a%00", "/%zz"] {
        assert_eq!(peer(&ops).get(address, path).await.expect("answered").status, 400, "{path}");
    }
    assert_eq!(peer(&etl).get(address, "/open").await.expect("answered").status, 200);
    assert_eq!(peer(&other).get(address, "/open").await.expect("answered").status, 403);
    assert!(backend.seen().iter().all(|seen| !seen.uri.path().contains("..") && !seen.uri.path().contains("//")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_is_bound_to_its_own_anchors() {
    let backend = Backend::echo().await;
    let (acme, other) = (Ca::new("Acme CA"), Ca::new("Other CA"));
    let ours = Ca::new("Our CA");
    let folder = folder();
    drop_pair(folder.path(), "api/tls", &ours.server(10));
    put(folder.path(), "trust/acme.pem", acme.pem());
    put(folder.path(), "trust/other.pem", other.pem());
    let toml = format!(
        "certs = \"certs\"\n[trust.partners]\nanchors = [\"trust/acme.pem\", \"trust/other.pem\"]\n\
         [partner.acme]\nanchors = [\"trust/acme.pem\"]\npeers = [{{ dns = \"*.example\" }}]\n\
         [[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"api\"]\ntrust = \"partners\"\nbackend = \"http://{}\"\nallow = [{{ partner = \"acme\" }}]\n",
        backend.address
    );
    let mut sidecar = Sidecar::start(folder, &toml).await;
    let address = sidecar.ingress("api");
    let real = Peer::new(&[ours.pem()], Some(&acme.client("etl", 5)));
    assert_eq!(real.get(address, "/").await.expect("answered").status, 200);
    assert_eq!(sidecar.handshake().await.partner.as_deref(), Some("acme"));
    // The other partner's CA mints acme's name: the handshake is fine, it is just not acme.
    let minted = Peer::new(&[ours.pem()], Some(&other.client("etl", 5)));
    assert_eq!(minted.get(address, "/").await.expect("answered").status, 403);
    assert_eq!(sidecar.handshake().await.partner, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_and_trailers_arrive_without_identity_fields() {
    let backend = Backend::with(|_, body| {
        let trailers = [("grpc-status", "0"), ("x-sidekey-peer", "forged")]
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        let frames = futures_like(body, trailers.into_iter().collect());
        let mut response = Response::new(frames);
        response.headers_mut().insert("trailer", http::HeaderValue::from_static("grpc-status, x-sidekey-peer"));
        response
    })
    .await;
    let (ca, sidecar) = front(&format!("http://{}", backend.address), "").await;
    let client = ca.client("etl", 5);
    let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&["h2"]);
    let mut connection = peer.connect(sidecar.ingress("api")).await.expect("connected");
    let body = Bytes::from(vec![7_u8; 3_000_000]);
    let request = Request::post("/").header("te", "trailers").body(Full::new(body.clone())).expect("a request");
    let answer = connection.send(request).await.expect("answered");
    assert_eq!(answer.body, body);
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert!(!trailers.contains_key("x-sidekey-peer"), "a forged identity in a trailer");
}

/// The body's data frames, then these trailers.
fn futures_like(body: hyper::body::Incoming, trailers: http::HeaderMap) -> crate::support::backend::Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(4);
    tokio::spawn(async move {
        let mut body = body;
        while let Some(frame) = body.frame().await {
            if sender.send(frame).await.is_err() {
                return;
            }
        }
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    BodyExt::boxed_unsync(StreamBody::new(Received(receiver)))
}

/// A channel as a stream.
pub struct Received(pub tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, hyper::Error>>);

impl futures_core::Stream for Received {
    type Item = Result<Frame<Bytes>, hyper::Error>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_backend_is_a_status_that_says_nothing() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let (ca, sidecar) = front(&format!("http://{gone}"), "").await;
    let client = ca.client("etl", 5);
    let answer = Peer::new(&[ca.pem()], Some(&client)).get(sidecar.ingress("api"), "/").await.expect("answered");
    assert_eq!(answer.status, 502);
    assert!(!String::from_utf8_lossy(&answer.body).contains(&gone.port().to_string()), "{answer:?}");

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = silent.local_addr().expect("an address");
    let (ca, sidecar) = front(&format!("http://{at}"), "limits = { response = \"300ms\" }").await;
    let client = ca.client("etl", 5);
    let answer = Peer::new(&[ca.pem()], Some(&client)).get(sidecar.ingress("api"), "/").await.expect("answered");
    assert_eq!(answer.status, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_breaks_off_in_mid_body_is_an_aborted_body_and_never_a_clean_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        }
    });
    let (ca, sidecar) = front(&format!("http://{at}"), "").await;
    let client = ca.client("etl", 5);
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
        assert!(peer.get(sidecar.ingress("api"), "/").await.is_err(), "a truncated body ended cleanly over {alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_and_methods_that_are_not_forwarded_stop_here() {
    let stand = stand("").await;
    let client = stand.ca.client("etl", 5);
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).alpn(&["http/1.1"]);
    let cases: [(&str, &str); 7] = [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", "400"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "405"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
    ];
    for (text, status) in cases {
        let mut stream = peer.tls(stand.sidecar.ingress("api")).await.expect("connected");
        stream.write_all(text.as_bytes()).await.expect("written");
        let mut answer = vec![0; 64];
        let count = tokio::time::timeout(crate::support::PATIENCE, stream.read(&mut answer))
            .await
            .expect("in time")
            .unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{text:?} got {answer:?}");
    }
    assert!(stand.backend.seen().is_empty(), "{:?}", stand.backend.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_lives_through_a_rotation() {
    // A backend that accepts the upgrade and then echoes bytes.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let _ = stream.read(&mut head).await;
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                let _ = stream.write_all(answer).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let (ca, mut sidecar) = front(&format!("http://{at}"), "").await;
    let client = ca.client("etl", 5);
    let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&["http/1.1"]);
    let mut stream = peer.tls(sidecar.ingress("api")).await.expect("connected");
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await
        .expect("written");
    let mut head = vec![0; 1024];
    let count = stream.read(&mut head).await.expect("a head");
    assert!(head[..count].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head[..count]));
    let next = ca.server(1);
    drop_pair(sidecar.folder.path(), "tls", &next);
    sidecar.rotation("default").await;
    stream.write_all(b"still here").await.expect("written");
    let mut echo = [0; 10];
    stream.read_exact(&mut echo).await.expect("echoed after the rotation");
    assert_eq!(&echo, b"still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_on_a_unix_socket_and_h2c_are_served() {
    let h2c = Backend::with(|seen, _| Response::new(full(format!("{:?}", seen.version)))).await;
    let (ca, sidecar) = front(&format!("h2c://{}", h2c.address), "").await;
    let client = ca.client("etl", 5);
    let answer = Peer::new(&[ca.pem()], Some(&client)).get(sidecar.ingress("api"), "/").await.expect("answered");
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"HTTP/2.0"[..]));

    let socket = tempfile::tempdir().expect("a folder");
    let path = socket.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    let (ca, sidecar) = front(&format!("unix:{}", path.display()), "").await;
    let client = ca.client("etl", 5);
    let answer = Peer::new(&[ca.pem()], Some(&client)).get(sidecar.ingress("api"), "/").await.expect("answered");
    assert_eq!(answer.status, 204);
}
