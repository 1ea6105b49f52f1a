//! Which peers we accept, over real sockets: anchors, pins, partners, usages and revocation, and what becomes of connections and
//! sessions when one of these changes.
//!
//! Must hold: a removal acts at once, on new handshakes, on resumed ones and on live connections, and only on those that
//! nothing else vouches for; a file that is missing or broken removes nothing; dates end what they were given to.

mod files;

use std::path::Path;

use jiff::Timestamp;
use rcgen::{ExtendedKeyUsagePurpose, SerialNumber};
use sidekey::event::{Event, TrustRecord};
use sidekey::pki::issue::IssuedKeyPair;
use sidekey::tls::HandshakeOutcome;
use sidekey::trust;

use crate::handshake::{Stand, stand_with};
use crate::support::ca::{Ca, fingerprint, later, today};
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::raw_ca::{RawCa, ends, pin, self_signed};
use crate::support::sidecar::put;

/// A stand whose ingress verifies against `[trust.partners]` with these settings.
async fn trusting(settings: &str, of_ingress: &str, fill: impl FnOnce(&Path)) -> Stand {
    let top = format!("[trust.partners]\n{settings}");
    let of_ingress = format!("trust = \"partners\"\n{of_ingress}");
    stand_with(&top, &of_ingress, Some(today()), |folder, _| fill(folder)).await
}

fn peer(stand: &Stand, pair: &IssuedKeyPair) -> Peer {
    Peer::new(&[stand.ca.pem()], Some(pair))
}

/// One request on a connection of its own; the status, or the reason why there was none.
async fn ask(stand: &mut Stand, pair: &IssuedKeyPair) -> Result<u16, &'static str> {
    let answer = peer(stand, pair).fresh().get(stand.sidecar.ingress("api"), "/").await;
    let handshake = stand.sidecar.handshake().await;
    match answer {
        Ok(answer) => {
            assert_eq!(handshake.outcome, HandshakeOutcome::Accepted);
            Ok(answer.status.as_u16())
        }
        Err(_) => Err(handshake.reason),
    }
}

