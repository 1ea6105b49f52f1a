//! Real handshakes over a pipe, in both versions: what each side is told, and what the explanation says of it.

mod hints;
mod records;
mod resumption;
mod tickets;
mod trouble;

use std::sync::Mutex;

use rcgen::{ExtendedKeyUsagePurpose, IsCa, SanType, SerialNumber};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, DuplexStream};

use super::*;
use crate::clock::Clock;
use crate::keyring::Standing;
use crate::pki::KeyPair;
use crate::tls::explain::{FailureContext, FailureExplanation, explain, explain_untrusted};
use crate::tls::{AuthorityNames, ClientAuth, TlsSettings, TlsTimeSource, TlsVersion, acceptor, connector};
use crate::trust::sample::{
    IssuedIdentity, TestAuthority, days_from_now, generate_key, now, self_signed, trust, trust_with, weak_certificate,
};
use crate::trust::{PeerRole, Trust, TrustError};

const TLS_VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

fn settings_for_version(version: TlsVersion) -> TlsSettings {
    TlsSettings { min: version, max: version, ..TlsSettings::default() }
}

fn test_deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn time_source() -> TlsTimeSource {
    TlsTimeSource::from_clock(&Clock::manual(now()).0)
}

fn build_acceptor(pair: &KeyPair, trust: &Arc<Trust>, settings: &TlsSettings) -> IngressAcceptor {
    let (client_auth, authorities, time) = (ClientAuth::Required, &AuthorityNames::Auto, &time_source());
    IngressAcceptor::new(&acceptor::AcceptorParts { pair, trust, client_auth, authorities, settings, time }).unwrap()
}

fn build_connector(pair: &KeyPair, trust: &Arc<Trust>, settings: &TlsSettings) -> EgressConnector {
    let expects = &PeerRole::ServerName("server.test".into());
    let time = &time_source();
    EgressConnector::new(&connector::ConnectorParts { pair, trust, expects, host: "server.test", settings, time })
        .unwrap()
}

type ServerResult = Result<CompletedHandshake<ServerStream<DuplexStream>>, Box<FailedHandshake>>;
type ClientResult = Result<CompletedHandshake<ClientStream<DuplexStream>>, Box<FailedHandshake>>;

/// Runs both sides; each then says one byte to the other, so that tickets and late alerts arrive.
async fn run_handshake(acceptor: &IngressAcceptor, connector: &EgressConnector) -> (ServerResult, ClientResult) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    // In a box: the future of both ends is large.
    let both = async {
        tokio::join!(serve(near, acceptor), async {
            let mut established = connect(far, connector, test_deadline()).await?;
            let unseen = HandshakeObservation::default();
            let failed = |error| failed_handshake(classify_error(error, false), None, unseen, Vec::new());
            established.stream.read_u8().await.map_err(failed)?;
            Ok(established)
        })
    };
    Box::pin(both).await
}

async fn serve(near: DuplexStream, acceptor: &IngressAcceptor) -> ServerResult {
    let mut established = read_client_hello(near, test_deadline()).await?.finish(acceptor, test_deadline()).await?;
    let _ = established.stream.write_all(b"!").await;
    let _ = established.stream.flush().await;
    Ok(established)
}

fn explain_failure(failed: &FailedHandshake, trust: &Trust, ingress: bool) -> FailureExplanation {
    let shown = Some((crate::pki::Fingerprint::of(b"shown"), Standing::Current));
    let told = explain(failed, &FailureContext { ingress, shown, ..FailureContext::sample(trust, now()) });
    assert!(crate::tls::explain::REASONS.contains(&told.reason), "{} is not listed", told.reason);
    told
}

struct HandshakeFixture {
    ca: TestAuthority,
    server: Arc<KeyPair>,
    client: IssuedIdentity,
    trust: Arc<Trust>,
}

fn handshake_fixture() -> HandshakeFixture {
    let ca = TestAuthority::new("CA");
    let (server, client) = (ca.issue_peer("server.test", &|_| ()).pair(), ca.issue_peer("client.test", &|_| ()));
    HandshakeFixture { trust: trust(&[&ca]), ca, server, client }
}

