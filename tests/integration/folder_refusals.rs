//! What is refused in the watched folder: the pair in use serves on, and metrics, alerts and events say so until it is over.
//!
//! Must hold: nothing of a broken file goes into use while a whole pair is there; the metrics of the documented alert rules move
//! while something is refused and fall back afterwards; one drop is one alert, and every end has its line.

use sidekey::event::{AlertRecord, Event, FolderRecord};
use sidekey::keyring::{KeyringEvent, Standing};
use sidekey::pki::issue::IssuedKeyPair;

use crate::handshake::{Stand, stand, stand_at};
use crate::support::ca::{around, fingerprint, later, today};
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::sidecar::put;

/// A gauge of the keyring `default`.
fn gauge(stand: &Stand, name: &str, labels: &str) -> f64 {
    let text = stand.sidecar.app.metrics_text();
    let start = format!("{name}{{{labels}}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

fn refused(stand: &Stand) -> f64 {
    gauge(stand, "sidekey_folder_refused", "keyring=\"default\"")
}

/// The next refusal of a file, or its end.
async fn folder_event(stand: &mut Stand, over: bool) -> (String, &'static str) {
    stand
        .sidecar
        .event("a line about a file", |event| match event {
            Event::Folder(FolderRecord { problem, over: is_over, .. })
                if *is_over == over && problem.severity == sidekey::pki::ProblemSeverity::Refused =>
            {
                Some((problem.file.to_string(), problem.reason))
            }
            _ => None,
        })
        .await
}

/// A pair of an intermediate, and where its chain is cut off.
fn pair_of_intermediate(stand: &Stand) -> (IssuedKeyPair, String) {
    let lower = stand.ca.authority.intermediate("Issuing CA", around(stand.ca.now, 60, 60)).expect("an authority");
    let mut request = stand.ca.request("localhost");
    request.ips = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    request.validity = around(stand.ca.now, 1, 60);
    let pair = lower.issue(&request).expect("a pair");
    let cut = pair.chain_pem[..pair.chain_pem.len() - 200].to_owned();
    (pair, cut)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_cut_off_is_not_used_while_the_old_pair_is_there_and_whole_it_is() {
    let mut stand = stand("settle = \"300ms\"").await;
    let (pair, cut) = pair_of_intermediate(&stand);
    put(stand.sidecar.folder.path(), "tls.key", &pair.key_pem);
    put(stand.sidecar.folder.path(), "tls.crt", &cut);
    assert_eq!(folder_event(&mut stand, false).await, ("tls.crt".to_owned(), "truncated"));
    let moved = |event: &Event| match event {
        Event::Keyring(record) => match &record.event {
            KeyringEvent::Moved { key_pair, to, reason, .. } => Some((*key_pair, *to, *reason)),
            _ => None,
        },
        _ => None,
    };
    let expected = (fingerprint(&pair), Standing::Refused, "broken_file");
    assert_eq!(stand.sidecar.event("a refused pair", moved).await, expected);
    let client = stand.ca.client("etl", 5);
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).fresh();
    let shown = peer.connect(stand.sidecar.ingress("api")).await.expect("connected").shown;
    assert_eq!(shown, fingerprint(&stand.server));
    put(stand.sidecar.folder.path(), "tls.crt", &pair.chain_pem);
    assert_eq!(stand.sidecar.rotation("default").await, fingerprint(&pair));
    let shown = Peer::new(&[stand.ca.pem()], Some(&client)).fresh();
    assert_eq!(shown.connect(stand.sidecar.ingress("api")).await.expect("connected").shown, fingerprint(&pair));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_alerts_move_while_a_renewal_is_refused_and_fall_back_afterwards() {
    let now = today();
    let mut stand = stand_at("settle = \"300ms\"", Some(now)).await;
    assert_eq!(refused(&stand), 0.0);
    put(stand.sidecar.folder.path(), "tls.crt", "<html><body>Sign in</body></html>");
    put(stand.sidecar.folder.path(), "tls.key", "<html><body>Sign in</body></html>");
    assert_eq!(folder_event(&mut stand, false).await, ("tls.crt".to_owned(), "not_key_material"));
    eventually("both files count", || (refused(&stand) - 2.0).abs() < 0.1).await;
    stand.sidecar.move_to(later(now, 1));
    let day = gauge(&stand, "sidekey_keyring_divergence_seconds", "keyring=\"default\"");
    assert!(day > 86_000.0, "the documented rule would not fire: {day}");
    let active = |kind: &str| format!("keyring=\"default\",kind=\"{kind}\"");
    let alerts = |stand: &Stand, kind: &str| {
        gauge(stand, "sidekey_alerts_active", &active(kind)).max(gauge(
            stand,
            "sidekey_alerts_active",
            &format!("kind=\"{kind}\",keyring=\"default\""),
        ))
    };
    // A day later the refusal still holds, and so does its alert: one, although two files are refused and the pair is gone.
    eventually("one drop is one alert", || (alerts(&stand, "refused_drop") - 1.0).abs() < 0.1).await;
    assert!(alerts(&stand, "files_gone") < 0.1);
    put(stand.sidecar.folder.path(), "tls.key", &stand.server.key_pem);
    put(stand.sidecar.folder.path(), "tls.crt", &stand.server.chain_pem);
    assert_eq!(folder_event(&mut stand, true).await, ("tls.crt".to_owned(), "not_key_material"));
    eventually("nothing is refused", || refused(&stand) < 0.1).await;
    assert!(gauge(&stand, "sidekey_keyring_divergence_seconds", "keyring=\"default\"") < 1.0);
    eventually("no alert is left", || alerts(&stand, "refused_drop") < 0.1).await;
    for name in ["tls.crt", "tls.key"] {
        std::fs::remove_file(stand.sidecar.folder.path().join("certs").join(name)).expect("removed");
    }
    eventually("the files are gone", || (alerts(&stand, "files_gone") - 1.0).abs() < 0.1).await;
    put(stand.sidecar.folder.path(), "tls.key", &stand.server.key_pem);
    put(stand.sidecar.folder.path(), "tls.crt", &stand.server.chain_pem);
    eventually("they are back", || alerts(&stand, "files_gone") < 0.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pair_that_is_taken_away_ends_its_alert() {
    let mut stand = stand("settle = \"300ms\"").await;
    let mut request = stand.ca.request("localhost");
    request.validity = around(stand.ca.now, 90, -1);
    let expired = stand.ca.issue(&request);
    crate::support::sidecar::drop_pair(stand.sidecar.folder.path(), "2020", &expired);
    let told = |event: &Event| match event {
        Event::Alert(AlertRecord { kind: "refused_drop", key_pair, .. }) => *key_pair,
        _ => None,
    };
    assert_eq!(stand.sidecar.event("an alert", told).await, fingerprint(&expired));
    assert_eq!(refused(&stand), 1.0);
    for name in ["2020.crt", "2020.key"] {
        std::fs::remove_file(stand.sidecar.folder.path().join("certs").join(name)).expect("removed");
    }
    let none = |stand: &Stand| {
        !stand.sidecar.app.metrics_text().lines().any(|line| {
            line.starts_with("sidekey_alerts_active{") && line.contains("refused_drop") && !line.ends_with(" 0")
        })
    };
    eventually("its alert is over", || none(&stand) && refused(&stand) < 0.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_intermediate_is_noted_at_the_drop_and_its_arrival_has_a_line() {
    let mut stand = stand("settle = \"300ms\"").await;
    let (pair, _) = pair_of_intermediate(&stand);
    let own = pair.chain_pem.split_inclusive("-----END CERTIFICATE-----\n").next().expect("a certificate").to_owned();
    put(stand.sidecar.folder.path(), "new.key", &pair.key_pem);
    put(stand.sidecar.folder.path(), "new.crt", &own);
    let note = |over: bool| {
        move |event: &Event| match event {
            Event::Folder(FolderRecord { problem, over: is_over, .. })
                if *is_over == over && problem.reason == "chain_incomplete" =>
            {
                Some(problem.why.clone())
            }
            _ => None,
        }
    };
    let why = stand.sidecar.event("a note", note(false)).await;
    assert!(why.contains("\"CN=Issuing CA\" is not in the folder"), "{why}");
    put(stand.sidecar.folder.path(), "new.crt", &pair.chain_pem);
    stand.sidecar.event("its end", note(true)).await;
}
