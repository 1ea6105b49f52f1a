//! Which pair signs, and which token a request bears, while a rotation is under way.

use http::Method;
use sidekey::event::{Event, TokenOutcome, UpstreamVerdict, VerdictRecord};
use sidekey::pki::Fingerprint;

use super::{OK, Scene};
use crate::support::PATIENCE;
use crate::support::ca::{Ca, certificate, fingerprint};

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_pair_signs_while_the_partner_does_not_know_the_new_one_and_the_owner_is_told() {
    for grant in ["jwt_bearer", "client_credentials"] {
        let mut scene = Scene::set(&format!("ENDPOINT\ngrant = \"{grant}\"")).await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        assert_eq!(scene.send(Method::GET, "").await.0, OK);
        scene.rotate().await;
        scene.probed().await;
        assert_eq!(scene.send(Method::GET, "").await.0, OK, "{:?}", scene.partner.state().refusals);
        let (outcome, reason, refused, explanation) = scene.told().await;
        assert_eq!((outcome, reason, refused), (TokenOutcome::Refused, "token_refused", new), "{explanation}");
        assert!(explanation.contains(&old.short()) && explanation.contains("send the partner"), "{explanation}");
        // Remembered: no other assertion by the new pair for an hour, however many tokens are needed.
        let refusals = scene.partner.state().refusals.len();
        scene.partner.state().tokens.clear();
        assert_eq!(scene.send(Method::GET, "").await.0, OK);
        assert_eq!(scene.partner.state().refusals.len(), refusals);
        // When it has rested, and the partner has the certificate, it signs by itself.
        scene.partner.state().registered.push(certificate(&scene.new));
        scene.wait(3700);
        assert_eq!(scene.send(Method::GET, "").await.0, OK);
        let state = scene.partner.state();
        let (header, _, _) = state.assertions.last().expect("an assertion");
        assert_eq!(header["x5t#S256"], sidekey::jwt::key_set::x5t(&certificate(&scene.new)), "{grant}");
    }
}

/// The pair that brought what the API served last.
fn served_last(scene: &Scene) -> Fingerprint {
    scene.partner.state().served.last().expect("served").1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_on_with_the_previous_pair_bears_that_pairs_token() {
    let head = "probe = { path = \"/healthz\" }";
    for (status, probe) in [(400, ""), (401, "probe = false"), (403, ""), (401, ""), (401, head)] {
        let ca = Ca::new("Our CA");
        let new = ca.client("ours", 1);
        let mut scene = Scene::with(&ca, new, probe, "ENDPOINT").await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        // Both are known to sign; the new one is refused by a status, as nginx and applications do, at both addresses.
        {
            let mut state = scene.partner.state();
            state.registered.push(certificate(&scene.new));
            (state.binds, state.refuses) = (true, Some((new, status)));
        }
        assert_eq!(scene.send(Method::GET, "").await.0, OK);
        scene.rotate().await;
        for method in [Method::GET, Method::POST, Method::GET, Method::PUT] {
            let (got, body) = scene.send(method.clone(), "").await;
            assert_eq!((got, body.as_str()), (OK, "synced"), "{status} {method}: {:?}", scene.partner.state().refusals);
            assert_eq!(served_last(&scene), old);
        }
        let large = "x".repeat(200 * 1024);
        assert_eq!(scene.send(Method::POST, &large).await.0, OK, "{status}");
        // It is refused, and not called proved because a token of the other pair was refused as well.
        let refused = |event: &Event| match event {
            Event::Upstream(VerdictRecord { verdict, key_pair, .. })
                if *key_pair == new && *verdict != UpstreamVerdict::HandshakeOk =>
            {
                Some(*verdict)
            }
            _ => None,
        };
        assert_eq!(scene.sidecar.event("a verdict", refused).await, UpstreamVerdict::Refused, "{status}");
        // When the partner has put it right, everything moves over, with tokens of the new pair.
        scene.partner.state().refuses = None;
        scene.wait(7200);
        let moves_over = async {
            while served_last(&scene) != new {
                assert_eq!(scene.send(Method::GET, "").await.0, OK);
            }
        };
        tokio::time::timeout(PATIENCE, moves_over).await.unwrap_or_else(|_| panic!("{status}: still on the old pair"));
        // What the partner saw of the new pair may have been the probe, whose answer is still on its way to us.
        let proved = |event: &Event| {
            matches!(event, Event::Upstream(VerdictRecord { verdict: UpstreamVerdict::Proved, key_pair, .. }) if *key_pair == new)
                .then_some(())
        };
        scene.sidecar.event("the new pair proved", proved).await;
        assert_eq!(scene.send(Method::POST, "b").await.0, OK);
        assert_eq!(served_last(&scene), new, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_at_the_token_endpoint_and_at_the_api_costs_the_application_nothing() {
    for probe in ["", "probe = false"] {
        for grant in ["ENDPOINT", ""] {
            let ca = Ca::new("Our CA");
            let new = Ca::new("Our next CA").client("ours", 1);
            let mut scene = Scene::with(&ca, new, probe, grant).await;
            {
                let mut state = scene.partner.state();
                (state.binds, state.direct) = (true, grant.is_empty());
            }
            let old = fingerprint(&scene.old);
            scene.rotate().await;
            let large = "x".repeat(200 * 1024);
            for (method, body) in [(Method::GET, ""), (Method::POST, "a"), (Method::POST, large.as_str())] {
                let got = scene.send(method, body).await;
                assert_eq!(got.0, OK, "{probe} {grant}: {:?}", scene.partner.state().refusals);
                assert_eq!(served_last(&scene), old);
            }
        }
    }
}
