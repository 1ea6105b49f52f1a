//! What an upstream's answers prove: the new pair's status beside the previous one's, by method, before and after a proof.
//!
//! Must hold: the application gets what the previous pair gets; only a 2xx, or the same answer unless it refuses, proves; and an
//! upstream that changes its mind costs one request.

use http::Method;
use sidekey::event::UpstreamVerdict;
use sidekey::evidence::report::{RetireAdvice, RotationProgress, SubjectKind};

use super::{Scene, ask, ask_for};
use crate::support::ca::fingerprint;
use crate::support::upstream::WITHOUT_CERTIFICATE;

/// A rotation at an upstream that completes the handshake with both pairs.
async fn rotated(extra: &str) -> Scene {
    let mut scene = Scene::set(extra, |_| {}).await;
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.rotate().await;
    scene
}

/// The same, with the new pair proved by a GET.
async fn proved(extra: &str) -> Scene {
    let mut scene = rotated(extra).await;
    assert_eq!(ask(&scene, Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    assert_eq!(scene.advice(), RetireAdvice::Safe);
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_only_the_new_pair_gets_is_never_seen_and_never_proves() {
    for (status, verdict) in [
        (302, Some(("refused", "status_3xx"))),
        (404, Some(("refused", "status_404"))),
        (407, Some(("refused", "status_407"))),
        (403, Some(("refused", "status_403"))),
        (421, None),
        (429, None),
        (500, None),
        (502, None),
        (503, None),
    ] {
        let mut scene = rotated("probe = false").await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        scene.upstream.refuse(new, status);
        for method in [Method::GET, Method::POST, Method::GET, Method::PUT, Method::POST] {
            assert_eq!(ask(&scene, method.clone()).await, 200, "{status} {method}");
            assert_eq!(scene.pairs().last(), Some(&old));
        }
        if let Some((name, code)) = verdict {
            let (verdict, reason) = scene.verdict().await;
            assert_eq!((verdict.as_str(), reason), (name, code));
        }
        assert_ne!(scene.advice(), RetireAdvice::Safe, "{status}");
        // It gets a 200 at last.
        scene.upstream.accept_every_pair();
        scene.move_by(61);
        assert_eq!(ask(&scene, Method::GET).await, 200);
        assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs().last(), Some(&new));
        assert_eq!(scene.advice(), RetireAdvice::Safe);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_both_pairs_get_proves_unless_it_refuses() {
    for (status, proves) in [(302, true), (404, true), (401, false), (403, false), (429, false), (502, false)] {
        let mut scene = rotated("probe = false").await;
        for pair in [&scene.old, &scene.new] {
            scene.upstream.refuse(fingerprint(pair), status);
        }
        assert_eq!(ask(&scene, Method::GET).await, status);
        if proves {
            assert_eq!(scene.verdict().await, (UpstreamVerdict::Proved, "response"));
            assert_eq!(scene.advice(), RetireAdvice::Safe);
            continue;
        }
        assert_ne!(scene.advice(), RetireAdvice::Safe, "{status}");
        scene.upstream.accept_every_pair();
        // The next canary comes a minute later.
        assert_eq!(ask(&scene, Method::GET).await, 200);
        assert_eq!(scene.pairs(), [fingerprint(&scene.old)]);
        scene.move_by(61);
        assert_eq!(ask(&scene, Method::GET).await, 200);
        assert_eq!(scene.verdict().await, (UpstreamVerdict::Proved, "response"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proved_pair_that_is_refused_by_a_status_costs_no_request_that_can_be_sent_again() {
    let mut scene = proved("probe = false").await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    scene.upstream.refuse(new, 403);
    assert_eq!(ask(&scene, Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
    assert_eq!(scene.advice(), RetireAdvice::Blocked);
    for method in [Method::POST, Method::GET] {
        assert_eq!(ask(&scene, method).await, 200);
        assert_eq!(scene.pairs().last(), Some(&old));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_path_that_proved_for_a_demanding_one_is_found_out_by_one_request() {
    let mut scene = rotated("probe = false").await;
    let new = fingerprint(&scene.new);
    scene.upstream.refuse_at(new, "/orders", 403);
    assert_eq!(ask_for(&scene, "/healthz", Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    assert_eq!(ask_for(&scene, "/orders", Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
    assert_eq!(ask_for(&scene, "/orders", Method::POST).await, 200);
    assert_ne!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_that_are_refused_on_a_proved_pair_go_back_where_the_previous_one_fared_better() {
    let mut scene = rotated("probe = false").await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    // What the previous pair gets for it.
    assert_eq!(ask_for(&scene, "/orders", Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&old));
    scene.upstream.refuse_at(new, "/orders", 403);
    assert_eq!(ask_for(&scene, "/healthz", Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    // One POST is lost: it may not be sent twice.
    assert_eq!(ask_for(&scene, "/orders", Method::POST).await, 403);
    assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "status_403"));
    assert_eq!(ask_for(&scene, "/orders", Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&old));
    assert_ne!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_refusal_of_both_pairs_is_compared_once_a_minute_on_a_proved_pair() {
    let mut scene = proved("probe = false").await;
    for pair in [&scene.old, &scene.new] {
        scene.upstream.refuse(fingerprint(pair), 401);
    }
    let replays = "sidekey_replays_total{listener=\"out\",why=\"status\"}";
    for _ in 0..5 {
        assert_eq!(ask(&scene, Method::GET).await, 401);
    }
    assert_eq!(scene.metric(replays), 1);
    scene.move_by(61);
    for _ in 0..5 {
        assert_eq!(ask(&scene, Method::GET).await, 401);
    }
    assert_eq!(scene.metric(replays), 2);
    assert_eq!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_silence_costs_no_request_that_can_be_sent_again() {
    for alpn in ["http/1.1", "h2"] {
        let mut scene = Scene::set("probe = false", |plan| plan.alpn = vec![alpn.to_owned()]).await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
        scene.rotate().await;
        assert_eq!(ask(&scene, Method::GET).await, 200);
        assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
        scene.upstream.end_silently(new);
        for _ in 0..3 {
            assert_eq!(ask(&scene, Method::GET).await, 200);
            assert_eq!(scene.pairs().last(), Some(&old));
        }
        assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "dropped"));
        assert_eq!(scene.verdict().await, (UpstreamVerdict::Refused, "dropped"));
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.advice(), RetireAdvice::Blocked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_alone_that_end_without_an_answer_go_back_to_the_previous_pair() {
    let mut scene = proved("probe = false").await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    scene.upstream.end_silently(new);
    assert_eq!(ask(&scene, Method::POST).await, 502);
    assert_eq!(ask(&scene, Method::POST).await, 502);
    assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "dropped"));
    assert_eq!(ask(&scene, Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&old));
    assert_ne!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_a_public_path_proves_nothing_and_the_log_says_so() {
    let mut scene = Scene::set("probe = { path = \"/healthz\" }", |plan| plan.demands_certificate = false).await;
    let new = fingerprint(&scene.new);
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.rotate().await;
    assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "public_path"));
    assert_ne!(scene.advice(), RetireAdvice::Safe);
    let probes = |pair| scene.upstream.seen().iter().filter(|(shown, _)| *shown == pair).count();
    assert_eq!((probes(new), probes(WITHOUT_CERTIFICATE)), (1, 1));
    let says = scene.sidecar.log().iter().any(|line| {
        line["explanation"]
            .as_str()
            .is_some_and(|text| text.contains("HEAD /healthz gets 200 without a certificate too"))
    });
    assert!(says, "the log does not say so");
    // Once the path is refused without a certificate, its answer proves the pair.
    scene.upstream.refuse(WITHOUT_CERTIFICATE, 401);
    scene.move_by(61);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asks_for_no_certificate_proves_nothing() {
    let mut scene = Scene::set("probe = false", |plan| plan.asks = false).await;
    scene.rotate().await;
    for method in [Method::GET, Method::POST, Method::GET] {
        assert_eq!(ask(&scene, method).await, 200);
    }
    assert!(scene.pairs().iter().all(|pair| *pair == WITHOUT_CERTIFICATE));
    // No pair is shown, so nothing breaks without the old one; but nothing is proved either, and the report says why.
    let snapshot = scene.sidecar.app.reader().latest();
    let reports = scene.sidecar.app.events().report(&snapshot.keyrings_in_overlap(), &snapshot.contacts());
    let line = reports[0].lines.iter().find(|line| line.kind == SubjectKind::Upstream).expect("a line");
    assert_eq!((line.stands, scene.advice()), (RotationProgress::AsksForNone, RetireAdvice::Safe));
}
