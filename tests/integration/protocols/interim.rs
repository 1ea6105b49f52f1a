//! Interim responses on their way from a backend or an upstream to the client.
//!
//! Must hold: the client has each of them before the final response is there, in order, on both protocols; what a final
//! response may not carry, they may not; and a backend that sends them without end costs neither memory nor the answer.

use std::future::poll_fn;

use http::{HeaderMap, Request, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Stand, say, soon, stand};
use crate::egress::egress;
use crate::support::ca::Ca;
use crate::support::raw::{Raw, head, rest};
use crate::support::upstream::Plan;

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.css>\r\n\
    Connection: x-hop\r\nx-hop: 1\r\nKeep-Alive: 5\r\nX-Sidekey-Peer: dns:fake\r\nContent-Length: 5\r\n\r\n";
const FINAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A backend that answers each request with `interim`, and with the final response once the test allows it.
async fn hinting(interim: &'static str) -> (Raw, mpsc::Sender<()>) {
    let (allow, allowed) = mpsc::channel::<()>(4);
    let allowed = std::sync::Arc::new(tokio::sync::Mutex::new(allowed));
    let backend = Raw::start(move |_, mut stream| {
        let allowed = std::sync::Arc::clone(&allowed);
        async move {
            while head(&mut stream).await.is_some() {
                stream.write_all(interim.as_bytes()).await.expect("written");
                if allowed.lock().await.recv().await.is_none() {
                    return;
                }
                stream.write_all(FINAL.as_bytes()).await.expect("written");
            }
        }
    })
    .await;
    (backend, allow)
}

/// What came over HTTP/2: each interim response, and the status of the final one.
pub(super) struct Heard {
    pub(super) interim: Vec<(StatusCode, HeaderMap)>,
    pub(super) last: StatusCode,
}

/// Sends a request over HTTP/2, and calls `then` after each interim response.
pub(super) async fn listen_on_http2(stand: &Stand, request: Request<()>, mut then: impl FnMut(usize)) -> Heard {
    let stream = stand.peer("h2").tls(stand.sidecar.ingress("api")).await.expect("connected");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (mut response, _) = sender.send_request(request, true).expect("sent");
    let mut interim = Vec::new();
    while let Some(one) = soon(poll_fn(|cx| response.poll_informational(cx))).await {
        let (parts, ()) = one.expect("no error").into_parts();
        interim.push((parts.status, parts.headers));
        then(interim.len());
    }
    let last = soon(response).await.expect("answered").status();
    Heard { interim, last }
}

pub(super) fn asking() -> Request<()> {
    Request::get("https://localhost/").body(()).expect("a request")
}

