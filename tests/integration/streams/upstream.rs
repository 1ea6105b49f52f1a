//! Servers that leave an HTTP/2 connection early, or want another protocol: no request is lost that they have not processed.

use std::sync::{Arc, Mutex};

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{END_STREAM, Frames, HEADERS, RST_STREAM, SETTINGS, ask_at_once, stand, stand_with};
use crate::egress::{ask as ask_egress, egress};
use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::raw::{Raw, head, until};
use crate::support::upstream::Plan;

const HTTP_1_1_REQUIRED: u32 = 13;

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asks_for_http_1_1_gets_the_request_and_all_later_ones_so() {
    for says in ["stream", "goaway", "goaway before any request"] {
        let ca = Ca::new("Test CA");
        let acceptor = Plan::new(&ca.server(5), &["h2", "http/1.1"]).acceptor(&[ca.pem()]);
        let protocols = Arc::new(Mutex::new(Vec::new()));
        let spoken = Arc::clone(&protocols);
        let upstream = Raw::start(move |_, stream| {
            let (acceptor, spoken) = (acceptor.clone(), Arc::clone(&spoken));
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    while let Some(asked) = head(&mut stream).await {
                        let mut content = [0; 7];
                        let posted = asked.starts_with("POST");
                        if posted && stream.read_exact(&mut content).await.is_err() {
                            return;
                        }
                        spoken.lock().expect("lock").push("http/1.1");
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        let _ = stream.write_all(answer).await;
                    }
                    return;
                }
                let Some(mut frames) = Frames::of(stream).await else { return };
                frames.write(SETTINGS, 0, 0, &[]).await;
                if says == "goaway before any request" {
                    frames.leave(0, HTTP_1_1_REQUIRED).await;
                }
                while let Some((stream, _)) = frames.request().await {
                    spoken.lock().expect("lock").push("h2");
                    match says {
                        "stream" => frames.write(RST_STREAM, 0, stream, &HTTP_1_1_REQUIRED.to_be_bytes()).await,
                        _ => frames.leave(0, HTTP_1_1_REQUIRED).await,
                    }
                }
            }
        })
        .await;
        let extra = "server_name = \"localhost\"";
        let sidecar = egress(&ca, &ca.client("ours", 5), upstream.address, extra).await;
        // Each worker learns it for itself, and any of them may take a connection.
        for _ in 0..8 {
            let (status, _) = ask_egress(sidecar.egress("out"), Method::POST, "content").await.expect("answered");
            assert_eq!(status, 200, "{says}");
        }
        let spoken = protocols.lock().expect("lock").clone();
        assert_eq!(spoken.iter().filter(|protocol| **protocol == "http/1.1").count(), 8, "{says}: {spoken:?}");
        let workers = std::thread::available_parallelism().expect("processors").get();
        assert!(spoken.len() <= 8 + workers, "{says}: {spoken:?}");
    }
}

/// nginx with `keepalive_requests 1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_at_a_server_that_leaves_after_each_request_is_answered_whole() {
    let backend = Raw::start(|_, stream| async move {
        let Some(mut frames) = Frames::of(stream).await else { return };
        frames.write(SETTINGS, 0, 0, &[]).await;
        let Some((stream, _)) = frames.request().await else { return };
        frames.leave(stream, 0).await;
        frames.answer(stream).await;
        // What comes behind is passed over.
        while frames.next().await.is_some() {}
    })
    .await;
    let (_sidecar, sender) = stand(&backend, "").await;
    for _ in 0..3 {
        ask_at_once(&sender, 24, Method::POST).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_for_the_servers_settings_when_it_leaves_are_sent_again() {
    let backend = Raw::start(|number, stream| async move {
        let Some(mut frames) = Frames::of(stream).await else { return };
        if number == 0 {
            // As many as may be opened before the SETTINGS; the others wait.
            for _ in 0..16 {
                if frames.next().await.is_none() {
                    return;
                }
            }
            frames.write(SETTINGS, 0, 0, &[]).await;
            frames.leave(0, 0).await;
            while frames.next().await.is_some() {}
            return;
        }
        frames.write(SETTINGS, 0, 0, &[]).await;
        frames.answer_all().await;
    })
    .await;
    let (_sidecar, sender) = stand(&backend, "").await;
    ask_at_once(&sender, 30, Method::GET).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_awaits_the_invitation_for_its_body_is_sent_again_if_it_was_not_processed() {
    for says in [RST_STREAM, 7] {
        let backend = Raw::start(move |number, stream| async move {
            let Some(mut frames) = Frames::of(stream).await else { return };
            frames.write(SETTINGS, 0, 0, &[]).await;
            while let Some(frame) = frames.next().await {
                match (number, frame.kind) {
                    (0, HEADERS) if says == RST_STREAM => {
                        frames.write(RST_STREAM, 0, frame.stream, &7_u32.to_be_bytes()).await;
                    }
                    (0, HEADERS) => frames.leave(0, 0).await,
                    _ if frame.flags & END_STREAM != 0 => frames.answer(frame.stream).await,
                    _ => {}
                }
            }
        })
        .await;
        let ca = Ca::new("Test CA");
        let (sidecar, client) = stand_with(&ca, &backend, "").await;
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&["http/1.1"]);
        let mut stream = peer.tls(sidecar.ingress("api")).await.expect("connected");
        let asks = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(asks.as_bytes()).await.expect("written");
        let told = until(&mut stream, b"\r\n\r\n").await.expect("told");
        assert!(told.starts_with("HTTP/1.1 100"), "{told}");
        stream.write_all(b"hello").await.expect("written");
        let told = until(&mut stream, b"\r\n\r\n").await.expect("answered");
        assert!(told.starts_with("HTTP/1.1 200"), "{says} {told}");
        assert_eq!(backend.connections(), 2);
    }
}
