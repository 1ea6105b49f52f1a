//! Formats each Event: a constant message, then its values as fields (handshakes have a format of their own).

use jiff::Timestamp;

use super::handshake::colour;
use super::repeats::Sum;
use super::{Event, Lesson, Level, TokenOutcome, Verdict};
use crate::keyring::Standing;
use crate::log::{Format, Line, Style};
use crate::pki::Severity;
use crate::snapshot::Epoch;
use crate::tls::Outcome;
use crate::{keyring, trust};

/// The level of an Event's line; [`super`] says what the levels mean.
pub(super) fn level(event: &Event) -> Level {
    match event {
        Event::Handshake(handshake) => handshake.level(),
        Event::Proof { outcome: Outcome::Refused | Outcome::Failed, .. }
        | Event::Learned { standing: Lesson::Unconfirmed, .. }
        | Event::Upstream { verdict: Verdict::Refused, .. }
        | Event::Token { outcome: TokenOutcome::Refused | TokenOutcome::Failed, .. } => Level::WARN,
        Event::Keyring { event, .. } => match event {
            keyring::Event::LastResort { .. } => Level::ERROR,
            keyring::Event::Moved { to: Standing::Refused | Standing::Revoked, .. }
            | keyring::Event::Moved { to: Standing::Staged, reason: "shares_no_name", .. } => Level::WARN,
            keyring::Event::Moved { .. } => Level::INFO,
        },
        Event::Trust { event: trust::Event::FileKept { .. } | trust::Event::CrlStale { .. }, .. } => Level::WARN,
        Event::Folder { problem, .. } => match problem.severity {
            Severity::Info | Severity::Incomplete => Level::INFO,
            Severity::Warning | Severity::Refused => Level::WARN,
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
pub(super) fn line(event: &Event, style: Style, now: Timestamp, level: Level) -> Vec<u8> {
    let mut line = Line::new(style, now, level, event.target());
    match event {
        Event::Handshake(handshake) => return handshake.line(style),
        Event::Proof { .. } => proof(&mut line, event),
        Event::Learned { .. } => learned(&mut line, event),
        Event::Upstream { .. } => upstream(&mut line, event),
        Event::Token { .. } => token(&mut line, event),
        Event::Keyring { event, by, epoch } => {
            of_keyring(&mut line, event);
            line.maybe("by", by.as_deref()).number("epoch", epoch.0);
        }
        Event::Trust { event, epoch } => of_trust(&mut line, event, *epoch),
        Event::Folder { keyring, problem } => {
            line.message(match problem.severity {
                Severity::Info => "note",
                Severity::Warning => "warning",
                Severity::Incomplete => "not yet complete",
                Severity::Refused => "refused",
            })
            .text("file", &problem.file)
            .maybe("keyring", keyring.as_deref())
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
        Event::Alert { .. } => alert(&mut line, event),
        Event::Delivery { alert, kind, sink, outcome, error } => {
            line.message("alert delivery")
                .text("kind", kind)
                .text("sink", sink)
                .text("outcome", outcome)
                .maybe("error", error.as_deref())
                .text("alert", alert);
        }
        Event::Reloaded { error, needs_restart } => {
            line.message(if error.is_some() {
                "configuration rejected; keeping the previous one"
            } else {
                "configuration reloaded"
            })
            .maybe("error", error.as_deref())
            .list("needs_restart", needs_restart);
        }
    }
    line.finish()
}

fn token(line: &mut Line, event: &Event) {
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
pub(super) fn sum(sum: &Sum, style: Style, now: Timestamp) -> Vec<u8> {
    let mut line = Line::new(style, now, Level::WARN, "handshake");
    let message = format!("and {} more in {} s", sum.more, sum.seconds);
    match style.format {
        Format::Json => {
            line.message(&message)
                .text("side", sum.side.as_str())
                .text("listener", &sum.listener)
                .text("outcome", sum.outcome.as_str());
        }
        Format::Text => {
            line.word(sum.side.as_str()).word(&sum.listener);
            line.coloured(&format!("{:<8}", sum.outcome.as_str()), colour(sum.outcome)).message(&message);
        }
    }
    line.text("reason", sum.reason)
        .text("source", &sum.source.to_string())
        .number("repeats", sum.more)
        .number("seconds", sum.seconds);
    line.finish()
}

/// Whether a keyring's Event counts in `rotations_total`, and as what.
pub(super) fn rotation(event: &keyring::Event) -> Option<(&str, &'static str)> {
    let keyring::Event::Moved { keyring, to, replaces, reason, .. } = event else { return None };
    let outcome = match (to, replaces) {
        (Standing::Current, Some(_)) if *reason == "rolled_back" => "rolled_back",
        (Standing::Current, Some(_)) => "done",
        (Standing::Staged, _) => "staged",
        (Standing::Refused, _) => "refused",
        _ => return None,
    };
    Some((keyring, outcome))
}

fn proof(line: &mut Line, event: &Event) {
    let Event::Proof { listener, connection, key_pair, outcome, reason, explanation, epoch } = event else { return };
    match line.format() {
        Format::Json => {
            line.text("side", "egress").text("listener", listener).text("outcome", outcome.as_str());
        }
        Format::Text => {
            line.word("egress").word(listener);
            line.coloured(&format!("{:<8}", outcome.as_str()), colour(*outcome));
        }
    }
    line.text("reason", reason)
        .text("key_pair", &key_pair.short())
        .text("explanation", explanation)
        .number("connection", *connection)
        .number("epoch", epoch.0);
}

fn learned(line: &mut Line, event: &Event) {
    let Event::Learned { listener, source, keyring, refused, shown, standing, reason, explanation, epoch, .. } = event
    else {
        return;
    };
    line.message(match standing {
        Lesson::Unconfirmed => "source refused the new key pair",
        Lesson::Confirmed => "source accepts only the previous key pair",
        Lesson::Forgotten => "source will be shown the new key pair again",
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

fn upstream(line: &mut Line, event: &Event) {
    let Event::Upstream { listener, upstream, keyring, key_pair, verdict, reason, explanation, next_try, epoch } =
        event
    else {
        return;
    };
    line.message(match verdict {
        Verdict::HandshakeOk => "upstream completed a handshake on the key pair",
        Verdict::Proved => "upstream accepts the key pair",
        Verdict::Refused => "upstream refuses the key pair",
    })
    .text("listener", listener)
    .text("upstream", upstream)
    .text("keyring", keyring)
    .text("key_pair", &key_pair.short())
    .text("verdict", verdict.as_str())
    .text("reason", reason)
    .text("explanation", explanation)
    .maybe("next_try", next_try.map(second).as_deref())
    .number("epoch", epoch.0);
}

fn alert(line: &mut Line, event: &Event) {
    let Event::Alert { alert, kind, urgent, keyring, key_pair, contact, explanation, remedy } = event else { return };
    line.message(if *urgent { "urgent alert" } else { "alert" })
        .text("kind", kind)
        .text("keyring", keyring)
        .maybe("key_pair", key_pair.map(|key_pair| key_pair.short()).as_deref())
        .maybe("contact", contact.as_deref())
        .text("explanation", explanation)
        .text("remedy", remedy)
        .text("alert", alert);
}

fn of_keyring(line: &mut Line, event: &keyring::Event) {
    match event {
        keyring::Event::Moved { keyring, key_pair, from, to, reason, explanation, replaces, overlap_ends, sources } => {
            line.message(moved(*to, replaces.is_some()))
                .text("keyring", keyring)
                .text("key_pair", &key_pair.short())
                .maybe("replaces", replaces.map(|old| old.short()).as_deref())
                .maybe("overlap_ends", overlap_ends.map(second).as_deref())
                .maybe("from", from.map(Standing::as_str))
                .text("to", to.as_str())
                .text("reason", reason)
                .text("explanation", explanation)
                .list("sources", sources);
        }
        keyring::Event::LastResort { keyring, key_pair, expired, served } => {
            line.message(if *served {
                "no valid key pair left: showing an expired one"
            } else {
                "no valid key pair left: showing none"
            })
            .text("keyring", keyring)
            .text("key_pair", &key_pair.short())
            .text("expired", &second(*expired));
        }
    }
}

/// A time, to the second.
fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The message of a change of standing.
const fn moved(to: Standing, rotation: bool) -> &'static str {
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

fn of_trust(line: &mut Line, event: &trust::Event, epoch: Epoch) {
    match event {
        trust::Event::AnchorAdded { trust, anchor, subject } => {
            line.message("trust anchor added")
                .text("trust", trust)
                .text("anchor", &anchor.short())
                .text("subject", subject);
        }
        trust::Event::AnchorLeaving { trust, anchor, subject, until } => {
            line.message("trust anchor scheduled for removal")
                .text("trust", trust)
                .text("anchor", &anchor.short())
                .text("subject", subject)
                .text("until", &second(*until));
        }
        trust::Event::AnchorRemoved { trust, anchor, subject, reason } => {
            line.message("trust anchor removed")
                .text("trust", trust)
                .text("anchor", &anchor.short())
                .text("subject", subject)
                .text("reason", reason);
        }
        trust::Event::FileKept { trust, file, why } => {
            line.message("trust file unusable; keeping the last usable set, if any")
                .text("trust", trust)
                .text("file", file)
                .text("explanation", why);
        }
        trust::Event::CrlsChanged { trust, count } => {
            line.message("CRLs loaded").text("trust", trust).number("count", *count);
        }
        trust::Event::CrlStale { trust, issuer, due } => {
            line.message("CRL out of date").text("trust", trust).text("issuer", issuer).text("due", &second(*due));
        }
    }
    line.number("epoch", epoch.0);
}
