//! An upstream that refuses the new pair by a TLS alert: the application sees nothing of it.

use sidekey::event::UpstreamVerdict;

use super::{Load, Scene, none_twice};
use crate::support::ca::fingerprint;

/// The whole story of a rotation that is refused by an alert, and accepted later.
async fn refused_by_alert(version: &'static rustls::SupportedProtocolVersion, alpn: &str) {
    let mut scene = Scene::set("", |plan| {
        plan.versions = vec![version];
        plan.alpn = vec![alpn.to_owned()];
    })
    .await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    let load = Load::start(scene.address());
    load.more(50).await;
    scene.rotate().await;
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "refused_unknown_ca");
    load.more(300).await;
    assert!(scene.pairs().iter().all(|pair| *pair == old));
    // It is tried again, and refused again, without the application noticing.
    scene.move_by(31);
    assert_eq!(scene.until(UpstreamVerdict::Refused).await, "refused_unknown_ca");
    load.more(100).await;
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.move_by(61);
    assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    load.more(20).await;
    let before = scene.upstream.seen().len();
    load.more(200).await;
    load.end().await;
    let after = scene.pairs().split_off(before + 10);
    assert!(after.len() > 100 && after.iter().all(|pair| *pair == new), "not all have moved over");
    none_twice(&scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refused_by_alert_is_not_noticed_in_tls_1_3_over_http_1() {
    refused_by_alert(&rustls::version::TLS13, "http/1.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refused_by_alert_is_not_noticed_in_tls_1_3_over_http_2() {
    refused_by_alert(&rustls::version::TLS13, "h2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refused_by_alert_is_not_noticed_in_tls_1_2_over_http_1() {
    refused_by_alert(&rustls::version::TLS12, "http/1.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refused_by_alert_is_not_noticed_in_tls_1_2_over_http_2() {
    refused_by_alert(&rustls::version::TLS12, "h2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_is_replayed_without_a_probe_and_the_application_sees_no_failure() {
    for alpn in ["http/1.1", "h2"] {
        let mut scene = Scene::set("probe = false", |plan| plan.alpn = vec![alpn.to_owned()]).await;
        let load = Load::start(scene.address());
        load.more(50).await;
        scene.rotate().await;
        assert_eq!(scene.until(UpstreamVerdict::Refused).await, "refused_unknown_ca");
        load.more(200).await;
        load.end().await;
        none_twice(&scene);
        let old = fingerprint(&scene.old);
        assert!(scene.pairs().iter().all(|pair| *pair == old));
        assert_eq!(scene.metric("sidekey_replays_total{listener=\"out\",why=\"alert\"}"), 1);
    }
}
