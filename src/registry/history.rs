//! Converts Events to lines of the history: actor or cause, time, from, to, reason.

use jiff::Timestamp;

use super::HistoryRow;
use super::recall::upstream_name;
use super::seen::truncate;
use crate::event::{
    ClockRecord, DeliveryRecord, Event, FolderRecord, KeyringRecord, LessonRecord, RefusalStatus, ReloadRecord,
    TokenOutcome, TokenRecord, TrustRecord, VerdictRecord,
};
use crate::keyring::{self, Standing};
use crate::pki::ProblemSeverity;
use crate::trust;

/// The line for an Event; `None` for one that changes nothing.
pub(super) fn history_row(event: &Event, instance: &str, now: Timestamp) -> Option<HistoryRow> {
    let mut entry = HistoryRow {
        instance: instance.to_owned(),
        at: now.into(),
        kind: String::new(),
        name: String::new(),
        key_pair: None,
        was: None,
        becomes: None,
        who: "sidekey".to_owned(),
        reason: String::new(),
        why: String::new(),
    };
    match event {
        Event::Keyring(KeyringRecord { event, by, .. }) => fill_from_keyring(&mut entry, event, by.as_deref()),
        Event::Trust(TrustRecord { event, .. }) => fill_from_trust(&mut entry, event),
        Event::Folder(FolderRecord { keyring, problem, over: false })
            if problem.severity >= ProblemSeverity::Refused =>
        {
            "folder".clone_into(&mut entry.kind);
            "folder".clone_into(&mut entry.who);
            entry.name = keyring
                .as_ref()
                .map_or_else(|| problem.file.to_string(), |keyring| format!("{keyring}: {}", problem.file));
            problem.reason.clone_into(&mut entry.reason);
            entry.why = truncate(&format!("{}: {}", problem.why, problem.remedy));
        }
        Event::Learned(_) | Event::Upstream(_) | Event::Token(TokenRecord { outcome: TokenOutcome::Refused, .. }) => {
            fill_from_others(&mut entry, event);
        }
        Event::Reloaded(ReloadRecord { error, needs_restart }) => {
            "settings".clone_into(&mut entry.kind);
            "configuration".clone_into(&mut entry.who);
            entry.reason = if error.is_some() { "refused" } else { "taken_over" }.to_owned();
            entry.why = match error {
                Some(error) => truncate(error),
                None if needs_restart.is_empty() => "everything".to_owned(),
                None => truncate(&format!("everything except what needs a restart: {}", needs_restart.join(", "))),
            };
        }
        Event::ClockStep(ClockRecord { seconds }) => {
            "clock".clone_into(&mut entry.kind);
            "time".clone_into(&mut entry.who);
            "clock_step".clone_into(&mut entry.reason);
            entry.why = format!("the system clock was stepped by {seconds} s");
        }
        Event::Delivery(DeliveryRecord { alert, sink, outcome: "given_up", error, .. }) => {
            "alert".clone_into(&mut entry.kind);
            entry.name = alert.to_string();
            "given_up".clone_into(&mut entry.reason);
            entry.why = truncate(&format!("{sink}: {}", error.as_deref().unwrap_or("sending failed")));
        }
        Event::Handshake(_)
        | Event::Proof(_)
        | Event::PeerProof(_)
        | Event::Token(_)
        | Event::Folder(_)
        | Event::Epoch(_)
        | Event::Drained(_)
        | Event::NotRemembered(_)
        | Event::Registry(_)
        | Event::Alert(_)
        | Event::Delivery(_) => return None,
    }
    Some(entry)
}

fn fill_from_keyring(entry: &mut HistoryRow, event: &keyring::KeyringEvent, by: Option<&str>) {
    "keyring".clone_into(&mut entry.kind);
    match event {
        keyring::KeyringEvent::Moved { keyring, key_pair, from, to, reason, explanation, replaces, .. } => {
            entry.name = keyring.to_string();
            entry.key_pair = Some(key_pair.to_string());
            entry.was = from.map(|from| from.as_str().to_owned());
            entry.becomes = Some(to.as_str().to_owned());
            entry.who = by.unwrap_or_else(|| move_cause(reason)).to_owned();
            (*reason).clone_into(&mut entry.reason);
            let replaces = replaces.map(|old| format!(" (replaces {})", old.short())).unwrap_or_default();
            entry.why = truncate(&format!("{explanation}{replaces}"));
        }
        keyring::KeyringEvent::LastResort { keyring, key_pair, expired, served } => {
            entry.name = keyring.to_string();
            entry.key_pair = Some(key_pair.to_string());
            entry.was = Some(Standing::Current.as_str().to_owned());
            entry.becomes = Some(if *served { "last_resort" } else { "not_shown" }.to_owned());
            "time".clone_into(&mut entry.who);
            "expired".clone_into(&mut entry.reason);
            entry.why = format!("expired on {expired}, and the keyring has no valid key pair");
        }
    }
}

