//! A partner that trusts only the old CA, says so with nothing but an alert, and cannot be reached before the rotation.
//!
//! Must hold: exactly one handshake of such a source fails, then it is served with the previous pair until the overlap
//! ends, but for a rare trial of the new one, over a restart too; no other source is shown another pair for it, whatever a scanner behind the same address sends;
//! a partner's `show` comes first, and an operator can make it forgotten.

use std::process::{Command, Stdio};
use std::sync::Arc;

use sidekey::event::{Event, HandshakeRecord, LessonRecord};
use sidekey::evidence::learned::RefusalStatus;
use sidekey::keyring::{SelectionReason, Standing};
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;
use sidekey::tls::HandshakeOutcome;

use crate::handshake::{Stand, config, stand_with};
use crate::support::ca::{Ca, fingerprint, later, today};
use crate::support::eventually;
use crate::support::peer::{Connection, Peer};
use crate::support::sidecar::{Sidecar, drop_pair};

/// A stand on a manual clock whose keyring has rotated to a pair of a new CA.
pub struct Rotated {
    pub stand: Stand,
    pub new_ca: Ca,
    pub old: Fingerprint,
    pub new: Fingerprint,
    pub client: IssuedKeyPair,
}

pub async fn rotated(top: &str) -> Rotated {
    rotated_with(top, "").await
}

pub async fn rotated_with(top: &str, of_ingress: &str) -> Rotated {
    let mut stand = stand_with(top, of_ingress, Some(today()), |_, _| ()).await;
    let client = stand.ca.client("etl", 5);
    let new_ca = Ca::new("New CA");
    let next = new_ca.server(1);
    drop_pair(stand.sidecar.folder.path(), "tls", &next);
    let new = stand.sidecar.rotation("default").await;
    Rotated { old: fingerprint(&stand.server), new, stand, new_ca, client }
}

impl Rotated {
    /// A peer that trusts only the CA of the old pair.
    pub fn stubborn(&self) -> Peer {
        Peer::new(&[self.stand.ca.pem()], Some(&self.client)).fresh()
    }

    /// A peer that trusts both.
    pub fn willing(&self, client: &IssuedKeyPair) -> Peer {
        Peer::new(&[self.stand.ca.pem(), self.new_ca.pem()], Some(client)).fresh()
    }

    /// One connection and request; what its handshake's record says.
    pub async fn try_once(&mut self, peer: &Peer) -> Arc<HandshakeRecord> {
        let address = self.stand.sidecar.ingress("api");
        let served = peer.get(address, "/").await.is_ok();
        let handshake = self.stand.sidecar.handshake().await;
        assert_eq!(handshake.outcome == HandshakeOutcome::Accepted, served, "{}", handshake.explanation);
        handshake
    }

    pub fn lessons(&self) -> Vec<(String, RefusalStatus)> {
        let entries = self.stand.sidecar.app.lessons().entries();
        entries.into_iter().map(|entry| (entry.source.to_string(), entry.standing)).collect()
    }
}

