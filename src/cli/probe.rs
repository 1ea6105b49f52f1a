//! `sidekey probe HOST:PORT`: what a partner offers, requests and shows, and how it responds to each of our key pairs.

use std::time::Duration;

use super::failure::CommandFailure;
use super::folder::FolderArguments;
use super::print;
use crate::config;
use crate::offline::probe;
use crate::offline::probe::{ProbeReport, ProbeRequest, ProbeVerdict};

#[derive(clap::Args)]
pub(super) struct ProbeArguments {
    /// Server of the partner
    #[arg(value_name = "HOST:PORT")]
    to: String,
    /// Try the key pairs of this keyring [default: that of the egress to this address, else every keyring]
    #[arg(long, value_name = "KEYRING")]
    keyring: Vec<String>,
    /// Verify the server by this trust, or "system" [default: that of the egress, else the keyring's ca.crt, else the platform's]
    #[arg(long, value_name = "TRUST")]
    trust: Option<String>,
    /// The name that its certificate must have [default: that of the egress, else the host]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// How long to wait, after a handshake, for the server's response to our key pair
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    wait: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: FolderArguments,
}

pub(super) fn run(arguments: &ProbeArguments) -> Result<(), CommandFailure> {
    let wrong = |error: String| CommandFailure::Wrong(anyhow::anyhow!(error));
    let to = config::parse_upstream(&format!("https://{}", arguments.to)).map_err(wrong)?;
    let wait = config::parse_duration(&arguments.wait).map_err(|error| wrong(format!("--wait: {error}")))?;
    let probe = ProbeRequest {
        to,
        keyrings: arguments.keyring.clone(),
        trust: arguments.trust.clone(),
        server_name: arguments.server_name.clone(),
        wait: wait.min(Duration::from_mins(1)),
    };
    let report = probe::probe(&arguments.place.config()?, &probe).map_err(|error| match error {
        probe::ProbeError::Wrong(_) => CommandFailure::Wrong(error.into()),
        probe::ProbeError::Tls(_) | probe::ProbeError::NotReached(_) | probe::ProbeError::Start(_) => {
            CommandFailure::Failed(error.into())
        }
    })?;
    if arguments.json {
        print::json(&report);
    } else {
        print_probe(&report);
    }
    // If every pair that was shown was refused, or none was shown, the operator has to act.
    let taken = |answer: &probe::ProbeAnswer| {
        answer.key_pair.is_some() && matches!(answer.verdict, ProbeVerdict::Taken | ProbeVerdict::Silent)
    };
    if report.answers.iter().any(taken) { Ok(()) } else { Err(CommandFailure::Said(1)) }
}

fn print_probe(report: &ProbeReport) {
    print::line(&report.upstream);
    for offer in &report.offers {
        let spoken = if offer.spoken { "" } else { "not supported: " };
        print::field(&format!("TLS {}", offer.version), &format!("{spoken}{}", offer.says));
    }
    for (at, certificate) in report.shows.iter().enumerate() {
        print::field(if at == 0 { "shows" } else { "" }, certificate);
    }
    match &report.not_trusted {
        _ if report.shows.is_empty() => {}
        None => print::field("trusted", &format!("by {}", report.describe_trust())),
        Some(why) => {
            print::field("NOT trusted", &format!("by {}: {why}; no key pair was shown", report.describe_trust()))
        }
    }
    match &report.asks {
        None if report.shows.is_empty() => {}
        None => print::field("requests", "no client certificate"),
        Some(asks) => {
            let any = "any authority".to_owned();
            let names = if asks.authorities.is_empty() { any } else { asks.authorities.join("; ") };
            print::field("requests", &format!("a client certificate issued by {names}"));
            print::field("signed with", &asks.schemes.join(" "));
        }
    }
    for answer in &report.answers {
        let what = match (&answer.key_pair, answer.standing) {
            (Some(key_pair), Some(standing)) => {
                format!("{} {} {} ({})", answer.keyring, key_pair.short(), standing.as_str(), answer.subject)
            }
            _ => "no key pair".to_owned(),
        };
        print::line(&format!("  {:<12} {what}", answer.verdict.as_str()));
        print::line(&format!("               {}", answer.says));
    }
}