/// How peers and upstreams judged our pairs.
fn fill_from_others(entry: &mut HistoryRow, event: &Event) {
    match event {
        Event::Learned(LessonRecord {
            listener,
            source,
            keyring,
            refused,
            shown,
            standing,
            reason,
            explanation,
            ..
        }) => {
            "learned".clone_into(&mut entry.kind);
            entry.name = truncate(&format!("{keyring}: {source} at {listener}"));
            entry.key_pair = Some(refused.to_string());
            entry.becomes = Some(standing.as_str().to_owned());
            entry.who = if *standing == RefusalStatus::Forgotten { "sidekey" } else { "peer" }.to_owned();
            (*reason).clone_into(&mut entry.reason);
            entry.why = truncate(&format!("{explanation} (shown {})", shown.short()));
        }
        Event::Upstream(VerdictRecord {
            listener, upstream, keyring, key_pair, verdict, reason, explanation, ..
        }) => {
            "upstream".clone_into(&mut entry.kind);
            entry.name = upstream_name(keyring, upstream, listener);
            entry.key_pair = Some(key_pair.to_string());
            entry.becomes = Some(verdict.as_str().to_owned());
            "upstream".clone_into(&mut entry.who);
            (*reason).clone_into(&mut entry.reason);
            entry.why = truncate(explanation);
        }
        Event::Token(TokenRecord {
            listener,
            endpoint,
            keyring,
            key_pair,
            outcome: TokenOutcome::Refused,
            reason,
            explanation,
            ..
        }) => {
            "token".clone_into(&mut entry.kind);
            entry.name = format!("{keyring}: {endpoint} at {listener}");
            entry.key_pair = Some(key_pair.to_string());
            entry.becomes = Some(TokenOutcome::Refused.as_str().to_owned());
            "upstream".clone_into(&mut entry.who);
            (*reason).clone_into(&mut entry.reason);
            entry.why = truncate(explanation);
        }
        _ => {}
    }
}

/// The cause of a change that no operator requested, by its reason.
fn move_cause(reason: &str) -> &'static str {
    match reason {
        "configured" | "activate_manual" => "configuration",
        "due" | "overlap_ended" | "expired" | "more_than_eight_previous" => "time",
        _ => "folder",
    }
}

fn fill_from_trust(entry: &mut HistoryRow, event: &trust::TrustEvent) {
    "trust".clone_into(&mut entry.kind);
    "folder".clone_into(&mut entry.who);
    match event {
        trust::TrustEvent::AnchorAdded { trust, anchor, subject } => {
            entry.name = trust.to_string();
            entry.key_pair = Some(anchor.to_string());
            entry.becomes = Some("accepted".to_owned());
            "added".clone_into(&mut entry.reason);
            entry.why = truncate(subject);
        }
        trust::TrustEvent::AnchorLeaving { trust, anchor, subject, until } => {
            entry.name = trust.to_string();
            entry.key_pair = Some(anchor.to_string());
            entry.was = Some("accepted".to_owned());
            entry.becomes = Some("leaving".to_owned());
            "leaving".clone_into(&mut entry.reason);
            entry.why = truncate(&format!("{subject}, accepted until {until}"));
        }
        trust::TrustEvent::AnchorRemoved { trust, anchor, subject, reason } => {
            entry.name = trust.to_string();
            entry.key_pair = Some(anchor.to_string());
            entry.was = Some("accepted".to_owned());
            entry.becomes = Some("removed".to_owned());
            entry.who = match *reason {
                "configured" => "configuration",
                "until" | "overlap_ended" => "time",
                _ => "folder",
            }
            .to_owned();
            (*reason).clone_into(&mut entry.reason);
            entry.why = truncate(subject);
        }
        trust::TrustEvent::AnchorCannotVouch { trust, anchor, subject, why } => {
            entry.name = trust.to_string();
            entry.key_pair = Some(anchor.to_string());
            "cannot_vouch".clone_into(&mut entry.reason);
            entry.why = truncate(&format!("{subject}: {why}"));
        }
        trust::TrustEvent::FileUsable { trust, file } => {
            entry.name = trust.to_string();
            "file_usable".clone_into(&mut entry.reason);
            entry.why = truncate(file);
        }
        trust::TrustEvent::FileKept { trust, file, why, .. } => {
            entry.name = trust.to_string();
            "file_kept".clone_into(&mut entry.reason);
            entry.why = truncate(&format!("{file}: {why}"));
        }
        trust::TrustEvent::CrlsChanged { trust, count } => {
            entry.name = trust.to_string();
            "crls_changed".clone_into(&mut entry.reason);
            entry.why = format!("{count} CRLs");
        }
        trust::TrustEvent::CrlStale { trust, issuer, due } => {
            entry.name = trust.to_string();
            "time".clone_into(&mut entry.who);
            "crl_stale".clone_into(&mut entry.reason);
            entry.why = truncate(&format!("{issuer}, next update was due on {due}"));
        }
    }
}