async fn told(stand: &mut Stand, name: &str, wanted: impl Fn(&trust::TrustEvent) -> bool) {
    let of_trust =
        |event: &Event| matches!(event, Event::Trust(TrustRecord { event, .. }) if wanted(event)).then_some(());
    stand.sidecar.event(name, of_trust).await;
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn serial(number: u64) -> impl Fn(&mut rcgen::CertificateParams) {
    move |params| params.serial_number = Some(SerialNumber::from(number))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_asks_for_its_key_on_a_verified_path_and_ends_by_its_date() {
    let ca = RawCa::new("Partner CA");
    let (pinned, other) = (ca.issue("a.example", &|_| ()), ca.issue("b.example", &|_| ()));
    let stranger = self_signed("a.example", &|_| ());
    let until = later(today(), 3);
    let pins = format!(
        "anchors = [\"trust/p.pem\"]\npins = [{{ pin = \"{}\", until = {} }}, \"{}\"]",
        pin(&pinned),
        day(until),
        pin(&stranger)
    );
    let mut stand = trusting(&pins, "", |folder| put(folder, "trust/p.pem", &ca.pem)).await;
    assert_eq!(ask(&mut stand, &pinned).await, Ok(200));
    assert_eq!(ask(&mut stand, &other).await, Err("no_pin"));
    assert_eq!(ask(&mut stand, &stranger).await, Err("self_signed"), "a pin alone makes no chain");
    let live = peer(&stand, &pinned).connect(stand.sidecar.ingress("api")).await.expect("connected");
    stand.sidecar.handshake().await;
    stand.sidecar.move_to(until);
    live.ended.await.expect("the pin that vouched for it is over");
    assert_eq!(ask(&mut stand, &pinned).await, Err("no_pin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pin_only_accepts_self_signed_partners_that_are_valid_and_no_other_peer() {
    let pinned = self_signed("a.example", &|_| ());
    let late = self_signed("b.example", &|params| ends(params, later(today(), -1)));
    let pins = format!("pin_only = true\npins = [\"{}\", \"{}\"]", pin(&pinned), pin(&late));
    let mut stand = trusting(&pins, "", |_| ()).await;
    assert_eq!(ask(&mut stand, &pinned).await, Ok(200));
    assert_eq!(ask(&mut stand, &late).await, Err("expired"));
    assert_eq!(ask(&mut stand, &self_signed("a.example", &|_| ())).await, Err("no_pin"));
    let by_ca = RawCa::new("Any CA").issue("a.example", &|_| ());
    assert_eq!(ask(&mut stand, &by_ca).await, Err("no_pin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partners_ca_cannot_mint_anothers_names() {
    let (acme, other) = (RawCa::new("Acme CA"), RawCa::new("Other CA"));
    let both = "anchors = [\"trust/acme.pem\", \"trust/other.pem\"]\n[partner.acme]\nanchors = [\"trust/acme.pem\"]\npeers = [{ dns = \"*.acme.example\" }]";
    let mut stand = trusting(both, "allow = [{ partner = \"acme\" }]", |folder| {
        put(folder, "trust/acme.pem", &acme.pem);
        put(folder, "trust/other.pem", &other.pem);
    })
    .await;
    assert_eq!(ask(&mut stand, &acme.issue("a.acme.example", &|_| ())).await, Ok(200));
    assert_eq!(ask(&mut stand, &other.issue("a.acme.example", &|_| ())).await, Ok(403), "by another CA");
    assert_eq!(ask(&mut stand, &acme.issue("a.example", &|_| ())).await, Ok(403), "another name");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_eku_decides_about_server_certificates() {
    let ca = RawCa::new("Public CA");
    let server =
        ca.issue("a.example", &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    for (settings, expected) in [("", Err("wrong_usage")), ("client_eku = \"any\"", Ok(200))] {
        let settings = format!("anchors = [\"trust/p.pem\"]\n{settings}");
        let mut stand = trusting(&settings, "", |folder| put(folder, "trust/p.pem", &ca.pem)).await;
        assert_eq!(ask(&mut stand, &server).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_anchor_vouches_for_no_peer_and_its_connections_end_with_it() {
    let end = later(today(), 2);
    let old = RawCa::with("Old CA", &|params| ends(params, end));
    let gone = RawCa::with("Gone CA", &|params| ends(params, later(today(), -1)));
    let mut stand = trusting("anchors = [\"trust/p.pem\"]", "", |folder| {
        put(folder, "trust/p.pem", &format!("{}{}", old.pem, gone.pem));
    })
    .await;
    let client = old.issue("a.example", &|_| ());
    assert_eq!(ask(&mut stand, &gone.issue("b.example", &|_| ())).await, Err("expired"));
    let live = peer(&stand, &client).connect(stand.sidecar.ingress("api")).await.expect("connected");
    stand.sidecar.handshake().await;
    stand.sidecar.move_to(end + jiff::SignedDuration::from_secs(1));
    live.ended.await.expect("no connection outlives the path");
    assert_eq!(ask(&mut stand, &client).await, Err("expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_acts_at_once_on_sessions_and_connections_and_only_on_those_it_vouched_for() {
    let (old, new) = (RawCa::new("Old CA"), RawCa::new("New CA"));
    let mut stand = trusting("anchors = [\"trust/p.pem\"]", "", |folder| {
        put(folder, "trust/p.pem", &format!("{}{}", old.pem, new.pem));
    })
    .await;
    let (gone, stays) = (old.issue("a.example", &|_| ()), new.issue("b.example", &|_| ()));
    let address = stand.sidecar.ingress("api");
    let (gone_peer, stays_peer) = (peer(&stand, &gone).alpn(&["http/1.1"]), peer(&stand, &stays).alpn(&["http/1.1"]));
    let mut first = gone_peer.connect(address).await.expect("connected");
    first.get("/").await.expect("served");
    let mut kept = stays_peer.connect(address).await.expect("connected");
    kept.get("/").await.expect("served");
    let mut resumed = gone_peer.connect(address).await.expect("connected");
    assert!(resumed.resumed, "or this shows nothing");
    resumed.get("/").await.expect("served");

    put(stand.sidecar.folder.path(), "trust/p.pem", &new.pem);
    assert_eq!([stand.sidecar.drained().await, stand.sidecar.drained().await], ["trust_removed", "trust_removed"]);
    first.ended.await.expect("drained");
    resumed.ended.await.expect("drained, although resumed");
    assert_eq!(kept.get("/").await.expect("the other one lives on").status, 200);
    assert!(gone_peer.get(address, "/").await.is_err(), "a session went across the removal");
    assert_eq!(stand.sidecar.handshake().await.reason, "unknown_issuer");
    let again = stays_peer.connect(address).await.expect("connected");
    assert!(!again.resumed, "no session goes across an epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_empty_or_broken_file_removes_nothing_and_is_told() {
    let ca = RawCa::new("Partner CA");
    let mut stand = trusting("anchors = [\"trust/p.pem\"]", "", |folder| put(folder, "trust/p.pem", &ca.pem)).await;
    let client = ca.issue("a.example", &|_| ());
    let mut live = peer(&stand, &client).connect(stand.sidecar.ingress("api")).await.expect("connected");
    stand.sidecar.handshake().await;
    let kept = |event: &trust::TrustEvent| matches!(event, trust::TrustEvent::FileKept { .. });
    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate at all"] {
        put(stand.sidecar.folder.path(), "trust/p.pem", broken);
        told(&mut stand, "keeping the last usable set", kept).await;
        assert_eq!(ask(&mut stand, &client).await, Ok(200), "{broken}");
        put(stand.sidecar.folder.path(), "trust/p.pem", &ca.pem);
        let folder = stand.sidecar.folder.path().to_owned();
        put(&folder, "trust/p.pem", &format!("{}\n", ca.pem));
    }
    std::fs::remove_file(stand.sidecar.folder.path().join("certs/trust/p.pem")).expect("removed");
    told(&mut stand, "keeping the last usable set", kept).await;
    assert_eq!(ask(&mut stand, &client).await, Ok(200));
    assert_eq!(live.get("/").await.expect("and connections too").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn until_and_overlap_end_anchors_when_they_say() {
    let (old, new) = (RawCa::new("Old CA"), RawCa::new("New CA"));
    let now = today();
    let settings = format!(
        "overlap = \"7d\"\nanchors = [\"trust/new.pem\", {{ file = \"trust/old.pem\", until = {} }}]",
        day(later(now, 20))
    );
    let mut stand = trusting(&settings, "", |folder| {
        put(folder, "trust/new.pem", &format!("{}{}", new.pem, RawCa::new("Third CA").pem));
        put(folder, "trust/old.pem", &old.pem);
    })
    .await;
    let (by_old, by_new) = (old.issue("a.example", &|_| ()), new.issue("b.example", &|_| ()));
    // One vanishes, and stays for the overlap.
    let replacement = RawCa::new("Fourth CA");
    put(stand.sidecar.folder.path(), "trust/new.pem", &replacement.pem);
    told(&mut stand, "it leaves", |event| matches!(event, trust::TrustEvent::AnchorLeaving { .. })).await;
    assert_eq!(ask(&mut stand, &by_new).await, Ok(200));
    stand.sidecar.move_to(later(now, 8));
    told(&mut stand, "it is gone", |event| {
        matches!(event, trust::TrustEvent::AnchorRemoved { reason: "overlap_ended", .. })
    })
    .await;
    assert_eq!(ask(&mut stand, &by_new).await, Err("unknown_issuer"));
    assert_eq!(ask(&mut stand, &by_old).await, Ok(200));
    let live = peer(&stand, &by_old).connect(stand.sidecar.ingress("api")).await.expect("connected");
    stand.sidecar.handshake().await;
    stand.sidecar.move_to(later(now, 20));
    live.ended.await.expect("drained");
    assert_eq!(ask(&mut stand, &by_old).await, Err("unknown_issuer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_of_a_lenient_partner_is_served_with_a_warning_until_the_date() {
    let (acme, other) = (RawCa::new("Acme CA"), RawCa::new("Other CA"));
    let now = today();
    let until = later(now, 3);
    let settings = format!(
        "anchors = [\"trust/acme.pem\", \"trust/other.pem\"]\n[partner.acme]\nanchors = [\"trust/acme.pem\"]\naccept_expired_until = {}",
        day(until)
    );
    let mut stand = trusting(&settings, "", |folder| {
        put(folder, "trust/acme.pem", &acme.pem);
        put(folder, "trust/other.pem", &other.pem);
    })
    .await;
    let late = |ca: &RawCa| ca.issue("a.example", &|params| ends(params, later(now, -1)));
    let (client, stranger) = (late(&acme), late(&other));
    assert_eq!(ask(&mut stand, &stranger).await, Err("expired"));
    let lenient = peer(&stand, &client);
    let address = stand.sidecar.ingress("api");
    for resumed in [false, true] {
        let mut live = lenient.clone().alpn(&["http/1.1"]).connect(address).await.expect("connected");
        assert_eq!(live.get("/").await.expect("served").status, 200);
        let handshake = stand.sidecar.handshake().await;
        assert_eq!((handshake.outcome, handshake.reason), (HandshakeOutcome::Accepted, "expired_accepted"));
        assert!(handshake.explanation.contains("partner \"acme\""), "{}", handshake.explanation);
        assert_eq!(live.resumed, resumed);
    }
    let log = stand.sidecar.log();
    let line = log.iter().find(|line| line["reason"] == "expired_accepted").expect("a line");
    assert_eq!(line["level"].as_str().map(str::to_lowercase).as_deref(), Some("warn"), "{line}");
    let live = lenient.connect(address).await.expect("connected");
    stand.sidecar.handshake().await;
    stand.sidecar.move_to(until);
    live.ended.await.expect("the date has come");
    assert_eq!(ask(&mut stand, &client).await, Err("expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_peers_are_refused_and_their_live_connections_drained() {
    let ca = RawCa::new("Partner CA");
    for own in [false, true] {
        // In a trust of its own, and in the keyring's folder beside its ca.crt.
        let file = if own { "partners.crl" } else { "trust/p.crl" };
        let mut stand = if own {
            stand_with("", "", Some(today()), |folder, _| {
                put(folder, "ca.crt", &ca.pem);
                put(folder, file, &ca.crl(&[7], 30));
            })
            .await
        } else {
            let settings = "anchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]";
            trusting(settings, "", |folder| {
                put(folder, "trust/p.pem", &ca.pem);
                put(folder, file, &ca.crl(&[7], 30));
            })
            .await
        };
        let [revoked, soon, fine] = [7, 8, 9].map(|number| ca.issue("a.example", &serial(number)));
        assert_eq!(ask(&mut stand, &revoked).await, Err("revoked"), "own: {own}");
        let address = stand.sidecar.ingress("api");
        let soon_peer = peer(&stand, &soon);
        let live = soon_peer.connect(address).await.expect("connected");
        let mut stays = peer(&stand, &fine).connect(address).await.expect("connected");
        put(stand.sidecar.folder.path(), file, &ca.crl(&[7, 8], 30));
        assert_eq!(stand.sidecar.drained().await, "peer_revoked");
        live.ended.await.expect("drained");
        assert_eq!(stays.get("/").await.expect("the other one lives on").status, 200);
        assert_eq!(ask(&mut stand, &soon).await, Err("revoked"));
        // Without the file the list stays.
        std::fs::remove_file(stand.sidecar.folder.path().join("certs").join(file)).expect("removed");
        told(&mut stand, "the last good list stays", |event| matches!(event, trust::TrustEvent::FileKept { .. })).await;
        assert_eq!(ask(&mut stand, &soon).await, Err("revoked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_list_warns_or_refuses() {
    let ca = RawCa::new("Partner CA");
    for (stale, expected) in [("", Ok(200)), ("crl_stale = \"refuse\"", Err("revocation_unknown"))] {
        let settings = format!("anchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]\n{stale}");
        let mut stand = trusting(&settings, "", |folder| {
            put(folder, "trust/p.pem", &ca.pem);
            put(folder, "trust/p.crl", &ca.crl(&[], 2));
        })
        .await;
        let client = ca.issue("a.example", &|_| ());
        assert_eq!(ask(&mut stand, &client).await, Ok(200));
        let live = peer(&stand, &client).connect(stand.sidecar.ingress("api")).await.expect("connected");
        stand.sidecar.handshake().await;
        stand.sidecar.move_to(later(today(), 3));
        told(&mut stand, "the list is out of date", |event| matches!(event, trust::TrustEvent::CrlStale { .. })).await;
        assert_eq!(ask(&mut stand, &client).await, expected);
        if expected.is_err() {
            live.ended.await.expect("a connection that cannot be checked any more is drained");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_without_a_list_and_depth_are_as_configured() {
    let root = RawCa::new("Root CA");
    let issuing = root.below("Issuing CA", &serial(77));
    let client = issuing.issue("a.example", &serial(7));
    for (settings, lists, expected) in [
        // No list of the end entity's issuer: allowed, unless one is asked for.
        ("", root.crl(&[], 30), Ok(200)),
        ("crl_required = true", root.crl(&[], 30), Err("revocation_unknown")),
        ("crl_required = true", issuing.crl(&[], 30), Ok(200)),
        // The issuing CA itself is revoked: seen only where the whole chain is looked at.
        ("", format!("{}{}", root.crl(&[77], 30), issuing.crl(&[], 30)), Ok(200)),
        ("crl_depth = \"chain\"", format!("{}{}", root.crl(&[77], 30), issuing.crl(&[], 30)), Err("revoked")),
        ("crl_depth = \"chain\"", root.crl(&[], 30), Ok(200)),
        ("crl_depth = \"chain\"\ncrl_required = true", root.crl(&[], 30), Err("revocation_unknown")),
    ] {
        let all = format!("anchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]\n{settings}");
        let mut stand = trusting(&all, "", |folder| {
            put(folder, "trust/p.pem", &root.pem);
            put(folder, "trust/p.crl", &lists);
        })
        .await;
        assert_eq!(ask(&mut stand, &client).await, expected, "{settings}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_depend_on_an_anchor_are_known_live_and_offline() {
    let (old, new) = (RawCa::new("Old CA"), RawCa::new("New CA"));
    let top = "state = \"state\"\n[trust.partners]\nanchors = [\"trust/p.pem\"]";
    let mut stand = stand_with(top, "trust = \"partners\"", Some(today()), |folder, _| {
        put(folder, "trust/p.pem", &format!("{}{}", old.pem, new.pem));
    })
    .await;
    for pair in
        [old.issue("moves.example", &|_| ()), old.issue("stays.example", &|_| ()), new.issue("moves.example", &|_| ())]
    {
        assert_eq!(ask(&mut stand, &pair).await, Ok(200));
    }
    let snapshot = stand.sidecar.app.reader().latest();
    let trust = &snapshot.ingresses["api"].trust;
    let anchor = |name: &str| {
        trust.anchors().iter().find(|anchor| anchor.subject() == format!("CN={name}")).expect("it").fingerprint()
    };
    let facts = trust.usage_facts();
    let without =
        |name: &str| facts.peers_needing_anchor(anchor(name)).into_iter().map(|(peer, _)| peer).collect::<Vec<_>>();
    // Another host may still have the former certificate of the one that has moved.
    assert_eq!(without("Old CA"), ["dns:moves.example", "dns:stays.example"]);
    assert_eq!(without("New CA"), ["dns:moves.example"]);

    // Carried across epochs, and saved with the next of them.
    let next = Ca::new("Another CA").server(1);
    crate::support::sidecar::drop_pair(stand.sidecar.folder.path(), "tls", &next);
    assert_eq!(stand.sidecar.rotation("default").await, fingerprint(&next));
    assert_eq!(stand.sidecar.app.reader().latest().ingresses["api"].trust.usage_facts(), facts);
    let toml = crate::handshake::config(top, "trust = \"partners\"", stand.backend.address);
    std::fs::write(stand.sidecar.folder.path().join("sidekey.toml"), toml).expect("written");
    let mut said = String::new();
    eventually("check says who would break", || {
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_sidekey"));
        let output = check.current_dir(stand.sidecar.folder.path()).arg("check").output().expect("it runs");
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains("without it these peers would fail: dns:moves.example, dns:stays.example\n")
    })
    .await;
    assert!(said.contains("without it these peers would fail: dns:moves.example\n"), "{said}");
}
