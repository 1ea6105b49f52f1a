//! Formats each Event: a constant message, then its values as fields (handshakes have a format of their own).

use jiff::Timestamp;

use super::handshake::outcome_colour;
use super::repeats::RepeatSummary;
use super::{Event, Level, RefusalStatus, TokenOutcome, UpstreamVerdict};
use crate::keyring::Standing;
use crate::log::{LineStyle, LogFormat, LogLine};
use crate::pki::ProblemSeverity;
use crate::snapshot::Epoch;
use crate::tls::HandshakeOutcome;
use crate::{keyring, trust};

/// The level of an Event's line; [`super`] says what the levels mean.
pub(super) fn level(event: &Event) -> Level {
    match event {
        Event::Handshake(handshake) => handshake.level(),
        Event::Proof { outcome: HandshakeOutcome::Refused | HandshakeOutcome::Failed, .. }
        | Event::Learned { standing: RefusalStatus::Unconfirmed, .. }
        | Event::Upstream { verdict: UpstreamVerdict::Refused, .. }
        | Event::Token { outcome: TokenOutcome::Refused | TokenOutcome::Failed, .. } => Level::WARN,
        Event::Keyring { event, .. } => match event {
            keyring::KeyringEvent::LastResort { .. } => Level::ERROR,
            keyring::KeyringEvent::Moved { to: Standing::Refused | Standing::Revoked, .. }
            | keyring::KeyringEvent::Moved { to: Standing::Staged, reason: "shares_no_name", .. } => Level::WARN,
            keyring::KeyringEvent::Moved { .. } => Level::INFO,
        },
        Event::Trust { event: trust::TrustEvent::FileKept { .. } | trust::TrustEvent::CrlStale { .. }, .. } => {
            Level::WARN
        }
        Event::Folder { problem, .. } => match problem.severity {
            ProblemSeverity::Info | ProblemSeverity::Incomplete => Level::INFO,
            ProblemSeverity::Warning | ProblemSeverity::Refused => Level::WARN,
        },
        Event::Epoch { waiting, .. } if !waiting.is_empty() => Level::WARN,
        Event::ClockStep { .. } | Event::NotRemembered { .. } => Level::WARN,
        Event::Registry { damaged: true, .. }
        | Event::Alert { urgent: true, .. }
        | Event::Delivery { outcome: "given_up", .. } => Level::ERROR,
        Event::Registry { up: false, .. } | Event::Alert { .. } | Event::Delivery { outcome: "failed", .. } => {
            Level::WARN
        }
        Event::Reloaded { error: Some(_), .. } => Level::ERROR,
        Event::Reloaded { needs_restart, .. } if !needs_restart.is_empty() => Level::WARN,
        Event::Proof { .. }
        | Event::Learned { .. }
        | Event::Upstream { .. }
        | Event::Token { .. }
        | Event::Trust { .. }
        | Event::Epoch { .. }
        | Event::Drained { .. }
        | Event::Registry { .. }
        | Event::Delivery { .. }
        | Event::Reloaded { .. } => Level::INFO,
    }
}

/// An Event's line.
pub(super) fn format_line(event: &Event, style: LineStyle, now: Timestamp, level: Level) -> Vec<u8> {
    let mut line = LogLine::new(style, now, level, event.target());
    match event {
        Event::Handshake(handshake) => return handshake.line(style),
        Event::Proof { .. } => write_proof(&mut line, event),
        Event::Learned { .. } => write_refusal(&mut line, event),
        Event::Upstream { .. } => write_upstream(&mut line, event),
        Event::Token { .. } => write_token(&mut line, event),
        Event::Keyring { event, by, epoch } => {
            write_keyring(&mut line, event);
            line.optional_text("by", by.as_deref()).number("epoch", epoch.0);
        }
        Event::Trust { event, epoch } => write_trust(&mut line, event, *epoch),
        Event::Folder { keyring, problem } => {
            line.message(match problem.severity {
                ProblemSeverity::Info => "note",
                ProblemSeverity::Warning => "warning",
                ProblemSeverity::Incomplete => "not yet complete",
                ProblemSeverity::Refused => "refused",
            })
            .text("file", &problem.file)
            .optional_text("keyring", keyring.as_deref())
            .text("reason", problem.reason)
            .text("explanation", &problem.why)
            .text("remedy", &problem.remedy);
        }
        Event::Epoch { epoch, waiting } => {
            let message = if waiting.is_empty() { "snapshot published" } else { "not ready: listeners are waiting" };
            line.message(message).number("epoch", epoch.0).list("waiting", waiting);
        }
        Event::ClockStep { seconds } => {
            line.message("clock_step").number("seconds", *seconds);
        }
        Event::Drained { side, listener, connection, reason, explanation } => {
            line.message("draining a connection")
                .text("side", side.as_str())
                .text("listener", listener)
                .number("connection", *connection)
                .text("reason", reason)
                .text("explanation", explanation);
        }
        Event::NotRemembered { file, why } => {
            line.message("state not saved; it would be lost on restart").text("file", file).text("error", why);
        }
        Event::Registry { up, explanation, .. } => {
            line.message(if *up { "registry connected" } else { "registry unavailable" })
                .text("explanation", explanation);
        }
        Event::Alert { .. } => write_alert(&mut line, event),
        Event::Delivery { alert, kind, sink, outcome, error } => {
            line.message("alert delivery")
                .text("kind", kind)
                .text("sink", sink)
                .text("outcome", outcome)
                .optional_text("error", error.as_deref())
                .text("alert", alert);
        }
        Event::Reloaded { error, needs_restart } => {
            line.message(if error.is_some() {
                "configuration rejected; keeping the previous one"
            } else {
                "configuration reloaded"
            })
            .optional_text("error", error.as_deref())
            .list("needs_restart", needs_restart);
        }
    }
    line.finish()
}

