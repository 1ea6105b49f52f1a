//! What proves on ingress that a peer accepts the new pair: its data, never its handshake.
//!
//! Must hold: while a keyring is in overlap, the first data of a peer on each connection, full or resumed, is a proof of
//! the pair shown there; a peer that finishes the handshake and leaves without a request has proved nothing, whatever
//! its library sent by itself; outside an overlap nothing is said.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use sidekey::event::{ANONYMOUS_IDENTITY, Event, PeerProofOutcome, PeerProofRecord};
use sidekey::tls::HandshakeOutcome;
use tokio::io::AsyncWriteExt;

use crate::handshake::stand;
use crate::learn::{Rotated, rotated, rotated_with};
use crate::support::ca::fingerprint;
use crate::support::peer::{Connection, Peer};

const ETL: &str = "uri:spiffe://etl.example/app";

/// The next thing that a connection has shown of a pair.
async fn next_proof(rotated: &mut Rotated) -> Arc<PeerProofRecord> {
    let wanted = |event: &Event| match event {
        Event::PeerProof(proof) => Some(Arc::clone(proof)),
        _ => None,
    };
    rotated.stand.sidecar.event("what a connection has shown", wanted).await
}

fn write_client_files(folder: &Path, rotated: &Rotated) {
    let put = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
    put("ca.crt", &format!("{}{}", rotated.stand.ca.pem(), rotated.new_ca.pem()));
    put("client.crt", &rotated.client.chain_pem);
    put("client.key", rotated.client.key_pem.as_str());
}

/// Runs curl with a client certificate, trusting both CAs; its exit code.
async fn curl(folder: &Path, port: u16, extra: &[&str]) -> Option<i32> {
    let mut command = Command::new("curl");
    command.current_dir(folder).args(["-sS", "-o", "/dev/null", "--cacert", "ca.crt"]);
    command.args(["--cert", "client.crt", "--key", "client.key"]).args(extra);
    command.arg(format!("https://localhost:{port}/")).stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output().expect("curl"));
    ran.await.expect("joined").status.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_data_of_a_peer_proves_the_pair_once_a_connection_full_or_resumed() {
    for alpn in ["h2", "http/1.1"] {
        let mut rotated = rotated("").await;
        let address = rotated.stand.sidecar.ingress("api");
        let peer = Peer::new(&[rotated.stand.ca.pem(), rotated.new_ca.pem()], Some(&rotated.client)).alpn(&[alpn]);
        for resumed in [false, true] {
            let mut connection = peer.connect(address).await.expect("connected");
            assert_eq!(connection.resumed, resumed, "{alpn}");
            for _ in 0..3 {
                connection.get("/").await.expect("answered");
            }
            let proof = next_proof(&mut rotated).await;
            assert_eq!((proof.outcome, proof.key_pair), (PeerProofOutcome::Proved, rotated.new), "{alpn}");
            assert_eq!((&*proof.identity, proof.certificate), (ETL, Some(fingerprint(&rotated.client))));
            assert_eq!((&*proof.listener, &*proof.keyring), ("api", "default"));
            assert_eq!(proof.source, Some([127, 0, 0, 1].into()));
        }
        // What comes next is of the third connection: the others have been reported once.
        let mut last = peer.connect(address).await.expect("connected");
        last.get("/").await.expect("answered");
        let handshake = rotated.stand.sidecar.app.events().recent().last().map(|handshake| handshake.connection);
        assert_eq!(Some(next_proof(&mut rotated).await.connection), handshake, "{alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curl_that_pins_another_key_has_proved_nothing_and_one_without_a_pin_has() {
    let mut rotated = rotated("").await;
    let files = tempfile::tempdir().expect("a folder");
    write_client_files(files.path(), &rotated);
    let port = rotated.stand.sidecar.ingress("api").port();
    let pin = ["--pinnedpubkey", "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="];
    for version in ["--http1.1", "--http2"] {
        for tls in [["--tlsv1.3", "--tls-max", "1.3"], ["--tlsv1.2", "--tls-max", "1.2"]] {
            let arguments = [&tls[..], &[version]].concat();
            assert_eq!(curl(files.path(), port, &[&arguments[..], &pin].concat()).await, Some(90));
            let proof = next_proof(&mut rotated).await;
            assert_eq!((proof.outcome, proof.reason), (PeerProofOutcome::UnexplainedEnd, "ended_without_data"));
            assert_eq!((&*proof.identity, proof.key_pair), (ETL, rotated.new), "{arguments:?}");
            let handshake = rotated.stand.sidecar.app.events().recent().pop().expect("a handshake");
            assert_eq!(handshake.outcome, HandshakeOutcome::Accepted, "the handshake alone says nothing");
            assert_eq!(curl(files.path(), port, &arguments).await, Some(0));
            assert_eq!(next_proof(&mut rotated).await.outcome, PeerProofOutcome::Proved, "{arguments:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_library_greets_by_itself_has_proved_nothing_by_that() {
    // Node's http2 sends preface and SETTINGS before its application hears of the connection and looks at our certificate.
    let mut rotated = rotated("").await;
    let peer = rotated.willing(&rotated.client).alpn(&["h2"]);
    let mut stream = peer.tls(rotated.stand.sidecar.ingress("api")).await.expect("connected");
    let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    greeting.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    stream.write_all(&greeting).await.expect("written");
    stream.shutdown().await.expect("ended");
    let proof = next_proof(&mut rotated).await;
    assert_eq!((proof.outcome, proof.reason), (PeerProofOutcome::UnexplainedEnd, "ended_without_data"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_certificate_is_anonymous_and_a_health_checker_of_that_kind_is_passed_over() {
    let anonymous = "client_auth = \"optional\"\nallow = [{ anonymous = true }]\nquiet_from = [\"127.0.0.2/32\"]";
    let mut rotated = rotated_with("", anonymous).await;
    let peer = Peer::new(&[rotated.stand.ca.pem(), rotated.new_ca.pem()], None).fresh();
    let address = rotated.stand.sidecar.ingress("api");
    let mut checker = peer.tls_from([127, 0, 0, 2], address).await.expect("connected");
    checker.shutdown().await.expect("ended");
    peer.get(address, "/").await.expect("answered");
    let proof = next_proof(&mut rotated).await;
    assert_eq!((proof.outcome, &*proof.identity), (PeerProofOutcome::Proved, ANONYMOUS_IDENTITY));
    assert_eq!((proof.certificate, proof.partner.as_deref()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_an_overlap_no_connection_is_asked_what_it_shows() {
    let stand = stand("").await;
    let client = stand.ca.client("etl", 5);
    let mut events = stand.sidecar.app.events().subscribe();
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).fresh();
    let address = stand.sidecar.ingress("api");
    for alpn in ["h2", "http/1.1"] {
        let mut connection = Connection::over(peer.clone().alpn(&[alpn]).tls(address).await.expect("connected")).await;
        connection.as_mut().expect("served").get("/").await.expect("answered");
    }
    stand.sidecar.app.stop_now().await;
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::PeerProof(_)), "{event:?}");
    }
}
