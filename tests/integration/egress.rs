//! The way out: plain HTTP from the application, mutual TLS to the upstream, and never anything else to it.
//!
//! Must hold: the upstream sees our current pair and its own name; a wrong or untrusted upstream gets no request and no
//! plain text; after a rotation new requests use the new pair and none is lost.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use sidekey::event::{Event, ProofRecord, UpstreamVerdict, VerdictRecord};

use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Upstream;

/// An egress `out` with keyring `out` to this upstream.
pub async fn egress(
    ca: &Ca,
    client: &sidekey::pki::issue::IssuedKeyPair,
    upstream: SocketAddr,
    extra: &str,
) -> Sidecar {
    let folder = folder();
    drop_pair(folder.path(), "out/tls", client);
    put(folder.path(), "out/ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://127.0.0.1:{}\"\nkeyring = \"out\"\n{extra}\n",
        upstream.port()
    );
    Sidecar::start(folder, &toml).await
}

/// One request of the application, on a connection of its own.
pub async fn ask(to: SocketAddr, method: Method, body: &str) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri("/path?q=1").header("host", "app");
    let response = sender.send_request(request.body(Full::new(Bytes::from(body.to_owned())))?).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_see_our_pair_and_their_own_host_over_both_protocols() {
    let ca = Ca::new("Test CA");
    let client = ca.client("ours", 5);
    for alpn in ["h2", "http/1.1"] {
        let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let mut sidecar = egress(&ca, &client, upstream.address, "server_name = \"localhost\"").await;
        let (status, body) = ask(sidecar.egress("out"), Method::POST, "hello").await.expect("answered");
        assert_eq!((status.as_u16(), &*body), (200, &b"hello"[..]));
        let (shown, seen) = upstream.seen().pop().expect("a request");
        assert_eq!(shown, fingerprint(&client));
        let host = seen.uri.authority().map_or_else(|| seen.header("host"), ToString::to_string);
        assert_eq!(host, format!("127.0.0.1:{}", upstream.address.port()));
        let handshake = sidecar.handshake().await;
        assert_eq!(handshake.outcome, sidekey::tls::HandshakeOutcome::Unproved, "{handshake:?}");
        assert_eq!(handshake.key_pair, Some(fingerprint(&client)));
        let proved = |event: &Event| match event {
            Event::Proof(ProofRecord { key_pair, .. }) => Some(*key_pair),
            _ => None,
        };
        assert_eq!(sidecar.event("a proof", proved).await, fingerprint(&client));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_or_a_foreign_upstream_gets_no_request() {
    let ca = Ca::new("Test CA");
    let client = ca.client("ours", 5);
    let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &["http/1.1"]).await;
    let mut sidecar = egress(&ca, &client, upstream.address, "server_name = \"elsewhere.example\"").await;
    let (status, body) = ask(sidecar.egress("out"), Method::GET, "").await.expect("answered");
    assert_eq!(status, 502);
    assert!(!String::from_utf8_lossy(&body).contains("elsewhere"), "the body says why");
    let handshake = sidecar.handshake().await;
    assert_eq!(handshake.reason, "wrong_name", "{}", handshake.explanation);

    let foreign = Ca::new("Foreign CA");
    let upstream = Upstream::start(&foreign.server(5), &[ca.pem()], &["http/1.1"]).await;
    let mut sidecar = egress(&ca, &client, upstream.address, "server_name = \"localhost\"").await;
    assert_eq!(ask(sidecar.egress("out"), Method::GET, "").await.expect("answered").0, 502);
    assert_eq!(sidecar.handshake().await.reason, "unknown_issuer");
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_upstream_gets_plain_text_whatever_fails() {
    let ca = Ca::new("Test CA");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let heard = tokio::spawn(async move {
        let mut all = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap_or(0);
            all.push(bytes[..count].to_vec());
            // A plain-text answer to a ClientHello.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
        all
    });
    let mut sidecar = egress(&ca, &ca.client("ours", 5), address, "server_name = \"localhost\"").await;
    for _ in 0..2 {
        assert_eq!(ask(sidecar.egress("out"), Method::POST, "secret").await.expect("answered").0, 502);
        assert_eq!(sidecar.handshake().await.reason, "plain_text_upstream");
    }
    for bytes in heard.await.expect("heard") {
        assert_eq!(bytes.first(), Some(&0x16), "something else than a TLS record");
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_502_and_explained() {
    let ca = Ca::new("Test CA");
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let mut sidecar = egress(&ca, &ca.client("ours", 5), gone, "server_name = \"localhost\"").await;
    assert_eq!(ask(sidecar.egress("out"), Method::GET, "").await.expect("answered").0, 502);
    assert_eq!(sidecar.handshake().await.reason, "connection_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_use_the_new_pair_after_a_rotation_and_none_is_lost() {
    let ca = Ca::new("Test CA");
    let (old, new) = (ca.client("ours", 5), ca.client("ours", 1));
    for alpn in ["h2", "http/1.1"] {
        let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let mut sidecar = egress(&ca, &old, upstream.address, "server_name = \"localhost\"").await;
        let to = sidecar.egress("out");
        for _ in 0..20 {
            assert_eq!(ask(to, Method::POST, "a").await.expect("answered").0, 200);
        }
        drop_pair(sidecar.folder.path(), "out/tls", &new);
        assert_eq!(sidecar.rotation("out").await, fingerprint(&new));
        // The new pair is probed, then proved by one request that can do no harm; until then the old one serves.
        let proved = |event: &Event| match event {
            Event::Upstream(VerdictRecord { verdict: UpstreamVerdict::Proved, key_pair, .. }) => Some(*key_pair),
            _ => None,
        };
        let (enough, is_enough) = tokio::sync::watch::channel(false);
        let proving = tokio::spawn(async move {
            while !*is_enough.borrow() {
                assert_eq!(ask(to, Method::GET, "").await.expect("answered").0, 200);
            }
        });
        assert_eq!(sidecar.event("proved", proved).await, fingerprint(&new));
        // Not ended within a request, which could reach the upstream later.
        enough.send_replace(true);
        proving.await.expect("all answered");
        let before = upstream.seen().len();
        for _ in 0..20 {
            assert_eq!(ask(to, Method::POST, "a").await.expect("answered").0, 200);
        }
        let after: Vec<_> = upstream.seen().into_iter().skip(before).map(|(pair, _)| pair).collect();
        assert_eq!(after, vec![fingerprint(&new); 20]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_names_only_the_old_ca_gets_the_old_pair_during_the_overlap() {
    let (old_ca, new_ca) = (Ca::new("Old CA"), Ca::new("New CA"));
    let (old, new) = (old_ca.client("ours", 5), new_ca.client("ours", 1));
    // It accepts, and names in its CertificateRequest, only the old CA.
    let upstream = Upstream::start(&old_ca.server(5), &[old_ca.pem()], &["http/1.1"]).await;
    let mut sidecar = egress(&old_ca, &old, upstream.address, "server_name = \"localhost\"").await;
    drop_pair(sidecar.folder.path(), "out/tls", &new);
    assert_eq!(sidecar.rotation("out").await, fingerprint(&new));
    for _ in 0..5 {
        assert_eq!(ask(sidecar.egress("out"), Method::POST, "a").await.expect("answered").0, 200);
    }
    assert!(upstream.seen().iter().all(|(pair, _)| *pair == fingerprint(&old)));
}

#[tokio::test(flavor = "multi_thread")]
async fn spiffe_upstreams_are_known_by_their_uri() {
    let ca = Ca::new("Test CA");
    let mut request = ca.request("unused");
    request.dns = vec![];
    request.uris = vec!["spiffe://partner.example/orders".to_owned()];
    let upstream = Upstream::start(&ca.issue(&request), &[ca.pem()], &["h2"]).await;
    let client = ca.client("ours", 5);
    let right = egress(&ca, &client, upstream.address, "server_uri = \"spiffe://partner.example/orders\"").await;
    assert_eq!(ask(right.egress("out"), Method::GET, "").await.expect("answered").0, 200);
    let mut wrong = egress(&ca, &client, upstream.address, "server_uri = \"spiffe://partner.example/other\"").await;
    assert_eq!(ask(wrong.egress("out"), Method::GET, "").await.expect("answered").0, 502);
    assert_eq!(wrong.handshake().await.reason, "wrong_name");
}
