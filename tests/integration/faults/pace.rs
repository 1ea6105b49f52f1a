//! The slowest side sets the pace: a stalled reader stops its writer, and the sidecar's memory stays flat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Pieces;
use crate::protocols::{soon, stand};
use crate::support::backend::full;
use crate::support::raw::{Raw, head};

/// What a stalled write must stay below: kernel buffers of three sockets and windows of HTTP/2, and nothing of ours.
const FLAT: usize = 24 << 20;

/// Writes until it is stopped for a second; how much went out, and whether the other side ever stopped it.
async fn fill(stream: &mut (impl tokio::io::AsyncWrite + Unpin), most: usize) -> usize {
    let part = vec![b'x'; 64 * 1024];
    let mut written = 0;
    while written < most {
        match timeout(Duration::from_secs(1), stream.write_all(&part)).await {
            Ok(Ok(())) => written += part.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stops_a_fast_backend() {
    const WHOLE: usize = 256 << 20;
    for alpn in ["http/1.1", "h2"] {
        let (told, mut stalled) = mpsc::channel(1);
        let backend = Raw::start(move |_, mut stream| {
            let told = told.clone();
            async move {
                head(&mut stream).await;
                let top = format!("HTTP/1.1 200 OK\r\ncontent-length: {WHOLE}\r\n\r\n");
                stream.write_all(top.as_bytes()).await.expect("written");
                let _ = told.send(fill(&mut stream, WHOLE).await).await;
                std::future::pending::<()>().await;
            }
        })
        .await;
        let stand = stand(&format!("http://{}", backend.address), "").await;
        let request = Request::get("https://localhost/").header("host", "localhost").body(full("")).expect("a request");
        let response = stand.send(alpn, request).await;
        let mut response = response.expect("answered");
        let written = soon(stalled.recv()).await.expect("told");
        assert!(
            written < FLAT,
            "{written} bytes were taken from the backend over {alpn} while the client did not read"
        );
        // What was taken is all there.
        let mut got = 0;
        while got < written {
            let frame = soon(response.body_mut().frame()).await.expect("more").unwrap_or_else(|error| {
                panic!("{got} of {written} bytes over {alpn}: {error}");
            });
            got += frame.into_data().map_or(0, |data| data.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_backend_stops_a_fast_client() {
    const WHOLE: usize = 256 << 20;
    let backend = Raw::start(|_, mut stream: TcpStream| async move {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    let top = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {WHOLE}\r\n\r\n");
    client.write_all(top.as_bytes()).await.expect("written");
    let written = fill(&mut client, WHOLE).await;
    assert!(written < FLAT, "{written} bytes were taken from the client while the backend did not read");

    let (sender, connection) = {
        let stream = stand.peer("h2").tls(stand.sidecar.ingress("api")).await.expect("connected");
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2")
    };
    tokio::spawn(connection);
    let mut sender = sender;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let body = http_body_util::StreamBody::new(Pieces { from: near, counted });
    let request = Request::post("https://localhost/").body(body).expect("a request");
    let call = tokio::spawn(async move { sender.send_request(request).await.is_ok() });
    let written = fill(&mut far, WHOLE).await;
    assert!(written < FLAT, "{written} bytes were taken from the client over HTTP/2 while the backend did not read");
    assert!(asked.load(Ordering::SeqCst) > 0, "nothing was sent");
    call.abort();
}
