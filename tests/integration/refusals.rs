//! Peers that refuse the new pair each in their own way, and those beside them that do not.
//!
//! Must hold: a peer that sends an alert is served from its second connection on, however vague the alert is, also where it
//! came twice before the first refusal was known; a peer that leaves without an alert, within the handshake or after it, is
//! served with the previous pair from its third connection on; an alert that the previous pair could not cure teaches
//! nothing; no refusal moves a peer that has proved the new pair, or one with another kind of ClientHello behind the same
//! address.

use std::io;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use sidekey::evidence::learned::RefusalStatus;
use sidekey::evidence::report::RetireAdvice;
use sidekey::keyring::SelectionReason;
use sidekey::pki::Fingerprint;
use sidekey::tls::HandshakeOutcome;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::handshake::stand_at;
use crate::learn::{Rotated, rotated};
use crate::support::ca::{Ca, later, today};
use crate::support::peer::{Connection, Peer};
use crate::support::sidecar::drop_pair;

/// A stream on which no alert goes out, so that the other side sees the connection end; or another one (TLS 1.2 only).
struct Mute(TcpStream, Option<u8>);

impl AsyncRead for Mute {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Mute {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // An alert in the clear, or one of TLS 1.3: two bytes, their type, and 16 bytes of tag. rustls writes it alone.
        let is_alert = matches!(buf, [21, ..]) || matches!(buf, [23, _, _, 0, 19, ..] if buf.len() == 24);
        match (self.1, buf) {
            (Some(code), [21, start @ .., _]) => {
                let renamed = [&[21], start, &[code]].concat();
                Pin::new(&mut self.0).poll_write(cx, &renamed)
            }
            _ if is_alert => Poll::Ready(Ok(buf.len())),
            _ => Pin::new(&mut self.0).poll_write(cx, buf),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// One connection of a peer that sends no alerts; whether its handshake succeeded.
async fn try_mutely(peer: &Peer, rotated: &Rotated, reset: bool) -> bool {
    let stream = TcpStream::connect(rotated.stand.sidecar.ingress("api")).await.expect("connected");
    if reset {
        stream.set_zero_linger().expect("an option");
    }
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::clone(&peer.config)).connect(name, Mute(stream, None)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_refuses_by_a_vague_alert_is_served_from_its_second_connection_on() {
    let alerts = [
        (40, "handshake_failure"),
        (49, "access_denied"),
        (51, "decrypt_error"),
        (80, "internal_error"),
        (90, "user_canceled"),
    ];
    for (code, alert) in alerts {
        let mut rotated = rotated("").await;
        let (pem, client) = (rotated.stand.ca.pem().to_owned(), rotated.client.clone());
        let peer = Peer::tls12(&[&pem], Some(&client)).fresh();
        let stream = TcpStream::connect(rotated.stand.sidecar.ingress("api")).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::clone(&peer.config));
        assert!(connector.connect(name, Mute(stream, Some(code))).await.is_err(), "{alert}");
        let refused = rotated.stand.sidecar.handshake().await;
        assert_eq!((refused.alert_received, refused.key_pair), (Some(alert), Some(rotated.new)));
        let served = rotated.try_once(&peer).await;
        assert_eq!((served.key_pair, served.chosen_by), (Some(rotated.old), Some(SelectionReason::Learned)), "{alert}");
    }
}

/// Sends a ClientHello, and returns when the server has answered it: it has chosen a pair then.
async fn say_hello(peer: &Peer, rotated: &Rotated) -> (rustls::ClientConnection, TcpStream) {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::clone(&peer.config), name).expect("a client");
    let mut stream = TcpStream::connect(rotated.stand.sidecar.ingress("api")).await.expect("connected");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a ClientHello");
    stream.write_all(&hello).await.expect("sent");
    assert!(stream.peek(&mut [0]).await.expect("an answer") > 0);
    (client, stream)
}

/// Reads the answer, refuses the pair in it, and leaves.
async fn refuse((mut client, mut stream): (rustls::ClientConnection, TcpStream)) {
    let mut flight = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut flight).await.expect("an answer");
        assert!(count > 0, "the server has left");
        client.read_tls(&mut &flight[..count]).expect("read");
        if client.process_new_packets().is_err() {
            break;
        }
    }
    let mut alert = Vec::new();
    client.write_tls(&mut alert).expect("an alert");
    stream.write_all(&alert).await.expect("sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_again_before_its_refusal_is_known_is_served_after_both_and_blocks_the_rotation() {
    let mut rotated = rotated("").await;
    let peer = rotated.stubborn();
    let together = [say_hello(&peer, &rotated).await, say_hello(&peer, &rotated).await];
    for hello in together {
        Box::pin(refuse(hello)).await;
        let refused = rotated.stand.sidecar.handshake().await;
        assert_eq!((refused.outcome, refused.key_pair), (HandshakeOutcome::Refused, Some(rotated.new)));
    }
    assert_eq!(rotated.lessons(), [("127.0.0.1 localhost".to_owned(), RefusalStatus::Unconfirmed)]);
    assert_eq!(rotated.try_once(&peer).await.key_pair, Some(rotated.old));
    let app = &rotated.stand.sidecar.app;
    let snapshot = app.reader().latest();
    let reports = app.events().report(&snapshot.keyrings_in_overlap(), &snapshot.contacts());
    assert_eq!(reports[0].verdict.retire, RetireAdvice::Blocked, "{}", reports[0].verdict.sentence);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_ends_the_handshake_without_an_alert_is_served_from_its_third_connection_on() {
    for (tls12, reset) in [(false, false), (true, false), (false, true)] {
        let mut rotated = rotated("").await;
        let (pem, client) = (rotated.stand.ca.pem().to_owned(), rotated.client.clone());
        let peer = if tls12 { Peer::tls12(&[&pem], Some(&client)).fresh() } else { rotated.stubborn() };
        for round in 0..2 {
            assert!(!try_mutely(&peer, &rotated, reset).await, "{tls12} {reset}");
            let failed = rotated.stand.sidecar.handshake().await;
            assert_eq!(failed.key_pair, Some(rotated.new), "{}", failed.explanation);
            let told = failed.explanation.ends_with("shown the previous pair next time");
            assert_eq!((failed.alert_received, told), (None, round == 1), "{}", failed.explanation);
        }
        assert_eq!(rotated.lessons(), [("127.0.0.1 localhost".to_owned(), RefusalStatus::Unconfirmed)]);
        assert_eq!(rotated.try_once(&peer).await.chosen_by, Some(SelectionReason::Learned));
        assert_eq!(rotated.lessons(), [("127.0.0.1 localhost".to_owned(), RefusalStatus::Confirmed)]);
    }
}

/// What runs curl as the client of `rotated`, with these CAs and further arguments; its exit code.
async fn curl(rotated: &Rotated, authorities: &[&str], extra: &[&str]) -> Option<i32> {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    put("ca.crt", &authorities.concat());
    put("client.crt", &rotated.client.chain_pem);
    put("client.key", rotated.client.key_pem.as_str());
    let mut command = Command::new("curl");
    command.current_dir(folder.path()).args(["-sS", "-o", "/dev/null", "--cacert", "ca.crt"]);
    command.args(["--cert", "client.crt", "--key", "client.key"]).args(extra);
    command.arg(format!("https://localhost:{}/", rotated.stand.sidecar.ingress("api").port()));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    tokio::task::spawn_blocking(move || command.status().expect("curl").code()).await.expect("joined")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curl_that_pins_the_old_key_is_served_from_its_third_request_on() {
    for extra in [&["--http1.1"][..], &["--http2"], &["--http2", "--tls-max", "1.2"]] {
        let mut rotated = rotated("").await;
        let old = crate::support::ca::certificate(&rotated.stand.server);
        let pin = format!("sha256//{}", base64_of(&old.spki_hash().as_bytes()[..]));
        let both = [rotated.stand.ca.pem().to_owned(), rotated.new_ca.pem().to_owned()];
        let both: Vec<&str> = both.iter().map(String::as_str).collect();
        let arguments = [extra, &["--pinnedpubkey", &pin]].concat();
        for expected in [90, 90, 0, 0] {
            assert_eq!(curl(&rotated, &both, &arguments).await, Some(expected), "{extra:?}");
            let handshake = rotated.stand.sidecar.handshake().await;
            assert_eq!(handshake.outcome, HandshakeOutcome::Accepted, "{}", handshake.explanation);
            let shown = if expected == 0 { rotated.old } else { rotated.new };
            assert_eq!(handshake.key_pair, Some(shown), "{extra:?}");
        }
        assert_eq!(rotated.lessons(), [("127.0.0.1 localhost".to_owned(), RefusalStatus::Confirmed)]);
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_the_previous_pair_could_not_cure_teaches_nothing() {
    // Both pairs end at one issuer, which the client does not know.
    let mut stand = stand_at("", Some(today())).await;
    let client = stand.ca.client("etl", 5);
    drop_pair(stand.sidecar.folder.path(), "tls", &stand.ca.server(1));
    let new = stand.sidecar.rotation("default").await;
    let old = crate::support::ca::fingerprint(&stand.server);
    let stranger = Ca::new("Unknown Company");
    let mut rotated = Rotated { stand, new_ca: Ca::new("New CA"), old, new, client };
    for _ in 0..3 {
        assert_eq!(curl(&rotated, &[stranger.pem()], &[]).await, Some(60));
        let refused = rotated.stand.sidecar.handshake().await;
        assert_eq!((refused.alert_received, refused.key_pair), (Some("unknown_ca"), Some(new)));
        assert!(!refused.explanation.contains("next time"), "{}", refused.explanation);
    }
    assert_eq!(rotated.lessons(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curl_without_the_ca_moves_no_other_library_behind_its_address() {
    let mut rotated = rotated("").await;
    let stranger = Ca::new("Unknown Company");
    assert_eq!(curl(&rotated, &[stranger.pem()], &[]).await, Some(60));
    rotated.stand.sidecar.handshake().await;
    assert_eq!(rotated.lessons().len(), 1);
    // It has not proved anything yet, and is not curl.
    let willing = rotated.willing(&rotated.client);
    assert_eq!(rotated.try_once(&willing).await.key_pair, Some(rotated.new));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_for_another_one_s_alert_is_free_again_within_a_day() {
    let mut rotated = rotated("").await;
    // The same library behind the same address, before this peer has come at all.
    let scanner = Peer::new(&[rotated.stand.ca.pem()], None).fresh();
    assert_eq!(rotated.try_once(&scanner).await.outcome, HandshakeOutcome::Refused);
    let willing = rotated.willing(&rotated.client);
    for _ in 0..3 {
        assert_eq!(rotated.try_once(&willing).await.key_pair, Some(rotated.old));
    }
    rotated.stand.sidecar.move_to(rotated.stand.ca.now + jiff::SignedDuration::from_hours(13));
    assert_eq!(rotated.try_once(&willing).await.key_pair, Some(rotated.new));
    assert_eq!(rotated.lessons(), []);
    assert_eq!(rotated.try_once(&scanner).await.outcome, HandshakeOutcome::Refused);
    assert_eq!(rotated.try_once(&willing).await.key_pair, Some(rotated.new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_once_a_day_is_served_on_the_second_day() {
    let mut rotated = rotated("").await;
    let batch = rotated.stubborn();
    assert_eq!(rotated.try_once(&batch).await.outcome, HandshakeOutcome::Refused);
    rotated.stand.sidecar.move_to(later(rotated.stand.ca.now, 1));
    assert_eq!(rotated.try_once(&batch).await.key_pair, Some(rotated.old));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_one_network_that_come_together_lose_one_handshake_each() {
    let mut rotated = rotated("").await;
    let (peer, address) = (rotated.stubborn(), rotated.stand.sidecar.ingress("api"));
    let mut shown: Vec<Option<Fingerprint>> = Vec::new();
    for round in 0..2 {
        for host in 1..=40 {
            let stream = peer.tls_from([127, 0, 1, host], address).await;
            if let (1, Ok(stream)) = (round, stream) {
                shown.push(Connection::over(stream).await.ok().map(|connection| connection.shown));
            }
            rotated.stand.sidecar.handshake().await;
        }
    }
    assert_eq!(shown, vec![Some(rotated.old); 40]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_forget_what_the_report_shows() {
    let mut rotated = rotated("").await;
    let peer = rotated.stubborn();
    for text in ["127.0.0.1", "127.0.0.1 localhost", "uri:spiffe://etl.example/app"] {
        assert_eq!(rotated.try_once(&peer).await.key_pair, Some(rotated.new));
        rotated.try_once(&peer).await;
        assert_eq!(rotated.stand.sidecar.app.lessons().forget(text), 1, "{text}");
    }
}
