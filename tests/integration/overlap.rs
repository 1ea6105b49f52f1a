//! The overlap: old and new are valid together, on what we show and on what we accept, and it ends when it was promised to.
//!
//! Must hold: a peer that names or trusts only the old CA is served the old pair while the overlap lasts and refused after
//! it; both CAs are accepted while a keyring's own ca.crt is in overlap; connections made with a retired pair are drained;
//! the overlap goes on across a restart.

use std::sync::Arc;

use sidekey::event::{Event, KeyringRecord, TrustRecord};
use sidekey::keyring::{SelectionReason, Standing};

use crate::handshake::{stand, stand_at};
use crate::support::backend::Backend;
use crate::support::ca::{Ca, fingerprint, later, today};
use crate::support::odd::Odd;
use crate::support::peer::{Peer, roots};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

/// A peer that trusts these roots and says so in its ClientHello.
fn naming(trusted: &[&str], pair: &sidekey::pki::issue::IssuedKeyPair) -> Peer {
    Odd { trusts: Some(Arc::new(roots(trusted))), ..Odd::showing(pair) }.peer().fresh()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_naming_only_the_old_ca_is_shown_the_old_pair_until_the_overlap_ends() {
    let now = today();
    let mut stand = stand_at("", Some(now)).await;
    let client = stand.ca.client("etl", 5);
    let new_ca = Ca::new("New CA");
    let next = new_ca.server(1);
    drop_pair(stand.sidecar.folder.path(), "tls", &next);
    stand.sidecar.rotation("default").await;
    let address = stand.sidecar.ingress("api");
    let old_only = naming(&[stand.ca.pem()], &client);
    let old = old_only.connect(address).await.expect("the old pair is still valid");
    assert_eq!(old.shown, fingerprint(&stand.server));
    let handshake = stand.sidecar.handshake().await;
    assert_eq!(
        (handshake.standing, handshake.chosen_by),
        (Some(Standing::Previous), Some(SelectionReason::Authorities))
    );
    let new = naming(&[new_ca.pem()], &client).connect(address).await.expect("connected");
    assert_eq!(new.shown, fingerprint(&next));
    stand.sidecar.handshake().await;

    stand.sidecar.move_to(later(now, 31));
    let retired = |event: &Event| match event {
        Event::Keyring(KeyringRecord {
            event: sidekey::keyring::KeyringEvent::Moved { to: Standing::Retired, key_pair, .. },
            ..
        }) => Some(*key_pair),
        _ => None,
    };
    assert_eq!(stand.sidecar.event("retired", retired).await, fingerprint(&stand.server));
    // The connection that was made with the old pair is drained: it ends by itself.
    old.ended.await.expect("drained");
    assert!(old_only.connect(address).await.is_err(), "the old pair was shown after its overlap");
    let handshake = stand.sidecar.handshake().await;
    assert!(handshake.alert_received.is_some(), "{handshake:?}");
    assert!(handshake.explanation.contains(&fingerprint(&next).short()), "{}", handshake.explanation);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefer_old_shows_the_old_pair_while_the_overlap_lasts() {
    let now = today();
    let mut stand = stand_at("[keyring.default]\nprefer = \"old\"\noverlap = \"7d\"", Some(now)).await;
    let client = stand.ca.client("etl", 5);
    let next = Ca::new("New CA").server(1);
    drop_pair(stand.sidecar.folder.path(), "tls", &next);
    stand.sidecar.rotation("default").await;
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).fresh();
    let address = stand.sidecar.ingress("api");
    let shown = peer.connect(address).await.expect("connected").shown;
    assert_eq!(shown, fingerprint(&stand.server));
    assert_eq!(stand.sidecar.handshake().await.chosen_by, Some(SelectionReason::Prefer));
    stand.sidecar.move_to(later(now, 8));
    let wait = |event: &Event| {
        matches!(
            event,
            Event::Keyring(KeyringRecord {
                event: sidekey::keyring::KeyringEvent::Moved { to: Standing::Retired, .. },
                ..
            })
        )
        .then_some(())
    };
    stand.sidecar.event("retired", wait).await;
    assert!(peer.connect(address).await.is_err(), "a peer that trusts only the old CA was served after the overlap");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_cas_are_accepted_while_ca_crt_is_in_overlap() {
    let now = today();
    let mut stand = stand_at("[keyring.default]\noverlap = \"7d\"", Some(now)).await;
    let new_ca = Ca::new("New client CA");
    let (old_client, new_client) = (stand.ca.client("etl", 5), new_ca.client("etl", 5));
    put(stand.sidecar.folder.path(), "ca.crt", new_ca.pem());
    let leaving = |event: &Event| {
        matches!(event, Event::Trust(TrustRecord { event: sidekey::trust::TrustEvent::AnchorLeaving { .. }, .. }))
            .then_some(())
    };
    stand.sidecar.event("the old anchor is leaving", leaving).await;
    let address = stand.sidecar.ingress("api");
    for client in [&old_client, &new_client] {
        Peer::new(&[stand.ca.pem()], Some(client)).get(address, "/").await.expect("both CAs are accepted");
    }
    let peer = Peer::new(&[stand.ca.pem()], Some(&old_client)).fresh();
    let open = peer.connect(address).await.expect("connected");
    let stays = Peer::new(&[stand.ca.pem()], Some(&new_client)).fresh();
    let mut stays = stays.connect(address).await.expect("connected");
    stand.sidecar.move_to(later(now, 8));
    open.ended.await.expect("a connection that only the removed anchor vouched for is drained");
    assert_eq!(stays.get("/").await.expect("the other one lives on").status, 200);
    assert!(peer.get(address, "/").await.is_err(), "a removed anchor still vouches");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_outlives_the_certificate_of_its_peer() {
    let now = today();
    let stand = stand_at("", Some(now)).await;
    let client = stand.ca.client("etl", 85); // five days left
    let peer = Peer::new(&[stand.ca.pem()], Some(&client));
    let address = stand.sidecar.ingress("api");
    for alpn in ["h2", "http/1.1"] {
        let full = peer.clone().alpn(&[alpn]);
        let mut first = full.connect(address).await.expect("connected");
        first.get("/").await.expect("answered");
        let resumed = full.connect(address).await.expect("connected");
        assert!(resumed.resumed);
        stand.sidecar.move_to(later(now, 5) + jiff::SignedDuration::from_mins(1));
        first.ended.await.expect("drained");
        resumed.ended.await.expect("drained, although resumed");
        stand.sidecar.move_to(now);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_goes_on_across_a_restart_with_state() {
    let ca = Ca::new("Test CA");
    let backend = Backend::echo().await;
    let folder = folder();
    let (first, second) = (ca.server(10), ca.server(1));
    drop_pair(folder.path(), "tls", &first);
    put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\nstate = \"state\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{}\"\n",
        backend.address
    );
    let now = today();
    let mut sidecar = Sidecar::start_at(folder, &toml, now).await;
    // Over the old files: the old pair is only in `state/retained/` from now on.
    drop_pair(sidecar.folder.path(), "tls", &second);
    sidecar.rotation("default").await;
    let Sidecar { app, folder, .. } = sidecar;
    app.stop_now().await;

    let sidecar = Sidecar::start_at(folder, &toml, later(now, 29)).await;
    let standing = |sidecar: &Sidecar, of: &sidekey::pki::issue::IssuedKeyPair| {
        let snapshot = sidecar.app.reader().latest();
        let pairs = snapshot.keyrings.iter().flat_map(|ring| ring.key_pairs.clone());
        pairs.into_iter().find(|pair| pair.key_pair == fingerprint(of)).map(|pair| (pair.standing, pair.overlap_ends))
    };
    assert_eq!(standing(&sidecar, &first), Some((Standing::Previous, Some(later(now, 30)))));
    assert_eq!(standing(&sidecar, &second).map(|found| found.0), Some(Standing::Current));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(sidecar.folder.path().join("state/decisions.json")).expect("decisions").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    sidecar.move_to(later(now, 30) + jiff::SignedDuration::from_secs(1));
    crate::support::eventually("the overlap ends when it was promised to", || {
        standing(&sidecar, &first).is_none_or(|found| found.0 == Standing::Retired)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_pair_is_shown_although_it_expired_and_the_line_says_so() {
    let now = today();
    let mut stand = stand_at("", Some(now)).await;
    let client = stand.ca.client("etl", 1);
    stand.sidecar.move_to(later(now, 81)); // the server's pair had 80 days left; the client's has 89
    let resort = |event: &Event| {
        matches!(event, Event::Keyring(KeyringRecord { event: sidekey::keyring::KeyringEvent::LastResort { .. }, .. }))
            .then_some(())
    };
    stand.sidecar.event("a last resort", resort).await;
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).fresh();
    // The peer's own clock still finds the pair valid: it is served.
    peer.get(stand.sidecar.ingress("api"), "/").await.expect("the last pair is shown");
    assert_eq!(stand.sidecar.handshake().await.chosen_by, Some(SelectionReason::LastResort));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_shares_no_name_waits_for_an_operator() {
    let mut stand = stand("").await;
    let stranger = stand.ca.issue(&{
        let mut request = stand.ca.request("other.example");
        request.validity = crate::support::ca::around(today(), 1, 90);
        request
    });
    drop_pair(stand.sidecar.folder.path(), "other", &stranger);
    let staged = |event: &Event| match event {
        Event::Keyring(KeyringRecord {
            event: sidekey::keyring::KeyringEvent::Moved { to: Standing::Staged, reason, .. },
            ..
        }) => Some(*reason),
        _ => None,
    };
    assert_eq!(stand.sidecar.event("staged", staged).await, "shares_no_name");
}

/// Runs `openssl s_client` for a moment; what it printed.
async fn show_to_openssl(folder: &std::path::Path, address: std::net::SocketAddr, extra: &[&str]) -> String {
    let mut command = std::process::Command::new("openssl");
    command.current_dir(folder).args(["s_client", "-CAfile", "ca.crt", "-cert", "client.crt", "-key", "client.key"]);
    command.args(["-servername", "localhost", "-connect", &address.to_string()]).args(extra);
    command.stdin(std::process::Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("openssl")).await.expect("joined");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_suites_or_groups_fit_only_the_old_kind_of_key_is_shown_the_old_pair() {
    use sidekey::pki::issue::{IssueRequest, NewKeyKind};
    let mut old = None;
    let mut stand = crate::handshake::stand_with("", "", None, |folder, ca| {
        let validity = crate::support::ca::around(ca.now, 10, 90);
        let rsa = ca.issue(&IssueRequest { key: NewKeyKind::Rsa(2048), validity, ..ca.request("localhost") });
        drop_pair(folder, "tls", &rsa);
        old = Some(fingerprint(&rsa));
    })
    .await;
    drop_pair(stand.sidecar.folder.path(), "2027", &stand.ca.server(1));
    let new = stand.sidecar.rotation("default").await;
    let files = tempfile::tempdir().expect("a folder");
    let client = stand.ca.client("etl", 5);
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).expect("written");
    write("ca.crt", stand.ca.pem());
    write("client.crt", &client.chain_pem);
    write("client.key", client.key_pem.as_str());
    let old = old.expect("a pair");
    for (arguments, shown) in [
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..], old),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], new),
        (&["-tls1_2", "-curves", "X25519:P-384"], old),
        (&["-tls1_2"], new),
        (&["-tls1_3", "-curves", "X25519:P-384"], new),
        (&["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], new),
    ] {
        let text = show_to_openssl(files.path(), stand.sidecar.ingress("api"), arguments).await;
        let handshake = stand.sidecar.handshake().await;
        assert_eq!(handshake.key_pair, Some(shown), "{arguments:?} {}: {text}", handshake.explanation);
        assert_eq!(handshake.outcome, sidekey::tls::HandshakeOutcome::Accepted, "{arguments:?}: {text}");
    }
}
