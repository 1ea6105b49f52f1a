//! What an operator asks during a rotation: handshakes, and which peers have proved the new pair.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;
use sidekey::pki::issue::IssuedKeyPair;

use super::Stand;
use crate::command::{sidekey, text};
use crate::support::ca::Ca;
use crate::support::peer::Peer;

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_listed_followed_and_shown_with_the_peers_certificates() {
    let stand = tokio::task::block_in_place(|| Stand::new(|ca| ca.server(5)));
    let client = stand.ca.client("etl", 5);
    let mut follow = sidekey();
    let follow = follow.current_dir(stand.folder.path()).args(["handshakes", "--follow", "--json", "--failed"]);
    let mut follow = follow.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut followed = BufReader::new(follow.stdout.take().expect("piped")).lines();

    // An answer: in TLS 1.3 a client is done with the handshake before the other side is.
    let good = Peer::new(&[stand.ca.pem()], Some(&client)).fresh().get(stand.address(), "/").await;
    assert_eq!(good.expect("an answer").status, 502);
    // Until the follower hears: the handshakes before it began are among what it tells first.
    let stranger = Ca::new("Stranger");
    let refused = Peer::new(&[stand.ca.pem()], Some(&stranger.client("eve", 5))).tls(stand.address()).await;
    if let Ok(mut refused) = refused {
        let mut byte = [0];
        let _ = tokio::io::AsyncReadExt::read(&mut refused, &mut byte).await;
    }
    let line = tokio::task::block_in_place(|| followed.next().expect("a line").expect("read"));
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["outcome"], "refused", "{line}");
    follow.kill().expect("killed");
    follow.wait().expect("ended");

    tokio::task::block_in_place(|| {
        let all = stand.said(&["handshakes"]);
        assert_eq!(all.lines().count(), 2, "{all}");
        let failed = stand.said(&["handshakes", "--failed"]);
        assert!(failed.lines().count() == 1 && failed.contains("CN=eve.example"), "{failed}");
        let etl = stand.said(&["handshakes", "--peer", "SPIFFE://etl", "--since", "1h", "--side", "ingress"]);
        assert!(etl.lines().count() == 1 && etl.contains("accepted"), "{etl}");
        assert_eq!(stand.said(&["handshakes", "--listener", "other"]), "");
        assert_eq!(stand.said(&["handshakes", "--side", "egress"]), "");
        assert_eq!(stand.ask(&["handshakes", "--since", "yesterday"]).status.code(), Some(2));

        let id = line["connection"].to_string();
        let shown = stand.said(&["handshakes", "show", &id]);
        let pem = &shown[shown.find("-----BEGIN CERTIFICATE-----").expect("a certificate")..];
        let bytes = zeroize::Zeroizing::new(pem.as_bytes().to_vec());
        let sent = sidekey::pki::blocks::read(&bytes, None);
        assert_eq!(sent.certificates[0].subject(), "CN=eve.example");
        let good = stand.json(&["handshakes", "show", &all_ids(&etl)[0]]);
        assert_eq!(good["peer.identity"], "uri:spiffe://etl.example/app", "{good}");
        assert_eq!(good["chain_pem"].as_array().map(Vec::len), Some(1));
        assert_eq!(stand.ask(&["handshakes", "show", "999999"]).status.code(), Some(1));
    });
}

