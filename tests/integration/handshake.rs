//! Handshakes on the ingress: who may in, who may not, and that every end is one line that says why.
//!
//! Must hold: a peer with a certificate of the trust is served over HTTP/1.1 and HTTP/2; everybody else fails in the
//! handshake, reaches no backend, and leaves a line with the right reason and the values; resuming changes nothing of it.

use sidekey::pki::issue::IssuedKeyPair;
use sidekey::tls::HandshakeOutcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::backend::Backend;
use crate::support::ca::{Ca, around, fingerprint, later, today};
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

/// One CA for both sides, one ingress with a backend that records.
pub struct Stand {
    pub ca: Ca,
    pub server: IssuedKeyPair,
    pub backend: Backend,
    pub sidecar: Sidecar,
}

/// The zero-configuration ingress in front of an echo, with `extra` configuration.
pub async fn stand(extra: &str) -> Stand {
    stand_at(extra, None).await
}

/// The configuration of a stand: `top` before its one ingress, `of_ingress` within.
pub fn config(top: &str, of_ingress: &str, backend: std::net::SocketAddr) -> String {
    format!(
        "certs = \"certs\"\n{top}\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{backend}\"\n{of_ingress}\n"
    )
}

/// The same on a manual clock.
pub async fn stand_at(extra: &str, now: Option<jiff::Timestamp>) -> Stand {
    stand_with(extra, "", now, |_, _| ()).await
}

/// The same with settings of the ingress, and what else `fill` puts into the folder before it starts.
pub async fn stand_with(
    top: &str,
    of_ingress: &str,
    now: Option<jiff::Timestamp>,
    fill: impl FnOnce(&std::path::Path, &Ca),
) -> Stand {
    let ca = Ca::new("Test CA");
    let backend = Backend::echo().await;
    let folder = folder();
    let server = ca.server(10);
    drop_pair(folder.path(), "tls", &server);
    put(folder.path(), "ca.crt", ca.pem());
    fill(folder.path(), &ca);
    let toml = config(top, of_ingress, backend.address);
    let sidecar = match now {
        None => Sidecar::start(folder, &toml).await,
        Some(now) => Sidecar::start_at(folder, &toml, now).await,
    };
    Stand { ca, server, backend, sidecar }
}

