//! The authorities that an upstream's CertificateRequest names choose the pair within the handshake that brings them.
//!
//! Must hold, in TLS 1.2 and 1.3: an upstream that names only the old pair's issuer never sees the new pair, not in a probe and
//! not in the first request; no handshake fails anywhere; that the new pair is excluded is reported; and once the upstream names
//! both issuers, the new pair is proved by itself.

use http::Method;
use sidekey::event::{Event, HandshakeRecord, ProofRecord, UpstreamVerdict, VerdictRecord};
use sidekey::keyring::SelectionReason;
use sidekey::tls::HandshakeOutcome;

use crate::egress::{ask, egress};
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::{Sidecar, drop_pair};
use crate::support::upstream::{Plan, Upstream};

/// The next report that a pair is excluded: pair and sentence. On the way, no handshake fails.
async fn exclusion(sidecar: &mut Sidecar) -> (sidekey::pki::Fingerprint, String) {
    let excluded = |event: &Event| match event {
        Event::Handshake(handshake) => {
            assert!(!handshake.is_failure(), "{handshake:?}");
            None
        }
        Event::Proof(ProofRecord { reason: "excluded_by_authorities", key_pair, explanation, outcome, .. }) => {
            assert_eq!(*outcome, HandshakeOutcome::Refused);
            Some((*key_pair, explanation.clone()))
        }
        _ => None,
    };
    sidecar.event("an exclusion", excluded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_names_only_the_old_issuer_never_sees_the_new_pair() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (old_ca, new_ca) = (Ca::new("Old CA"), Ca::new("New CA"));
        let (old, new) = (old_ca.client("ours", 5), new_ca.client("ours", 1));
        let plan = Plan { versions: vec![version], ..Plan::new(&old_ca.server(5), &["http/1.1"]) };
        let upstream = Upstream::with(plan, &[old_ca.pem()]).await;
        let mut sidecar = egress(&old_ca, &old, upstream.address, "server_name = \"localhost\"").await;
        drop_pair(sidecar.folder.path(), "out/tls", &new);
        assert_eq!(sidecar.rotation("out").await, fingerprint(&new));
        // The probe of the new pair, or the first request: whichever comes first is told.
        for _ in 0..3 {
            assert_eq!(ask(sidecar.egress("out"), Method::POST, "a").await.expect("answered").0, 200);
        }
        let (excluded, why) = exclusion(&mut sidecar).await;
        assert_eq!(excluded, fingerprint(&new));
        assert!(why.contains("\"CN=Old CA\"") && why.contains(&fingerprint(&old).short()), "{why}");
        assert!(upstream.seen().iter().all(|(pair, _)| *pair == fingerprint(&old)));
        assert_eq!(upstream.failed(), 0, "the excluded pair was shown in {version:?}");
        // Once both issuers are named, the new pair goes into use by itself.
        upstream.accept(&[old_ca.pem(), new_ca.pem()]);
        upstream.hang_up();
        let wanted = fingerprint(&new);
        let proved = move |event: &Event| match event {
            Event::Upstream(VerdictRecord { verdict: UpstreamVerdict::Proved, key_pair, .. }) => {
                (*key_pair == wanted).then_some(())
            }
            _ => None,
        };
        let to = sidecar.egress("out");
        let asking = tokio::spawn(async move {
            loop {
                assert_eq!(ask(to, Method::GET, "").await.expect("answered").0, 200);
            }
        });
        sidecar.event("the new pair is proved", proved).await;
        asking.abort();
        assert_eq!(upstream.failed(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_hints_lead_to_another_pair_says_so_in_its_handshake() {
    let (old_ca, new_ca) = (Ca::new("Old CA"), Ca::new("New CA"));
    let (old, new) = (old_ca.client("ours", 5), new_ca.client("ours", 1));
    let upstream = Upstream::start(&old_ca.server(5), &[old_ca.pem()], &["http/1.1"]).await;
    // No probe: the first request is the first connection.
    let extra = "server_name = \"localhost\"\nprobe = false";
    let mut sidecar = egress(&old_ca, &old, upstream.address, extra).await;
    drop_pair(sidecar.folder.path(), "out/tls", &new);
    sidecar.rotation("out").await;
    assert_eq!(ask(sidecar.egress("out"), Method::GET, "").await.expect("answered").0, 200);
    let shown = |event: &Event| match event {
        Event::Handshake(handshake) => Some(HandshakeRecord::clone(handshake)),
        _ => None,
    };
    let handshake = sidecar.event("a handshake", shown).await;
    assert_eq!(
        (handshake.key_pair, handshake.chosen_by),
        (Some(fingerprint(&old)), Some(SelectionReason::Authorities))
    );
    assert_eq!(handshake.outcome, HandshakeOutcome::Unproved);
}
