//! Streams that are silent, and readers that are slow: what moves, or need not move, is never cut; what is cut says why.
//!
//! Must hold: an event stream or a gRPC exchange may be silent for as long as it likes; an exchange moves if either side does; a
//! reader that takes a few bytes at a time reads; the end of a gRPC exchange that is cut has a status.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::limits::{endless, reached};
use crate::protocols::{Stand, channel, data, soon, stand};
use crate::slow::{a_while, access_reason};
use crate::support::raw::{Raw, head, until};

/// Sends one piece of every response that runs; a piece "end" breaks its connection off.
pub type Prompter = watch::Sender<&'static str>;

/// A backend that answers with this content type, and then only sends what it is told to.
pub async fn prompted(content_type: &'static str) -> (Prompter, Raw) {
    let (tell, told) = watch::channel("");
    let backend = Raw::start(move |_, mut stream| {
        let mut told = told.clone();
        told.mark_unchanged();
        async move {
            head(&mut stream).await;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).await;
            while told.changed().await.is_ok() {
                let piece = *told.borrow_and_update();
                let bytes = match piece {
                    "end" => return,
                    "whole" => "0\r\ngrpc-status: 0\r\n\r\n".to_owned(),
                    _ => format!("{:x}\r\n{piece}\r\n", piece.len()),
                };
                let _ = stream.write_all(bytes.as_bytes()).await;
            }
        }
    })
    .await;
    (tell, backend)
}

async fn next_piece(body: &mut Incoming) -> Bytes {
    soon(body.frame()).await.expect("a piece").expect("no error").into_data().expect("data")
}

async fn trailers(body: &mut Incoming) -> HeaderMap {
    soon(body.frame()).await.expect("trailers").expect("no error").into_trailers().expect("trailers")
}

const SHORT: &str = "[ingress.limits]\nidle = \"500ms\"\nbody_idle = \"250ms\"";

