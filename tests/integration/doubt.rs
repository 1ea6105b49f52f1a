//! An upstream that refuses our only pair after a handshake that looks well, or that asks for none: what the running sidecar says.
//!
//! Must hold, in TLS 1.2 and 1.3 and over both protocols: the refusal is a `proof` line with the authorities that were named, the
//! handshake is among the failed ones, there is something to act on, a metric counts it, and the request's own line has the
//! reason; a pair that is accepted afterwards ends all this. An upstream without mutual TLS is called so, and proves nothing.

use std::sync::Arc;

use http::Method;
use serde_json::Value;
use sidekey::event::{DoubtKind, Event, HandshakeRecord, ProofRecord};
use sidekey::pki::issue::IssuedKeyPair;
use sidekey::tls::HandshakeOutcome;

use crate::egress::{ask, egress};
use crate::support::ca::{Ca, fingerprint};
use crate::support::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::upstream::{Plan, Upstream};

/// An upstream, and an egress to it with one pair.
struct Scene {
    sidecar: Sidecar,
    upstream: Upstream,
    ours: IssuedKeyPair,
}

impl Scene {
    async fn set(plan: impl FnOnce(&mut Plan)) -> Self {
        let (our_ca, their_ca) = (Ca::new("Our CA"), Ca::new("Their CA"));
        let ours = our_ca.client("ours", 5);
        let mut planned = Plan::new(&our_ca.server(5), &["http/1.1"]);
        plan(&mut planned);
        planned.names_instead = planned.names_instead.map(|_| their_ca.pem().to_owned());
        let upstream = Upstream::with(planned, &[our_ca.pem()]).await;
        let sidecar = egress(&our_ca, &ours, upstream.address, "server_name = \"localhost\"").await;
        Self { sidecar, upstream, ours }
    }

    async fn ask(&self) -> u16 {
        ask(self.sidecar.egress("out"), Method::GET, "").await.expect("answered").0.as_u16()
    }

    async fn proof(&mut self) -> ProofRecord {
        let proof = |event: &Event| match event {
            Event::Proof(proof) => Some(proof.clone()),
            _ => None,
        };
        self.sidecar.event("a proof", proof).await
    }

    fn handshake(&self, connection: u64) -> Arc<HandshakeRecord> {
        let recent = self.sidecar.app.events().recent();
        recent.into_iter().find(|handshake| handshake.connection == connection).expect("a handshake")
    }

    fn doubts(&self) -> Vec<DoubtKind> {
        self.sidecar.app.events().upstream_doubts().into_iter().map(|doubt| doubt.kind).collect()
    }

    /// The line of the request, once it is written.
    async fn access(&self) -> Value {
        let mut lines = Vec::new();
        eventually("an access line", || {
            lines.extend(self.sidecar.log());
            lines.iter().any(|line| line["target"] == "access")
        })
        .await;
        lines.into_iter().find(|line| line["target"] == "access").expect("a line")
    }

