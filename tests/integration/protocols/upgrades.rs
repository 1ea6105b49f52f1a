//! Upgrades and tunnels: which request may become a websocket, and what a tunnel carries and how it ends.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{say, soon, stand};
use crate::support::backend::Backend;
use crate::support::eventually;
use crate::support::raw::{Raw, head, rest, until};

#[tokio::test(flavor = "multi_thread")]
async fn only_a_bodiless_get_may_become_a_websocket_and_no_other_upgrade_is_passed_on() {
    let backend = Backend::echo().await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let upgrades = [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.3\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for (count, request) in upgrades.iter().enumerate() {
        let mut client = stand.wire().await;
        say(&mut client, request).await;
        let answer = soon(head(&mut client)).await.expect("an answer");
        assert!(answer.contains(" 200 OK"), "{request:?} got {answer}");
        assert_eq!(backend.seen().len(), count + 1);
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(backend.last().header(name), "", "{name} of {request:?} was passed on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_101_that_the_client_did_not_ask_for_or_that_names_another_protocol_is_502() {
    let asked = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, granted) in [(plain, "websocket"), (asked, "h2c"), (asked, "websocket, h2c")] {
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {granted}\r\n\r\nraw");
        let backend = Raw::saying(answer, false).await;
        let stand = stand(&format!("http://{}", backend.address), "").await;
        let mut client = stand.wire().await;
        say(&mut client, request).await;
        let answer = soon(head(&mut client)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 502"), "{request:?}, {granted}: {answer}");
        assert!(!answer.contains("upgrade"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_passes_on_what_was_sent_with_its_101_and_ends_when_one_side_ends() {
    let backend = Raw::start(|_, mut stream| async move {
        let asked = head(&mut stream).await.expect("a head").to_lowercase();
        for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-key: dghlihnhbxbszq=="] {
            assert!(asked.contains(field), "{field} is not in {asked}");
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst";
        stream.write_all(answer.as_bytes()).await.expect("written");
        assert_eq!(until(&mut stream, b"bye").await.expect("bytes"), "bye");
    })
    .await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(
        &mut client,
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n",
    )
    .await;
    assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 101"));
    assert_eq!(soon(until(&mut client, b"first")).await.expect("bytes"), "first");
    say(&mut client, "bye").await;
    assert_eq!(soon(rest(&mut client)).await, "", "the tunnel stays open after the backend has gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_reaches_an_upstream_that_prefers_http_2_on_a_connection_of_its_own() {
    let backend = Raw::start(|_, mut stream| async move {
        while let Some(asked) = head(&mut stream).await {
            if !asked.to_lowercase().contains("upgrade: websocket") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("written");
                continue;
            }
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("written");
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            return;
        }
    })
    .await;
    // The upstream is an ingress: it speaks both, and prefers HTTP/2.
    let far = stand(&format!("http://{}", backend.address), "").await;
    let near =
        crate::egress::egress(&far.ca, &far.client, far.sidecar.ingress("api"), "server_name = \"localhost\"").await;
    let application = TcpStream::connect(near.egress("out")).await.expect("connected");
    let mut application = tokio::io::BufStream::new(application);
    for round in 0..2 {
        application.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
        application.flush().await.expect("written");
        let answer = soon(until(&mut application, b"\r\n\r\nok")).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{round}: {answer}");
    }
    let asks = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    application.write_all(asks).await.expect("written");
    application.flush().await.expect("written");
    let answer = soon(head(&mut application)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    application.write_all(b"through both").await.expect("written");
    application.flush().await.expect("written");
    assert_eq!(soon(until(&mut application, b"both")).await.expect("an echo"), "through both");

    // A backend that speaks HTTP/2 only cannot have one.
    let backend = Backend::echo().await;
    let stand = stand(&format!("h2c://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    client.write_all(asks).await.expect("written");
    assert!(soon(head(&mut client)).await.expect("an answer").starts_with("HTTP/1.1 502"));
    assert!(backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_an_idle_tunnel_are_probed_so_that_one_that_vanished_is_noticed() {
    let backend = Raw::start(|_, mut stream| async move {
        head(&mut stream).await.expect("a head");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("written");
        rest(&mut stream).await;
    })
    .await;
    let stand = stand(&format!("http://{}", backend.address), "").await;
    let mut client = stand.wire().await;
    say(&mut client, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = soon(head(&mut client)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let (ingress, peer) = (stand.sidecar.ingress("api"), client.get_ref().0.local_addr().expect("an address"));
    eventually("the peer's connection is probed", || {
        is_probed(|local, remote| (local, remote) == (ingress.port(), peer.port()))
    })
    .await;
    eventually("the backend's connection is probed", || is_probed(|_, remote| remote == backend.address.port())).await;
}

/// Whether the kernel's keep-alive timer runs for the open IPv4 connection with these ports (proc(5), the column `tr`).
fn is_probed(ports: impl Fn(u16, u16) -> bool) -> bool {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().expect("a port"), 16).expect("a number");
    let connections = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
    connections.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        ports(port(columns[1]), port(columns[2])) && columns[3] == "01" && columns[5].starts_with("02:")
    })
}