/// Connects and asks; whatever comes, the handshake's line is what counts.
async fn refused(stand: &mut Stand, peer: &Peer, reason: &str, mentions: &str) {
    let address = stand.sidecar.ingress("api");
    let answer = peer.get(address, "/").await;
    assert!(answer.is_err(), "{reason}: was served");
    let handshake = stand.sidecar.handshake().await;
    assert_eq!(handshake.reason, reason, "{}", handshake.explanation);
    assert_ne!(handshake.outcome, HandshakeOutcome::Accepted);
    assert!(handshake.explanation.contains(mentions), "{reason}: {:?} lacks {mentions:?}", handshake.explanation);
    assert!(stand.backend.seen().is_empty(), "{reason}: reached the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_with_a_certificate_is_served_over_both_protocols_and_named_to_the_backend() {
    let mut stand = stand("").await;
    let client = stand.ca.client("etl", 5);
    for (alpn, version) in [("h2", "h2"), ("http/1.1", "http/1.1")] {
        let peer = Peer::new(&[stand.ca.pem()], Some(&client)).alpn(&[alpn]);
        let mut connection = peer.connect(stand.sidecar.ingress("api")).await.expect("connected");
        let answer = connection.get("/orders?secret=1").await.expect("answered");
        assert_eq!(answer.status, 200);
        assert_eq!(connection.shown, fingerprint(&stand.server));
        let handshake = stand.sidecar.handshake().await;
        assert_eq!(handshake.outcome, HandshakeOutcome::Accepted);
        assert_eq!(handshake.reason, "ok");
        assert_eq!(handshake.key_pair, Some(fingerprint(&stand.server)));
        assert_eq!(handshake.identity.as_deref(), Some("uri:spiffe://etl.example/app"));
        assert_eq!(handshake.facts.version, Some("1.3"));
        assert_eq!(
            handshake.facts.alpn.map(|alpn| format!("{alpn:?}").to_lowercase()),
            Some(version.replace("/1.", "1"))
        );
        let seen = stand.backend.last();
        assert_eq!(seen.uri.to_string(), "/orders?secret=1");
        assert_eq!(seen.header("x-sidekey-peer"), "uri:spiffe://etl.example/app");
        assert!(seen.header("x-forwarded-client-cert").contains(&format!("Hash={}", fingerprint(&client).hex())));
        assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
        assert_eq!(seen.header("x-forwarded-proto"), "https");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_served_as_well() {
    let mut stand = stand("").await;
    let client = stand.ca.client("etl", 5);
    let answer = Peer::tls12(&[stand.ca.pem()], Some(&client)).get(stand.sidecar.ingress("api"), "/").await;
    assert_eq!(answer.expect("answered").status, 200);
    assert_eq!(stand.sidecar.handshake().await.facts.version, Some("1.2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_without_a_certificate_is_refused() {
    let mut stand = stand("").await;
    let peer = Peer::new(&[stand.ca.pem()], None);
    refused(&mut stand, &peer, "no_certificate", "no certificate").await;
    let peer = Peer::tls12(&[stand.ca.pem()], None);
    refused(&mut stand, &peer, "no_certificate", "no certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_the_line_names_issuer_and_trust() {
    let mut stand = stand("").await;
    let stranger = Ca::new("Unknown Company").client("etl", 5);
    let peer = Peer::new(&[stand.ca.pem()], Some(&stranger));
    refused(&mut stand, &peer, "unknown_issuer", "Unknown Company").await;
    let peer = Peer::new(&[stand.ca.pem()], Some(&stranger));
    refused(&mut stand, &peer, "unknown_issuer", "Test CA").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_early_and_misused_certificates_are_refused_with_their_dates() {
    let mut stand = stand("").await;
    let now = today();
    let mut request = stand.ca.request("late.example");
    request.validity = around(now, 60, -3);
    let expired = stand.ca.issue(&request);
    let peer = Peer::new(&[stand.ca.pem()], Some(&expired));
    let day = later(now, -3).strftime("%Y-%m-%d").to_string();
    refused(&mut stand, &peer, "expired", &day).await;

    request.validity = around(now, -2, 60);
    let early = stand.ca.issue(&request);
    let peer = Peer::new(&[stand.ca.pem()], Some(&early));
    refused(&mut stand, &peer, "not_yet_valid", &later(now, 2).strftime("%Y-%m-%d").to_string()).await;

    request.validity = around(now, 2, 60);
    request.client = false;
    let server_only = stand.ca.issue(&request);
    let peer = Peer::new(&[stand.ca.pem()], Some(&server_only));
    refused(&mut stand, &peer, "wrong_usage", "clientAuth").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handshake_logs_the_presented_chain_and_every_field_once() {
    let mut stand = stand("").await;
    let stranger = Ca::new("Evil \"quoted\"\nCA").client("etl", 5);
    let peer = Peer::new(&[stand.ca.pem()], Some(&stranger));
    refused(&mut stand, &peer, "unknown_issuer", "Evil").await;
    let log = stand.sidecar.log();
    let line = log.iter().find(|line| line["target"] == "handshake").expect("a handshake line");
    assert_eq!(line["outcome"], "refused");
    assert_eq!(line["side"], "ingress");
    assert_eq!(line["listener"], "api");
    assert_eq!(line["peer.fingerprint"], fingerprint(&stranger).hex());
    assert!(line.get("peer.identity").is_none(), "an identity without a verified path");
    assert!(line["chain"].to_string().contains("etl.example"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_tls_are_named() {
    let mut stand = stand("").await;
    let cases: [(&[u8], &str); 3] = [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "plain_http"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07", "not_tls"),
    ];
    for (bytes, reason) in cases {
        let mut stream = TcpStream::connect(stand.sidecar.ingress("api")).await.expect("connected");
        stream.write_all(bytes).await.expect("written");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let handshake = stand.sidecar.handshake().await;
        assert_eq!(handshake.reason, reason, "{}", handshake.explanation);
    }
    assert!(stand.backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_closed_when_the_handshake_time_is_over_and_starves_no_other_peer() {
    let mut stand = stand("").await;
    let address = stand.sidecar.ingress("api");
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(b"\x16\x03\x01").await.expect("written");
        silent.push(stream);
    }
    let client = stand.ca.client("etl", 5);
    let answer = Peer::new(&[stand.ca.pem()], Some(&client)).get(address, "/").await.expect("answered");
    assert_eq!(answer.status, 200);
    for mut stream in silent {
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(crate::support::PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "a silent peer was kept");
    }
    let late = |handshake: &sidekey::event::HandshakeRecord| handshake.reason == "timed_out_before_hello";
    let mut found = false;
    for _ in 0..51 {
        found |= late(&*stand.sidecar.handshake().await);
        if found {
            break;
        }
    }
    assert!(found, "no line about the silent peers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_peer_is_refused_even_when_it_resumes() {
    let now = today();
    let mut stand = stand_at("", Some(now)).await;
    let client = stand.ca.client("etl", 85); // five days left
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).alpn(&["http/1.1"]);
    let address = stand.sidecar.ingress("api");
    peer.get(address, "/").await.expect("answered");
    let mut again = peer.connect(address).await.expect("connected");
    assert!(again.resumed, "the session was not resumed at all");
    again.get("/").await.expect("answered");
    stand.sidecar.handshake().await;
    stand.sidecar.handshake().await;

    stand.sidecar.move_to(later(now, 6));
    let third = async { peer.connect(address).await?.get("/").await };
    assert!(third.await.is_err(), "an expired peer was served on a resumed session");
    let handshake = stand.sidecar.handshake().await;
    assert_eq!(handshake.reason, "expired", "{}", handshake.explanation);
}
