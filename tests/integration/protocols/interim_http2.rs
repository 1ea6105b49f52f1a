//! Interim responses of backends and upstreams that speak HTTP/2, on their way to clients on either protocol.
//!
//! Must hold: as for HTTP/1.1; a 100 asks the client for a body that it holds back; and what HTTP/2 does not have goes no further.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::interim::{asking, assert_clean, listen_on_http2};
use super::{say, soon, stand};
use crate::egress::egress;
use crate::support::ca::Ca;
use crate::support::raw::{Raw, head, until};
use crate::support::upstream::Plan;

/// Answers every request on a stream with interim responses of these statuses, and finally, once `allowed`, with 200 and the
/// length of its content.
async fn hint_over_http2<S>(stream: S, statuses: Arc<[u16]>, allowed: Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (statuses, allowed) = (Arc::clone(&statuses), Arc::clone(&allowed));
        tokio::spawn(async move {
            for status in statuses.iter() {
                let hint = Response::builder()
                    .status(StatusCode::from_u16(*status).expect("a status"))
                    .header("link", "</a.css>; rel=preload")
                    .header("link", "</b.css>")
                    .header("x-sidekey-peer", "dns:fake");
                respond.send_informational(hint.body(()).expect("a response")).expect("sent");
            }
            allowed.acquire().await.expect("allowed").forget();
            let (mut content, mut size) = (request.into_body(), 0);
            while let Some(Ok(data)) = content.data().await {
                content.flow_control().release_capacity(data.len()).expect("released");
                size += data.len();
            }
            let mut sending = respond.send_response(Response::new(()), false).expect("sent");
            sending.send_data(Bytes::from(format!("{size} bytes")), true).expect("sent");
        });
    }
}

/// A backend on HTTP/2 with prior knowledge; its answers have to be allowed.
async fn hinting(statuses: &[u16]) -> (Raw, Arc<Semaphore>) {
    let (statuses, allowed) = (Arc::<[u16]>::from(statuses), Arc::new(Semaphore::new(0)));
    let allow = Arc::clone(&allowed);
    let backend =
        Raw::start(move |_, stream| hint_over_http2(stream, Arc::clone(&statuses), Arc::clone(&allowed))).await;
    (backend, allow)
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_of_a_backend_on_http_2_reach_clients_on_both_protocols_before_the_final_one() {
    let (backend, allow) = hinting(&[103, 102]).await;
    let stand = stand(&format!("h2c://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(&mut client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    for status in ["103 Early Hints", "102 Processing"] {
        let hints = soon(head(&mut client)).await.expect("an interim response");
        assert!(hints.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{hints}");
        assert!(hints.contains("link: </a.css>; rel=preload\r\nlink: </b.css>\r\n"), "{hints}");
        assert_clean(&hints);
    }
    allow.add_permits(1);
    assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 200"));
    assert!(soon(until(&mut client, b"0 bytes")).await.is_some());

    let heard = listen_on_http2(&stand, asking(), |count| allow.add_permits(usize::from(count == 2))).await;
    let statuses: Vec<_> = heard.interim.iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!((&statuses[..], heard.last.as_u16()), (&[103, 102][..], 200));
    let links: Vec<_> = heard.interim[0].1.get_all("link").iter().collect();
    assert_eq!(links, ["</a.css>; rel=preload", "</b.css>"]);
    assert_clean(&format!("{:?}", heard.interim));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_100_of_a_backend_on_http_2_asks_clients_on_both_protocols_for_the_body_they_hold_back() {
    let (backend, allow) = hinting(&[100]).await;
    // Nothing but the backend's 100 can open the gate.
    let stand = stand(&format!("h2c://{}", backend.address), "[ingress.limits]\ncontinue_wait = \"10m\"").await;
    allow.add_permits(1);
    let mut client = stand.wire().await;
    say(&mut client, "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert!(soon(head(&mut client)).await.expect("asked").starts_with("HTTP/1.1 100 Continue\r\n"));
    say(&mut client, "hello").await;
    assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 200"));
    assert!(soon(until(&mut client, b"5 bytes")).await.is_some());

    let request = Request::post("https://localhost/").header("expect", "100-continue").body(()).expect("a request");
    let heard = listen_on_http2(&stand, request, |_| allow.add_permits(1)).await;
    assert_eq!((heard.interim.len(), heard.interim[0].0.as_u16(), heard.last.as_u16()), (1, 100, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_101_over_http_2_and_interim_responses_beyond_their_number_go_no_further() {
    let statuses: Vec<u16> = [101].into_iter().chain(std::iter::repeat_n(103, 20)).collect();
    let (backend, allow) = hinting(&statuses).await;
    let stand = stand(&format!("h2c://{}", backend.address), "").await;
    let heard = listen_on_http2(&stand, asking(), |count| allow.add_permits(usize::from(count == 16))).await;
    assert_eq!((heard.interim.len(), heard.last.as_u16()), (16, 200));
    assert!(heard.interim.iter().all(|(status, _)| status.as_u16() == 103));
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_of_an_upstream_on_http_2_reach_the_application() {
    let ca = Ca::new("Test CA");
    let acceptor = Plan::new(&ca.server(5), &["h2"]).acceptor(&[ca.pem()]);
    let allowed = Arc::new(Semaphore::new(0));
    let allow = Arc::clone(&allowed);
    let upstream = Raw::start(move |_, stream| {
        let (acceptor, allowed) = (acceptor.clone(), Arc::clone(&allowed));
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                hint_over_http2(stream, Arc::new([102, 103]), allowed).await;
            }
        }
    })
    .await;
    let sidecar = egress(&ca, &ca.client("ours", 5), upstream.address, "server_name = \"localhost\"").await;
    let mut client = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    for status in ["102 Processing", "103 Early Hints"] {
        let hints = soon(head(&mut client)).await.expect("an interim response");
        assert!(hints.starts_with(&format!("HTTP/1.1 {status}\r\n")) && hints.contains("link: </b.css>"), "{hints}");
        assert_clean(&hints);
    }
    allow.add_permits(1);
    assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 200"));
}
