//! What must hold: every Event has a line under its target, repeated failures are summed up, followers hear everything.

mod steps;

use std::sync::mpsc::Receiver;

use super::*;
use crate::event::handshake::CLOSED_WITHOUT_BYTE;
use crate::event::handshake::tests::{accepted, refused};
use crate::event::{
    AlertRecord, ClockRecord, DeliveryRecord, DrainRecord, EpochRecord, FolderRecord, KeyringRecord, LessonRecord,
    PeerProofOutcome, PeerProofRecord, ProofRecord, RefusalStatus, RegistryRecord, ReloadRecord, SaveFailure,
    TokenOutcome, TokenRecord, TrustRecord, UpstreamVerdict, VerdictRecord,
};
use crate::keyring::Standing;
use crate::log::LogFormat;
use crate::metrics::MetricsFormat;
use crate::pki::{Fingerprint, FolderProblem};
use crate::snapshot::{Epoch, Side};

fn time() -> Timestamp {
    "2026-11-25T09:00:00Z".parse().unwrap()
}

fn events_at(level: &str, format: LogFormat) -> (EventBus, Receiver<Vec<u8>>) {
    let (lines, receiver) = LogQueue::channel(format);
    let settings = log::LogSettings { level: level.to_owned(), ..log::LogSettings::default() };
    let (clock, _) = Clock::manual(time());
    (EventBus::new(lines, Arc::new(Metrics::new()), &settings, clock).unwrap(), receiver)
}

fn next_line(lines: &Receiver<Vec<u8>>) -> String {
    String::from_utf8(lines.try_recv().unwrap()).unwrap()
}

fn is_empty(lines: &Receiver<Vec<u8>>) -> bool {
    lines.try_recv().is_err()
}

fn moved_event(to: Standing, replaces: Option<Fingerprint>, reason: &'static str) -> Event {
    Event::Keyring(KeyringRecord {
        by: None,
        event: crate::keyring::KeyringEvent::Moved {
            keyring: Arc::from("api"),
            key_pair: Fingerprint::from_bytes([0x3f; 32]),
            from: None,
            to,
            reason,
            explanation: "begins 2026-11-25, later than the pair in use".to_owned(),
            replaces,
            overlap_ends: Some("2026-12-25T09:00:00Z".parse().unwrap()),
            sources: vec![Arc::from("api/2027.crt"), Arc::from("api/2027.key")],
        },
        epoch: Epoch(5),
    })
}

#[test]
fn a_rotation_reads_well() {
    let (events, lines) = events_at("info", LogFormat::Text);
    events.emit(moved_event(Standing::Current, Some(Fingerprint::from_bytes([0x77; 32])), "newer_arrived"));
    assert_eq!(
        next_line(&lines),
        "2026-11-25T09:00:00.000Z  INFO keyring rotation keyring=api key_pair=3f3f3f3f3f3f replaces=777777777777 \
         overlap_ends=2026-12-25T09:00:00Z to=current reason=newer_arrived \
         explanation=\"begins 2026-11-25, later than the pair in use\" sources=\"api/2027.crt; api/2027.key\" epoch=5"
    );
}

/// Every Event has a line under its target: checks the line of each of these.
fn check_lines(all: impl IntoIterator<Item = (Event, &'static str, &'static str)>) {
    let (events, lines) = events_at("info", LogFormat::Json);
    for (event, target, level) in all {
        events.emit(event);
        let parsed: serde_json::Value = serde_json::from_str(&next_line(&lines)).unwrap();
        assert_eq!((&parsed["target"], &parsed["level"]), (&target.into(), &level.into()), "{parsed}");
        assert!(parsed.get("message").is_some() || parsed.get("outcome").is_some(), "{parsed}");
    }
}

#[test]
fn every_event_about_a_peer_has_a_line_under_its_target() {
    let anchor = Fingerprint::from_bytes([1; 32]);
    check_lines([
        (Event::Handshake(Arc::new(accepted())), "handshake", "info"),
        (
            Event::Proof(ProofRecord {
                listener: Arc::from("salesforce"),
                connection: 3,
                key_pair: anchor,
                outcome: HandshakeOutcome::Refused,
                reason: "upstream_refuses_key_pair",
                alert_received: Some("unknown_ca"),
                explanation: "unknown CA".to_owned(),
                epoch: Epoch(2),
                handshake: None,
            }),
            "proof",
            "warn",
        ),
        (
            Event::Learned(LessonRecord {
                listener: Arc::from("api"),
                source: "203.0.113.7".to_owned(),
                keyring: Arc::from("api"),
                refused: anchor,
                shown: anchor,
                standing: RefusalStatus::Unconfirmed,
                peer: None,
                reason: "unknown_ca",
                explanation: "it answered with an alert".to_owned(),
                epoch: Epoch(2),
            }),
            "learned",
            "warn",
        ),
        (
            Event::Upstream(VerdictRecord {
                listener: Arc::from("salesforce"),
                upstream: "sf.example:443".to_owned(),
                keyring: Arc::from("api"),
                key_pair: anchor,
                verdict: UpstreamVerdict::Refused,
                reason: "status_403",
                explanation: "it answered 403".to_owned(),
                next_try: Some(time()),
                epoch: Epoch(2),
            }),
            "proof",
            "warn",
        ),
        (
            Event::Token(TokenRecord {
                listener: Arc::from("salesforce"),
                endpoint: "sf.example:443".to_owned(),
                keyring: Arc::from("api"),
                key_pair: anchor,
                outcome: TokenOutcome::Fetched,
                reason: "ok",
                explanation: "fetched".to_owned(),
                epoch: Epoch(2),
            }),
            "token",
            "info",
        ),
        (
            Event::Drained(DrainRecord {
                side: Side::Ingress,
                listener: Arc::from("api"),
                connection: 9,
                reason: "overlap_ended",
                explanation: "the pair is retired".to_owned(),
            }),
            "drain",
            "info",
        ),
    ]);
}

