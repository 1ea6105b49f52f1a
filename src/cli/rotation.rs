//! `sidekey rotation`: the report on every keyring in overlap, and which peers need which trust anchor or pin;
//! `rotation forget SOURCE`: forgets the refusals of a source or of an identity.

use std::sync::Arc;

use jiff::Timestamp;

use super::ask::{ControlArguments, unexpected};
use super::check::would_break;
use super::failure::CommandFailure;
use super::print;
use crate::clock::Clock;
use crate::control::{
    ControlAnswer, ControlRequest, PriorHistory, ReportLine, RotationProgress, RotationReport, SenderLine, TrustUsage,
};
use crate::pki::printable;
use crate::registry::short_fingerprint;

/// Senders of one peer that the text lists; `--json` has a hundred.
const MAX_SENDERS: usize = 10;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct RotationArguments {
    #[command(subcommand)]
    command: Option<RotationCommand>,
    /// Show only this keyring
    #[arg(long, value_name = "NAME")]
    keyring: Option<String>,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Subcommand)]
enum RotationCommand {
    /// Forget the refusals of a source or an identity, so that it is shown the new key pair again
    Forget(RotationForgetArguments),
}

#[derive(clap::Args)]
struct RotationForgetArguments {
    /// Source or identity as the report names it: ADDRESS, ADDRESS NAME, or an identity such as dns:etl.example
    #[arg(required = true, num_args = 1..=2, value_name = "SOURCE")]
    source: Vec<String>,
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &RotationArguments) -> Result<(), CommandFailure> {
    if let Some(RotationCommand::Forget(RotationForgetArguments { source, ask })) = &arguments.command {
        return ask.change(&ControlRequest::Forget { source: source.join(" ") });
    }
    let mut rotation = match arguments.ask.request_single(&ControlRequest::Rotation {})? {
        ControlAnswer::Rotation(rotation) => rotation,
        other => return Err(unexpected(&other)),
    };
    if let Some(keyring) = &arguments.keyring {
        Arc::make_mut(&mut rotation.keyrings).retain(|report| *report.keyring == **keyring);
        rotation.trusts.clear();
    }
    if arguments.ask.json {
        print::json(&rotation);
        return Ok(());
    }
    match &arguments.keyring {
        Some(keyring) if rotation.keyrings.is_empty() => {
            print::line(&format!("Keyring {} is not in overlap.", printable(keyring)));
        }
        None if rotation.keyrings.is_empty() => print::line("No keyring is in overlap."),
        _ => {}
    }
    let now = Clock::system().now();
    for (number, report) in rotation.keyrings.iter().enumerate() {
        if number > 0 {
            print::line("");
        }
        print_rotation(report, now);
    }
    for trust in rotation.trusts.iter().filter(|trust| !trust.vouchers.is_empty()) {
        print::line("");
        say_vouchers(trust, now);
    }
    Ok(())
}

/// Which peers need which anchor and pin.
fn say_vouchers(trust: &TrustUsage, now: Timestamp) {
    print::line(&format!("{}: which peers need which anchor or pin", trust.describe_trust()));
    for voucher in &trust.vouchers {
        let until = voucher.until.map_or_else(String::new, |until| {
            format!("accepted until {} ({}); ", print::format_minute(until), print::in_time(now, until))
        });
        let last = voucher
            .last_matched
            .map_or_else(String::new, |last| format!("last verified a peer {}; ", print::in_time(now, last)));
        print::line(&format!(
            "  {} {}: {until}{last}{}",
            voucher.subject,
            short_fingerprint(&voucher.id),
            would_break(voucher)
        ));
    }
}

fn print_rotation(report: &RotationReport, now: Timestamp) {
    let verdict = &report.verdict;
    print::line(&format!("keyring {}: {}", report.keyring, verdict.retire.as_str()));
    print::line(&format!("  {}", verdict.sentence));
    print::line("");
    print::field(
        "new",
        &format!(
            "{}  current since {} ({})",
            report.current.short(),
            print::format_minute(report.rotated),
            print::in_time(now, report.rotated)
        ),
    );
    for previous in &report.previous {
        let kept = if previous.survives_restart { "" } else { "; a restart ends it: no state, and its files are gone" };
        let (ends, left) = (print::format_minute(previous.ends), print::in_time(now, previous.ends));
        print::field("old", &format!("{}  overlap ends {ends} ({left}){kept}", previous.key_pair.short()));
    }
    if let Some(owner) = &report.owner {
        print::field("owner", owner);
    }
    if let Some(contact) = &report.contact {
        print::field("contact", contact);
    }
    print::field("counts", &format!("senders seen in the last {}", print::length(report.seen_within_seconds)));
    if let Some(why) = unknown(report) {
        print::field("watched", &format!("since {}: {why}", print::format_minute(report.watched_since)));
    }
    if !report.lines.is_empty() {
        print::line("");
        print::bytes(print::indented(&print::table(&rows(report, now))).as_bytes());
        reasons(report, now);
    }
    if !report.verdict.unknown.is_empty() {
        print::line("");
        print::line("  This report cannot know, and does not wait for:");
        for sentence in &report.verdict.unknown {
            print::line(&format!("  - {sentence}"));
        }
    }
}

