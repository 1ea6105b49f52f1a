//! Sessions that are resumed, and those that are not: a ticket ends with the path that was verified for it.

use std::sync::Mutex;

use rustls::server::ProducesTickets;

use super::*;
use crate::clock::ManualClock;
use crate::tls::late_alert::refuse_established;
use crate::tls::session_ticket::PathBoundTicketer;

fn certified(pair: &KeyPair) -> Arc<CertifiedKey> {
    Arc::new((*pair.certified_key()).clone())
}

fn timed_acceptor(fixture: &HandshakeFixture, version: TlsVersion) -> (IngressAcceptor, ManualClock) {
    let (clock, hand) = Clock::manual(now());
    let (client_auth, authorities) = (ClientAuth::Required, &AuthorityNames::Auto);
    let (settings, time) = (&settings_for_version(version), &TlsTimeSource::from_clock(&clock));
    let parts = acceptor::AcceptorParts {
        pair: &fixture.server,
        trust: &fixture.trust,
        client_auth,
        authorities,
        settings,
        time,
    };
    (IngressAcceptor::new(&parts).unwrap(), hand)
}

#[tokio::test]
async fn a_session_whose_path_has_ended_is_not_resumed_and_the_new_certificate_is_asked_for() {
    let fixture = handshake_fixture();
    let seconds = |count: i64| now() + jiff::SignedDuration::from_secs(count);
    let (until, later) = (seconds(90), seconds(4_000));
    let lasting = |end: jiff::Timestamp| {
        fixture.ca.issue_peer("client.test", &|params| {
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end.as_second() as u64);
        })
    };
    let (old, new) = (lasting(until), lasting(later));
    for version in TLS_VERSIONS {
        let (acceptor, hand) = timed_acceptor(&fixture, version);
        let client = ForeignClient::showing(Some(certified(&old.pair())), ECDSA);
        let connector = client.connector(aws_lc_rs::default_provider(), version);
        let connect = async || {
            let (at_server, _) = run_handshake(&acceptor, &connector).await;
            let established = at_server.ok().unwrap();
            (established.facts.resumed, established.chain.to_vec())
        };
        assert_eq!(connect().await, (false, old.chain.clone()));
        assert_eq!(connect().await, (true, old.chain.clone()));
        *client.shows.lock().unwrap() = Some(certified(&new.pair()));
        hand.set(seconds(60));
        assert_eq!(connect().await, (true, old.chain.clone()), "the old path still holds");
        hand.set(seconds(91));
        assert_eq!(connect().await, (false, new.chain.clone()), "{version:?}");
        assert_eq!(connect().await, (true, new.chain.clone()), "{version:?}");
        // A ticket that was made by a resumption has the same end as the one before.
        hand.set(seconds(3_990));
        assert!(!connect().await.0, "{version:?}");
    }
}

/// Seals nothing, and remembers the size of what it was given.
#[derive(Debug, Default)]
struct OpenSealer(Mutex<Vec<usize>>);

impl ProducesTickets for OpenSealer {
    fn enabled(&self) -> bool {
        true
    }
    fn lifetime(&self) -> u32 {
        3600
    }
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().unwrap().push(plain.len());
        Some(plain.to_vec())
    }
    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        Some(cipher.to_vec())
    }
}

#[tokio::test]
async fn a_ticket_does_not_carry_the_chain_that_its_session_is_resumed_with() {
    let fixture = handshake_fixture();
    let other = fixture.ca.issue_peer("other.test", &|_| ());
    for version in TLS_VERSIONS {
        let (acceptor, _) = timed_acceptor(&fixture, version);
        let (sealer, (clock, _)) = (Arc::new(OpenSealer::default()), Clock::manual(now()));
        let mut config = (*acceptor.config).clone();
        config.ticketer =
            Arc::new(PathBoundTicketer::new(Arc::clone(&sealer) as _, &TlsTimeSource::from_clock(&clock)));
        let acceptor = IngressAcceptor { config: Arc::new(config) };
        let clients = [&fixture.client, &other].map(|peer| {
            let client = ForeignClient::showing(Some(certified(&peer.pair())), ECDSA);
            (client.connector(aws_lc_rs::default_provider(), version), &peer.chain)
        });
        // Each resumes its own chain, also with a ticket that a resumption has made.
        for resumed in [false, true, true] {
            for (connector, chain) in &clients {
                let at_server = run_handshake(&acceptor, connector).await.0.ok().unwrap();
                assert_eq!((at_server.facts.resumed, &*at_server.chain), (resumed, &***chain), "{version:?}");
            }
        }
        let sizes = sealer.0.lock().unwrap();
        assert!(sizes.len() >= 4 && sizes.iter().all(|size| *size < 200), "{version:?} {sizes:?}");
    }
}

