//! `sidekey handshakes`: the handshakes of the recent past, and with `--follow` those to come; `handshakes show ID`: one
//! with everything that is known, the other side's certificates as PEM among it.

use serde_json::Value;

use super::ask::{ControlArguments, unexpected};
use super::failure::CommandFailure;
use super::print;
use crate::clock::Clock;
use crate::config;
use crate::control::{ControlAnswer, ControlRequest, HandshakeFilter, HandshakeFormat};

/// How many are shown by default.
const LAST: usize = 50;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct HandshakesArguments {
    #[command(subcommand)]
    command: Option<HandshakesCommand>,
    /// Show only failed handshakes
    #[arg(long)]
    failed: bool,
    /// Show only handshakes with this peer: part of its identity, subject or address, or the name of its partner
    #[arg(long, value_name = "TEXT")]
    peer: Option<String>,
    /// Show only handshakes of this recent period, such as 90s, 12h or 7d
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
    /// Show only this side
    #[arg(long, value_parser = ["ingress", "egress"])]
    side: Option<String>,
    /// Show only this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Show only handshakes that showed a key pair of this keyring
    #[arg(long, value_name = "NAME")]
    keyring: Option<String>,
    /// Show at most this many, the latest; 0 shows all [default: 50; all with --since or --json]
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
    /// Follow new handshakes
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    ask: ControlArguments,
}

#[derive(clap::Subcommand)]
enum HandshakesCommand {
    /// Show one handshake with everything that is known
    Show(HandshakesShowArguments),
}

#[derive(clap::Args)]
struct HandshakesShowArguments {
    /// Number of its connection
    id: u64,
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &HandshakesArguments) -> Result<(), CommandFailure> {
    if let Some(HandshakesCommand::Show(show)) = &arguments.command {
        return print_handshake(show);
    }
    let ask = &arguments.ask;
    let request = request(arguments)?;
    let answers = if arguments.follow { ask.follow(&request)? } else { ask.send_request(&request)? };
    for answer in answers {
        match answer? {
            ControlAnswer::Line(line) => print::line(&line),
            // One object per line: a reader need not wait for the end.
            ControlAnswer::Handshake(object) => print::line(&object.to_string()),
            ControlAnswer::Refused(refused) => return Err(ask.refused(refused)),
            other => return Err(unexpected(&other)),
        }
        if print::is_closed() {
            return Ok(());
        }
    }
    Ok(())
}

fn request(arguments: &HandshakesArguments) -> Result<ControlRequest, CommandFailure> {
    let since = match &arguments.since {
        None => None,
        Some(text) => {
            let back =
                config::parse_duration(text).map_err(|why| CommandFailure::Wrong(anyhow::anyhow!("--since: {why}")))?;
            Some(Clock::system().now().saturating_sub(back)?)
        }
    };
    let all = arguments.since.is_some() || arguments.ask.json;
    let last = arguments.last.or((!all).then_some(LAST)).filter(|last| *last > 0);
    let filter = HandshakeFilter {
        failed: arguments.failed,
        peer: arguments.peer.clone(),
        since,
        side: arguments.side.clone(),
        listener: arguments.listener.clone(),
        keyring: arguments.keyring.clone(),
        last,
    };
    let form = match (arguments.ask.json, print::has_colour()) {
        (true, _) => HandshakeFormat::Json,
        (false, true) => HandshakeFormat::Coloured,
        (false, false) => HandshakeFormat::Text,
    };
    Ok(ControlRequest::Handshakes { filter, follow: arguments.follow, form })
}

/// The fields in the order in which they are asked about.
const FIELDS: [&str; 33] = [
    "time",
    "side",
    "listener",
    "outcome",
    "reason",
    "explanation",
    "alert.sent",
    "alert.received",
    "peer.addr",
    "peer.identity",
    "partner",
    "peer.subject",
    "peer.issuer",
    "peer.serial",
    "peer.fingerprint",
    "peer.not_after",
    "chain",
    "server.name",
    "tls.protocol.version",
    "tls.cipher",
    "tls.group",
    "tls.alpn",
    "tls.resumed",
    "keyring",
    "key_pair",
    "standing",
    "chosen_by",
    "epoch",
    "connection",
    "duration_us",
    "level",
    "target",
    "truncated",
];

fn print_handshake(show: &HandshakesShowArguments) -> Result<(), CommandFailure> {
    let handshake = match show.ask.request_single(&ControlRequest::Handshake { id: show.id })? {
        ControlAnswer::Handshake(handshake) => handshake,
        other => return Err(unexpected(&other)),
    };
    if show.ask.json {
        print::json(&handshake);
        return Ok(());
    }
    let said = |name: &str| !matches!(name, "level" | "target");
    for name in FIELDS.into_iter().filter(|name| said(name)) {
        if let Some(value) = handshake.get(name) {
            print_field(name, value);
        }
    }
    for pem in handshake.get("chain_pem").and_then(Value::as_array).into_iter().flatten() {
        print::bytes(pem.as_str().unwrap_or_default().as_bytes());
    }
    Ok(())
}

fn print_field(name: &str, value: &Value) {
    match value {
        Value::String(text) => print::line(&format!("{name:<21} {text}")),
        Value::Array(all) => {
            for (number, one) in all.iter().enumerate() {
                let name = if number == 0 { name } else { "" };
                print::line(&format!("{name:<21} {}", one.as_str().unwrap_or_default()));
            }
        }
        value => print::line(&format!("{name:<21} {value}")),
    }
}