/// What may be unknown of the time before the report watches, where there is such a time.
fn unknown(report: &RotationReport) -> Option<&'static str> {
    let is_younger = report.rotated < report.watched_since;
    match report.before {
        PriorHistory::Awaited => Some("the registry, which may know earlier peers, has not answered yet"),
        PriorHistory::Unknown if is_younger => Some("this process started after the rotation, and has no registry"),
        PriorHistory::Recalled if is_younger => Some("the registry was created after the rotation"),
        PriorHistory::Unknown | PriorHistory::Recalled => None,
    }
}

fn rows(report: &RotationReport, now: Timestamp) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["WHO", "PARTNER", "LISTENER", "NEW KEY PAIR", "ON NEW", "ON OLD", "LAST", "CONTACT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for line in &report.lines {
        let last = line.last_new.max(line.last_old);
        rows.push(vec![
            line.name.clone(),
            line.partner.as_deref().map_or_else(print::dash, str::to_owned),
            line.listener.to_string(),
            line.stands.as_str().to_owned(),
            line.handshakes_new.to_string(),
            line.handshakes_old.to_string(),
            last.map_or_else(print::dash, |last| print::in_time(now, last)),
            line.contact.clone().unwrap_or_else(print::dash),
        ]);
        rows.extend(sender_rows(line, now));
    }
    for line in &report.anonymous {
        rows.push(vec![
            format!("{} (no certificate)", line.name),
            print::dash(),
            line.listener.to_string(),
            line.stands.as_str().to_owned(),
            line.handshakes_new.to_string(),
            line.handshakes_old.to_string(),
            line.last_new.max(line.last_old).map_or_else(print::dash, |last| print::in_time(now, last)),
            print::dash(),
        ]);
    }
    rows
}

/// The senders of a peer, where they differ or one has not proved the new pair: the last is said how many more there are.
fn sender_rows(line: &ReportLine, now: Timestamp) -> Vec<Vec<String>> {
    let (all, proved) = (line.senders_known, line.senders_proved);
    if all <= 1 || proved == all {
        return Vec::new();
    }
    let row = |name: String, stands: String, sender: Option<&SenderLine>| {
        let count = |number: fn(&SenderLine) -> u64| sender.map_or_else(String::new, |one| number(one).to_string());
        let last = sender.map_or_else(String::new, |one| print::in_time(now, one.last_seen));
        let (new, old) = (count(|one| one.handshakes_new), count(|one| one.handshakes_old));
        vec![name, String::new(), String::new(), stands, new, old, last, String::new()]
    };
    let mut rows: Vec<Vec<String>> = line
        .senders
        .iter()
        .take(MAX_SENDERS)
        .map(|sender| {
            let certificate = sender.certificate.map_or_else(String::new, |one| format!(" {}", one.short()));
            row(format!("  {}{certificate}", sender.source), sender.stands.as_str().to_owned(), Some(sender))
        })
        .collect();
    if let Some(more) = all.checked_sub(rows.len() as u64).filter(|more| *more > 0) {
        rows.push(row(format!("  and {more} more"), String::new(), None));
    }
    rows
}

/// Since when and why, for the peers that do not simply use the new pair.
fn reasons(report: &RotationReport, now: Timestamp) {
    let to_say = |line: &&ReportLine| line.stands != RotationProgress::ProvedNew && line.because.is_some();
    for line in report.lines.iter().filter(to_say) {
        let since = line.since.map_or_else(String::new, |since| format!(" since {}", print::format_minute(since)));
        let because = line.because.as_deref().unwrap_or_default();
        let next = line.next_try.map_or_else(String::new, |next| describe_attempt(next, now));
        print::line(&format!("  {} {}{since} because {because}{next}", line.name, line.stands.as_str()));
    }
}

/// A pair that is due is tried by the next request that may: without one nothing happens at its time.
fn describe_attempt(next: Timestamp, now: Timestamp) -> String {
    if next <= now {
        return "; next attempt with the next request".to_owned();
    }
    format!("; next attempt {}", print::in_time(now, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_is_due_comes_with_the_next_request() {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let said = |seconds: i64| describe_attempt(now + jiff::SignedDuration::from_secs(seconds), now);
        assert_eq!(said(-44), "; next attempt with the next request");
        assert_eq!(said(0), "; next attempt with the next request");
        assert_eq!(said(44), "; next attempt in 44 s");
    }
}