/// Nothing that ends at this hop, or that frames or names something, is in it.
pub(super) fn assert_clean(text: &str) {
    for name in ["x-hop", "keep-alive", "x-sidekey", "content-length", "connection"] {
        assert!(!text.contains(name), "{name} is in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_reach_a_client_on_http_1_before_the_final_one_and_cleaned() {
    let (backend, allow) = hinting(HINTS).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    // The second request is on the wire before the first is answered.
    say(&mut client, &"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2)).await;
    for _ in 0..2 {
        let hints = soon(head(&mut client)).await.expect("an interim response");
        assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints}");
        assert!(hints.contains("link: </a.css>; rel=preload\r\nlink: </b.css>\r\n"), "{hints}");
        assert_clean(&hints);
        allow.try_send(()).expect("the backend waits");
        assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 200"));
        assert_eq!(soon(crate::support::raw::until(&mut client, b"ok")).await.expect("a body"), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_reach_a_client_on_http_2_before_the_final_one_and_cleaned() {
    let (backend, allow) = hinting(HINTS).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let heard = listen_on_http2(&stand, asking(), |_| allow.try_send(()).expect("the backend waits")).await;
    assert_eq!(heard.last, 200);
    let [(status, headers)] = &heard.interim[..] else { panic!("{} interim responses", heard.interim.len()) };
    assert_eq!(status.as_u16(), 103);
    let links: Vec<_> = headers.get_all("link").iter().collect();
    assert_eq!(links, ["</a.css>; rel=preload", "</b.css>"]);
    assert_clean(&format!("{headers:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_that_come_with_the_final_one_are_before_it() {
    let all = format!("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{HINTS}{FINAL}");
    let backend = Raw::saying(all, false).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(&mut client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    for status in ["102", "100", "103", "200"] {
        let came = soon(head(&mut client)).await.expect("a head");
        assert!(came.starts_with(&format!("HTTP/1.1 {status} ")), "{came}");
    }
    let heard = listen_on_http2(&stand, asking(), |_| ()).await;
    let statuses: Vec<_> = heard.interim.iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!((&statuses[..], heard.last.as_u16()), (&[102, 100, 103][..], 200));
    // HTTP/1.0 knows no interim responses.
    let mut client = stand.wire().await;
    say(&mut client, "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    let came = soon(rest(&mut client)).await;
    assert!(came.contains(" 200 OK") && !came.contains(" 103 "), "{came}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_beyond_their_number_or_size_go_no_further() {
    let large = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "y".repeat(9000));
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(20);
    let backend = Raw::saying(format!("{large}{hint}{FINAL}"), false).await;
    let limits = "[ingress.limits]\nhead_size = \"8KiB\"";
    let stand = stand(&format!("http://{}", backend.address), limits).await;
    let mut client = stand.wire().await;
    say(&mut client, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let came = soon(rest(&mut client)).await;
    assert!(!came.contains("yyyy") && came.ends_with("ok"), "{came}");
    assert_eq!(came.matches("HTTP/1.1 103 ").count(), 16);
    let heard = listen_on_http2(&stand, asking(), |_| ()).await;
    assert_eq!((heard.interim.len(), heard.last.as_u16()), (16, 200));
    assert!(heard.interim.iter().all(|(_, headers)| headers["link"] == "</a>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_response_larger_than_a_frame_reaches_a_client_on_http_2_whole() {
    let large = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "y".repeat(40_000));
    let backend = Raw::saying(format!("{large}{FINAL}"), false).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let heard = listen_on_http2(&stand, asking(), |_| ()).await;
    assert_eq!((heard.interim.len(), heard.last.as_u16()), (1, 200));
    assert_eq!(heard.interim[0].1["link"].len(), 40_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_on_http_2_that_shrank_its_table_gets_no_interim_responses_and_its_answer() {
    // A block that does not begin with the change of the table's size would be an error of the connection (RFC 7541 4.2).
    let backend = Raw::saying(format!("{HINTS}{FINAL}"), false).await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let stream = stand.peer("h2").tls(stand.sidecar.ingress("api")).await.expect("connected");
    let mut builder = h2::client::Builder::new();
    let (mut sender, connection) =
        builder.header_table_size(0).handshake::<_, bytes::Bytes>(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (mut response, _) = sender.send_request(asking(), true).expect("sent");
    assert!(soon(poll_fn(|cx| response.poll_informational(cx))).await.is_none());
    assert_eq!(soon(response).await.expect("answered").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_100_of_the_backend_reaches_a_client_on_http_2_that_waits_for_it() {
    let (backend, allow) = hinting("HTTP/1.1 100 Continue\r\n\r\n").await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let request = Request::post("https://localhost/").header("expect", "100-continue").body(()).expect("a request");
    let heard = listen_on_http2(&stand, request, |_| allow.try_send(()).expect("the backend waits")).await;
    assert_eq!((heard.interim.len(), heard.last.as_u16()), (1, 200));
    assert_eq!(heard.interim[0].0, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_of_an_upstream_reach_the_application() {
    let ca = Ca::new("Test CA");
    let acceptor = Plan::new(&ca.server(5), &["http/1.1"]).acceptor(&[ca.pem()]);
    let (allow, allowed) = tokio::sync::watch::channel(false);
    let upstream = Raw::start(move |_, stream| {
        let (acceptor, mut allowed) = (acceptor.clone(), allowed.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if head(&mut stream).await.is_some() {
                stream.write_all(HINTS.as_bytes()).await.expect("written");
                allowed.wait_for(|allowed| *allowed).await.expect("allowed");
                stream.write_all(FINAL.as_bytes()).await.expect("written");
            }
        }
    })
    .await;
    let sidecar = egress(&ca, &ca.client("ours", 5), upstream.address, "server_name = \"localhost\"").await;
    let mut client = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    let hints = soon(head(&mut client)).await.expect("an interim response");
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n") && hints.contains("link: </b.css>"), "{hints}");
    assert_clean(&hints);
    allow.send(true).expect("the upstream waits");
    assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 200"));
}