#[tokio::test(flavor = "multi_thread")]
async fn streams_may_be_silent_for_longer_than_any_body() {
    for (kind, alpn) in [("text/event-stream", "http/1.1"), ("text/event-stream", "h2"), ("application/grpc", "h2")] {
        let (tell, backend) = prompted(kind).await;
        let stand = stand(&format!("http://{}", backend.address), SHORT).await;
        let request = Request::get("https://localhost/").header("host", "localhost").body(Default::default());
        let mut body = stand.send(alpn, request.expect("a request")).await.expect("answered").into_body();
        a_while(&stand).await;
        a_while(&stand).await;
        tell.send_replace("event");
        assert_eq!(next_piece(&mut body).await, "event", "{kind} over {alpn}");
        assert_eq!((reached(&stand.sidecar, "body_idle"), reached(&stand.sidecar, "answer_idle")), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_exchange_goes_on_whether_its_client_speaks_or_not() {
    let (tell, backend) = prompted("application/grpc").await;
    let stand = stand(&format!("http://{}", backend.address), SHORT).await;
    let (sender, body) = channel();
    let request = Request::post("https://localhost/").header("content-type", "application/grpc").body(body);
    let mut body = stand.send("h2", request.expect("a request")).await.expect("answered").into_body();
    for _ in 0..2 {
        a_while(&stand).await;
        tell.send_replace("server");
        assert_eq!(next_piece(&mut body).await, "server");
        a_while(&stand).await;
        sender.send(data("client")).await.expect("taken");
    }
    a_while(&stand).await;
    tell.send_replace("whole");
    assert_eq!(trailers(&mut body).await["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_pauses_is_waited_for_while_its_response_moves() {
    let (tell, backend) = prompted("text/plain").await;
    let limits = "[ingress.limits]\nidle = \"250ms\"\nbody_idle = \"4s\"";
    let stand = stand(&format!("http://{}", backend.address), limits).await;
    for alpn in ["http/1.1", "h2"] {
        let (sender, body) = channel();
        let request = Request::post("https://localhost/").header("host", "localhost").body(body).expect("a request");
        let mut body = stand.send(alpn, request).await.expect("answered").into_body();
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_secs(9) {
            a_while(&stand).await;
            tell.send_replace("x");
            assert_eq!(next_piece(&mut body).await, "x", "{alpn}");
        }
        assert_eq!(reached(&stand.sidecar, "body_idle"), 0, "{alpn}");
        drop(sender);
    }
}

/// A silent gRPC exchange.
async fn grpc(stand: &Stand) -> Incoming {
    let request = Request::get("https://localhost/call").body(Default::default()).expect("a request");
    stand.send("h2", request).await.expect("answered").into_body()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_grpc_exchange_that_is_cut_carries_its_status() {
    let limits = "[ingress.limits]\nanswer_idle = \"500ms\"\n";
    let drain = "[shutdown]\ndelay = \"0s\"\ndrain = \"2s\"\negress_linger = \"0s\"\n";
    for (extra, reason) in [(limits, "answer_late"), ("", "body_broken"), (drain, "drain_deadline")] {
        let (tell, backend) = prompted("application/grpc").await;
        let stand = stand(&format!("http://{}", backend.address), extra).await;
        let mut body = grpc(&stand).await;
        match reason {
            "body_broken" => drop(tell.send_replace("end")),
            "drain_deadline" => stand.sidecar.app.begin_stop(),
            _ => {}
        }
        let ended = trailers(&mut body).await;
        assert_eq!((&ended["grpc-status"], &ended["grpc-message"]), (&"14".parse().unwrap(), &reason.parse().unwrap()));
        assert!(soon(body.frame()).await.is_none(), "the stream is over");
        assert_eq!(access_reason(&stand, "/call").await, (reason.to_owned(), 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_takes_bytes_is_not_cut_over_http2() {
    let backend = endless().await;
    let limits = "[ingress.limits]\nbody_idle = \"4s\"\nidle = \"250ms\"";
    let stand = stand(&format!("http://{}", backend.address), limits).await;
    let stream = stand.peer("h2").tls(stand.sidecar.ingress("api")).await.expect("connected");
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder.initial_window_size(100).handshake::<_, Bytes>(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("https://localhost/endless").body(()).expect("a request");
    let mut sender = soon(sender.ready()).await.expect("ready");
    let (answer, _) = sender.send_request(request, true).expect("sent");
    let mut body = soon(answer).await.expect("answered").into_body();
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(10) {
        let piece = soon(body.data()).await.expect("more").expect("the stream is not reset");
        assert!(piece.len() <= 100);
        a_while(&stand).await;
        body.flow_control().release_capacity(piece.len()).expect("a window");
    }
    assert_eq!(reached(&stand.sidecar, "body_idle"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_below_the_least_rate_is_refused_where_one_is_set() {
    let backend = Raw::start(|_, mut stream| async move {
        until(&mut stream, b"0\r\n\r\n").await;
    })
    .await;
    let limits = "[ingress.limits]\nbody_idle = \"3s\"\nidle = \"250ms\"\nupload_rate = \"1KiB\"";
    let stand = stand(&format!("http://{}", backend.address), limits).await;
    let mut wire = stand.wire().await;
    let head = b"POST /trickle HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    wire.write_all(head).await.expect("written");
    // Each piece comes within `body_idle`.
    let mut said = None;
    for _ in 0..20 {
        if wire.write_all(b"1\r\nx\r\n").await.is_err() || reached(&stand.sidecar, "upload_rate") > 0 {
            said = soon(crate::support::raw::head(&mut wire)).await;
            break;
        }
        a_while(&stand).await;
    }
    assert!(said.expect("an answer").starts_with("HTTP/1.1 408 "));
    assert_eq!(access_reason(&stand, "/trickle").await, ("body_slow".to_owned(), 408));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_100_can_be_set_and_its_end_stands_in_the_access_line() {
    let backend = Raw::start(|_, mut stream| async move {
        head(&mut stream).await;
        until(&mut stream, b"hello").await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    let limits = "[ingress.limits]\ncontinue_wait = \"250ms\"";
    let stand = stand(&format!("http://{}", backend.address), limits).await;
    let mut wire = stand.wire().await;
    let expecting = b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    wire.write_all(expecting).await.expect("written");
    assert!(soon(head(&mut wire)).await.expect("asked").starts_with("HTTP/1.1 100 "));
    wire.write_all(b"hello").await.expect("written");
    assert!(soon(head(&mut wire)).await.expect("answered").starts_with("HTTP/1.1 200 "));
    assert_eq!(access_reason(&stand, "/up").await, ("continue_late".to_owned(), 200));
    assert_eq!(reached(&stand.sidecar, "continue_wait"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_backend_takes_a_few_bytes_at_a_time_is_not_late() {
    let (tell, told) = watch::channel(0_usize);
    let backend = Raw::start(move |_, stream| {
        let told = told.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            let mut connection = builder.initial_window_size(100).handshake::<_, Bytes>(stream).await.expect("HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let (mut body, mut told) = (request.into_body(), told.clone());
                tokio::spawn(async move {
                    while let Some(Ok(piece)) = body.data().await {
                        let _ = told.changed().await;
                        let _ = body.flow_control().release_capacity(piece.len());
                    }
                    let _ = respond.send_response(http::Response::new(()), true);
                });
            }
        }
    })
    .await;
    let limits = "[ingress.limits]\nresponse = \"4s\"\nidle = \"250ms\"";
    let stand = stand(&format!("h2c://{}", backend.address), limits).await;
    let content = http_body_util::Full::new(Bytes::from(vec![b'x'; 1_000]));
    let body = http_body_util::combinators::UnsyncBoxBody::new(content.map_err(|never| match never {}));
    let request = Request::post("https://localhost/up").body(body).expect("a request");
    let moving = async {
        loop {
            a_while(&stand).await;
            tell.send_modify(|count| *count += 1);
        }
    };
    let answer = tokio::select! {
        answer = stand.send("h2", request) => answer.expect("answered"),
        () = moving => unreachable!("it never ends"),
    };
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tunnel_ends_only_where_answer_idle_is_set() {
    for (limits, ends) in [("", false), ("answer_idle = \"500ms\"", true)] {
        let backend = Raw::start(|_, mut stream| async move {
            head(&mut stream).await;
            let granted = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            let _ = stream.write_all(granted).await;
            let (mut reads, mut writes) = stream.split();
            let _ = tokio::io::copy(&mut reads, &mut writes).await;
        })
        .await;
        let limits = format!("[ingress.limits]\nidle = \"250ms\"\nbody_idle = \"250ms\"\n{limits}");
        let stand = stand(&format!("http://{}", backend.address), &limits).await;
        let mut wire = stand.wire().await;
        let asked = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        wire.write_all(asked).await.expect("written");
        assert!(soon(head(&mut wire)).await.expect("answered").starts_with("HTTP/1.1 101 "));
        if ends {
            assert_eq!(soon(crate::support::raw::rest(&mut wire)).await, "");
            assert_eq!(reached(&stand.sidecar, "answer_idle"), 1);
            continue;
        }
        a_while(&stand).await;
        a_while(&stand).await;
        wire.write_all(b"still here").await.expect("written");
        assert!(soon(until(&mut wire, b"still here")).await.is_some());
    }
}
