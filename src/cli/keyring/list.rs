//! `sidekey keyring list`: one line per keyring, and what waits in it.

use super::super::ask::{ControlArguments, unexpected};
use super::super::failure::CommandFailure;
use super::super::print;
use crate::clock::Clock;
use crate::control::{ControlAnswer, ControlRequest, KeyringView, Standing};

#[derive(clap::Args)]
pub(super) struct KeyringListArguments {
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &KeyringListArguments) -> Result<(), CommandFailure> {
    let keyrings = match arguments.ask.request_single(&ControlRequest::Keyrings {})? {
        ControlAnswer::Keyrings(keyrings) => keyrings,
        other => return Err(unexpected(&other)),
    };
    if arguments.ask.json {
        print::json(&keyrings);
        return Ok(());
    }
    let now = Clock::system().now();
    let mut rows = vec![
        ["KEYRING", "CURRENT", "EXPIRES", "PREVIOUS", "OVERLAP ENDS", "WAITING", "OWNER"].map(str::to_owned).to_vec(),
    ];
    for keyring in &keyrings.keyrings {
        let current = keyring.pairs_with_standing(Standing::Current).next();
        let overlap = keyring.pairs_with_standing(Standing::Previous).filter_map(|pair| pair.overlap_ends).max();
        rows.push(vec![
            keyring.name.to_string(),
            current.map_or_else(|| "none".to_owned(), |pair| pair.key_pair.short()),
            current.map_or_else(print::dash, |pair| print::in_time(now, pair.validity.not_after)),
            names(keyring, Standing::Previous),
            overlap.map_or_else(print::dash, |ends| print::in_time(now, ends)),
            waiting(keyring),
            keyring.owner.clone().unwrap_or_else(print::dash),
        ]);
    }
    print::bytes(print::table(&rows).as_bytes());
    Ok(())
}

fn names(keyring: &KeyringView, standing: Standing) -> String {
    let names: Vec<String> = keyring.pairs_with_standing(standing).map(|pair| pair.key_pair.short()).collect();
    if names.is_empty() { print::dash() } else { names.join(" ") }
}

/// `1 staged, 2 refused`.
fn waiting(keyring: &KeyringView) -> String {
    let count = |standing: Standing| match keyring.pairs_with_standing(standing).count() {
        0 => None,
        count => Some(format!("{count} {}", standing.as_str())),
    };
    let all: Vec<String> = [Standing::Staged, Standing::Refused].into_iter().filter_map(count).collect();
    if all.is_empty() { print::dash() } else { all.join(", ") }
}