fn write_token(line: &mut LogLine, event: &Event) {
    let Event::Token { listener, endpoint, keyring, key_pair, outcome, reason, explanation, epoch } = event else {
        return;
    };
    line.message(match outcome {
        TokenOutcome::Fetched => "token fetched",
        TokenOutcome::Refused => "tokens signed by this key pair are refused",
        TokenOutcome::Failed => "token request failed",
    })
    .text("listener", listener)
    .text("endpoint", endpoint)
    .text("keyring", keyring)
    .text("key_pair", &key_pair.short())
    .text("outcome", outcome.as_str())
    .text("reason", reason)
    .text("explanation", explanation)
    .number("epoch", epoch.0);
}

/// The line of a summary.
pub(super) fn summary_line(sum: &RepeatSummary, style: LineStyle, now: Timestamp) -> Vec<u8> {
    let mut line = LogLine::new(style, now, Level::WARN, "handshake");
    let message = format!("and {} more in {} s", sum.more, sum.seconds);
    match style.format {
        LogFormat::Json => {
            line.message(&message)
                .text("side", sum.side.as_str())
                .text("listener", &sum.listener)
                .text("outcome", sum.outcome.as_str());
        }
        LogFormat::Text => {
            line.word(sum.side.as_str()).word(&sum.listener);
            line.coloured_word(&format!("{:<8}", sum.outcome.as_str()), outcome_colour(sum.outcome)).message(&message);
        }
    }
    line.text("reason", sum.reason)
        .text("source", &sum.source.to_string())
        .number("repeats", sum.more)
        .number("seconds", sum.seconds);
    line.finish()
}

/// Whether a keyring's Event counts in `rotations_total`, and as what.
pub(super) fn rotation_outcome(event: &keyring::KeyringEvent) -> Option<(&str, &'static str)> {
    let keyring::KeyringEvent::Moved { keyring, to, replaces, reason, .. } = event else { return None };
    let outcome = match (to, replaces) {
        (Standing::Current, Some(_)) if *reason == "rolled_back" => "rolled_back",
        (Standing::Current, Some(_)) => "done",
        (Standing::Staged, _) => "staged",
        (Standing::Refused, _) => "refused",
        _ => return None,
    };
    Some((keyring, outcome))
}

fn write_proof(line: &mut LogLine, event: &Event) {
    let Event::Proof { listener, connection, key_pair, outcome, reason, explanation, epoch } = event else { return };
    match line.format() {
        LogFormat::Json => {
            line.text("side", "egress").text("listener", listener).text("outcome", outcome.as_str());
        }
        LogFormat::Text => {
            line.word("egress").word(listener);
            line.coloured_word(&format!("{:<8}", outcome.as_str()), outcome_colour(*outcome));
        }
    }
    line.text("reason", reason)
        .text("key_pair", &key_pair.short())
        .text("explanation", explanation)
        .number("connection", *connection)
        .number("epoch", epoch.0);
}

fn write_refusal(line: &mut LogLine, event: &Event) {
    let Event::Learned { listener, source, keyring, refused, shown, standing, reason, explanation, epoch, .. } = event
    else {
        return;
    };
    line.message(match standing {
        RefusalStatus::Unconfirmed => "source refused the new key pair",
        RefusalStatus::Confirmed => "source accepts only the previous key pair",
        RefusalStatus::Forgotten => "source will be shown the new key pair again",
    })
    .text("listener", listener)
    .text("source", source)
    .text("keyring", keyring)
    .text("refused", &refused.short())
    .text("shown", &shown.short())
    .text("standing", standing.as_str())
    .text("reason", reason)
    .text("explanation", explanation)
    .number("epoch", epoch.0);
}

