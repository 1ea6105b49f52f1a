//! One verdict for a keyring in overlap: safe to retire, blocked by a peer, or what to wait for.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Before, Line, Report, Use};
use crate::pki::minute;

/// Whether the old pair can be retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retire {
    /// Every known peer has proved the new pair.
    Safe,
    /// At least one peer would fail: its operator has to act first.
    Call,
    /// Too little is known: wait, or ask the peers' operators.
    Wait,
}

impl Retire {
    /// As in the report for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe to retire",
            Self::Call => "blocked",
            Self::Wait => "wait",
        }
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its code.
    pub retire: Retire,
    /// One sentence, with the contact and what to do.
    pub sentence: String,
    /// The peer to contact first.
    pub first: Option<First>,
}

/// The peer to contact first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// The peer, source or upstream.
    pub name: String,
    /// Its partner.
    pub partner: Option<std::sync::Arc<str>>,
    /// Its operator's contact.
    pub contact: Option<String>,
}

impl Verdict {
    /// The verdict before anything is known.
    pub(super) const fn unknown() -> Self {
        Self { retire: Retire::Wait, sentence: String::new(), first: None }
    }
}

/// The verdict on a report whose lines are in order: those to act on first.
pub(super) fn of(report: &Report) -> Verdict {
    let count = |stands: Use| report.lines.iter().filter(|line| line.stands == stands).count();
    let (all, proved) = (report.lines.len(), count(Use::ProvedNew));
    let first = report.lines.iter().find(|line| line.stands != Use::ProvedNew);
    let days = report.seconds_left / 86_400;
    let left = match report.seconds_left {
        0 => "the overlap is about to end".to_owned(),
        seconds @ 1..120 => format!("{seconds} s left"),
        seconds @ 120..7_200 => format!("{} min left", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h left", seconds / 3600),
        _ => format!("{days} days left"),
    };
    let (retire, sentence) = match first.map(|line| (line, line.stands)) {
        Some((line, Use::InsistsOnOld)) => (Retire::Call, insists(line, count(Use::InsistsOnOld), all, &left)),
        Some((line, Use::StillOnOld)) => (Retire::Wait, still(line, count(Use::StillOnOld), all, &left)),
        Some((line, _)) => {
            let (unproved, not_seen) = (count(Use::Unproved), count(Use::NotSeen));
            (Retire::Wait, open(line, (unproved, not_seen), all, &left))
        }
        None if all == 0 => {
            let sentence =
                format!("no peer has used this keyring since {}: wait; {left}", minute(report.watched_since));
            (Retire::Wait, sentence)
        }
        None if report.rotated < report.watched_since || report.forgotten > 0 => (Retire::Wait, half(report, proved)),
        None => {
            let sentence = format!("{} the new key pair: the old one can be retired", everybody(proved));
            (Retire::Safe, sentence)
        }
    };
    Verdict {
        retire,
        sentence,
        first: first.map(|line| First {
            name: line.name.clone(),
            partner: line.partner.clone(),
            contact: line.contact.clone(),
        }),
    }
}

fn everybody(proved: usize) -> String {
    match proved {
        1 => "the only known peer has proved".to_owned(),
        2 => "both known peers have proved".to_owned(),
        _ => format!("all {proved} known peers have proved"),
    }
}

fn insists(line: &Line, count: usize, all: usize, left: &str) -> String {
    let mut text = format!("{count} of {all} peers would fail: call {} first", who(line));
    if let Some(because) = &line.because {
        let _ = write!(text, ", {because}");
    }
    let _ = write!(text, "; {left}");
    text
}

fn still(line: &Line, count: usize, all: usize, left: &str) -> String {
    let because = line.because.as_deref().unwrap_or("the new one was not tried");
    format!("{count} of {all} peers still use the old key pair, most often {}: {because}; {left}", who(line))
}

fn open(line: &Line, (unproved, not_seen): (usize, usize), all: usize, left: &str) -> String {
    let mut parts = Vec::new();
    if unproved > 0 {
        parts.push(format!("{unproved} of {all} peers have not proved the new key pair yet"));
    }
    if not_seen > 0 {
        parts.push(format!("{not_seen} of {all} peers have not been seen since the rotation"));
    }
    format!("{}: ask {} first, or wait; {left}", parts.join(", "), who(line))
}

/// All known peers accept the new pair, but some peers may be unknown.
fn half(report: &Report, proved: usize) -> String {
    let why = if report.forgotten > 0 {
        format!("{} peers exceeded the limit and were forgotten", report.forgotten)
    } else {
        let since = minute(report.watched_since);
        match report.before {
            Before::Unknown => format!("peers from before this process started ({since}) are unknown"),
            Before::Awaited => {
                format!("peers from before this process started ({since}) are unknown until the registry answers")
            }
            Before::Recalled => format!("peers from before the registry was created ({since}) are unknown"),
        }
    };
    format!("{} the new key pair, but {why}: wait for peers that connect rarely", everybody(proved))
}

/// `acme (uri:spiffe://acme/app, noc@acme.example)`.
fn who(line: &Line) -> String {
    let contact = line.contact.as_deref().map(|contact| format!("contact {contact}"));
    let (name, more) = match &line.partner {
        Some(partner) => (partner.to_string(), vec![Some(line.name.clone()), contact]),
        None => (line.name.clone(), vec![contact]),
    };
    let more: Vec<String> = more.into_iter().flatten().collect();
    if more.is_empty() { name } else { format!("{name} ({})", more.join(", ")) }
}
