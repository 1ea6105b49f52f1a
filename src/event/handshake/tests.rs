use super::*;

pub(crate) const JSON: LineStyle = LineStyle { format: LogFormat::Json, colour: false };
pub(crate) const TEXT: LineStyle = LineStyle { format: LogFormat::Text, colour: false };

pub(crate) fn accepted() -> HandshakeRecord {
    HandshakeRecord {
        time: "2026-11-25T09:00:00.123456Z".parse().unwrap(),
        side: Side::Ingress,
        listener: Arc::from("api"),
        outcome: HandshakeOutcome::Accepted,
        peer_addr: Some("203.0.113.7:51234".parse().unwrap()),
        facts: HandshakeFacts {
            version: Some("1.3"),
            cipher: Some("TLS13_AES_256_GCM_SHA384"),
            group: Some("X25519MLKEM768"),
            alpn: Some(AlpnProtocol::H2),
            resumed: false,
            server_name: Some(Arc::from("api.example.com")),
        },
        keyring: Some(Arc::from("api")),
        key_pair: Some(Fingerprint::from_bytes([0x3f; 32])),
        standing: Some(Standing::Current),
        chosen_by: Some(SelectionReason::Prefer),
        epoch: Epoch(4),
        peer: Some(PeerFacts {
            subject: "CN=orders".to_owned(),
            issuer: "CN=Acme CA".to_owned(),
            serial: "0a1b".to_owned(),
            fingerprint: Fingerprint::from_bytes([0x77; 32]),
            not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
            anchor: None,
            pin: None,
        }),
        identity: Some("uri:spiffe://acme.example/orders".to_owned()),
        partner: Some(Arc::from("acme")),
        alert_sent: None,
        alert_received: None,
        reason: "ok",
        explanation: "peer verified".to_owned(),
        connection: 17,
        duration_us: 1234,
        quiet: false,
        chain_summary: Vec::new(),
        peer_chain: Arc::default(),
    }
}

pub(crate) fn refused(addr: &str) -> HandshakeRecord {
    HandshakeRecord {
        outcome: HandshakeOutcome::Refused,
        peer_addr: Some(addr.parse().unwrap()),
        identity: None,
        partner: None,
        alert_sent: Some("certificate_expired"),
        reason: "peer_certificate_expired",
        explanation: "peer's certificate expired 3 days ago (2026-11-20)".to_owned(),
        quiet: false,
        chain_summary: vec!["CN=orders, issued by CN=Acme CA".to_owned(), "CN=Acme CA".to_owned()],
        ..accepted()
    }
}

fn format_line(handshake: &HandshakeRecord, style: LineStyle) -> String {
    String::from_utf8(handshake.line(style)).unwrap()
}

#[test]
fn programs_read_every_field_under_its_name() {
    let parsed: serde_json::Value = serde_json::from_str(&format_line(&accepted(), JSON)).unwrap();
    let expected = serde_json::json!({
        "time": "2026-11-25T09:00:00.123456Z", "level": "info", "target": "handshake",
        "side": "ingress", "listener": "api", "outcome": "accepted", "reason": "ok",
        "peer.addr": "203.0.113.7:51234", "tls.protocol.version": "1.3", "tls.cipher": "TLS13_AES_256_GCM_SHA384",
        "tls.group": "X25519MLKEM768", "tls.alpn": "h2", "tls.resumed": false, "keyring": "api",
        "key_pair": "3f3f3f3f3f3f", "standing": "current", "chosen_by": "prefer", "epoch": 4, "connection": 17,
        "duration_us": 1234, "partner": "acme", "server.name": "api.example.com", "explanation": "peer verified",
        "peer.identity": "uri:spiffe://acme.example/orders", "peer.fingerprint": "77".repeat(32),
        "peer.not_after": "2027-01-01T00:00:00Z", "peer.serial": "0a1b", "peer.subject": "CN=orders",
        "peer.issuer": "CN=Acme CA",
    });
    assert_eq!(parsed, expected);
}

#[test]
fn what_is_unknown_is_absent() {
    let handshake = HandshakeRecord {
        outcome: HandshakeOutcome::Failed,
        facts: HandshakeFacts::default(),
        keyring: None,
        key_pair: None,
        standing: None,
        chosen_by: None,
        peer: None,
        peer_addr: None,
        alert_sent: None,
        reason: "timed_out",
        quiet: false,
        chain_summary: Vec::new(),
        peer_chain: Arc::default(),
        ..refused("203.0.113.7:1")
    };
    let parsed: serde_json::Value = serde_json::from_str(&format_line(&handshake, JSON)).unwrap();
    let names: Vec<&String> = parsed.as_object().unwrap().keys().collect();
    let mut expected = [
        "time",
        "level",
        "target",
        "side",
        "listener",
        "outcome",
        "reason",
        "epoch",
        "connection",
        "duration_us",
        "explanation",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn people_read_what_happened_first() {
    assert_eq!(
        format_line(&accepted(), TEXT),
        "2026-11-25T09:00:00.123Z  INFO handshake ingress api accepted peer=uri:spiffe://acme.example/orders \
         partner=acme from=203.0.113.7:51234 sni=api.example.com TLS1.3 X25519MLKEM768 h2 key_pair=3f3f3f3f3f3f \
         (api, current, prefer) epoch=4 connection=17 took=1.2ms"
    );
    assert_eq!(
        format_line(&refused("203.0.113.7:51234"), TEXT),
        "2026-11-25T09:00:00.123Z  WARN handshake ingress api refused  reason=peer_certificate_expired \
         \"peer's certificate expired 3 days ago (2026-11-20)\" from=203.0.113.7:51234 sni=api.example.com \
         subject=\"CN=orders\" issuer=\"CN=Acme CA\" certificate=777777777777 TLS1.3 X25519MLKEM768 h2 \
         key_pair=3f3f3f3f3f3f (api, current, prefer) alert_sent=certificate_expired epoch=4 connection=17 took=1.2ms \
         chain=\"CN=orders, issued by CN=Acme CA; CN=Acme CA\""
            .replace("subject=\"CN=orders\"", "subject=CN=orders")
    );
}

#[test]
fn a_peer_with_huge_names_gets_one_short_line_with_every_field() {
    let mut handshake = refused("203.0.113.7:1");
    let huge = "\"\\\n\u{202e}".repeat(4000);
    handshake.explanation.clone_from(&huge);
    handshake.facts.server_name = Some(Arc::from(huge.as_str()));
    let peer = handshake.peer.as_mut().unwrap();
    peer.subject.clone_from(&huge);
    peer.issuer.clone_from(&huge);
    peer.serial.clone_from(&huge);
    handshake.chain_summary = vec![huge.clone(); 20];
    for style in [JSON, TEXT] {
        let line = format_line(&handshake, style);
        assert!(line.len() <= crate::log::MAX_LINE_BYTES);
        assert!(!line.contains(['\n', '\u{202e}']));
    }
    let parsed: serde_json::Value = serde_json::from_str(&format_line(&handshake, JSON)).unwrap();
    for name in ["reason", "peer.issuer", "peer.fingerprint", "connection", "chain"] {
        assert!(parsed.get(name).is_some(), "{name}");
    }
    assert_eq!(parsed["truncated"], true);
}

#[test]
fn a_connection_that_says_nothing_is_a_detail() {
    let silent = HandshakeRecord { reason: CLOSED_WITHOUT_BYTE, outcome: HandshakeOutcome::Failed, ..accepted() };
    assert_eq!(silent.level(), Level::DEBUG);
    assert_eq!(HandshakeRecord { side: Side::Egress, ..silent }.level(), Level::WARN);
}