fn write_upstream(line: &mut LogLine, event: &Event) {
    let Event::Upstream { listener, upstream, keyring, key_pair, verdict, reason, explanation, next_try, epoch } =
        event
    else {
        return;
    };
    line.message(match verdict {
        UpstreamVerdict::HandshakeOk => "upstream completed a handshake on the key pair",
        UpstreamVerdict::Proved => "upstream accepts the key pair",
        UpstreamVerdict::Refused => "upstream refuses the key pair",
    })
    .text("listener", listener)
    .text("upstream", upstream)
    .text("keyring", keyring)
    .text("key_pair", &key_pair.short())
    .text("verdict", verdict.as_str())
    .text("reason", reason)
    .text("explanation", explanation)
    .optional_text("next_try", next_try.map(format_second).as_deref())
    .number("epoch", epoch.0);
}

fn write_alert(line: &mut LogLine, event: &Event) {
    let Event::Alert { alert, kind, urgent, keyring, key_pair, contact, explanation, remedy } = event else { return };
    line.message(if *urgent { "urgent alert" } else { "alert" })
        .text("kind", kind)
        .text("keyring", keyring)
        .optional_text("key_pair", key_pair.map(|key_pair| key_pair.short()).as_deref())
        .optional_text("contact", contact.as_deref())
        .text("explanation", explanation)
        .text("remedy", remedy)
        .text("alert", alert);
}

fn write_keyring(line: &mut LogLine, event: &keyring::KeyringEvent) {
    match event {
        keyring::KeyringEvent::Moved {
            keyring,
            key_pair,
            from,
            to,
            reason,
            explanation,
            replaces,
            overlap_ends,
            sources,
        } => {
            line.message(standing_message(*to, replaces.is_some()))
                .text("keyring", keyring)
                .text("key_pair", &key_pair.short())
                .optional_text("replaces", replaces.map(|old| old.short()).as_deref())
                .optional_text("overlap_ends", overlap_ends.map(format_second).as_deref())
                .optional_text("from", from.map(Standing::as_str))
                .text("to", to.as_str())
                .text("reason", reason)
                .text("explanation", explanation)
                .list("sources", sources);
        }
        keyring::KeyringEvent::LastResort { keyring, key_pair, expired, served } => {
            line.message(if *served {
                "no valid key pair left: showing an expired one"
            } else {
                "no valid key pair left: showing none"
            })
            .text("keyring", keyring)
            .text("key_pair", &key_pair.short())
            .text("expired", &format_second(*expired));
        }
    }
}

/// A time, to the second.
fn format_second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The message of a change of standing.
const fn standing_message(to: Standing, rotation: bool) -> &'static str {
    match to {
        Standing::Current if rotation => "rotation",
        Standing::Current => "key pair is current",
        Standing::Previous => "key pair is previous",
        Standing::Staged => "key pair is staged",
        Standing::Refused => "key pair refused",
        Standing::Retired => "overlap ended",
        Standing::Revoked => "key pair revoked",
    }
}

fn write_trust(line: &mut LogLine, event: &trust::TrustEvent, epoch: Epoch) {
    match event {
        trust::TrustEvent::AnchorAdded { trust, anchor, subject } => {
            line.message("trust anchor added")
                .text("trust", trust)
                .text("anchor", &anchor.short())
                .text("subject", subject);
        }
        trust::TrustEvent::AnchorLeaving { trust, anchor, subject, until } => {
            line.message("trust anchor scheduled for removal")
                .text("trust", trust)
                .text("anchor", &anchor.short())
                .text("subject", subject)
                .text("until", &format_second(*until));
        }
        trust::TrustEvent::AnchorRemoved { trust, anchor, subject, reason } => {
            line.message("trust anchor removed")
                .text("trust", trust)
                .text("anchor", &anchor.short())
                .text("subject", subject)
                .text("reason", reason);
        }
        trust::TrustEvent::FileKept { trust, file, why } => {
            line.message("trust file unusable; keeping the last usable set, if any")
                .text("trust", trust)
                .text("file", file)
                .text("explanation", why);
        }
        trust::TrustEvent::CrlsChanged { trust, count } => {
            line.message("CRLs loaded").text("trust", trust).number("count", *count);
        }
        trust::TrustEvent::CrlStale { trust, issuer, due } => {
            line.message("CRL out of date")
                .text("trust", trust)
                .text("issuer", issuer)
                .text("due", &format_second(*due));
        }
    }
    line.number("epoch", epoch.0);
}
