//! A backend that fails, lies or dawdles, and a client that does.
//!
//! Must hold: what does not parse as an answer is a 502, what does not come is a 504, and what breaks off is never a clean
//! end; bytes that belong to no answer reach no client; a request is sent twice only where nothing of it was sent, or where
//! it is idempotent and its connection was old; the slowest side sets the pace, and the sidecar's memory stays flat.

mod pace;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use crate::protocols::{Stand, soon, stand};
use crate::support::backend::{Backend, full};
use crate::support::eventually;
use crate::support::raw::{Raw, head, rest};

async fn front(backend: &Raw) -> Stand {
    stand(&format!("http://{}", backend.address), "limits = { response = \"1s\" }").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_answer_is_502() {
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "a: b\r\n".repeat(200));
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(100_000));
    let answers: [&[u8]; 15] = [
        b"hello\r\n\r\n",
        b"<html>not a status line</html>\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x40\0\0\0\x06\0\0\x40\0",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3, 4\r\n\r\nabcd",
        b"",
        many.as_bytes(),
        huge.as_bytes(),
    ];
    for answer in answers {
        let backend = Raw::saying(answer, true).await;
        let stand = front(&backend).await;
        for alpn in ["http/1.1", "h2"] {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
            let seen = soon(Box::pin(stand.peer(alpn).get(stand.sidecar.ingress("api"), "/"))).await.expect("answered");
            assert_eq!(seen.status, StatusCode::BAD_GATEWAY, "{shown:?} over {alpn}");
            assert_eq!(&*seen.body, b"502 Bad Gateway\n", "{shown:?} over {alpn}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_without_an_end_are_504() {
    let backend = Raw::start(|_, mut stream| async move {
        head(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let stand = front(&backend).await;
    let seen = soon(Box::pin(stand.peer("h2").get(stand.sidecar.ingress("api"), "/"))).await.expect("answered");
    assert_eq!(seen.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_change_nothing_of_the_real_one() {
    let hints = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let backend = Raw::saying(format!("{hints}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"), false).await;
    let stand = front(&backend).await;
    for alpn in ["http/1.1", "h2"] {
        let seen = soon(Box::pin(stand.peer(alpn).get(stand.sidecar.ingress("api"), "/"))).await.expect("answered");
        assert_eq!((seen.status.as_u16(), &*seen.body), (200, &b"ok"[..]));
        assert!(!seen.headers.contains_key("link"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_before_a_colon_and_a_repeated_length_do_not_reach_the_client() {
    let answer = "HTTP/1.1 200 OK\r\nspaced \t: x\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok";
    let backend = Raw::saying(answer, false).await;
    let stand = front(&backend).await;
    for alpn in ["http/1.1", "h2"] {
        let seen = soon(Box::pin(stand.peer(alpn).get(stand.sidecar.ingress("api"), "/"))).await.expect("answered");
        assert_eq!((seen.status.as_u16(), &*seen.body), (200, &b"ok"[..]), "{alpn}");
        assert_eq!(seen.headers["spaced"], "x", "{alpn}");
        assert_eq!(seen.headers.get_all("content-length").iter().collect::<Vec<_>>(), ["2"], "{alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_an_aborted_body() {
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let bodies = [
        (length, "too short", false),
        (length, "too short", true),
        (chunked, "5\r\nhello\r\n", false),
        (chunked, "5\r\nhello\r\n", true),
        (chunked, "5\r\nhel", false),
        (chunked, "5\r\nhello\r\nzz\r\n", false),
        (chunked, "5\r\nhello\r\n0\r\nhalf-a-trailer: ", false),
        (chunked, "ffffffffffffffffff\r\nhello", false),
    ];
    for (top, body, reset) in bodies {
        let backend = Raw::start(move |_, mut stream| async move {
            head(&mut stream).await;
            stream.write_all(format!("{top}{body}").as_bytes()).await.expect("written");
            if reset {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
            }
        })
        .await;
        let stand = front(&backend).await;
        for alpn in ["http/1.1", "h2"] {
            // A reset may also overtake the head: then there is no answer of the backend's at all.
            let got = soon(Box::pin(stand.peer(alpn).get(stand.sidecar.ingress("api"), "/"))).await;
            let clean = got.as_ref().is_ok_and(|answer| answer.status.is_success());
            assert!(!clean, "{body:?}, reset {reset}: a clean end over {alpn}: {got:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_an_answer_reach_no_client() {
    let injected = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nreal",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nreal\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        // Both lengths: the coding counts, and the connection cannot be trusted further.
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\ntransfer-encoding: chunked\r\n\r\n4\r\nreal\r\n0\r\n\r\n",
    ];
    for answer in answers {
        for extra in ["", injected, "\r\n", "garbage"] {
            let backend = Raw::saying(format!("{answer}{extra}"), false).await;
            let stand = front(&backend).await;
            for alpn in ["http/1.1", "h2"] {
                let mut connection = stand.peer(alpn).connect(stand.sidecar.ingress("api")).await.expect("connected");
                for _ in 0..3 {
                    let seen = soon(connection.get("/")).await.expect("answered");
                    assert!(seen.status.as_u16() < 500, "{answer:?} and {extra:?} over {alpn}: {}", seen.status);
                    assert!(matches!(&*seen.body, b"real" | b""), "{answer:?} and {extra:?}: {seen:?}");
                    if answer.contains("content-length: 100") {
                        assert!(!seen.headers.contains_key("content-length"), "{seen:?}");
                    }
                }
            }
            let untrusted = !extra.is_empty() || answer.contains("content-length: 100");
            // Both peers may have been on one worker, which then used one connection for both.
            let connections = backend.connections();
            assert!(
                if untrusted { connections == 6 } else { connections <= 2 },
                "{answer:?} and {extra:?}: {connections}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_before_an_answer_was_asked_for_reach_no_client() {
    let inject = Arc::new(Notify::new());
    let (done, mut injected) = mpsc::channel(4);
    let told = Arc::clone(&inject);
    let backend = Raw::start(move |_, mut stream| {
        let (inject, done) = (Arc::clone(&told), done.clone());
        async move {
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nreal").await.expect("written");
            inject.notified().await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged").await;
            let _ = done.send(()).await;
            rest(&mut stream).await;
        }
    })
    .await;
    let stand = front(&backend).await;
    let mut connection = stand.peer("http/1.1").connect(stand.sidecar.ingress("api")).await.expect("connected");
    for count in 1..=3 {
        assert_eq!(&*soon(connection.get("/")).await.expect("answered").body, b"real");
        assert_eq!(backend.connections(), count);
        inject.notify_one();
        soon(injected.recv()).await.expect("injected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_the_answer_to_a_head_reach_no_client() {
    let backend = Raw::saying("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged", false).await;
    let stand = front(&backend).await;
    let mut connection = stand.peer("http/1.1").connect(stand.sidecar.ingress("api")).await.expect("connected");
    for _ in 0..3 {
        let request = Request::head("/").body(Full::default()).expect("a request");
        assert_eq!(soon(connection.send(request)).await.expect("answered").status, 200);
    }
    assert_eq!(backend.connections(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_closes_under_a_request_costs_only_what_must_not_be_repeated() {
    // Every connection answers once. The next request finds it closed: at once, or only when it is there.
    for reads_first in [false, true] {
        let requests = Arc::new(AtomicUsize::new(0));
        let (closed, mut closes) = mpsc::channel(16);
        let count = Arc::clone(&requests);
        let backend = Raw::start(move |_, mut stream| {
            let (count, closed) = (Arc::clone(&count), closed.clone());
            async move {
                head(&mut stream).await;
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("written");
                if reads_first && head(&mut stream).await.is_some() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                drop(stream);
                let _ = closed.send(()).await;
            }
        })
        .await;
        let stand = front(&backend).await;
        let mut connection = stand.peer("http/1.1").connect(stand.sidecar.ingress("api")).await.expect("connected");
        assert_eq!(soon(connection.get("/")).await.expect("answered").status, 200);
        if !reads_first {
            soon(closes.recv()).await.expect("closed");
        }
        assert_eq!(soon(connection.get("/again")).await.expect("answered").status, 200);
        // Sent and not answered, then sent once more; or found out before it was sent.
        assert_eq!(requests.load(Ordering::SeqCst), if reads_first { 3 } else { 2 });
        if !reads_first {
            soon(closes.recv()).await.expect("closed");
        }
        let before = requests.load(Ordering::SeqCst);
        let post = Request::post("/once").body(Full::new(Bytes::from_static(b"x"))).expect("a request");
        let status = soon(connection.send(post)).await.expect("answered").status;
        assert_eq!(requests.load(Ordering::SeqCst), before + 1, "a POST was sent twice, or never");
        assert_eq!(status, if reads_first { 502 } else { 200 });
    }
}

/// Bytes from a pipe, as a stream of frames.
struct Pieces {
    from: tokio::io::DuplexStream,
    counted: Arc<AtomicUsize>,
}

impl futures_core::Stream for Pieces {
    type Item = Result<hyper::body::Frame<Bytes>, std::io::Error>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let mut part = [0; 16 * 1024];
        let mut buffer = tokio::io::ReadBuf::new(&mut part);
        std::task::ready!(tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut self.from), cx, &mut buffer))?;
        self.counted.fetch_add(buffer.filled().len(), Ordering::SeqCst);
        let frame = hyper::body::Frame::data(Bytes::copy_from_slice(buffer.filled()));
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_its_upload_leaves_no_whole_request_behind() {
    let (told, mut heard) = mpsc::channel(1);
    let backend = Raw::start(move |_, mut stream| {
        let told = told.clone();
        async move {
            head(&mut stream).await;
            let _ = told.send(rest(&mut stream).await).await;
        }
    })
    .await;
    let stand = front(&backend).await;
    let mut client = stand.wire().await;
    let half = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    client.write_all(half.as_bytes()).await.expect("written");
    client.flush().await.expect("written");
    drop(client);
    let body = soon(heard.recv()).await.expect("the end of the connection");
    assert!(!body.contains("0\r\n\r\n"), "half an upload was ended cleanly: {body:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_whose_connections_are_used_up_is_503_with_a_time_to_come_again() {
    let release = Arc::new(Notify::new());
    let holds = Arc::clone(&release);
    let backend = Raw::start(move |_, mut stream| {
        let release = Arc::clone(&holds);
        async move {
            while head(&mut stream).await.is_some() {
                release.notified().await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("written");
            }
        }
    })
    .await;
    let (ca, folder) = (crate::support::ca::Ca::new("Test CA"), crate::support::sidecar::folder());
    crate::support::sidecar::drop_pair(folder.path(), "tls", &ca.server(10));
    crate::support::sidecar::put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\nworkers = 1\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{}\"\nlimits = {{ connections = 2 }}\n",
        backend.address
    );
    let sidecar = crate::support::sidecar::Sidecar::start(folder, &toml).await;
    let client = ca.client("etl", 5);
    let peer = crate::support::peer::Peer::new(&[ca.pem()], Some(&client)).alpn(&["h2"]);
    let stream = peer.tls(sidecar.ingress("api")).await.expect("connected");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let call = |path: &str| {
        let mut sender = sender.clone();
        let request = Request::get(format!("https://localhost{path}")).body(full("")).expect("a request");
        async move { sender.send_request(request).await.expect("answered") }
    };
    let (one, two) = (tokio::spawn(call("/1")), tokio::spawn(call("/2")));
    eventually("both connections", || backend.connections() == 2).await;
    let refused = soon(call("/3")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    release.notify_waiters();
    for call in [one, two] {
        assert_eq!(soon(call).await.expect("joined").status(), 200);
    }
    release.notify_one();
    assert_eq!(soon(call("/4")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_h2c_backend_that_resets_or_leaves_is_seen_as_such() {
    // Says goodbye after each request: nothing is lost, and each connection carries what it carries.
    let backend = Backend::echo().await;
    let stand = stand(&format!("h2c://{}", backend.address), "").await;
    let mut connection = stand.peer("h2").connect(stand.sidecar.ingress("api")).await.expect("connected");
    for _ in 0..3 {
        assert_eq!(soon(connection.get("/")).await.expect("answered").status, 200);
    }
    // A backend that speaks HTTP/1.1 where h2c is configured, and one that hangs up.
    for answer in ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", ""] {
        let backend = Raw::start(move |_, mut stream| async move {
            let mut preface = [0; 24];
            let _ = stream.read_exact(&mut preface).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let stand = self::stand(&format!("h2c://{}", backend.address), "limits = { response = \"1s\" }").await;
        let seen = soon(Box::pin(stand.peer("h2").get(stand.sidecar.ingress("api"), "/"))).await.expect("answered");
        assert_eq!(seen.status, StatusCode::BAD_GATEWAY, "{answer:?}");
    }
}