#[test]
fn what_a_peer_has_shown_of_a_key_pair_has_a_line_whichever_way_it_ends() {
    let record = PeerProofRecord {
        listener: Arc::from("api"),
        keyring: Arc::from("api"),
        key_pair: Fingerprint::from_bytes([1; 32]),
        outcome: PeerProofOutcome::UnexplainedEnd,
        reason: "",
        identity: Arc::from("dns:etl.example"),
        partner: None,
        certificate: Some(Fingerprint::from_bytes([2; 32])),
        source: Some([203, 0, 113, 7].into()),
        explanation: String::new(),
        connection: 4,
        epoch: Epoch(2),
    };
    let (events, lines) = events_at("debug", LogFormat::Text);
    for concluded in [record.clone().proved(), record.clone().ended(None), record.ended(Some("unknown_ca"))] {
        events.emit(Event::PeerProof(Arc::new(concluded)));
    }
    let told = "listener=api keyring=api key_pair=010101010101";
    let who = "peer.identity=dns:etl.example peer.fingerprint=020202020202 peer.addr=203.0.113.7";
    for (begins, reason) in [
        ("DEBUG proof peer accepts the key pair", "outcome=proved reason=application_data"),
        ("INFO proof peer ended the connection", "outcome=unexplained_end reason=ended_without_data"),
        ("INFO proof peer ended the connection", "outcome=unexplained_end reason=unknown_ca"),
    ] {
        let line = next_line(&lines);
        assert!([begins, told, reason, who].iter().all(|part| line.contains(part)), "{line}");
    }
}

#[test]
fn every_event_about_an_alert_has_a_line_under_its_target() {
    let anchor = Fingerprint::from_bytes([1; 32]);
    check_lines([
        (
            Event::Registry(RegistryRecord { up: false, damaged: true, explanation: "damaged".to_owned() }),
            "registry",
            "error",
        ),
        (
            Event::Alert(AlertRecord {
                kind: "expires",
                urgent: false,
                keyring: Arc::from("api"),
                key_pair: Some(anchor),
                contact: None,
                explanation: "it expires".to_owned(),
                remedy: "order its successor".to_owned(),
                alert: Arc::from("expires:1"),
            }),
            "alert",
            "warn",
        ),
        (
            Event::Delivery(DeliveryRecord {
                kind: "expires".to_owned(),
                sink: "webhook",
                outcome: "given_up",
                error: Some("no answer".to_owned()),
                alert: Arc::from("expires:1"),
            }),
            "alert",
            "error",
        ),
    ]);
}

#[test]
fn every_event_about_what_we_hold_has_a_line_under_its_target() {
    let problem = FolderProblem {
        file: Arc::from("api/tls.crt"),
        reason: "key_missing",
        why: "no key matches".to_owned(),
        remedy: "add the key".to_owned(),
        severity: ProblemSeverity::Refused,
    };
    let anchor = Fingerprint::from_bytes([1; 32]);
    let (trust, subject) = (Arc::from("partners"), "CN=Old CA".to_owned());
    check_lines([
        (moved_event(Standing::Refused, None, "expired"), "keyring", "warn"),
        (
            Event::Keyring(KeyringRecord {
                by: None,
                event: crate::keyring::KeyringEvent::LastResort {
                    keyring: Arc::from("api"),
                    key_pair: anchor,
                    expired: time(),
                    served: true,
                },
                epoch: Epoch(1),
            }),
            "keyring",
            "error",
        ),
        (
            Event::Trust(TrustRecord {
                event: crate::trust::TrustEvent::AnchorRemoved { trust, anchor, subject, reason: "until" },
                epoch: Epoch(6),
            }),
            "trust",
            "info",
        ),
        (Event::Folder(FolderRecord { keyring: None, problem, over: false }), "folder", "warn"),
        (
            Event::Epoch(EpochRecord {
                epoch: Epoch(1),
                waiting: vec!["ingress \"api\" waits".to_owned()],
                upstreams: Vec::new(),
            }),
            "writer",
            "warn",
        ),
        (Event::ClockStep(ClockRecord { seconds: -400 }), "clock", "warn"),
        (
            Event::NotRemembered(SaveFailure {
                file: "decisions.json".to_owned(),
                why: "disk full".to_owned(),
                over: false,
            }),
            "writer",
            "warn",
        ),
        (
            Event::Reloaded(ReloadRecord { error: Some("line 3".to_owned()), needs_restart: Vec::new() }),
            "config",
            "error",
        ),
    ]);
}

