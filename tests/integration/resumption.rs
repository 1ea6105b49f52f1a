//! Sessions of peers that renew their certificate in time: the old session ends with the old path, and the new certificate is asked
//! for; and what a peer hears that is refused after a resumption.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use jiff::SignedDuration;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConnection, SignatureScheme};
use sidekey::pki::issue::IssuedKeyPair;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::handshake::{Stand, stand_with};
use crate::protocols::{self, soon};
use crate::support::ca::{later, today};
use crate::support::peer::{Peer, chain};
use crate::support::raw::{Raw, head};
use crate::support::raw_ca::{RawCa, ends};
use crate::support::sidecar::put;

/// What the client shows, until its operator renews it.
#[derive(Debug)]
struct Renewable(Mutex<Arc<CertifiedKey>>);

impl ResolvesClientCert for Renewable {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().expect("a pair")))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(pair: &IssuedKeyPair) -> Arc<CertifiedKey> {
    let (chain, key) = chain(pair);
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
    Arc::new(CertifiedKey::new(chain, key))
}

/// A client with a session cache of its own.
fn renewable(stand: &Stand, pair: &IssuedKeyPair, tls12: bool) -> (Peer, Arc<Renewable>) {
    let shows = Arc::new(Renewable(Mutex::new(certified(pair))));
    let make = if tls12 { Peer::tls12 } else { Peer::new };
    let mut peer = make(&[stand.ca.pem()], None).alpn(&["http/1.1"]);
    Arc::make_mut(&mut peer.config).client_auth_cert_resolver = Arc::clone(&shows) as _;
    (peer, shows)
}

async fn stand(ca: &RawCa) -> Stand {
    stand_with("", "", Some(today()), |folder, _| put(folder, "ca.crt", &ca.pem)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_renewed_in_time_is_served_after_the_end_of_its_old_certificate() {
    let (ca, now) = (RawCa::new("Partner CA"), today());
    let old = ca.issue("a.example", &|params| ends(params, now + SignedDuration::from_secs(90)));
    let new = ca.issue("a.example", &|params| ends(params, later(now, 30)));
    for tls12 in [false, true] {
        let mut stand = stand(&ca).await;
        let address = stand.sidecar.ingress("api");
        let (peer, shows) = renewable(&stand, &old, tls12);
        let mut served = async |seconds: i64| {
            stand.sidecar.move_to(now + SignedDuration::from_secs(seconds));
            let mut connection = peer.connect(address).await.expect("connected");
            assert_eq!(connection.get("/").await.expect("served").status, 200, "after {seconds} s");
            let handshake = stand.sidecar.handshake().await;
            assert_eq!(handshake.facts.resumed, connection.resumed);
            (connection.resumed, handshake.peer.as_ref().expect("a peer").not_after)
        };
        let (first, last) = (now + SignedDuration::from_secs(90), later(now, 30));
        assert_eq!(served(0).await, (false, first));
        *shows.0.lock().expect("a pair") = certified(&new);
        assert_eq!(served(20).await, (true, first), "or it shows nothing");
        assert_eq!(served(95).await, (false, last), "the new certificate is asked for");
        assert_eq!(served(96).await, (true, last));
    }
}

/// One handshake by hand: the client's last flight is held back until `before_end` has run.
fn resume_slowly(peer: &Peer, stand: &Stand, before_end: impl FnOnce()) -> rustls::Error {
    let mut socket = TcpStream::connect(stand.sidecar.ingress("api")).expect("connected");
    socket.set_read_timeout(Some(crate::support::PATIENCE)).expect("a time-out");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(&peer.config), name).expect("a client");
    while client.wants_write() {
        client.write_tls(&mut socket).expect("written");
    }
    while client.is_handshaking() {
        client.read_tls(&mut socket).expect("read");
        client.process_new_packets().expect("the server's flight");
    }
    assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    before_end();
    while client.wants_write() {
        client.write_tls(&mut socket).expect("written");
    }
    socket.flush().expect("flushed");
    loop {
        assert_ne!(client.read_tls(&mut socket).expect("read"), 0, "the end came without an alert");
        if let Err(error) = client.process_new_packets() {
            let mut rest = Vec::new();
            assert_eq!(socket.read_to_end(&mut rest).expect("the end"), 0);
            return error;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_refused_after_a_resumption_hears_why() {
    let (ca, now) = (RawCa::new("Partner CA"), today());
    let client = ca.issue("a.example", &|params| ends(params, now + SignedDuration::from_secs(90)));
    for tls12 in [false, true] {
        let mut stand = stand(&ca).await;
        let (peer, _) = renewable(&stand, &client, tls12);
        peer.get(stand.sidecar.ingress("api"), "/").await.expect("served");
        stand.sidecar.handshake().await;
        // The path ends between the ticket and the end of the handshake.
        let past = now + SignedDuration::from_secs(91);
        let heard = tokio::task::block_in_place(|| resume_slowly(&peer, &stand, || stand.sidecar.move_to(past)));
        assert_eq!(heard, rustls::Error::AlertReceived(AlertDescription::CertificateExpired), "TLS 1.2: {tls12}");
        let handshake = stand.sidecar.handshake().await;
        assert_eq!((handshake.reason, handshake.alert_sent), ("expired", Some("certificate_expired")));
        assert!(handshake.facts.resumed);
    }
}

/// Reads until a ticket has come, which is the first thing that comes.
async fn read_ticket(wire: &mut TlsStream<tokio::net::TcpStream>) {
    soon(poll_fn(|cx| {
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        let read = Pin::new(&mut *wire).poll_read(cx, &mut buf);
        assert!(read.is_pending(), "a response, or the end, came before the ticket: {:?}", buf.filled());
        if wire.get_ref().1.tls13_tickets_received() > 0 { Poll::Ready(()) } else { Poll::Pending }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_does_not_wait_for_a_late_response_nor_for_a_request_that_never_gets_whole() {
    let backend = Raw::start(|_, mut stream| async move {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let stand = protocols::stand(&format!("http://{}", backend.address), "").await;
    for sent in ["", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut wire = stand.wire().await;
        wire.write_all(sent.as_bytes()).await.expect("written");
        wire.flush().await.expect("flushed");
        read_ticket(&mut wire).await;
    }
}
