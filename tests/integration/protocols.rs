//! What users expect to work through a sidecar: expectations, upgrades, events, trailers, early answers, old clients, gRPC.
//!
//! Must hold: the backend's answer decides whether a body is asked for; a tunnel opens only after a 101 that was asked for
//! and names it; what one side sends reaches the other when it is sent, not when it is complete; a stream that one side
//! gives up ends on the other.

mod interim;
mod interim_http2;
mod upgrades;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidekey::pki::issue::IssuedKeyPair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use crate::http::{Received, front};
use crate::support::backend::{Backend, Body, full};
use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::raw::{Raw, head, rest, until};
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, eventually};

/// An ingress in front of a backend, and a peer that it lets in.
pub struct Stand {
    ca: Ca,
    client: IssuedKeyPair,
    pub sidecar: Sidecar,
}

pub async fn stand(backend: &str, extra: &str) -> Stand {
    let (ca, sidecar) = front(backend, extra).await;
    Stand { client: ca.client("etl", 5), ca, sidecar }
}

impl Stand {
    pub fn peer(&self, alpn: &str) -> Peer {
        Peer::new(&[self.ca.pem()], Some(&self.client)).alpn(&[alpn])
    }

    /// A connection on which the test writes HTTP/1.1 itself.
    pub async fn wire(&self) -> TlsStream<TcpStream> {
        self.peer("http/1.1").tls(self.sidecar.ingress("api")).await.expect("connected")
    }

    /// Sends one request over a connection of its own, which lasts as long as the answer.
    pub async fn send(&self, alpn: &str, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        if alpn == "h2" {
            return soon(self.h2().await.send_request(request)).await;
        }
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.wire().await)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        soon(sender.send_request(request)).await
    }

    /// A connection for streams.
    async fn h2(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        let stream = self.peer("h2").tls(self.sidecar.ingress("api")).await.expect("connected");
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }
}

/// What must happen, and soon.
pub fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    // Boxed: a peer's whole handshake is in some of these.
    let what = Box::pin(what);
    async move { tokio::time::timeout(PATIENCE, what).await.expect("in time") }
}

async fn say(stream: &mut TlsStream<TcpStream>, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("written");
}

/// A body that the test sends piece by piece.
pub fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, hyper::Error>>, Body) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, BodyExt::boxed_unsync(StreamBody::new(Received(receiver))))
}