#[test]
fn fields_stand_in_their_order_and_what_is_unknown_is_absent() {
    let (events, lines) = events_at("info", LogFormat::Json);
    events.emit(Event::Upstream(VerdictRecord {
        listener: Arc::from("salesforce"),
        upstream: "sf.example:443".to_owned(),
        keyring: Arc::from("api"),
        key_pair: Fingerprint::from_bytes([0x3f; 32]),
        verdict: UpstreamVerdict::HandshakeOk,
        reason: "probe",
        explanation: "the probe's handshake succeeded".to_owned(),
        next_try: None,
        epoch: Epoch(2),
    }));
    assert_eq!(
        next_line(&lines),
        r#"{"time":"2026-11-25T09:00:00.000000Z","level":"info","target":"proof","message":"upstream completed a handshake on the key pair","listener":"salesforce","upstream":"sf.example:443","keyring":"api","key_pair":"3f3f3f3f3f3f","verdict":"handshake_ok","reason":"probe","explanation":"the probe's handshake succeeded","epoch":2}"#
    );
}

#[test]
fn repeated_failures_are_summed_up_but_all_counted_and_kept() {
    let (events, lines) = events_at("info", LogFormat::Text);
    for _ in 0..60 {
        events.emit(Event::Handshake(Arc::new(HandshakeRecord { time: time(), ..refused("203.0.113.7:5") })));
    }
    for _ in 0..3 {
        assert!(next_line(&lines).contains("peer_certificate_expired"));
    }
    assert!(is_empty(&lines));
    events.tick(Timestamp::from_second(time().as_second() + 60).unwrap());
    let line = next_line(&lines);
    assert!(
        line.contains(
            "WARN handshake ingress api refused  and 57 more in 60 s reason=peer_certificate_expired \
             source=203.0.113.7 peer.fingerprint="
        ) && line.ends_with(" repeats=57 seconds=60"),
        "{line}"
    );
    assert_eq!(events.recent().len(), 60);
}

#[test]
fn silent_connections_are_counted_and_shown_at_debug_only() {
    let silent = || {
        let failed = HandshakeRecord {
            reason: CLOSED_WITHOUT_BYTE,
            outcome: HandshakeOutcome::Failed,
            ..refused("203.0.113.7:5")
        };
        Event::Handshake(Arc::new(failed))
    };
    let (events, lines) = events_at("info", LogFormat::Text);
    events.emit(silent());
    assert!(is_empty(&lines));
    assert!(events.recent().is_empty());
    let text = events.metrics.render(MetricsFormat::Prometheus, None);
    assert!(text.contains(r#"outcome="failed",reason="closed_without_byte"} 1"#), "{text}");
    let (events, lines) = events_at("debug", LogFormat::Text);
    events.emit(silent());
    assert!(next_line(&lines).contains("DEBUG handshake ingress api failed"));
}

#[test]
fn the_last_2000_handshakes_stay() {
    let (events, _lines) = events_at("off", LogFormat::Text);
    for connection in 0..2005 {
        events.emit(Event::Handshake(Arc::new(HandshakeRecord { connection, ..accepted() })));
    }
    let recent = events.recent();
    assert_eq!((recent.len(), recent[0].connection), (2000, 5));
}

#[test]
fn a_report_is_built_from_a_copy_of_the_ledger_so_that_events_need_not_wait_for_it() {
    let (events, _lines) = events_at("info", LogFormat::Json);
    let come = |identity: &str| {
        let identity = Some(identity.to_owned());
        events.emit(Event::Handshake(Arc::new(HandshakeRecord { identity, ..accepted() })));
    };
    come("dns:one");
    let (copy, _) = events.copy_ledger();
    // Were the ledger held as long as a report is built from it, this would never end.
    come("dns:two");
    assert_eq!((copy.size().0, events.copy_ledger().0.size().0), (1, 2));
}

#[test]
fn followers_hear_everything_and_what_they_miss_is_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (events, _lines) = events_at("off", LogFormat::Text);
    let mut follower = events.subscribe();
    for seconds in 0..FOLLOWER_QUEUE as i64 + 10 {
        events.emit(Event::ClockStep(ClockRecord { seconds }));
    }
    let heard = runtime.block_on(follower.next());
    assert!(matches!(heard, Some(Event::ClockStep(ClockRecord { seconds: 10 }))), "{heard:?}");
    assert!(events.metrics.render(MetricsFormat::Prometheus, None).contains("sidekey_events_dropped_total 10"));
    drop(events);
    // The rest, and then the end: all senders are gone.
    runtime.block_on(async { while follower.next().await.is_some() {} });
}