/// The connections' numbers in lines of text.
fn all_ids(lines: &str) -> Vec<String> {
    let id = |line: &str| Some(line.split("connection=").nth(1)?.split(' ').next()?.to_owned());
    lines.lines().filter_map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_who_has_proved_the_new_pair_and_who_was_not_seen() {
    let stand = tokio::task::block_in_place(|| Stand::new(|ca| ca.server(20)));
    let (etl, seldom) = (stand.ca.client("etl", 5), stand.ca.client("seldom", 5));
    let connect = async |client: &IssuedKeyPair| {
        let answer = Peer::new(&[stand.ca.pem()], Some(client)).fresh().get(stand.address(), "/").await;
        // The backend is not there; the peer is.
        assert_eq!(answer.expect("an answer").status, 502);
    };
    connect(&etl).await;
    connect(&seldom).await;
    let new = stand.ca.server(5);
    tokio::task::block_in_place(|| {
        assert!(stand.said(&["rotation"]).contains("No keyring is in overlap"));
        stand.rotate(&new);
    });
    connect(&etl).await;
    tokio::task::block_in_place(|| {
        let report = &stand.json(&["rotation"])["keyrings"][0];
        let line = |name: &str| {
            let lines = report["lines"].as_array().expect("lines");
            lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}")).clone()
        };
        assert_eq!(line("uri:spiffe://etl.example/app")["use"], "proved_new", "{report}");
        assert_eq!(line("uri:spiffe://seldom.example/app")["use"], "not_seen", "{report}");
        assert_eq!(report["verdict"]["retire"], "wait", "{report}");
        assert_eq!(report["verdict"]["first"]["name"], "uri:spiffe://seldom.example/app", "{report}");
    });
    connect(&seldom).await;
    tokio::task::block_in_place(|| {
        // Who would break without the one anchor: both peers, and no other. No keyring has to be in overlap to ask.
        let trusts = &stand.json(&["rotation"])["trusts"];
        let voucher = &trusts[0]["vouchers"][0];
        assert_eq!(
            (trusts[0]["trust"].as_str(), voucher["subject"].as_str()),
            (Some("own:default"), Some("CN=Test CA"))
        );
        let both = ["uri:spiffe://etl.example/app", "uri:spiffe://seldom.example/app"];
        assert_eq!(voucher["would_break"], Value::from(both.to_vec()), "{trusts}");
        assert!(voucher["last_matched"].is_string() && voucher["until"].is_null(), "{voucher}");
        // It reads the registry after the rotation, for what other instances saw, before it says so.
        eventually("safe", || stand.said(&["rotation"]).starts_with("keyring default: safe\n"));
        let said = stand.said(&["rotation"]);
        assert!(said.contains(&format!("without it these peers would fail: {}", both.join(", "))), "{said}");
        let one = stand.said(&["rotation", "--keyring", "default"]);
        assert!(one.starts_with("keyring default") && !one.contains("trust "), "{one}");
        let none = stand.ask(&["rotation", "forget", "203.0.113.7"]);
        assert_eq!(none.status.code(), Some(1));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_insists_on_the_old_pair_blocks_retirement_until_it_is_forgotten() {
    let mut stand = tokio::task::block_in_place(|| Stand::new(|ca| ca.server(20)));
    let etl = stand.ca.client("etl", 5);
    // It trusts only the CA of the old pair.
    let stubborn = Peer::new(&[stand.ca.pem()], Some(&etl)).fresh();
    stubborn.get(stand.address(), "/").await.expect("an answer");
    let new = Ca::new("The next CA").server(5);
    tokio::task::block_in_place(|| stand.rotate(&new));
    assert!(stubborn.get(stand.address(), "/").await.is_err(), "exactly one handshake fails");
    let unconfirmed = tokio::task::block_in_place(|| stand.json(&["rotation"])["keyrings"][0].clone());
    assert_eq!((&unconfirmed["unconfirmed"], &unconfirmed["verdict"]["retire"]), (&1.into(), &"wait".into()));
    stubborn.get(stand.address(), "/").await.expect("shown the old pair");
    tokio::task::block_in_place(|| {
        let report = &stand.json(&["rotation"])["keyrings"][0];
        let line = &report["lines"][0];
        assert_eq!(report["lines"].as_array().map(Vec::len), Some(1), "one line for it, by its name: {report}");
        assert_eq!(
            (line["name"].as_str(), line["use"].as_str()),
            (Some("uri:spiffe://etl.example/app"), Some("insists_on_old"))
        );
        assert_eq!(
            (line["reason"].as_str(), &report["verdict"]["retire"]),
            (Some("unknown_ca"), &"blocked".into()),
            "{report}"
        );
        let status = stand.ask(&["status"]);
        assert!(text(&status.stdout).contains("call uri:spiffe://etl.example/app"), "{}", text(&status.stdout));
        // The lesson is remembered, and the registry knows whose it is, before the peer comes again.
        eventually_remembered(stand.folder.path());
        eventually("the registry has it", || {
            let registry = ["--state", "state"];
            let peers = ["registry", "export", "--format", "csv", "--table", "peers"];
            stand.said(&[&peers[..], &registry[..]].concat()).contains(",learned,")
        });
        stand.kill_and_start();
        let recalled = || stand.json(&["rotation"])["keyrings"][0].clone();
        eventually("the registry has answered", || recalled()["before"] == "recalled");
        let report = recalled();
        let line = &report["lines"][0];
        assert_eq!(
            (line["name"].as_str(), line["reason"].as_str(), &report["verdict"]["retire"]),
            (Some("uri:spiffe://etl.example/app"), Some("unknown_ca"), &"blocked".into()),
            "{report}"
        );
        assert_eq!(report["lines"].as_array().map(Vec::len), Some(1), "{report}");
        let forgotten = stand.json(&["rotation", "forget", "127.0.0.1"]);
        assert_eq!(forgotten["changed"], Value::from(true));
        assert!(forgotten["epoch"].is_u64(), "{forgotten}");
    });
    assert!(stubborn.get(stand.address(), "/").await.is_err(), "it is shown the new pair again");
}

/// Waits until a confirmed lesson is in the decisions.
fn eventually_remembered(folder: &Path) {
    eventually("the lesson is remembered", || {
        std::fs::read_to_string(folder.join("state/decisions.json")).is_ok_and(|text| text.contains("unknown_ca"))
    });
}

/// Asks again and again.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}
