//! Handshakes that fail before any certificate is verified: nothing in common, no TLS, and streams that end.

use super::*;
use crate::tls::KeyExchangeGroup;

#[tokio::test]
async fn nothing_in_common_is_named() {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    let pair = &*client.pair();
    let plain = TlsSettings::default();
    let of = |change: &dyn Fn(&mut TlsSettings)| {
        let mut settings = plain.clone();
        change(&mut settings);
        settings
    };
    let cases = [
        (
            settings_for_version(TlsVersion::Tls13),
            settings_for_version(TlsVersion::Tls12),
            "no_common_version",
            "protocol_version",
            "alert_protocol_version",
        ),
        (
            settings_for_version(TlsVersion::Tls12),
            settings_for_version(TlsVersion::Tls13),
            "no_common_version",
            "protocol_version",
            "alert_protocol_version",
        ),
        (
            of(&|settings| settings.groups = vec![KeyExchangeGroup::Secp384r1]),
            of(&|settings| settings.groups = vec![KeyExchangeGroup::X25519]),
            "no_common_group",
            "handshake_failure",
            "alert_handshake_failure",
        ),
        (
            of(&|settings| settings.alpn = vec![AlpnProtocol::Http11]),
            of(&|settings| settings.alpn = vec![AlpnProtocol::H2]),
            "no_common_protocol",
            "no_application_protocol",
            "alert_no_application_protocol",
        ),
    ];
    for (ours, theirs, reason, alert, heard) in cases {
        let (at_server, at_client) =
            run_handshake(&build_acceptor(&server, &trust, &ours), &build_connector(pair, &trust, &theirs)).await;
        let said = explain_failure(&at_server.err().unwrap(), &trust, true);
        assert_eq!((said.reason, said.alert_sent), (reason, Some(alert)));
        let said = explain_failure(&at_client.err().unwrap(), &trust, false);
        assert_eq!((said.reason, said.alert_received), (heard, Some(alert)));
    }
}

#[tokio::test]
async fn a_peer_that_only_knows_rsa_cannot_use_an_ecdsa_key() {
    let HandshakeFixture { server, trust, .. } = handshake_fixture();
    let acceptor = build_acceptor(&server, &trust, &TlsSettings::default());
    let rsa = [SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
    for version in TLS_VERSIONS {
        let (at_server, _) = run_handshake(&acceptor, &foreign_connector(version, None, &rsa)).await;
        let said = explain_failure(&at_server.err().unwrap(), &trust, true);
        assert_eq!((said.reason, said.alert_sent), ("no_common_signature_scheme", Some("handshake_failure")));
    }
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    let (at_server, _) =
        run_handshake(&acceptor, &ForeignClient::showing(None, ECDSA).connector(provider, TlsVersion::Tls12)).await;
    let said = explain_failure(&at_server.err().unwrap(), &trust, true);
    assert_eq!((said.reason, said.alert_sent), ("no_common_cipher_suite", Some("handshake_failure")));
}

#[tokio::test]
async fn without_a_pair_that_fits_the_hello_is_refused_with_an_alert() {
    let HandshakeFixture { client, trust, .. } = handshake_fixture();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = build_connector(&client.pair(), &trust, &TlsSettings::default());
    let (failed, at_client) = tokio::join!(
        async { read_client_hello(near, test_deadline()).await.ok().unwrap().refuse().await },
        connect(far, &connector, test_deadline())
    );
    let said = explain_failure(&failed, &trust, true);
    assert_eq!((said.reason, said.alert_sent), ("no_key_pair_fits", Some("handshake_failure")));
    assert_eq!(failed.facts.server_name.as_deref(), Some("server.test"));
    assert_eq!(explain_failure(&at_client.err().unwrap(), &trust, false).reason, "alert_handshake_failure");
}

#[tokio::test]
async fn an_upstream_whose_schemes_our_key_lacks_gets_no_certificate() {
    let HandshakeFixture { ca, server, client, trust } = handshake_fixture();
    let mut provider = aws_lc_rs::default_provider();
    let schemes = &mut provider.signature_verification_algorithms.mapping;
    let rsa = schemes.iter().position(|(scheme, _)| *scheme == SignatureScheme::RSA_PSS_SHA256).unwrap();
    *schemes = &schemes[rsa..=rsa];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.certificate().der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider))
        .build()
        .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*server.certified_key()).clone())));
    let acceptor = IngressAcceptor { config: Arc::new(config) };
    let (_, at_client) =
        run_handshake(&acceptor, &build_connector(&client.pair(), &trust, &settings_for_version(TlsVersion::Tls13)))
            .await;
    let said = explain_failure(&at_client.err().unwrap(), &trust, false);
    assert_eq!((said.reason, said.alert_received), ("refused_certificate_required", Some("certificate_required")));
}