#[tokio::test]
async fn a_finished_handshake_tells_its_facts() {
    let HandshakeFixture { ca, server, client, trust } = handshake_fixture();
    for (version, number, cipher) in [
        (TlsVersion::Tls12, "1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        (TlsVersion::Tls13, "1.3", "TLS_AES_256_GCM_SHA384"),
    ] {
        let settings = settings_for_version(version);
        let acceptor = build_acceptor(&server, &trust, &settings);
        let (at_server, at_client) =
            run_handshake(&acceptor, &build_connector(&client.pair(), &trust, &settings)).await;
        let (at_server, at_client) = (at_server.ok().unwrap(), at_client.ok().unwrap());
        for facts in [&at_server.facts, &at_client.facts] {
            assert_eq!((facts.version, facts.cipher, facts.alpn), (Some(number), Some(cipher), Some(AlpnProtocol::H2)));
            assert_eq!((facts.server_name.as_deref(), facts.resumed), (Some("server.test"), false));
        }
        let group = if version == TlsVersion::Tls13 { "X25519MLKEM768" } else { "X25519" };
        assert_eq!(at_server.facts.group, Some(group));
        assert_eq!(*at_server.chain, *client.chain);
        assert_eq!(*at_client.chain, [server.end_entity().der().clone()]);
        let asked = at_client.asked.unwrap();
        assert_eq!(asked.authorities, [ca.certificate().subject_der().to_vec()]);
        assert!(asked.schemes.contains(&u16::from(SignatureScheme::ECDSA_NISTP256_SHA256)));
        assert!(at_server.asked.is_none());
    }
}

#[tokio::test]
async fn every_refusal_of_a_peer_has_its_reason_and_its_alert() {
    let HandshakeFixture { ca, server, client: good, trust } = handshake_fixture();
    let pinned = Arc::new(trust_with(&|settings| settings.pins = vec![self_signed("x", &|_| ()).pin()], &[&ca], &[]));
    let crls = Arc::new(trust_with(&|_| (), &[&ca], &[ca.issue_crl(&[7], 30)]));
    let no_crl = Arc::new(trust_with(&|settings| settings.crl_required = true, &[&ca], &[]));
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| ca.issue_peer("client.test", change);
    let expired = with(&|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let early = with(&|params| params.not_before = rcgen::date_time_ymd(2026, 11, 30));
    let server_only = with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let issuer = with(&|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let revoked = with(&|params| params.serial_number = Some(SerialNumber::from(7)));
    let stranger = TestAuthority::new("Stranger").issue_peer("client.test", &|_| ());
    let forged = TestAuthority::new("CA").issue_peer("client.test", &|_| ());
    let own = self_signed("client.test", &|_| ());
    let cases = [
        (&expired, &trust, "expired", "certificate_expired", "peer's certificate expired 5 days ago (2026-11-20)"),
        (&early, &trust, "not_yet_valid", "certificate_expired", "valid only in 5 days (2026-11-30)"),
        (
            &stranger,
            &trust,
            "unknown_issuer",
            "unknown_ca",
            "\"CN=Stranger\", which trust \"partners\" does not hold (it holds: \"CN=CA\")",
        ),
        (&own, &trust, "self_signed", "unknown_ca", "self-signed"),
        (&forged, &trust, "bad_signature", "decrypt_error", "another CA of the same name"),
        (&server_only, &trust, "wrong_usage", "unsupported_certificate", "does not allow clientAuth"),
        (&issuer, &trust, "not_an_end_entity", "certificate_unknown", "CA:TRUE"),
        (&good, &pinned, "no_pin", "access_denied", "no pin of trust"),
        (&revoked, &crls, "revoked", "certificate_revoked", "(serial 07)"),
        (&good, &no_crl, "revocation_unknown", "unknown_ca", "no CRL"),
    ];
    for version in TLS_VERSIONS {
        let settings = settings_for_version(version);
        for (peer, theirs, reason, alert, says) in &cases {
            let acceptor = build_acceptor(&server, theirs, &settings);
            let (at_server, at_client) =
                run_handshake(&acceptor, &build_connector(&peer.pair(), &trust, &settings)).await;
            let failed = at_server.err().unwrap();
            assert_eq!(*failed.seen.chain, *peer.chain, "{reason}");
            let said = explain_failure(&failed, theirs, true);
            assert_eq!((said.reason, said.alert_sent, said.alert_received), (*reason, Some(*alert), None));
            assert!(said.explanation.contains(says), "{}", said.explanation);
            let said = explain_failure(&at_client.err().unwrap(), &trust, false);
            assert_eq!((said.alert_sent, said.alert_received), (None, Some(*alert)), "{reason}");
            assert_eq!(said.reason, format!("refused_{alert}"));
            assert!(said.explanation.starts_with("upstream refuses our key pair "), "{}", said.explanation);
        }
    }
}

#[tokio::test]
async fn every_refusal_of_an_upstream_is_told_to_both_sides() {
    let HandshakeFixture { ca, client, trust, .. } = handshake_fixture();
    let elsewhere = ca.issue_peer("elsewhere.test", &|_| ());
    let expired = ca.issue_peer("server.test", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let stranger = TestAuthority::new("Stranger").issue_peer("server.test", &|_| ());
    for version in TLS_VERSIONS {
        for (upstream, reason, alert) in [
            (&elsewhere, "wrong_name", "bad_certificate"),
            (&expired, "expired", "certificate_expired"),
            (&stranger, "unknown_issuer", "unknown_ca"),
        ] {
            let acceptor = build_acceptor(&upstream.pair(), &trust, &settings_for_version(version));
            let (at_server, at_client) =
                run_handshake(&acceptor, &build_connector(&client.pair(), &trust, &settings_for_version(version)))
                    .await;
            let said = explain_failure(&at_client.err().unwrap(), &trust, false);
            assert_eq!((said.reason, said.alert_sent), (reason, Some(alert)));
            let said = explain_failure(&at_server.err().unwrap(), &trust, true);
            assert_eq!((said.reason, said.alert_received), (&*format!("refused_{alert}"), Some(alert)));
        }
    }
}

#[tokio::test]
async fn an_upstream_is_known_by_its_uri_or_its_pin() {
    let HandshakeFixture { ca, client, trust, .. } = handshake_fixture();
    let uri = ca.issue_peer("server.test", &|params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://server.test/x".try_into().unwrap())];
    });
    let own = self_signed("server.test", &|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let pinned =
        Arc::new(trust_with(&|settings| (settings.pin_only, settings.pins) = (true, vec![own.pin()]), &[], &[]));
    for version in TLS_VERSIONS {
        let settings = &settings_for_version(version);
        let spiffe = |expected: &str| {
            let (expects, time) = (&PeerRole::ServerUri(expected.into()), &time_source());
            let pair = &*client.pair();
            EgressConnector::new(&connector::ConnectorParts {
                pair,
                trust: &trust,
                expects,
                host: "192.0.2.1",
                settings,
                time,
            })
            .unwrap()
        };
        let acceptor = build_acceptor(&uri.pair(), &trust, settings);
        assert!(run_handshake(&acceptor, &spiffe("spiffe://server.test/x")).await.1.is_ok());
        let other = run_handshake(&acceptor, &spiffe("spiffe://server.test/y")).await.1.err().unwrap();
        assert!(matches!(other.seen.untrusted, Some(TrustError::WrongName { .. })));
        let acceptor = build_acceptor(&own.pair(), &trust, settings);
        assert!(run_handshake(&acceptor, &build_connector(&client.pair(), &pinned, settings)).await.1.is_ok());
    }
}

/// A rustls client that is not ours: it trusts every server and shows what it is given, which may change.
#[derive(Debug)]
struct ForeignClient {
    shows: Mutex<Option<Arc<CertifiedKey>>>,
    accepts: Vec<SignatureScheme>,
}

impl ForeignClient {
    fn showing(shows: Option<Arc<CertifiedKey>>, accepts: &[SignatureScheme]) -> Arc<Self> {
        Arc::new(Self { shows: Mutex::new(shows), accepts: accepts.to_vec() })
    }

    fn connector(self: &Arc<Self>, provider: rustls::crypto::CryptoProvider, version: TlsVersion) -> EgressConnector {
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(crate::tls::versions(&settings_for_version(version)))
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(self) as _)
            .with_client_cert_resolver(Arc::clone(self) as _);
        let name = ServerName::try_from("server.test").unwrap();
        EgressConnector::from_config(config, name, crate::tls::sessions::KeyPairSessions::sample())
    }
}

impl ResolvesClientCert for ForeignClient {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shows.lock().unwrap().clone()
    }
    fn has_certs(&self) -> bool {
        self.shows.lock().unwrap().is_some()
    }
}

impl ServerCertVerifier for ForeignClient {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.accepts.clone()
    }
}

fn foreign_connector(
    version: TlsVersion,
    shows: Option<Arc<CertifiedKey>>,
    accepts: &[SignatureScheme],
) -> EgressConnector {
    ForeignClient::showing(shows, accepts).connector(aws_lc_rs::default_provider(), version)
}

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

#[tokio::test]
async fn a_peer_without_certificate_or_with_a_foreign_one_is_refused() {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    let key = aws_lc_rs::sign::any_supported_type(
        &rustls_pki_types::PrivatePkcs8KeyDer::from(generate_key().serialize_der()).into(),
    );
    let stolen = Arc::new(CertifiedKey::new(client.chain.clone(), key.unwrap()));
    let frail = Arc::new(CertifiedKey::new(vec![weak_certificate()], stolen.key.clone()));
    let junk = Arc::new(CertifiedKey::new(vec![vec![0x30, 3, 1, 2, 3].into()], stolen.key.clone()));
    for version in TLS_VERSIONS {
        let acceptor = build_acceptor(&server, &trust, &settings_for_version(version));
        let missing = ["handshake_failure", "certificate_required"][usize::from(version == TlsVersion::Tls13)];
        for (shows, reason, alert) in [
            (None, "no_certificate", missing),
            (Some(&stolen), "bad_proof", "decrypt_error"),
            (Some(&frail), "weak", "certificate_unknown"),
            (Some(&junk), "malformed_certificate", "bad_certificate"),
        ] {
            let (at_server, at_client) =
                run_handshake(&acceptor, &foreign_connector(version, shows.cloned(), ECDSA)).await;
            let said = explain_failure(&at_server.err().unwrap(), &trust, true);
            assert_eq!((said.reason, said.alert_sent), (reason, Some(alert)), "{}", said.explanation);
            let said = explain_failure(&at_client.err().unwrap(), &trust, false);
            assert_eq!(said.alert_received, Some(alert), "{}", said.explanation);
        }
    }
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing() {
    let HandshakeFixture { server, trust, .. } = handshake_fixture();
    for version in TLS_VERSIONS {
        let (authorities, time, settings) = (&AuthorityNames::None, &time_source(), &settings_for_version(version));
        let (client_auth, pair) = (ClientAuth::Optional, &*server);
        let parts = acceptor::AcceptorParts { pair, trust: &trust, client_auth, authorities, settings, time };
        let (at_server, _) =
            run_handshake(&IngressAcceptor::new(&parts).unwrap(), &foreign_connector(version, None, ECDSA)).await;
        let established = at_server.ok().unwrap();
        assert_eq!((established.chain.len(), established.facts.alpn), (0, Some(AlpnProtocol::Http11)));
    }
}

#[tokio::test]
async fn a_session_resumes_on_its_own_acceptor_only_and_is_verified_again() {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    for version in TLS_VERSIONS {
        let settings = settings_for_version(version);
        let (one, other) = (build_acceptor(&server, &trust, &settings), build_acceptor(&server, &trust, &settings));
        let connector = build_connector(&client.pair(), &trust, &settings);
        let resumed = async |acceptor: &IngressAcceptor| {
            let (at_server, at_client) = run_handshake(acceptor, &connector).await;
            let (at_server, at_client) = (at_server.ok().unwrap(), at_client.ok().unwrap());
            assert_eq!(at_server.facts.resumed, at_client.facts.resumed);
            assert_eq!(*at_server.chain, *client.chain);
            assert_eq!(at_client.asked.is_none(), at_client.facts.resumed);
            at_server.facts.resumed
        };
        assert!(!resumed(&one).await);
        assert!(resumed(&one).await);
        assert!(!resumed(&other).await, "a ticket of another acceptor was taken");
        // rustls asks no verifier when it resumes; the connection does, with the chain that it is given here.
        let untrusted = trust.verify(&client.chain, &PeerRole::Client, days_from_now(60)).unwrap_err();
        let context = FailureContext::sample(&trust, days_from_now(60));
        assert_eq!(explain_untrusted(&untrusted, &context, None).reason, "expired");
    }
}

#[tokio::test]
async fn handshakes_side_by_side_do_not_mix_what_they_saw() {
    let HandshakeFixture { ca, server, trust, .. } = handshake_fixture();
    let acceptor = build_acceptor(&server, &trust, &TlsSettings::default());
    let stranger = TestAuthority::new("Stranger").issue_peer("client.test", &|_| ());
    let expired = ca.issue_peer("client.test", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let (one, other) = (
        build_connector(&stranger.pair(), &trust, &TlsSettings::default()),
        build_connector(&expired.pair(), &trust, &TlsSettings::default()),
    );
    let (one, other) = tokio::join!(run_handshake(&acceptor, &one), run_handshake(&acceptor, &other));
    let (one, other) = (one.0.err().unwrap(), other.0.err().unwrap());
    assert_eq!((&*one.seen.chain, &*other.seen.chain), (&*stranger.chain, &*expired.chain));
    assert!(matches!(one.seen.untrusted, Some(TrustError::UnknownIssuer { .. })));
    assert!(matches!(other.seen.untrusted, Some(TrustError::Expired { .. })));
}