    fn metric(&self, outcome: &str, reason: &str) -> bool {
        let line = format!("sidekey_proofs_total{{listener=\"out\",outcome=\"{outcome}\",reason=\"{reason}\"}} ");
        self.sidecar.app.metrics_text().lines().any(|found| found.starts_with(&line))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Refusal {
    /// As Node in TLS 1.3.
    Close,
    /// As nginx.
    Status(u16),
}

async fn check_refusal(how: Refusal, excluded: bool, version: &'static rustls::SupportedProtocolVersion, alpn: &str) {
    let mut scene = Scene::set(|plan| {
        plan.versions = vec![version];
        plan.alpn = vec![alpn.to_owned()];
        plan.names_instead = excluded.then(String::new);
    })
    .await;
    let ours = fingerprint(&scene.ours);
    let (status, reason) = match how {
        Refusal::Close => {
            scene.upstream.close(ours);
            (502, "closed_after_handshake")
        }
        Refusal::Status(status) => {
            scene.upstream.refuse(ours, status);
            (status, if status == 495 { "status_495" } else { "status_400" })
        }
    };
    let certain = excluded || how == Refusal::Status(495);
    let outcome = if certain { HandshakeOutcome::Refused } else { HandshakeOutcome::Doubted };
    assert_eq!(scene.ask().await, status);
    let proof = scene.proof().await;
    let what = format!("{how:?} {excluded} {version:?} {alpn}: {}", proof.explanation);
    assert_eq!((proof.outcome, proof.reason, proof.key_pair), (outcome, reason, ours), "{what}");
    let named = if excluded {
        "\"CN=Their CA\", and none of our key pairs chains"
    } else {
        "\"CN=Our CA\", to which the pair chains"
    };
    assert!(proof.explanation.contains(named), "{what}");
    // The handshake is among the failed ones, with what came of it.
    let handshake = scene.handshake(proof.connection);
    assert_eq!((handshake.outcome, handshake.reason), (outcome, reason), "{what}");
    assert!(handshake.is_failure() && handshake.explanation == proof.explanation, "{what}");
    assert_eq!(scene.doubts(), [if certain { DoubtKind::Refused } else { DoubtKind::Doubted }], "{what}");
    assert!(scene.metric(outcome.as_str(), reason), "{what}");
    let line = scene.access().await;
    assert_eq!((&line["status"], &line["reason"]), (&status.into(), &reason.into()), "{what}: {line}");
    // Accepted at last: nothing is left to act on.
    scene.upstream.accept_every_pair();
    scene.upstream.hang_up();
    eventually("hung up", || scene.upstream.open(ours) == 0).await;
    eventually_accepted(&mut scene).await;
    assert_eq!(scene.doubts(), [], "{what}");
}

/// Asks until the upstream's acceptance is told.
async fn eventually_accepted(scene: &mut Scene) {
    while scene.ask().await != 200 {}
    while scene.proof().await.outcome != HandshakeOutcome::Accepted {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_after_the_handshake_is_told_as_a_refusal_or_a_doubt() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for alpn in ["http/1.1", "h2"] {
            for excluded in [true, false] {
                check_refusal(Refusal::Close, excluded, version, alpn).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_status_as_the_first_answer_is_told_as_a_refusal_or_a_doubt() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for alpn in ["http/1.1", "h2"] {
            for (status, excluded) in [(400, true), (400, false), (495, false)] {
                check_refusal(Refusal::Status(status), excluded, version, alpn).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_after_the_handshake_is_told_with_its_name_and_the_authorities() {
    let (ours, theirs) = (Ca::new("Our CA"), Ca::new("Their CA"));
    let client = ours.client("ours", 5);
    let plan = Plan { versions: vec![&rustls::version::TLS13], ..Plan::new(&ours.server(5), &["http/1.1"]) };
    let upstream = Upstream::with(plan, &[theirs.pem()]).await;
    let mut sidecar = egress(&ours, &client, upstream.address, "server_name = \"localhost\"").await;
    assert_eq!(ask(sidecar.egress("out"), Method::GET, "").await.expect("answered").0, 502);
    let handshake = sidecar.handshake().await;
    assert!(handshake.explanation.contains("\"CN=Their CA\", and none of our key pairs"), "{}", handshake.explanation);
    let proof = |event: &Event| match event {
        Event::Proof(proof) => Some(proof.clone()),
        _ => None,
    };
    let proof = sidecar.event("a proof", proof).await;
    assert_eq!((proof.outcome, proof.reason), (HandshakeOutcome::Refused, "refused_unknown_ca"));
    assert_eq!(proof.alert_received, Some("unknown_ca"));
    assert!(proof.explanation.contains("\"CN=Their CA\""), "{}", proof.explanation);
    let handshake = sidecar.app.events().recent().pop().expect("a handshake");
    assert_eq!((handshake.reason, handshake.alert_received), ("refused_unknown_ca", Some("unknown_ca")));
    let line = sidecar.log().into_iter().find(|line| line["target"] == "proof").expect("a line");
    assert_eq!(line["alert.received"], "unknown_ca");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_the_upstream_ends_says_which_authorities_it_named() {
    let (ours, theirs) = (Ca::new("Our CA"), Ca::new("Their CA"));
    let client = ours.client("ours", 5);
    let plan = Plan { versions: vec![&rustls::version::TLS12], ..Plan::new(&ours.server(5), &["http/1.1"]) };
    let upstream = Upstream::with(plan, &[theirs.pem()]).await;
    let mut sidecar = egress(&ours, &client, upstream.address, "server_name = \"localhost\"").await;
    assert_eq!(ask(sidecar.egress("out"), Method::GET, "").await.expect("answered").0, 502);
    let handshake = sidecar.handshake().await;
    assert_eq!(handshake.reason, "refused_unknown_ca");
    assert!(handshake.explanation.contains("\"CN=Their CA\", and none of our key pairs"), "{}", handshake.explanation);
    let doubts: Vec<_> = sidecar.app.events().upstream_doubts().into_iter().map(|doubt| doubt.kind).collect();
    assert_eq!(doubts, [DoubtKind::Refused]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asks_for_no_certificate_is_not_mutual_tls_and_proves_nothing() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut scene = Scene::set(|plan| {
            plan.versions = vec![version];
            plan.asks = false;
        })
        .await;
        for _ in 0..3 {
            assert_eq!(scene.ask().await, 200);
            scene.upstream.hang_up();
            eventually("hung up", || scene.upstream.open(fingerprint(&scene.ours)) == 0).await;
        }
        let handshake = scene.sidecar.handshake().await;
        assert_eq!((handshake.outcome, handshake.reason), (HandshakeOutcome::Accepted, "no_certificate_asked"));
        assert_eq!(handshake.key_pair, None);
        assert!(handshake.explanation.contains("asked for no certificate: this is not mutual TLS"), "{handshake:?}");
        assert_eq!(scene.doubts(), [DoubtKind::NotMutual]);
        assert!(scene.sidecar.log().iter().all(|line| line["target"] != "proof"), "something was proved");
    }
}