/// A handshake message in records of at most 16 KiB.
fn in_records(message: &[u8]) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    message.chunks(16_384).flat_map(record).collect()
}

#[tokio::test]
async fn a_client_without_a_suite_for_ecdhe_has_no_suite_in_common() {
    let HandshakeFixture { server, trust, .. } = handshake_fixture();
    let acceptor = build_acceptor(&server, &trust, &TlsSettings::default());
    // TLS_RSA_WITH_AES_128_CBC_SHA as old clients offer it: without supported_groups (RFC 8422 5.1).
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3]].concat();
    let hello = in_records(&[&[1, 0, 0, body.len() as u8][..], &body].concat());
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    far.write_all(&hello).await.unwrap();
    let served =
        async { read_client_hello(near, test_deadline()).await.ok().unwrap().finish(&acceptor, test_deadline()).await };
    let (at_server, alert) = tokio::join!(served, async {
        let mut alert = [0; 7];
        far.read_exact(&mut alert).await.unwrap();
        drop(far);
        alert
    });
    let said = explain_failure(&at_server.err().unwrap(), &trust, true);
    assert_eq!((said.reason, said.alert_sent, alert[6]), ("no_common_cipher_suite", Some("handshake_failure"), 40));
}

#[tokio::test]
async fn a_client_hello_that_is_too_large_is_malformed() {
    let trust = handshake_fixture().trust;
    for length in [65_400_u32, 65_535, 65_536, 100_000] {
        let message = [&[1][..], &length.to_be_bytes()[1..], &vec![0; length as usize]].concat();
        let (near, mut far) = tokio::io::duplex(256 * 1024);
        far.write_all(&in_records(&message)).await.unwrap();
        let (failed, alert) = tokio::join!(read_client_hello(near, test_deadline()), async {
            let mut alert = [0; 7];
            far.read_exact(&mut alert).await.unwrap();
            drop(far);
            alert
        });
        let Err(failed) = failed else { panic!("{length} is a ClientHello") };
        let said = explain_failure(&failed, &trust, true);
        assert_eq!((said.reason, said.alert_sent, alert[6]), ("malformed_tls", Some("decode_error"), 50), "{length}");
    }
}

/// What comes of bytes that are sent to an ingress, the stream closed after them.
async fn send_to_ingress(bytes: &[u8]) -> Box<FailedHandshake> {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let Err(failed) = read_client_hello(near, test_deadline()).await else { unreachable!("no whole hello was sent") };
    failed
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_named() {
    let trust = handshake_fixture().trust;
    let cases: [(&[u8], &str); 14] = [
        (b"", "closed_without_byte"),
        (b"GET / HTTP/1.1\r\n\r\n", "plain_http"),
        (b"POST", "plain_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "plain_http2"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "proxy_header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "proxy_header"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls"),
        (b"\x80\x2e\x01\x03\x01\x00\x15\x00", "sslv2"),
        (b"\0\x01\x02\x03\x04\x05\x06\x07", "not_tls"),
        (b"\xff", "not_tls"),
        (b"\x16\x03\x01", "closed"),
        (b"\x16\x03\x01\xff\xff\0\0\0", "malformed_tls"),
        (b"\x16\x03\x01\x00\x04\x00\x00\x00\x00", "peer_misbehaved"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "peer_misbehaved"),
    ];
    for (bytes, reason) in cases {
        let said = explain_failure(&*send_to_ingress(bytes).await, &trust, true);
        assert_eq!(said.reason, reason, "{bytes:02x?}: {}", said.explanation);
    }
    let said = explain_failure(&*send_to_ingress(b"GET / HTTP/1.1\r\n\r\n").await, &trust, true);
    assert_eq!(said.alert_sent, Some("decode_error"));
    assert!(said.explanation.starts_with("peer speaks plain HTTP on a TLS port"));
}

/// A ClientHello of the version 3.`minor` that offers one suite and no extension, as clients sent it before TLS 1.2.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    hello
}

#[tokio::test]
async fn a_client_from_before_tls_1_2_is_told_from_one_that_signs_otherwise() {
    let trust = handshake_fixture().trust;
    for (minor, reason, says) in [
        (0, "no_common_version", "peer speaks SSL 3.0 at most"),
        (1, "no_common_version", "peer speaks TLS 1.0 at most"),
        (2, "no_common_version", "peer speaks TLS 1.1 at most"),
        (3, "no_common_signature_scheme", "peer names no signature scheme"),
    ] {
        let said = explain_failure(&*send_to_ingress(&old_hello(minor)).await, &trust, true);
        assert_eq!((said.reason, said.outcome.as_str()), (reason, "refused"), "{}", said.explanation);
        assert!(said.explanation.starts_with(says), "{}", said.explanation);
    }
}

#[tokio::test]
async fn the_alert_arrives_before_the_end_of_a_refused_stream() {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let talk = async {
        far.write_all(&[b'x'; 4096]).await.unwrap();
        let mut answer = Vec::new();
        far.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (_, answer) = tokio::join!(read_client_hello(near, test_deadline()), talk);
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 50]);
}

