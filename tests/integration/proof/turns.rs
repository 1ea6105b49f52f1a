//! An upstream that turns from one of our pairs to another, and paths that differ: what ends a refusal, and what does not.

use http::Method;
use sidekey::event::UpstreamVerdict;
use sidekey::evidence::report::RetireAdvice;

use super::{Scene, ask, ask_for};
use crate::support::ca::fingerprint;
use crate::support::upstream::{Plan, WITHOUT_CERTIFICATE};

/// An upstream that answers `/healthz` to everyone and `/orders` to the old pair only. The new one was proved by the former and refused
/// by the latter.
async fn refused_at_orders() -> Scene {
    let mut scene = Scene::set("probe = false", |plan| plan.demands_certificate = false).await;
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.rotate().await;
    for pair in [fingerprint(&scene.new), WITHOUT_CERTIFICATE] {
        scene.upstream.refuse_at(pair, "/orders", 403);
    }
    assert_eq!(ask_for(&scene, "/orders", Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_path_ends_no_refusal_that_another_path_met() {
    let mut scene = refused_at_orders().await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    scene.move_by(61);
    assert_eq!(ask_for(&scene, "/healthz", Method::GET).await, 200);
    assert_ne!(scene.advice(), RetireAdvice::Safe);
    assert_eq!(ask_for(&scene, "/orders", Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&old));
    // The canary brought it, and one request without a certificate showed that everyone gets it.
    let brought = |pair| scene.pairs().iter().filter(|shown| **shown == pair).count();
    assert_eq!((brought(new), brought(WITHOUT_CERTIFICATE)), (1, 1));
    scene.upstream.accept_every_pair();
    scene.move_by(61);
    assert_eq!(ask_for(&scene, "/orders", Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    assert_eq!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_demands_a_certificate_ends_the_refusal_of_another_path() {
    let mut scene = refused_at_orders().await;
    scene.upstream.accept_every_pair();
    scene.upstream.refuse(WITHOUT_CERTIFICATE, 401);
    scene.move_by(61);
    assert_eq!(ask_for(&scene, "/stock", Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    assert!(scene.pairs().iter().all(|pair| *pair != WITHOUT_CERTIFICATE));
    assert_eq!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_a_certificate_decides_nothing_and_is_asked_for_again() {
    let mut scene = refused_at_orders().await;
    let old = fingerprint(&scene.old);
    scene.upstream.end_silently(WITHOUT_CERTIFICATE);
    for _ in 0..2 {
        scene.move_by(61);
        assert_eq!(ask_for(&scene, "/stock", Method::GET).await, 200);
        assert_ne!(scene.advice(), RetireAdvice::Safe);
        assert_eq!(ask_for(&scene, "/orders", Method::POST).await, 200);
        assert_eq!(scene.pairs().last(), Some(&old));
    }
    scene.upstream.accept_every_pair();
    scene.upstream.refuse(WITHOUT_CERTIFICATE, 401);
    scene.move_by(61);
    assert_eq!(ask_for(&scene, "/stock", Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    assert_eq!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_about_a_missing_certificate_shows_that_a_path_is_not_public() {
    for (version, alpn) in [
        (&rustls::version::TLS12, "http/1.1"),
        (&rustls::version::TLS13, "http/1.1"),
        (&rustls::version::TLS12, "h2"),
        (&rustls::version::TLS13, "h2"),
    ] {
        let plan = |plan: &mut Plan| (plan.versions, plan.alpn) = (vec![version], vec![alpn.to_owned()]);
        let mut scene = Scene::set("probe = false", plan).await;
        scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
        scene.rotate().await;
        scene.upstream.refuse_at(fingerprint(&scene.new), "/orders", 403);
        assert_eq!(ask_for(&scene, "/orders", Method::GET).await, 200);
        assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
        scene.upstream.accept_every_pair();
        scene.move_by(61);
        assert_eq!(ask_for(&scene, "/stock", Method::GET).await, 200);
        assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_rests_is_tried_where_the_upstream_turns_to_it() {
    let mut scene = Scene::set("probe = false", |_| {}).await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.rotate().await;
    scene.upstream.refuse(new, 403);
    assert_eq!(ask(&scene, Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
    scene.upstream.accept_every_pair();
    scene.upstream.refuse(old, 403);
    assert_eq!(ask(&scene, Method::GET).await, 200, "the new pair rests, and serves");
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    assert_eq!(ask(&scene, Method::POST).await, 200);
    // It turns back at once: the old pair rests now.
    scene.upstream.accept_every_pair();
    scene.upstream.refuse(new, 403);
    assert_eq!(ask(&scene, Method::GET).await, 200, "the old pair rests, and serves");
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
    assert_eq!(scene.advice(), RetireAdvice::Blocked);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_pair_is_tried_where_the_other_two_are_refused_alike() {
    let mut scene = Scene::set("probe = false", |_| {}).await;
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.rotate().await;
    let newest = scene.new_ca.client("ours", 0);
    let middle = std::mem::replace(&mut scene.new, newest);
    scene.rotate().await;
    assert_eq!(ask(&scene, Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    for pair in [&scene.new, &middle] {
        scene.upstream.refuse(fingerprint(pair), 403);
    }
    assert_eq!(ask(&scene, Method::GET).await, 200);
    assert_eq!(scene.pairs().last(), Some(&fingerprint(&scene.old)));
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
    assert_eq!(scene.advice(), RetireAdvice::Blocked);
    assert_eq!(ask(&scene, Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&fingerprint(&scene.old)));
}
