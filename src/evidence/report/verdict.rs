//! One verdict for a keyring in overlap: safe to retire, blocked by a peer, or what to wait for.

use std::fmt::Write as _;

use super::shape::{
    FirstContact, PriorHistory, ReportLine, RetireAdvice, RotationProgress, RotationReport, RotationVerdict,
};
use crate::pki::format_minute;

/// The verdict on a report whose lines are in order: those to act on first.
pub(super) fn judge_report(report: &RotationReport) -> RotationVerdict {
    let count = |stands: RotationProgress| report.lines.iter().filter(|line| line.stands == stands).count();
    let (all, proved) = (report.lines.len(), count(RotationProgress::ProvedNew));
    let first = report.lines.iter().find(|line| line.stands != RotationProgress::ProvedNew);
    let days = report.seconds_left / 86_400;
    let left = match report.seconds_left {
        0 => "the overlap is about to end".to_owned(),
        seconds @ 1..120 => format!("{seconds} s left"),
        seconds @ 120..7_200 => format!("{} min left", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h left", seconds / 3600),
        _ => format!("{days} days left"),
    };
    let (retire, sentence) = match first.map(|line| (line, line.stands)) {
        Some((line, RotationProgress::InsistsOnOld)) => {
            (RetireAdvice::Call, explain_blocked(line, count(RotationProgress::InsistsOnOld), all, &left))
        }
        Some((line, RotationProgress::StillOnOld)) => {
            (RetireAdvice::Wait, explain_on_old(line, count(RotationProgress::StillOnOld), all, &left))
        }
        Some((line, _)) => {
            let (unproved, not_seen) = (count(RotationProgress::Unproved), count(RotationProgress::NotSeen));
            (RetireAdvice::Wait, explain_unproved(line, (unproved, not_seen), all, &left))
        }
        None if all == 0 => {
            let sentence =
                format!("no peer has used this keyring since {}: wait; {left}", format_minute(report.watched_since));
            (RetireAdvice::Wait, sentence)
        }
        None if report.rotated < report.watched_since || report.forgotten > 0 => {
            (RetireAdvice::Wait, explain_incomplete(report, proved))
        }
        None => {
            let sentence = format!("{} the new key pair: the old one can be retired", describe_proved(proved));
            (RetireAdvice::Safe, sentence)
        }
    };
    RotationVerdict {
        retire,
        sentence,
        first: first.map(|line| FirstContact {
            name: line.name.clone(),
            partner: line.partner.clone(),
            contact: line.contact.clone(),
        }),
    }
}

fn describe_proved(proved: usize) -> String {
    match proved {
        1 => "the only known peer has proved".to_owned(),
        2 => "both known peers have proved".to_owned(),
        _ => format!("all {proved} known peers have proved"),
    }
}

fn explain_blocked(line: &ReportLine, count: usize, all: usize, left: &str) -> String {
    let mut text = format!("{count} of {all} peers would fail: call {} first", describe_line(line));
    if let Some(because) = &line.because {
        let _ = write!(text, ", {because}");
    }
    let _ = write!(text, "; {left}");
    text
}

fn explain_on_old(line: &ReportLine, count: usize, all: usize, left: &str) -> String {
    let because = line.because.as_deref().unwrap_or("the new one was not tried");
    format!("{count} of {all} peers still use the old key pair, most often {}: {because}; {left}", describe_line(line))
}

fn explain_unproved(line: &ReportLine, (unproved, not_seen): (usize, usize), all: usize, left: &str) -> String {
    let mut parts = Vec::new();
    if unproved > 0 {
        parts.push(format!("{unproved} of {all} peers have not proved the new key pair yet"));
    }
    if not_seen > 0 {
        parts.push(format!("{not_seen} of {all} peers have not been seen since the rotation"));
    }
    format!("{}: ask {} first, or wait; {left}", parts.join(", "), describe_line(line))
}

/// All known peers accept the new pair, but some peers may be unknown.
fn explain_incomplete(report: &RotationReport, proved: usize) -> String {
    let why = if report.forgotten > 0 {
        format!("{} peers exceeded the limit and were forgotten", report.forgotten)
    } else {
        let since = format_minute(report.watched_since);
        match report.before {
            PriorHistory::Unknown => format!("peers from before this process started ({since}) are unknown"),
            PriorHistory::Awaited => {
                format!("peers from before this process started ({since}) are unknown until the registry answers")
            }
            PriorHistory::Recalled => format!("peers from before the registry was created ({since}) are unknown"),
        }
    };
    format!("{} the new key pair, but {why}: wait for peers that connect rarely", describe_proved(proved))
}

/// `acme (uri:spiffe://acme/app, noc@acme.example)`.
fn describe_line(line: &ReportLine) -> String {
    let contact = line.contact.as_deref().map(|contact| format!("contact {contact}"));
    let (name, more) = match &line.partner {
        Some(partner) => (partner.to_string(), vec![Some(line.name.clone()), contact]),
        None => (line.name.clone(), vec![contact]),
    };
    let more: Vec<String> = more.into_iter().flatten().collect();
    if more.is_empty() { name } else { format!("{name} ({})", more.join(", ")) }
}