#[tokio::test]
async fn a_refusal_after_a_resumption_sends_its_alert() {
    let fixture = handshake_fixture();
    let untrusted = TrustError::Expired { subject: "CN=client".to_owned(), not_after: now() };
    for version in TLS_VERSIONS {
        let (acceptor, _) = timed_acceptor(&fixture, version);
        for index in 0..3 {
            let mut provider = aws_lc_rs::default_provider();
            let suites = std::mem::take(&mut provider.cipher_suites);
            let tls13 = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_some();
            let ecdsa = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite()).contains("ECDSA");
            let usable = suites
                .into_iter()
                .filter(|suite| tls13(suite) == (version == TlsVersion::Tls13) && (tls13(suite) || ecdsa(suite)));
            provider.cipher_suites = usable.skip(index).take(1).collect();
            let client = ForeignClient::showing(Some(certified(&fixture.client.pair())), ECDSA);
            let connector = client.connector(provider, version);
            assert!(!run_handshake(&acceptor, &connector).await.0.ok().unwrap().facts.resumed);
            let (near, far) = tokio::io::duplex(64 * 1024);
            let refuse = async {
                let hello = read_client_hello(near, test_deadline()).await.ok().unwrap();
                let established = hello.finish(&acceptor, test_deadline()).await.ok().unwrap();
                assert!(established.facts.resumed);
                refuse_established(established.stream, &untrusted).await
            };
            let (sent, received) = tokio::join!(refuse, async {
                let mut established = connect(far, &connector, test_deadline()).await.ok().unwrap();
                classify_error(established.stream.read_u8().await.unwrap_err(), false)
            });
            assert_eq!(sent, Some("certificate_expired"));
            let expired = rustls::AlertDescription::CertificateExpired;
            assert!(
                matches!(received, HandshakeFailureCause::Tls(rustls::Error::AlertReceived(alert)) if alert == expired),
                "{version:?} {received:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_session_with_an_upstream_ends_with_the_path_of_its_certificate() {
    let fixture = handshake_fixture();
    let lasting = |seconds: i64| {
        let end = now() + jiff::SignedDuration::from_secs(seconds);
        fixture.ca.issue_peer("server.test", &|params| {
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end.as_second() as u64);
        })
    };
    let (old, new) = (lasting(90), lasting(4_000));
    for version in TLS_VERSIONS {
        // An upstream that keeps its sessions while it renews its certificate.
        let mut config = (*build_acceptor(&old.pair(), &fixture.trust, &settings_for_version(version)).config).clone();
        let before = IngressAcceptor { config: Arc::new(config.clone()) };
        config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from((*new.pair().certified_key()).clone()));
        let after = IngressAcceptor { config: Arc::new(config) };
        let (clock, hand) = Clock::manual(now());
        let (expects, time) = (&PeerRole::ServerName("server.test".into()), &TlsTimeSource::from_clock(&clock));
        let (pair, settings) = (&*fixture.client.pair(), &settings_for_version(version));
        let (trust, host) = (&fixture.trust, "server.test");
        let connector =
            EgressConnector::new(&connector::ConnectorParts { pair, trust, expects, host, settings, time }).unwrap();
        let connect = async |acceptor: &IngressAcceptor| {
            let established = run_handshake(acceptor, &connector).await.1.ok().unwrap();
            (established.facts.resumed, established.chain.to_vec())
        };
        assert_eq!(connect(&before).await, (false, old.chain.clone()));
        assert_eq!(connect(&after).await, (true, old.chain.clone()));
        hand.set(now() + jiff::SignedDuration::from_secs(91));
        assert_eq!(connect(&after).await, (false, new.chain.clone()), "{version:?}");
        assert_eq!(connect(&after).await, (true, new.chain.clone()), "{version:?}");
    }
}