pub fn data(text: &'static str) -> Result<Frame<Bytes>, hyper::Error> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

const EXPECTING: &str = "POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_the_client_before_its_body_is_asked_for() {
    let backend = Raw::start(|_, mut stream| async move {
        let asked = head(&mut stream).await.expect("a head");
        assert!(asked.contains("expect: 100-continue"), "{asked}");
        let answer = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\n\r\ntoo big\n";
        stream.write_all(answer.as_bytes()).await.expect("written");
        assert_eq!(rest(&mut stream).await, "", "the body was sent all the same");
    })
    .await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(&mut client, EXPECTING).await;
    let answer = soon(head(&mut client)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let mut body = [0; 8];
    soon(client.read_exact(&mut body)).await.expect("its body");
    assert_eq!(&body, b"too big\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_is_asked_for_when_the_backend_asks_and_after_a_second_when_it_does_not() {
    for asks in [true, false] {
        let backend = Raw::start(move |_, mut stream| async move {
            head(&mut stream).await.expect("a head");
            if asks {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("written");
            }
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.expect("the body");
            assert_eq!(&body, b"hello");
            stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.expect("written");
            let again = head(&mut stream).await.expect("the connection is used again");
            assert!(again.starts_with("GET /next "), "{again}");
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
        })
        .await;
        let stand = stand(&format!("http://{}", backend.address), "").await;
        let mut client = stand.wire().await;
        say(&mut client, EXPECTING).await;
        assert_eq!(soon(head(&mut client)).await.expect("asked"), "HTTP/1.1 100 Continue\r\n\r\n");
        say(&mut client, "hello").await;
        assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 201"));
        say(&mut client, "GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 204"));
        assert_eq!(backend.connections(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_when_they_are_sent() {
    for alpn in ["http/1.1", "h2"] {
        let (events, body) = channel();
        let body = std::sync::Mutex::new(Some(body));
        let backend = Backend::with(move |_, _| {
            let mut response = Response::new(body.lock().expect("lock").take().expect("one request"));
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            response
        })
        .await;
        let stand = stand(&format!("http://{}", backend.address), "").await;
        let request =
            Request::get("https://localhost/events").header("host", "localhost").body(full("")).expect("a request");
        let response = stand.send(alpn, request).await;
        // The head is here before the first event is sent.
        let mut response = response.expect("answered");
        for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            events.send(data(event)).await.expect("sent");
            let frame = soon(response.body_mut().frame()).await.expect("an event").expect("no error");
            assert_eq!(frame.into_data().expect("data"), event, "over {alpn}");
        }
        drop(events);
        let left =
            soon(response.into_body().collect()).await.unwrap_or_else(|error| panic!("no end over {alpn}: {error}"));
        assert_eq!(left.to_bytes().len(), 0, "over {alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_content_keep_their_fields_and_the_connection() {
    let cases = [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: \"x\"\r\n\r\n", 200, Some("1234")),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\netag: \"x\"\r\n\r\n", 304, Some("1234")),
        ("GET", "HTTP/1.1 204 No Content\r\netag: \"x\"\r\n\r\n", 204, None),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\netag: \"x\"\r\n\r\n", 200, None),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\netag: \"x\"\r\n\r\n", 200, Some("0")),
    ];
    for (method, answer, status, length) in cases {
        for alpn in ["http/1.1", "h2"] {
            let backend = Raw::saying(answer, false).await;
            let stand = stand(&format!("http://{}", backend.address), "").await;
            let mut connection = stand.peer(alpn).connect(stand.sidecar.ingress("api")).await.expect("connected");
            for _ in 0..2 {
                let request = Request::builder().method(method).uri("/").body(Full::default()).expect("a request");
                let seen = soon(connection.send(request)).await.expect("answered");
                assert_eq!((seen.status.as_u16(), &*seen.body), (status, &b""[..]), "{answer:?} over {alpn}");
                assert_eq!(seen.headers["etag"], "\"x\"");
                let named = seen.headers.get("content-length").map(|value| value.to_str().expect("text"));
                // hyper's HTTP/1.1 server leaves the length of a 304 out, as RFC 9110 8.6 allows (docs/conformance.md).
                let length = length.filter(|_| alpn == "h2" || status != 304);
                assert_eq!(named, length, "{answer:?} over {alpn}");
            }
            assert_eq!(backend.connections(), 1, "{answer:?} over {alpn}: the backend's connection was not used again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_gets_its_answer_without_chunks_and_the_end_of_the_connection() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let backend = Raw::saying(chunked, false).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(&mut client, "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    let answer = soon(rest(&mut client)).await;
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello") && !answer.contains("transfer-encoding"), "{answer}");

    // An expectation in HTTP/1.0 is none: the sidecar sends such a client no 100, and the backend is not told of it.
    let backend = Backend::echo().await;
    let stand = self::stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(&mut client, "POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
        .await;
    let answer = soon(rest(&mut client)).await;
    assert!(answer.contains(" 200 OK") && answer.ends_with("hello") && !answer.contains("100 Continue"), "{answer}");
    assert_eq!(backend.last().header("expect"), "");
    assert_eq!(backend.last().version, http::Version::HTTP_11);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backend_that_ends_its_body_by_closing_is_chunked_on() {
    let backend = Raw::saying("HTTP/1.0 200 OK\r\n\r\nhello", true).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    for _ in 0..2 {
        say(&mut client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let answer = soon(until(&mut client, b"\r\n0\r\n\r\n")).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_cross_on_http_1_in_both_directions() {
    let backend = Raw::start(|_, mut stream| async move {
        let asked = head(&mut stream).await.expect("a head").to_lowercase();
        for field in ["te: trailers", "connection: te", "trailer: x-sum", "transfer-encoding: chunked"] {
            assert!(asked.contains(field), "{field} is not in {asked}");
        }
        let body = until(&mut stream, b"\r\n\r\n").await.expect("a body").to_lowercase();
        assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
        let answer =
            "HTTP/1.1 200 OK\r\ntrailer: x-back\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-back: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("written");
    })
    .await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(
        &mut client,
        "POST / HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    )
    .await;
    let answer = soon(until(&mut client, b"x-back: 2\r\n\r\n")).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n0\r\nx-back: 2"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_half_an_upload_reaches_the_client_on_both_protocols() {
    for alpn in ["http/1.1", "h2"] {
        let backend = Raw::start(|_, mut stream| async move {
            head(&mut stream).await.expect("a head");
            let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n";
            stream.write_all(answer.as_bytes()).await.expect("written");
            // Read on until the sidecar gives up, so that no reset overtakes the answer.
            rest(&mut stream).await;
        })
        .await;
        let stand = stand(&format!("http://{}", backend.address), "").await;
        let (_unfinished, body) = channel();
        _unfinished.send(data("the beginning")).await.expect("sent");
        let request = Request::post("https://localhost/").header("host", "localhost").body(body).expect("a request");
        let response = stand.send(alpn, request).await;
        let response = response.unwrap_or_else(|error| panic!("no answer over {alpn}: {error:?}"));
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "over {alpn}");
        let body = soon(response.into_body().collect()).await.expect("its body").to_bytes();
        assert_eq!(&*body, b"no\n", "over {alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_both_ways_and_a_call_that_is_given_up_ends_at_the_backend() {
    let (ended, mut ends) = mpsc::channel::<bool>(4);
    let backend = Backend::with(move |seen, mut body| {
        assert_eq!(seen.version, http::Version::HTTP_2);
        assert_eq!(seen.header("te"), "trailers");
        let (sender, answer) = channel();
        let ended = ended.clone();
        tokio::spawn(async move {
            let mut cleanly = true;
            while let Some(frame) = body.frame().await {
                cleanly = frame.is_ok();
                match frame {
                    Ok(frame) => drop(sender.send(Ok(frame)).await),
                    Err(_) => break,
                }
            }
            let trailers = [("grpc-status", "0"), ("grpc-message", "fine")]
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            let _ = sender.send(Ok(Frame::trailers(trailers.into_iter().collect::<HeaderMap>()))).await;
            let _ = ended.send(cleanly).await;
        });
        Response::new(answer)
    })
    .await;
    let stand = stand(&format!("h2c://{}", backend.address), "").await;
    let mut sender = stand.h2().await;
    let request = |body| {
        let request = Request::post("https://localhost/pkg.Echo/Both").header("te", "trailers");
        request.header("content-type", "application/grpc").body(body).expect("a request")
    };
    let (asks, body) = channel();
    let mut response = soon(sender.send_request(request(body))).await.expect("answered before anything is sent");
    for message in ["one", "two", "three"] {
        asks.send(data(message)).await.expect("sent");
        let frame = soon(response.body_mut().frame()).await.expect("an echo").expect("no error");
        assert_eq!(frame.into_data().expect("data"), message);
    }
    drop(asks);
    let last = soon(response.body_mut().frame()).await.expect("trailers").expect("no error");
    assert_eq!(last.into_trailers().expect("trailers")["grpc-status"], "0");
    assert_eq!(soon(ends.recv()).await, Some(true));

    // A deadline that passes, or a caller that leaves: a reset, on both sides.
    let (asks, body) = channel();
    let mut response = soon(sender.send_request(request(body))).await.expect("answered");
    asks.send(data("one")).await.expect("sent");
    soon(response.body_mut().frame()).await.expect("an echo").expect("no error");
    drop(response);
    drop(sender);
    drop(asks.send(Err(broken().await)).await);
    assert_eq!(soon(ends.recv()).await, Some(false), "the backend took a call that was given up for a finished one");
}

/// An error of hyper's, which has no constructor.
async fn broken() -> hyper::Error {
    let (near, far) = tokio::io::duplex(64);
    drop(far);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(near)).await.expect("a connection");
    tokio::spawn(connection);
    sender.send_request(Request::new(full(""))).await.expect_err("no server listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_arrive_whole_both_ways_on_both_protocols() {
    let backend = Backend::echo().await;
    let h2c = stand(&format!("h2c://{}", backend.address), "").await;
    let plain = stand(&format!("http://{}", backend.address), "").await;
    let sent: Bytes = (0..12_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, stand) in [("h2c", &h2c), ("http", &plain)] {
        for alpn in ["http/1.1", "h2"] {
            let mut connection = stand.peer(alpn).connect(stand.sidecar.ingress("api")).await.expect("connected");
            let request = Request::post("/").body(Full::new(sent.clone())).expect("a request");
            let answer = soon(connection.send(request)).await.expect("answered");
            assert!(answer.body == sent, "{} bytes came back from {name} over {alpn}", answer.body.len());
        }
    }
    eventually("both requests on each side", || backend.seen().len() == 4).await;
}