#[tokio::test]
async fn time_runs_out_before_and_after_the_hello() {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    let past = Instant::now();
    let (near, mut far) = tokio::io::duplex(64);
    far.write_all(b"\x16\x03\x01").await.unwrap();
    let failed = read_client_hello(near, past).await.err().unwrap();
    assert_eq!(failed.first_bytes, b"\x16\x03\x01");
    assert_eq!(explain_failure(&failed, &trust, true).reason, "timed_out_before_hello");

    let connector = build_connector(&client.pair(), &trust, &TlsSettings::default());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let failed = connect(near, &connector, past).await.err().unwrap();
    assert_eq!(explain_failure(&failed, &trust, false).reason, "timed_out_before_hello");
    let read = read_client_hello(far, test_deadline()).await.ok().unwrap();
    let acceptor = build_acceptor(&server, &trust, &TlsSettings::default());
    assert_eq!(
        explain_failure(&read.finish(&acceptor, test_deadline()).await.err().unwrap(), &trust, true).reason,
        "reset"
    );

    let (near, far) = tokio::io::duplex(64 * 1024);
    let (read, stalled) = tokio::join!(
        read_client_hello(far, test_deadline()),
        connect(near, &connector, Instant::now() + Duration::from_millis(50))
    );
    assert_eq!(explain_failure(&stalled.err().unwrap(), &trust, false).reason, "timed_out_before_hello");
    let failed = read.ok().unwrap().finish(&acceptor, past).await.err().unwrap();
    assert!(matches!(failed.cause, HandshakeFailureCause::TimedOut { hello: false } | HandshakeFailureCause::Reset));

    let (near, mut far) = tokio::io::duplex(64 * 1024);
    far.write_all(b"\x16\x03\x03\x00\x30").await.unwrap();
    let failed = connect(near, &connector, past).await.err().unwrap();
    assert_eq!(
        (explain_failure(&failed, &trust, false).reason, failed.first_bytes.len()),
        ("timed_out_after_hello", 5)
    );
}

#[tokio::test]
async fn an_upstream_that_closes_or_speaks_plain_text_is_named() {
    let HandshakeFixture { client, trust, .. } = handshake_fixture();
    let connector = build_connector(&client.pair(), &trust, &TlsSettings::default());
    let cases: [(&[u8], &str); 4] = [
        (b"", "closed_without_byte"),
        (b"\x16\x03\x03", "closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "plain_text_upstream"),
        (b"220 mail.test ESMTP\r\n", "plain_text_upstream"),
    ];
    for (bytes, reason) in cases {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let said = explain_failure(&connect(near, &connector, test_deadline()).await.err().unwrap(), &trust, false);
        assert_eq!(said.reason, reason, "{}", said.explanation);
    }
    assert!(matches!(classify_error(io::ErrorKind::ConnectionReset.into(), false), HandshakeFailureCause::Reset));
    assert!(matches!(classify_error(io::ErrorKind::ConnectionReset.into(), true), HandshakeFailureCause::NoByte));
    assert!(matches!(classify_error(io::ErrorKind::PermissionDenied.into(), false), HandshakeFailureCause::Io(_)));
}
