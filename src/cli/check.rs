//! `sidekey check`: shows, offline, what would be accepted and as what. Exit code 2 if something would be refused.

use std::fmt::Write as _;

use super::failure::CommandFailure;
use super::print;
use super::source::ConfigSource;
use crate::control::{AnchorUsage, KeyPairView};
use crate::offline::check;
use crate::offline::check::{CheckAnchor, CheckProblem, CheckReport};
use crate::pki::{first_few, format_day, format_second};
use crate::registry::short_fingerprint;

#[derive(clap::Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    pub(super) source: ConfigSource,
    /// Check only the configuration, for when the folder is elsewhere
    #[arg(long)]
    config_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &CheckArguments) -> Result<(), CommandFailure> {
    let config = arguments.source.load()?;
    if arguments.config_only {
        print::talk("sidekey: the configuration is valid");
        return Ok(());
    }
    let checked = check::check(&config).map_err(|error| CommandFailure::Wrong(error.into()))?;
    if arguments.json {
        print::json(&checked);
    } else {
        print_report(&checked);
    }
    if checked.is_good() { Ok(()) } else { Err(CommandFailure::Said(2)) }
}

/// How many names one line has.
const NAMED: usize = 8;

/// Which peers would fail without an anchor or a pin, the first few by name.
pub(super) fn would_break(voucher: &AnchorUsage) -> String {
    let peers = &voucher.would_break;
    if peers.is_empty() {
        return "no known peer needs it".to_owned();
    }
    format!("without it these peers would fail: {}", first_few(peers, NAMED))
}

/// Subjects have commas of their own and may be shared, and the platform's store has 150. What has expired comes first.
fn describe_anchors(held: &[CheckAnchor]) -> String {
    if held.is_empty() {
        return "nothing".to_owned();
    }
    let mut held: Vec<&CheckAnchor> = held.iter().collect();
    held.sort_by_key(|anchor| !anchor.expired);
    first_few(&held.into_iter().map(describe_anchor).collect::<Vec<_>>(), NAMED)
}

fn describe_anchor(anchor: &CheckAnchor) -> String {
    let mut text = match &anchor.subject {
        Some(subject) => format!("\"{subject}\" {}", short_fingerprint(&anchor.id)),
        None => format!("pin {}", anchor.id),
    };
    if let Some(end) = anchor.not_after {
        let _ = write!(text, " ({} {})", if anchor.expired { "EXPIRED on" } else { "expires on" }, format_day(end));
    }
    if let Some(until) = anchor.until {
        let _ = write!(text, " (accepted until {})", format_second(until));
    }
    text
}

/// In parts with a blank line between them; a part without a line leaves none.
fn print_report(checked: &CheckReport) {
    let parts = [pairs(checked), reasons(checked), trusts(checked), problems(checked), listeners(checked)];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    print::bytes(parts.join("\n").as_bytes());
}

fn pairs(checked: &CheckReport) -> String {
    let mut rows =
        vec![["KEYRING", "KEY PAIR", "STANDING", "NOT AFTER", "SUBJECT", "NAMES", "FILES"].map(str::to_owned).to_vec()];
    for keyring in &checked.keyrings {
        for pair in &keyring.key_pairs {
            rows.push(vec![
                keyring.name.to_string(),
                pair.key_pair.short(),
                pair.standing.as_str().to_owned(),
                format_second(pair.validity.not_after),
                pair.subject.clone(),
                if pair.names.is_empty() { print::dash() } else { first_few(&pair.names, NAMED) },
                files(pair),
            ]);
        }
    }
    if rows.len() == 1 { "no key pairs found\n".to_owned() } else { print::table(&rows) }
}

/// The pair's own files, and those that it only takes intermediates from.
fn files(pair: &KeyPairView) -> String {
    let own = pair.sources.join(" ");
    if pair.chain_sources.is_empty() { own } else { format!("{own} (chain: {})", pair.chain_sources.join(" ")) }
}

/// Why a key pair is not current.
fn reasons(checked: &CheckReport) -> String {
    let mut out = String::new();
    for keyring in &checked.keyrings {
        for pair in &keyring.key_pairs {
            if let Some(why) = &pair.why {
                let _ = writeln!(out, "{} {} ({}): {why}", keyring.name, pair.key_pair.short(), files(pair));
            }
        }
    }
    out
}

fn trusts(checked: &CheckReport) -> String {
    let mut out = String::new();
    for trust in &checked.trusts {
        let _ = writeln!(out, "{}: {}", trust.describe_trust(), describe_anchors(&trust.holds));
        for voucher in &trust.vouchers {
            // Without a state nothing is remembered, and nothing can be reported.
            let Some(last) = voucher.last_matched else { continue };
            let _ = writeln!(
                out,
                "  {} {}: last verified a peer {}; {}",
                voucher.subject,
                short_fingerprint(&voucher.id),
                format_second(last),
                would_break(voucher)
            );
        }
    }
    out
}

fn problems(checked: &CheckReport) -> String {
    let mut out = String::new();
    for problem in &checked.problems {
        let CheckProblem { severity, file, reason, why, remedy } = problem;
        let _ = writeln!(out, "{severity}: {file} ({reason}): {why}; what to do: {remedy}");
    }
    out
}

fn listeners(checked: &CheckReport) -> String {
    let mut out = String::new();
    for listener in &checked.listeners {
        let (side, name) = (listener.side.as_str(), &listener.name);
        let _ = match &listener.waits_for {
            None => writeln!(out, "{side} {name:?}: ready"),
            Some(what) => writeln!(out, "{side} {name:?}: waits for {what}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(subject: Option<&str>, id: &str, expired: bool) -> CheckAnchor {
        let not_after = subject.map(|_| "2026-11-25T12:00:00Z".parse().unwrap());
        CheckAnchor { id: id.repeat(12), subject: subject.map(str::to_owned), not_after, expired, until: None }
    }

    #[test]
    fn anchors_of_one_name_are_told_apart_and_expired_ones_and_pins_are_marked() {
        assert_eq!(describe_anchors(&[]), "nothing");
        let held =
            [anchor(Some("CN=A, O=X"), "a", false), anchor(Some("CN=A, O=X"), "b", true), anchor(None, "cd", false)];
        assert_eq!(
            describe_anchors(&held),
            "\"CN=A, O=X\" bbbbbbbbbbbb (EXPIRED on 2026-11-25), \"CN=A, O=X\" aaaaaaaaaaaa (expires on 2026-11-25), \
             pin cdcdcdcdcdcdcdcdcdcdcdcd"
        );
        // As fingerprints are written.
        let one = CheckAnchor { id: format!("sha256:{}", "3f".repeat(32)), ..anchor(Some("CN=A"), "a", false) };
        assert_eq!(describe_anchors(&[one]), "\"CN=A\" 3f3f3f3f3f3f (expires on 2026-11-25)");
        let many: Vec<CheckAnchor> = (0..150).map(|n| anchor(Some(&format!("CN={n}")), "a", false)).collect();
        assert!(describe_anchors(&many).ends_with("and 142 more"), "{}", describe_anchors(&many));
    }
}
