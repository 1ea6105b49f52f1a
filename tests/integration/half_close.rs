//! A client that ends its sending side after a whole request: it gets its whole answer (RFC 9112 9.6), on both sides.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::protocols::{soon, stand};
use crate::silence::prompted;
use crate::slow::{a_while, access_reason};
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::raw::{Raw, head, rest, until};
use crate::support::sidecar::Sidecar;
use crate::support::upstream::Upstream;

const GET: &str = "GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n";
const POST: &str = "POST /half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nwhole";
const CHUNKED: &str =
    "POST /half HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";

/// How a client ends its sending.
#[derive(Clone, Copy, Debug)]
enum SendingEnd {
    CloseNotify,
    Fin,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_ends_its_sending_after_a_whole_request_gets_its_whole_answer() {
    let limits = "[ingress.limits]\nidle = \"500ms\"";
    for (request, end) in [
        (GET, SendingEnd::CloseNotify),
        (GET, SendingEnd::Fin),
        (POST, SendingEnd::CloseNotify),
        (CHUNKED, SendingEnd::Fin),
    ] {
        let (tell, backend) = prompted("text/plain").await;
        let stand = stand(&format!("http://{}", backend.address), limits).await;
        let mut wire = stand.wire().await;
        wire.write_all(request.as_bytes()).await.expect("written");
        wire.flush().await.expect("flushed");
        match end {
            SendingEnd::CloseNotify => wire.shutdown().await.expect("ended"),
            SendingEnd::Fin => wire.get_mut().0.shutdown().await.expect("ended"),
        }
        for _ in 0..2 {
            a_while(&stand).await;
            tell.send_replace("piece");
            until(&mut wire, b"piece").await.unwrap_or_else(|| panic!("{end:?}: {request}"));
        }
        tell.send_replace("whole");
        let left = soon(rest(&mut wire)).await;
        assert!(left.ends_with("0\r\n\r\n"), "{end:?}: {left:?}");
        let line = access_reason(&stand, "/half").await;
        assert_eq!(line, (String::new(), 200), "{end:?}: {request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_pair_of_requests_before_the_end_is_answered_twice() {
    let backend = Raw::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", false).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut wire = stand.wire().await;
    wire.write_all([GET, GET].concat().as_bytes()).await.expect("written");
    wire.shutdown().await.expect("ended");
    let answers = soon(rest(&mut wire)).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_ends_its_sending_gets_its_answer_and_half_a_request_none() {
    let ca = Ca::new("Test CA");
    for alpn in ["http/1.1", "h2"] {
        let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let sidecar = Sidecar::start_egress(&ca, upstream.address.port()).await;
        let mut app = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
        app.write_all(POST.as_bytes()).await.expect("written");
        app.shutdown().await.expect("ended");
        let mut answer = String::new();
        soon(app.read_to_string(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("whole"), "{alpn}: {answer}");

        let mut app = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
        app.write_all(POST.strip_suffix("ole").expect("half").as_bytes()).await.expect("written");
        app.shutdown().await.expect("ended");
        answer.clear();
        soon(app.read_to_string(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{alpn}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_has_ended_its_sending_and_gone_ends_with_its_next_event() {
    let (tell, backend) = prompted("text/event-stream").await;
    let stand = stand(&format!("http://{}", backend.address), "[ingress.limits]\nidle = \"500ms\"").await;
    let mut wire = stand.wire().await;
    wire.write_all(GET.as_bytes()).await.expect("written");
    head(&mut wire).await.expect("a head");
    drop(wire);
    a_while(&stand).await;
    eventually("the event finds no reader", || {
        tell.send_replace("event");
        stand.sidecar.log().iter().any(|line| line["target"] == "access" && line["reason"] == "left")
    })
    .await;
}
