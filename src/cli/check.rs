//! `sidekey check`: shows, offline, what would be accepted and as what. Exit code 2 if something would be refused.

use std::fmt::Write as _;

use super::failure::CommandFailure;
use super::print;
use super::source::ConfigSource;
use crate::control::{AnchorUsage, KeyPairView};
use crate::offline::check;
use crate::offline::check::{CheckProblem, CheckReport};
use crate::pki::first_few;

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

/// Subjects have commas of their own, and the platform's store has 150.
fn holds(subjects: &[String]) -> String {
    if subjects.is_empty() {
        return "nothing".to_owned();
    }
    first_few(&subjects.iter().map(|subject| format!("\"{subject}\"")).collect::<Vec<_>>(), NAMED)
}

/// In parts with a blank line between them; a part without a line leaves none.
fn print_report(checked: &CheckReport) {
    let parts = [pairs(checked), reasons(checked), trusts(checked), problems(checked), listeners(checked)];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    print::bytes(parts.join("\n").as_bytes());
}

fn pairs(checked: &CheckReport) -> String {
    let mut rows =
        vec![["KEYRING", "KEY PAIR", "STANDING", "NOT AFTER", "SUBJECT", "FILES"].map(str::to_owned).to_vec()];
    for keyring in &checked.keyrings {
        for pair in &keyring.key_pairs {
            rows.push(vec![
                keyring.name.to_string(),
                pair.key_pair.short(),
                pair.standing.as_str().to_owned(),
                pair.validity.not_after.to_string(),
                pair.subject.clone(),
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
        let _ = writeln!(out, "trust {}: {}", trust.name, holds(&trust.holds));
        for voucher in &trust.vouchers {
            // Without a state nothing is remembered, and nothing can be reported.
            let Some(last) = voucher.last_matched else { continue };
            let _ = writeln!(out, "  {}: last verified a peer {last}; {}", voucher.subject, would_break(voucher));
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

    #[test]
    fn subjects_are_told_apart_and_a_store_of_many_is_not_listed_whole() {
        assert_eq!(holds(&[]), "nothing");
        let two = ["CN=A, O=X".to_owned(), "CN=B".to_owned()];
        assert_eq!(holds(&two), "\"CN=A, O=X\", \"CN=B\"");
        let many: Vec<String> = (0..150).map(|n| format!("CN={n}")).collect();
        assert!(holds(&many).ends_with("\"CN=7\" and 142 more"), "{}", holds(&many));
    }
}
