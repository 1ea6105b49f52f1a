use std::sync::mpsc::Receiver;

use super::handshake::CLOSED_WITHOUT_BYTE;
use super::handshake::tests::{accepted, refused};
use super::*;
use crate::keyring::Standing;
use crate::log::LogFormat;
use crate::snapshot::Side;

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
    Event::Keyring {
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
    }
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

#[test]
fn every_event_has_a_line_under_its_target() {
    let (events, lines) = events_at("info", LogFormat::Json);
    let problem = FolderProblem {
        file: Arc::from("api/tls.crt"),
        reason: "key_missing",
        why: "no key matches".to_owned(),
        remedy: "add the key".to_owned(),
        severity: ProblemSeverity::Refused,
    };
    let anchor = Fingerprint::from_bytes([1; 32]);
    let (trust, subject) = (Arc::from("partners"), "CN=Old CA".to_owned());
    let all = [
        (Event::Handshake(Arc::new(accepted())), "handshake", "info"),
        (
            Event::Proof {
                listener: Arc::from("salesforce"),
                connection: 3,
                key_pair: anchor,
                outcome: HandshakeOutcome::Refused,
                reason: "upstream_refuses_key_pair",
                explanation: "unknown CA".to_owned(),
                epoch: Epoch(2),
            },
            "proof",
            "warn",
        ),
        (moved_event(Standing::Refused, None, "expired"), "keyring", "warn"),
        (
            Event::Keyring {
                by: None,
                event: crate::keyring::KeyringEvent::LastResort {
                    keyring: Arc::from("api"),
                    key_pair: anchor,
                    expired: time(),
                    served: true,
                },
                epoch: Epoch(1),
            },
            "keyring",
            "error",
        ),
        (
            Event::Trust {
                event: crate::trust::TrustEvent::AnchorRemoved { trust, anchor, subject, reason: "until" },
                epoch: Epoch(6),
            },
            "trust",
            "info",
        ),
        (Event::Folder { keyring: None, problem }, "folder", "warn"),
        (Event::Epoch { epoch: Epoch(1), waiting: vec!["ingress \"api\" waits".to_owned()] }, "writer", "warn"),
        (Event::ClockStep { seconds: -400 }, "clock", "warn"),
        (
            Event::Drained {
                side: Side::Ingress,
                listener: Arc::from("api"),
                connection: 9,
                reason: "overlap_ended",
                explanation: "the pair is retired".to_owned(),
            },
            "drain",
            "info",
        ),
        (Event::NotRemembered { file: "decisions.json".to_owned(), why: "disk full".to_owned() }, "writer", "warn"),
        (Event::Reloaded { error: Some("line 3".to_owned()), needs_restart: Vec::new() }, "config", "error"),
    ];
    for (event, target, level) in all {
        events.emit(event);
        let parsed: serde_json::Value = serde_json::from_str(&next_line(&lines)).unwrap();
        assert_eq!((&parsed["target"], &parsed["level"]), (&target.into(), &level.into()), "{parsed}");
        assert!(parsed.get("message").is_some() || parsed.get("outcome").is_some(), "{parsed}");
    }
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
    assert!(next_line(&lines).ends_with(
        "WARN handshake ingress api refused  and 57 more in 60 s reason=peer_certificate_expired \
             source=203.0.113.7 repeats=57 seconds=60"
    ));
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
    let text = events.metrics.render(None);
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
fn followers_hear_everything_and_what_they_miss_is_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (events, _lines) = events_at("off", LogFormat::Text);
    let mut follower = events.subscribe();
    for seconds in 0..FOLLOWER_QUEUE as i64 + 10 {
        events.emit(Event::ClockStep { seconds });
    }
    let heard = runtime.block_on(follower.next());
    assert!(matches!(heard, Some(Event::ClockStep { seconds: 10 })), "{heard:?}");
    assert!(events.metrics.render(None).contains("sidekey_events_dropped_total 10"));
    drop(events);
    // The rest, and then the end: all senders are gone.
    runtime.block_on(async { while follower.next().await.is_some() {} });
}
