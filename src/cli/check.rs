//! `sidekey check`: says, offline, what would be accepted and as what. Exit code 2 if something would be refused.

use super::{Failure, Source, print};
use crate::app::check::{self, Checked};
use crate::control::Voucher;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) source: Source,
    /// Only the configuration: the folder is elsewhere
    #[arg(long)]
    config_only: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.source.load().map_err(Failure::Wrong)?;
    if arguments.config_only {
        print::talk("sidekey: the configuration is fine");
        return Ok(());
    }
    let checked = check::check(&config).map_err(|error| Failure::Wrong(error.into()))?;
    if arguments.json {
        print::json(&checked);
    } else {
        say(&checked);
    }
    if checked.is_good() { Ok(()) } else { Err(Failure::Said(2)) }
}

/// Who would break without an anchor or a pin, the first few by name.
pub(super) fn would_break(voucher: &Voucher) -> String {
    const NAMED: usize = 8;
    let peers = &voucher.would_break;
    if peers.is_empty() {
        return "nobody is known who needs it".to_owned();
    }
    let more = if peers.len() > NAMED { format!(" and {} more", peers.len() - NAMED) } else { String::new() };
    format!("without it would break: {}{more}", peers[..peers.len().min(NAMED)].join(", "))
}

fn say(checked: &Checked) {
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
                pair.sources.join(" "),
            ]);
        }
    }
    print::bytes(print::table(&rows).as_bytes());
    for keyring in &checked.keyrings {
        for pair in keyring.key_pairs.iter().filter(|pair| pair.why.is_some()) {
            let why = pair.why.as_deref().unwrap_or_default();
            print::line(&format!("{} {}: {}", keyring.name, pair.key_pair.short(), why));
        }
    }
    for trust in &checked.trusts {
        print::line(&format!(
            "trust {}: {}",
            trust.name,
            if trust.holds.is_empty() { "nothing".to_owned() } else { trust.holds.join(", ") }
        ));
        for voucher in &trust.vouchers {
            // Without a state nothing is remembered, and nothing can be said.
            let Some(last) = voucher.last_matched else { continue };
            print::line(&format!("  {}: last vouched for a peer {last}; {}", voucher.subject, would_break(voucher)));
        }
    }
    for problem in &checked.problems {
        print::line(&format!(
            "{}: {} ({}): {}. {}",
            problem.severity, problem.file, problem.reason, problem.why, problem.remedy
        ));
    }
    for listener in &checked.listeners {
        match &listener.waits_for {
            None => print::line(&format!("{} {:?}: ready", listener.side.as_str(), listener.name)),
            Some(what) => print::line(&format!("{} {:?}: waits for {what}", listener.side.as_str(), listener.name)),
        }
    }
}