/// Runs `openssl s_client` as a partner that trusts only `ca.crt`, and asks for `/`; what it printed.
async fn openssl(folder: &std::path::Path, address: std::net::SocketAddr, version: &str) -> String {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(["s_client", "-quiet", "-ign_eof", "-CAfile", "ca.crt"]);
    command.args(["-verify_return_error", "-cert", "client.crt", "-key", "client.key", version]);
    command.args(["-servername", "localhost", "-connect", &address.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        use std::io::Write as _;
        let mut child = command.spawn().expect("openssl");
        let mut stdin = child.stdin.take().expect("a pipe");
        // It may have ended before it read anything.
        let _ = stdin.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        drop(stdin);
        let output = child.wait_with_output().expect("it ran");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    tokio::task::spawn_blocking(run).await.expect("joined")
}

async fn a_stubborn_openssl_client(version: &str) {
    let mut rotated = rotated("").await;
    let files = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| std::fs::write(files.path().join(name), text).expect("written");
    put("ca.crt", rotated.stand.ca.pem());
    put("client.crt", &rotated.client.chain_pem);
    put("client.key", rotated.client.key_pem.as_str());
    let address = rotated.stand.sidecar.ingress("api");

    let said = openssl(files.path(), address, version).await;
    assert!(!said.contains("200 OK") && said.contains("verify"), "{said}");
    let failed = rotated.stand.sidecar.handshake().await;
    assert_eq!((failed.outcome, failed.key_pair), (HandshakeOutcome::Refused, Some(rotated.new)));
    assert!(failed.explanation.ends_with("shown the previous pair next time"), "{}", failed.explanation);
    assert_eq!(rotated.lessons(), [("127.0.0.1 localhost".to_owned(), RefusalStatus::Unconfirmed)]);

    for round in 0..5 {
        let said = openssl(files.path(), address, version).await;
        assert!(said.contains("200 OK"), "round {round}: {said}");
        let served = rotated.stand.sidecar.handshake().await;
        assert_eq!(served.outcome, HandshakeOutcome::Accepted, "{}", served.explanation);
        assert_eq!((served.key_pair, served.chosen_by), (Some(rotated.old), Some(SelectionReason::Learned)));
        assert_eq!(served.standing, Some(Standing::Previous));
        assert_eq!(rotated.lessons(), [("127.0.0.1 localhost".to_owned(), RefusalStatus::Confirmed)]);
    }
    // Days later still, and other sources are none the wiser.
    let other = rotated.willing(&rotated.client);
    let shown = Connection::over(other.tls_from([127, 0, 0, 2], address).await.expect("connected")).await;
    assert_eq!(shown.expect("served").shown, rotated.new);
    rotated.stand.sidecar.handshake().await;
    let now = rotated.stand.ca.now;
    rotated.stand.sidecar.move_to(later(now, 29));
    // It is shown the new pair again: one handshake, and nothing is forgotten.
    assert!(!openssl(files.path(), address, version).await.contains("200 OK"));
    let tried = rotated.stand.sidecar.handshake().await;
    assert_eq!((tried.outcome, tried.key_pair), (HandshakeOutcome::Refused, Some(rotated.new)));
    assert!(tried.explanation.ends_with("shown the previous pair next time"), "{}", tried.explanation);
    let said = openssl(files.path(), address, version).await;
    assert!(said.contains("200 OK"), "{said}");
    rotated.stand.sidecar.handshake().await;
    // The overlap ends.
    rotated.stand.sidecar.move_to(later(now, 31));
    let gone = |event: &Event| match event {
        Event::Learned(LessonRecord { standing: RefusalStatus::Forgotten, reason, .. }) => Some(*reason),
        _ => None,
    };
    assert_eq!(rotated.stand.sidecar.event("the lesson ends", gone).await, "overlap_ended");
    assert!(!openssl(files.path(), address, version).await.contains("200 OK"));
    let failed = rotated.stand.sidecar.handshake().await;
    assert_eq!((failed.outcome, failed.key_pair), (HandshakeOutcome::Refused, Some(rotated.new)));
    assert!(!failed.explanation.contains("next time"), "{}", failed.explanation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stubborn_openssl_client_fails_once_and_is_served_until_the_overlap_ends() {
    a_stubborn_openssl_client("-tls1_3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stubborn_openssl_client_on_tls_1_2_fails_once_and_is_served_until_the_overlap_ends() {
    a_stubborn_openssl_client("-tls1_2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_libraries_and_versions_are_understood_alike() {
    for tls12 in [false, true] {
        let mut rotated = rotated("").await;
        let (pem, client) = (rotated.stand.ca.pem().to_owned(), rotated.client.clone());
        let peer = if tls12 { Peer::tls12(&[&pem], Some(&client)).fresh() } else { rotated.stubborn() };
        assert_eq!(rotated.try_once(&peer).await.outcome, HandshakeOutcome::Refused);
        for _ in 0..3 {
            assert_eq!(rotated.try_once(&peer).await.chosen_by, Some(SelectionReason::Learned));
        }
        let log = rotated.stand.sidecar.log();
        let told =
            log.iter().filter(|line| line["target"] == "learned").map(|line| (&line["standing"], &line["reason"]));
        assert_eq!(
            told.map(|(standing, reason)| format!("{standing} {reason}")).collect::<Vec<_>>(),
            ["\"unconfirmed\" \"unknown_ca\"", "\"confirmed\" \"verified_on_previous\""]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_behind_the_same_address_keeps_no_client_on_the_old_pair() {
    let mut rotated = rotated("").await;
    let willing = rotated.willing(&rotated.client);
    assert_eq!(rotated.try_once(&willing).await.key_pair, Some(rotated.new));
    // No certificate, no trust: an alert is all that it can send.
    let scanner = Peer::new(&[rotated.stand.ca.pem()], None).fresh();
    assert_eq!(rotated.try_once(&scanner).await.outcome, HandshakeOutcome::Refused);
    // The peer has proved the new pair with its request: an alert from there moves it no more.
    for _ in 0..3 {
        assert_eq!(rotated.try_once(&willing).await.key_pair, Some(rotated.new));
    }
    assert_eq!(rotated.lessons(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_refuses_the_previous_pair_too_is_shown_the_default_pair() {
    let mut rotated = rotated("").await;
    let stranger = Ca::new("Unknown Company");
    let peer = Peer::new(&[stranger.pem()], Some(&rotated.client)).fresh();
    assert_eq!(rotated.try_once(&peer).await.key_pair, Some(rotated.new));
    assert_eq!(rotated.try_once(&peer).await.key_pair, Some(rotated.old));
    assert_eq!(rotated.lessons(), []);
    assert_eq!(rotated.try_once(&peer).await.key_pair, Some(rotated.new));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_learned_where_learn_is_off_or_the_partner_says_what_it_is_shown() {
    for extra in [
        "learn = false",
        "[partner.acme]\nanchors = [\"trust/acme.pem\"]\nsources = [\"127.0.0.0/8\"]\nshow = \"new_only\"",
    ] {
        let (top, of_ingress) = if extra.starts_with('[') { (extra, "") } else { ("", extra) };
        let mut rotated = rotated_with(top, of_ingress).await;
        let peer = rotated.stubborn();
        for _ in 0..3 {
            assert_eq!(rotated.try_once(&peer).await.key_pair, Some(rotated.new), "{extra}");
        }
        assert_eq!(rotated.lessons(), [], "{extra}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_is_shown_the_old_pair_until_its_date_and_then_learned_about_like_any_peer() {
    let date = later(today(), 3).strftime("%Y-%m-%d").to_string();
    let partner = format!(
        "[partner.acme]\nanchors = [\"trust/acme.pem\"]\nsources = [\"127.0.0.1\"]\nshow = {{ old_until = \"{date}\" }}"
    );
    let mut rotated = rotated(&partner).await;
    let peer = rotated.stubborn();
    let shown = rotated.try_once(&peer).await;
    assert_eq!((shown.key_pair, shown.chosen_by), (Some(rotated.old), Some(SelectionReason::Partner)));
    let willing = rotated.willing(&rotated.client);
    let elsewhere = willing.tls_from([127, 0, 0, 2], rotated.stand.sidecar.ingress("api")).await.expect("connected");
    assert_eq!(Connection::over(elsewhere).await.expect("served").shown, rotated.new);
    rotated.stand.sidecar.handshake().await;
    rotated.stand.sidecar.move_to(later(rotated.stand.ca.now, 4));
    assert_eq!(rotated.try_once(&peer).await.outcome, HandshakeOutcome::Refused);
    assert_eq!(rotated.try_once(&peer).await.chosen_by, Some(SelectionReason::Learned));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_forget_a_source() {
    let mut rotated = rotated("").await;
    let peer = rotated.stubborn();
    rotated.try_once(&peer).await;
    rotated.try_once(&peer).await;
    assert_eq!(rotated.stand.sidecar.app.lessons().forget("127.0.0.2"), 0);
    assert_eq!(rotated.stand.sidecar.app.lessons().forget("127.0.0.1"), 1);
    assert_eq!(rotated.try_once(&peer).await.key_pair, Some(rotated.new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_refusal_survives_a_restart_with_state_and_another_does_not() {
    let mut rotated = rotated("state = \"state\"").await;
    let peer = rotated.stubborn();
    rotated.try_once(&peer).await;
    rotated.try_once(&peer).await;
    let address = rotated.stand.sidecar.ingress("api");
    // Another source that only refuses.
    let _ = peer.tls_from([127, 0, 0, 2], address).await;
    rotated.stand.sidecar.handshake().await;
    let decisions = rotated.stand.sidecar.folder.path().join("state/decisions.json");
    eventually("the lesson is remembered", || {
        std::fs::read_to_string(&decisions).is_ok_and(|text| text.contains("127.0.0.1"))
    })
    .await;
    let now = rotated.stand.ca.now + jiff::SignedDuration::from_hours(6);
    let toml = config("state = \"state\"", "", rotated.stand.backend.address);
    let Sidecar { app, folder, .. } = rotated.stand.sidecar;
    app.stop_now().await;
    rotated.stand.sidecar = Sidecar::start_at(folder, &toml, now).await;
    assert_eq!(rotated.lessons(), [("127.0.0.1 localhost".to_owned(), RefusalStatus::Confirmed)]);
    assert_eq!(rotated.try_once(&peer).await.chosen_by, Some(SelectionReason::Learned));
}
