//! Slow bodies: who keeps moving is waited for, however long it takes, and who stands still is not.
//!
//! Must hold: the time for a response begins when its request has been sent; an upload that the backend does not take is no
//! reason to wait for ever; a response that trickles goes on, and one that stands still is an aborted body, never a whole one.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::limits::{patient, reached};
use crate::protocols::{Stand, channel, data, soon, stand};
use crate::support::eventually;
use crate::support::raw::{Raw, head, rest};

/// As long as the limit `idle`, by its own effect.
pub async fn a_while(stand: &Stand) {
    assert_eq!(soon(rest(&mut stand.wire().await)).await, "", "an idle connection ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_takes_as_long_as_it_takes() {
    for (alpn, scheme) in [("http/1.1", "http"), ("h2", "http"), ("http/1.1", "h2c"), ("h2", "h2c")] {
        let backend = format!("{scheme}://{}", patient().await);
        let stand = stand(&backend, "[ingress.limits]\nresponse = \"500ms\"\nidle = \"500ms\"").await;
        let (sender, body) = channel();
        let request = Request::post("https://localhost/up").header("host", "localhost").body(body).expect("a request");
        let uploading = async {
            for piece in ["one ", "two ", "three"] {
                sender.send(data(piece)).await.expect("taken");
                // Longer than `response`, though never so long that `body_idle` (30 s) minds.
                a_while(&stand).await;
                a_while(&stand).await;
            }
            drop(sender);
        };
        let (answer, ()) = tokio::join!(stand.send(alpn, request), uploading);
        let answer = answer.expect("answered");
        assert_eq!(answer.status(), StatusCode::OK, "{alpn} to {scheme}");
        let whole = soon(answer.into_body().collect()).await.expect("a body").to_bytes();
        assert_eq!(whole, "one two three", "{alpn} to {scheme}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_backend_does_not_take_is_504() {
    // It accepts, and reads nothing.
    let held = Raw::start(|_, stream: TcpStream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    for alpn in ["http/1.1", "h2"] {
        let stand = stand(&format!("http://{}", held.address), "[ingress.limits]\nresponse = \"500ms\"").await;
        let (sender, body) = channel();
        let request = Request::post("https://localhost/up").header("host", "localhost").body(body).expect("a request");
        tokio::spawn(
            async move { while sender.send(Ok(Frame::data(Bytes::from(vec![b'x'; 64 * 1024])))).await.is_ok() {} },
        );
        let answer = stand.send(alpn, request).await.expect("answered");
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT, "{alpn}");
        assert_eq!(reached(&stand.sidecar, "response"), 1, "{alpn}");
    }
}

/// A backend whose response goes on by one byte whenever it is told to.
async fn trickle() -> (tokio::sync::watch::Sender<()>, Raw) {
    let (tell, told) = tokio::sync::watch::channel(());
    let backend = Raw::start(move |_, mut stream| {
        let mut told = told.clone();
        told.mark_unchanged();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while told.changed().await.is_ok() {
                let _ = stream.write_all(b"1\r\nx\r\n").await;
            }
        }
    })
    .await;
    (tell, backend)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_trickles_goes_on_and_one_that_stands_still_breaks_off() {
    let (tell, backend) = trickle().await;
    let limits = "[ingress.limits]\nresponse = \"500ms\"\nidle = \"250ms\"\nanswer_idle = \"3s\"";
    for alpn in ["http/1.1", "h2"] {
        let stand = stand(&format!("http://{}", backend.address), limits).await;
        let request = Request::get("https://localhost/").header("host", "localhost").body(Default::default());
        let answer = stand.send(alpn, request.expect("a request")).await.expect("answered");
        let mut body = answer.into_body();
        let begun = std::time::Instant::now();
        let mut pieces = 0;
        while begun.elapsed() < std::time::Duration::from_secs(4) {
            tell.send_replace(());
            let frame = soon(body.frame()).await.expect("a piece").expect("no error");
            assert_eq!(frame.into_data().expect("data"), "x");
            pieces += 1;
            a_while(&stand).await;
        }
        assert!(pieces > 1);
        assert_eq!(reached(&stand.sidecar, "answer_idle"), 0, "{alpn}");
        // From now on it says nothing.
        assert!(soon(body.frame()).await.expect("an end").is_err(), "{alpn}: what was cut short never looks whole");
        eventually("it is counted", || reached(&stand.sidecar, "answer_idle") == 1).await;
        let logged = |line: &serde_json::Value| line["target"] == "access" && line["reason"] == "answer_late";
        eventually("and logged", || stand.sidecar.log().iter().any(logged)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_upload_stands_still_is_late_and_not_broken() {
    let (tell, backend) = trickle().await;
    let limits = "[ingress.limits]\nidle = \"500ms\"\nbody_idle = \"2s\"";
    for alpn in ["http/1.1", "h2"] {
        let stand = stand(&format!("http://{}", backend.address), limits).await;
        let (sender, body) = channel();
        sender.send(data("half")).await.expect("taken");
        let request = Request::post("https://localhost/up").header("host", "localhost").body(body).expect("a request");
        let mut body = stand.send(alpn, request).await.expect("answered").into_body();
        // The response moves once more, so that the upload alone is late.
        a_while(&stand).await;
        tell.send_replace(());
        let frame = soon(body.frame()).await.expect("a piece").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "x");
        assert!(soon(body.frame()).await.expect("an end").is_err(), "{alpn}: what was cut short never looks whole");
        assert_eq!(access_reason(&stand, "/up").await, ("body_late".to_owned(), 200), "{alpn}");
        assert_eq!(reached(&stand.sidecar, "body_idle"), 1, "{alpn}");
        drop(sender);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_response_is_named_in_the_access_line() {
    let (tell, mut told) = tokio::sync::watch::channel(());
    let backend = Raw::start(move |_, mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await;
            tell.send_replace(());
            std::future::pending::<()>().await;
        }
    })
    .await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut wire = stand.wire().await;
    wire.write_all(b"GET /left HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    soon(told.changed()).await.expect("the backend has it");
    // A reset: a FIN alone may come from a client that waits for its answer.
    wire.get_ref().0.set_zero_linger().expect("a socket");
    drop(wire);
    assert_eq!(access_reason(&stand, "/left").await, ("client_closed".to_owned(), 499));
}

/// Reason and status in the access line of the request for this path.
pub async fn access_reason(stand: &Stand, path: &str) -> (String, u64) {
    let mut found = None;
    eventually("it is logged", || {
        let lines = stand.sidecar.log();
        found = lines.into_iter().find(|line| line["target"] == "access" && line["path"] == path);
        found.is_some()
    })
    .await;
    let line = found.expect("a line");
    (line["reason"].as_str().unwrap_or_default().to_owned(), line["status"].as_u64().unwrap_or_default())
}
