//! An upstream with several nodes behind one name, and one that comes back as another: what one proved does not speak for it.

use http::Method;
use sidekey::event::UpstreamVerdict;
use sidekey::evidence::report::RetireAdvice;
use sidekey::pki::issue::IssuedKeyPair;

use super::{Scene, ask};
use crate::support::ca::fingerprint;
use crate::support::eventually;

/// The new pair is proved by a GET.
async fn proved() -> Scene {
    let mut scene = Scene::set("probe = false", |_| {}).await;
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.rotate().await;
    assert_eq!(ask(&scene, Method::GET).await, 200);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    assert_eq!(scene.advice(), RetireAdvice::Safe);
    scene
}

/// The next connections reach another node: with another certificate, naming what it accepts or not.
async fn fail_over(scene: &Scene, pair: &IssuedKeyPair, names_authorities: bool, accepts_new: bool) {
    let both = [scene.old_ca.pem(), scene.new_ca.pem()];
    let accepted = if accepts_new { &both[..] } else { &both[..1] };
    scene.upstream.accept_as(pair, names_authorities, accepted);
    scene.upstream.hang_up();
    let is_gone = |pair| scene.upstream.open(fingerprint(pair)) == 0;
    eventually("hung up", || is_gone(&scene.new) && is_gone(&scene.old)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_ends_what_another_proved_and_no_request_is_lost() {
    let mut scene = proved().await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    scene.upstream.refuse(new, 403);
    fail_over(&scene, &scene.old_ca.server(6), false, true).await;
    for method in [Method::POST, Method::GET, Method::POST] {
        assert_eq!(ask(&scene, method).await, 200);
        assert_eq!(scene.pairs().last(), Some(&old));
    }
    assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "new_node"));
    assert_eq!(scene.verdict().await, (UpstreamVerdict::Refused, "status_403"));
    assert_eq!(scene.advice(), RetireAdvice::Blocked);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_of_the_upstream_withdraws_the_proof_until_the_next_answer() {
    let mut scene = proved().await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    fail_over(&scene, &scene.old_ca.server(6), false, true).await;
    assert_eq!(ask(&scene, Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&old));
    assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "new_node"));
    assert_eq!(scene.advice(), RetireAdvice::Wait);
    assert_eq!(ask(&scene, Method::GET).await, 200);
    assert_eq!(scene.verdict().await, (UpstreamVerdict::Proved, "response"));
    assert_eq!(ask(&scene, Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&new));
    assert_eq!(scene.advice(), RetireAdvice::Safe);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_comes_back_naming_only_the_old_issuer_is_not_safe_to_retire_for() {
    let mut scene = proved().await;
    let old = fingerprint(&scene.old);
    let other = scene.old_ca.server(6);
    fail_over(&scene, &other, true, false).await;
    for _ in 0..3 {
        assert_eq!(ask(&scene, Method::GET).await, 200);
        assert_eq!(scene.pairs().last(), Some(&old));
    }
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "excluded_by_authorities");
    assert_eq!(scene.advice(), RetireAdvice::Blocked);
    // Its operator acts.
    fail_over(&scene, &other, true, true).await;
    until_proved(&mut scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refused_and_is_reached_no_more_is_forgotten() {
    let mut scene = proved().await;
    let new = fingerprint(&scene.new);
    scene.upstream.refuse(new, 403);
    fail_over(&scene, &scene.old_ca.server(6), false, true).await;
    for _ in 0..2 {
        assert_eq!(ask(&scene, Method::GET).await, 200);
    }
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
    // Another one takes its place.
    scene.upstream.accept_every_pair();
    fail_over(&scene, &scene.old_ca.server(7), false, true).await;
    until_proved(&mut scene).await;
}

/// Asks until the new pair is proved again.
async fn until_proved(scene: &mut Scene) {
    scene.move_by(3601);
    for _ in 0..20 {
        assert_eq!(ask(scene, Method::GET).await, 200);
        if scene.advice() == RetireAdvice::Safe {
            break;
        }
    }
    scene.until(UpstreamVerdict::Proved).await;
    assert_eq!(scene.advice(), RetireAdvice::Safe);
    assert_eq!(ask(scene, Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&fingerprint(&scene.new)));
}
