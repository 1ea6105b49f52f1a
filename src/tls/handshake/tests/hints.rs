//! A handshake as a client that may show several pairs: the CertificateRequest leads to one, and only that pair resumes its session.

use super::*;
use crate::keyring::KeyPairCandidate;

fn facts_of(pair: &KeyPair) -> KeyPairCandidate {
    KeyPairCandidate {
        validity: pair.end_entity().validity(),
        schemes: pair.schemes(),
        issuers: pair.issuer_names(),
        ..KeyPairCandidate::sample("out", pair.fingerprint())
    }
}

#[tokio::test]
async fn a_request_that_names_the_other_pairs_issuer_is_answered_with_the_other_pair() {
    let HandshakeFixture { server, client: old, trust: accepts_old, .. } = handshake_fixture();
    let new_ca = TestAuthority::new("New CA");
    let (old, new) = (old.pair(), new_ca.issue_peer("client.test", &|_| ()).pair());
    let accepts_new = trust(&[&new_ca]);
    for version in TLS_VERSIONS {
        let settings = settings_for_version(version);
        let planned = build_connector(&new, &accepts_old, &settings);
        let other = build_connector(&old, &accepts_old, &settings);
        let (new_facts, old_facts) = (facts_of(&new), facts_of(&old));
        let both = planned.with_others(&new_facts, [(&old_facts, &other)].into_iter());
        let names_old = build_acceptor(&server, &accepts_old, &settings);
        let (at_server, at_client) = run_handshake(&names_old, &both).await;
        let (at_server, at_client) = (at_server.ok().unwrap(), at_client.ok().unwrap());
        assert_eq!(at_server.chain[0], *old.end_entity().der());
        assert_eq!((at_client.shown_instead, at_client.is_mutual), (Some(old.fingerprint()), true));
        // The session began with the old pair: a connection that is to show the new one must not resume it.
        for connector in [&planned, &both] {
            let (_, again) = run_handshake(&names_old, connector).await;
            assert!(again.is_err() || !again.ok().unwrap().facts.resumed, "resumed with the other pair's identity");
        }
        // Where the request names the planned pair's issuer, or nothing leads elsewhere, that pair is shown.
        let names_new = build_acceptor(&server, &accepts_new, &settings);
        let (at_server, at_client) = run_handshake(&names_new, &both).await;
        assert_eq!(at_server.ok().unwrap().chain[0], *new.end_entity().der());
        assert_eq!(at_client.ok().unwrap().shown_instead, None);
    }
}

#[tokio::test]
async fn a_resumed_session_knows_whether_a_certificate_was_asked_for() {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    for version in TLS_VERSIONS {
        let (authorities, time, settings) = (&AuthorityNames::Auto, &time_source(), &settings_for_version(version));
        let (client_auth, pair) = (ClientAuth::Required, &*server);
        let parts = acceptor::AcceptorParts { pair, trust: &trust, client_auth, authorities, settings, time };
        let acceptor = IngressAcceptor::new(&parts).unwrap();
        let connector = build_connector(&client.pair(), &trust, settings);
        for resumed in [false, true] {
            let at_client = run_handshake(&acceptor, &connector).await.1.ok().unwrap();
            assert_eq!((at_client.facts.resumed, at_client.is_mutual), (resumed, true));
        }
    }
}
