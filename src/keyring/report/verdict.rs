//! One verdict for a keyring in overlap: safe to retire, whom to call first, or what to wait for.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Before, Line, Report, Use};
use crate::pki::minute;

/// May the old pair be retired?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retire {
    /// Everybody that is known has proved the new pair.
    Safe,
    /// Somebody would break: call.
    Call,
    /// Too little is known: wait, or ask.
    Wait,
}

impl Retire {
    /// As in the report for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe to retire",
            Self::Call => "call first",
            Self::Wait => "wait",
        }
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its code.
    pub retire: Retire,
    /// One sentence, with whom and what to do.
    pub sentence: String,
    /// Whom to call, or to ask, first.
    pub first: Option<First>,
}

/// Whom to call first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// The peer, source or upstream.
    pub name: String,
    /// Its partner.
    pub partner: Option<std::sync::Arc<str>>,
    /// How to reach them.
    pub contact: Option<String>,
}

impl Verdict {
    /// Before anything is known.
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
        seconds @ 1..120 => format!("{seconds} s are left"),
        seconds @ 120..7_200 => format!("{} min are left", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h are left", seconds / 3600),
        _ => format!("{days} days are left"),
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
                format!("nobody has used this keyring since {}: {left} to see who does", minute(report.watched_since));
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
        1 => "the only one that came has proved".to_owned(),
        2 => "both that came have proved".to_owned(),
        _ => format!("all {proved} that came have proved"),
    }
}

fn insists(line: &Line, count: usize, all: usize, left: &str) -> String {
    let mut text = format!("{count} of {all} would break: call {} first", who(line));
    if let Some(because) = &line.because {
        let _ = write!(text, ", {because}");
    }
    let _ = write!(text, "; {left}");
    text
}

fn still(line: &Line, count: usize, all: usize, left: &str) -> String {
    let because = line.because.as_deref().unwrap_or("the new one was not tried");
    format!("{count} of {all} are still on the old key pair, {} first of all: {because}; {left}", who(line))
}

fn open(line: &Line, (unproved, not_seen): (usize, usize), all: usize, left: &str) -> String {
    let mut parts = Vec::new();
    if unproved > 0 {
        parts.push(format!("{unproved} of {all} have not proved the new key pair yet"));
    }
    if not_seen > 0 {
        parts.push(format!("{not_seen} of {all} were not seen since the rotation"));
    }
    format!("{}: ask {} first, or wait; {left}", parts.join(", "), who(line))
}

/// Everybody who came is fine, but not everybody who may come is known.
fn half(report: &Report, proved: usize) -> String {
    let why = if report.forgotten > 0 {
        format!("{} peers were more than could be remembered", report.forgotten)
    } else {
        let since = minute(report.watched_since);
        match report.before {
            Before::Unknown => format!("who came before this process began to watch ({since}) is not known"),
            Before::Awaited => {
                format!("who came before this process began to watch ({since}) is not known until the registry answers")
            }
            Before::Recalled => format!("who came before the registry was begun ({since}) is not known"),
        }
    };
    format!("{} the new key pair, but {why}: wait for those that come seldom", everybody(proved))
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
