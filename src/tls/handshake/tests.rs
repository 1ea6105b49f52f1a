//! Real handshakes over a pipe, in both versions: what each side is told, and what the explanation says of it.

mod trouble;

use rcgen::{ExtendedKeyUsagePurpose, IsCa, SanType, SerialNumber};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncReadExt, DuplexStream};

use super::*;
use crate::clock::Clock;
use crate::keyring::Standing;
use crate::pki::KeyPair;
use crate::tls::explain::{Context as Told, Explained, explain, explain_untrusted};
use crate::tls::{AuthorityNames, ClientAuth, Settings, Version, acceptor, connector};
use crate::trust::sample::{Ca, Made, days, new_key, now, self_signed, trust, trust_with, weak};
use crate::trust::{Role, Trust, Untrusted};

const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];

fn only(version: Version) -> Settings {
    Settings { min: version, max: version, ..Settings::default() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn clock() -> Clock {
    Clock::manual(now()).0
}

fn accepting(pair: &KeyPair, trust: &Arc<Trust>, settings: &Settings) -> Acceptor {
    let (client_auth, authorities, clock) = (ClientAuth::Required, &AuthorityNames::Auto, &clock());
    Acceptor::new(&acceptor::Parts { pair, trust, client_auth, authorities, settings, clock }).unwrap()
}

fn connecting(pair: &KeyPair, trust: &Arc<Trust>, settings: &Settings) -> Connector {
    let expects = &Role::ServerName("server.test".into());
    let clock = &clock();
    Connector::new(&connector::Parts { pair, trust, expects, host: "server.test", settings, clock }).unwrap()
}

type Server = Result<Established<ServerStream<DuplexStream>>, Box<Failed>>;
type Client = Result<Established<ClientStream<DuplexStream>>, Box<Failed>>;

/// Runs both sides; each then says one byte to the other, so that tickets and late alerts arrive.
async fn meet(acceptor: &Acceptor, connector: &Connector) -> (Server, Client) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(serve(near, acceptor), async {
        let mut established = connect(far, connector, soon()).await?;
        match established.stream.read_u8().await {
            Ok(_) => Ok(established),
            Err(error) => Err(failed(cause(error, false), None, Seen::default(), Vec::new())),
        }
    })
}

async fn serve(near: DuplexStream, acceptor: &Acceptor) -> Server {
    let mut established = hello(near, soon()).await?.finish(acceptor, soon()).await?;
    let _ = established.stream.write_all(b"!").await;
    let _ = established.stream.flush().await;
    Ok(established)
}

fn told(failed: &Failed, trust: &Trust, ingress: bool) -> Explained {
    let shown = Some((crate::pki::Fingerprint::of(b"shown"), Standing::Current));
    let told = explain(failed, &Told { ingress, listener: "api", trust, shown, shown_next: None, now: now() });
    assert!(crate::tls::explain::REASONS.contains(&told.reason), "{} is not listed", told.reason);
    told
}

struct World {
    ca: Ca,
    server: Arc<KeyPair>,
    client: Made,
    trust: Arc<Trust>,
}

fn world() -> World {
    let ca = Ca::new("CA");
    let (server, client) = (ca.peer("server.test", &|_| ()).pair(), ca.peer("client.test", &|_| ()));
    World { trust: trust(&[&ca]), ca, server, client }
}

#[tokio::test]
async fn a_finished_handshake_tells_its_facts() {
    let World { ca, server, client, trust } = world();
    for (version, number, cipher) in [
        (Version::Tls12, "1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        (Version::Tls13, "1.3", "TLS_AES_256_GCM_SHA384"),
    ] {
        let settings = only(version);
        let acceptor = accepting(&server, &trust, &settings);
        let (at_server, at_client) = meet(&acceptor, &connecting(&client.pair(), &trust, &settings)).await;
        let (at_server, at_client) = (at_server.ok().unwrap(), at_client.ok().unwrap());
        for facts in [&at_server.facts, &at_client.facts] {
            assert_eq!((facts.version, facts.cipher, facts.alpn), (Some(number), Some(cipher), Some(Alpn::H2)));
            assert_eq!((facts.server_name.as_deref(), facts.resumed), (Some("server.test"), false));
        }
        let group = if version == Version::Tls13 { "X25519MLKEM768" } else { "X25519" };
        assert_eq!(at_server.facts.group, Some(group));
        assert_eq!(at_server.chain, client.chain);
        assert_eq!(at_client.chain, [server.end_entity().der().clone()]);
        let asked = at_client.asked.unwrap();
        assert_eq!(asked.authorities, [ca.certificate().subject_der().to_vec()]);
        assert!(asked.schemes.contains(&u16::from(SignatureScheme::ECDSA_NISTP256_SHA256)));
        assert!(at_server.asked.is_none());
    }
}

#[tokio::test]
async fn every_refusal_of_a_peer_has_its_reason_and_its_alert() {
    let World { ca, server, client: good, trust } = world();
    let pinned = Arc::new(trust_with(&|settings| settings.pins = vec![self_signed("x", &|_| ()).pin()], &[&ca], &[]));
    let crls = Arc::new(trust_with(&|_| (), &[&ca], &[ca.crl(&[7], 30)]));
    let no_crl = Arc::new(trust_with(&|settings| settings.crl_required = true, &[&ca], &[]));
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| ca.peer("client.test", change);
    let expired = with(&|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let early = with(&|params| params.not_before = rcgen::date_time_ymd(2026, 11, 30));
    let server_only = with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let issuer = with(&|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let revoked = with(&|params| params.serial_number = Some(SerialNumber::from(7)));
    let stranger = Ca::new("Stranger").peer("client.test", &|_| ());
    let forged = Ca::new("CA").peer("client.test", &|_| ());
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
    for version in BOTH {
        let settings = only(version);
        for (peer, theirs, reason, alert, says) in &cases {
            let acceptor = accepting(&server, theirs, &settings);
            let (at_server, at_client) = meet(&acceptor, &connecting(&peer.pair(), &trust, &settings)).await;
            let failed = at_server.err().unwrap();
            assert_eq!(failed.seen.chain, peer.chain, "{reason}");
            let said = told(&failed, theirs, true);
            assert_eq!((said.reason, said.alert_sent, said.alert_received), (*reason, Some(*alert), None));
            assert!(said.explanation.contains(says), "{}", said.explanation);
            let said = told(&at_client.err().unwrap(), &trust, false);
            assert_eq!((said.alert_sent, said.alert_received), (None, Some(*alert)), "{reason}");
            assert_eq!(said.reason, format!("refused_{alert}"));
            assert!(said.explanation.starts_with("upstream refuses our key pair "), "{}", said.explanation);
        }
    }
}

#[tokio::test]
async fn every_refusal_of_an_upstream_is_told_to_both_sides() {
    let World { ca, client, trust, .. } = world();
    let elsewhere = ca.peer("elsewhere.test", &|_| ());
    let expired = ca.peer("server.test", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let stranger = Ca::new("Stranger").peer("server.test", &|_| ());
    for version in BOTH {
        for (upstream, reason, alert) in [
            (&elsewhere, "wrong_name", "bad_certificate"),
            (&expired, "expired", "certificate_expired"),
            (&stranger, "unknown_issuer", "unknown_ca"),
        ] {
            let acceptor = accepting(&upstream.pair(), &trust, &only(version));
            let (at_server, at_client) = meet(&acceptor, &connecting(&client.pair(), &trust, &only(version))).await;
            let said = told(&at_client.err().unwrap(), &trust, false);
            assert_eq!((said.reason, said.alert_sent), (reason, Some(alert)));
            let said = told(&at_server.err().unwrap(), &trust, true);
            assert_eq!((said.reason, said.alert_received), (&*format!("refused_{alert}"), Some(alert)));
        }
    }
}

#[tokio::test]
async fn an_upstream_is_known_by_its_uri_or_its_pin() {
    let World { ca, client, trust, .. } = world();
    let uri = ca.peer("server.test", &|params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://server.test/x".try_into().unwrap())];
    });
    let own = self_signed("server.test", &|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let pinned =
        Arc::new(trust_with(&|settings| (settings.pin_only, settings.pins) = (true, vec![own.pin()]), &[], &[]));
    for version in BOTH {
        let settings = &only(version);
        let spiffe = |expected: &str| {
            let (expects, clock) = (&Role::ServerUri(expected.into()), &clock());
            let pair = &*client.pair();
            Connector::new(&connector::Parts { pair, trust: &trust, expects, host: "192.0.2.1", settings, clock })
                .unwrap()
        };
        let acceptor = accepting(&uri.pair(), &trust, settings);
        assert!(meet(&acceptor, &spiffe("spiffe://server.test/x")).await.1.is_ok());
        let other = meet(&acceptor, &spiffe("spiffe://server.test/y")).await.1.err().unwrap();
        assert!(matches!(other.seen.untrusted, Some(Untrusted::WrongName { .. })));
        let acceptor = accepting(&own.pair(), &trust, settings);
        assert!(meet(&acceptor, &connecting(&client.pair(), &pinned, settings)).await.1.is_ok());
    }
}

/// A rustls client that is not ours: it trusts every server and shows what it is given.
#[derive(Debug)]
struct Foreign {
    shows: Option<Arc<CertifiedKey>>,
    accepts: Vec<SignatureScheme>,
}

impl ResolvesClientCert for Foreign {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shows.clone()
    }
    fn has_certs(&self) -> bool {
        self.shows.is_some()
    }
}

impl ServerCertVerifier for Foreign {
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

fn foreign(version: Version, shows: Option<Arc<CertifiedKey>>, accepts: &[SignatureScheme]) -> Connector {
    foreign_with(aws_lc_rs::default_provider(), version, shows, accepts)
}

fn foreign_with(
    provider: rustls::crypto::CryptoProvider,
    version: Version,
    shows: Option<Arc<CertifiedKey>>,
    accepts: &[SignatureScheme],
) -> Connector {
    let foreign = Arc::new(Foreign { shows, accepts: accepts.to_vec() });
    let versions = crate::tls::versions(&only(version));
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&foreign) as _)
        .with_client_cert_resolver(foreign);
    Connector::of(config, ServerName::try_from("server.test").unwrap())
}

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

#[tokio::test]
async fn a_peer_without_certificate_or_with_a_foreign_one_is_refused() {
    let World { server, client, trust, .. } = world();
    let key = aws_lc_rs::sign::any_supported_type(
        &rustls_pki_types::PrivatePkcs8KeyDer::from(new_key().serialize_der()).into(),
    );
    let stolen = Arc::new(CertifiedKey::new(client.chain.clone(), key.unwrap()));
    let frail = Arc::new(CertifiedKey::new(vec![weak()], stolen.key.clone()));
    let junk = Arc::new(CertifiedKey::new(vec![vec![0x30, 3, 1, 2, 3].into()], stolen.key.clone()));
    for version in BOTH {
        let acceptor = accepting(&server, &trust, &only(version));
        for (shows, reason, alert) in [
            (None, "no_certificate", "certificate_required"),
            (Some(&stolen), "bad_proof", "decrypt_error"),
            (Some(&frail), "weak", "certificate_unknown"),
            (Some(&junk), "malformed_certificate", "bad_certificate"),
        ] {
            let (at_server, at_client) = meet(&acceptor, &foreign(version, shows.cloned(), ECDSA)).await;
            let said = told(&at_server.err().unwrap(), &trust, true);
            assert_eq!((said.reason, said.alert_sent), (reason, Some(alert)), "{}", said.explanation);
            let said = told(&at_client.err().unwrap(), &trust, false);
            assert_eq!(said.alert_received, Some(alert), "{}", said.explanation);
        }
    }
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing() {
    let World { server, trust, .. } = world();
    for version in BOTH {
        let (authorities, clock, settings) = (&AuthorityNames::None, &clock(), &only(version));
        let (client_auth, pair) = (ClientAuth::Optional, &*server);
        let parts = acceptor::Parts { pair, trust: &trust, client_auth, authorities, settings, clock };
        let (at_server, _) = meet(&Acceptor::new(&parts).unwrap(), &foreign(version, None, ECDSA)).await;
        let established = at_server.ok().unwrap();
        assert_eq!((established.chain.len(), established.facts.alpn), (0, Some(Alpn::Http11)));
    }
}

#[tokio::test]
async fn a_session_resumes_on_its_own_acceptor_only_and_is_verified_again() {
    let World { server, client, trust, .. } = world();
    for version in BOTH {
        let settings = only(version);
        let (one, other) = (accepting(&server, &trust, &settings), accepting(&server, &trust, &settings));
        let connector = connecting(&client.pair(), &trust, &settings);
        let resumed = async |acceptor: &Acceptor| {
            let (at_server, at_client) = meet(acceptor, &connector).await;
            let (at_server, at_client) = (at_server.ok().unwrap(), at_client.ok().unwrap());
            assert_eq!(at_server.facts.resumed, at_client.facts.resumed);
            assert_eq!(at_server.chain, client.chain);
            assert_eq!(at_client.asked.is_none(), at_client.facts.resumed);
            at_server.facts.resumed
        };
        assert!(!resumed(&one).await);
        assert!(resumed(&one).await);
        assert!(!resumed(&other).await, "a ticket of another acceptor was taken");
        // rustls asks no verifier when it resumes; the connection does, with the chain that it is given here.
        let untrusted = trust.verify(&client.chain, &Role::Client, days(60)).unwrap_err();
        let context =
            Told { ingress: true, listener: "api", trust: &trust, shown: None, shown_next: None, now: days(60) };
        assert_eq!(explain_untrusted(&untrusted, &context).reason, "expired");
    }
}

#[tokio::test]
async fn handshakes_side_by_side_do_not_mix_what_they_saw() {
    let World { ca, server, trust, .. } = world();
    let acceptor = accepting(&server, &trust, &Settings::default());
    let stranger = Ca::new("Stranger").peer("client.test", &|_| ());
    let expired = ca.peer("client.test", &|params| params.not_after = rcgen::date_time_ymd(2026, 11, 20));
    let (one, other) = (
        connecting(&stranger.pair(), &trust, &Settings::default()),
        connecting(&expired.pair(), &trust, &Settings::default()),
    );
    let (one, other) = tokio::join!(meet(&acceptor, &one), meet(&acceptor, &other));
    let (one, other) = (one.0.err().unwrap(), other.0.err().unwrap());
    assert_eq!((one.seen.chain, other.seen.chain), (stranger.chain, expired.chain));
    assert!(matches!(one.seen.untrusted, Some(Untrusted::UnknownIssuer { .. })));
    assert!(matches!(other.seen.untrusted, Some(Untrusted::Expired { .. })));
}
