//! `sidekey status`: shows what needs attention, first of all. Exit code 1 if anything does.

use super::ask::{ControlArguments, unexpected};
use super::failure::CommandFailure;
use super::print;
use crate::control::{ControlAnswer, ControlRequest, Standing};
use crate::views::status::{StatusItem, StatusReport, Urgency};

#[derive(clap::Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &StatusArguments) -> Result<(), CommandFailure> {
    let status = match arguments.ask.request_single(&ControlRequest::Status {})? {
        ControlAnswer::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    if arguments.ask.json {
        print::json(&status);
    } else {
        print_status(&status);
    }
    if status.act_on.is_empty() { Ok(()) } else { Err(CommandFailure::Said(1)) }
}

fn print_status(status: &StatusReport) {
    let state = match (status.stopping, status.ready) {
        (true, _) => "stopping",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let up = print::length(status.now.duration_since(status.started).as_secs().unsigned_abs());
    let memory = if status.remembers { "" } else { ", no state folder" };
    print::line(&format!(
        "sidekey {} is {state}: process {}, up {up}, epoch {}{memory}",
        status.version, status.pid, status.epoch
    ));
    print::line("");
    if status.act_on.is_empty() {
        print::line("Nothing needs attention.");
    } else {
        print::line("Needs attention:");
        status.act_on.iter().for_each(say_item);
    }
    if !status.notes.is_empty() {
        print::line("Notes:");
        status.notes.iter().for_each(say_item);
    }
    print::line("");
    print::bytes(print::table(&keyrings(status)).as_bytes());
    print::line("");
    print::bytes(print::table(&listeners(status)).as_bytes());
    if status.failures.count > 0 {
        let reasons: Vec<String> =
            status.failures.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        print::line("");
        print::line(&format!(
            "Failed handshakes in the last hour: {} ({}); see `sidekey handshakes --failed`",
            status.failures.count,
            reasons.join(", ")
        ));
    }
}

fn say_item(item: &StatusItem) {
    let mark = match item.urgency {
        Urgency::Now => "!",
        Urgency::Soon => "-",
        Urgency::Note => " ",
    };
    print::line(&format!("  {mark} {}", item.what));
    if !item.remedy.is_empty() {
        print::line(&format!("      {}", item.remedy));
    }
}

fn keyrings(status: &StatusReport) -> Vec<Vec<String>> {
    let mut rows =
        vec![["KEYRING", "CURRENT", "EXPIRES", "OVERLAP ENDS", "VERDICT", "OWNER"].map(str::to_owned).to_vec()];
    for keyring in &status.keyrings {
        let current = keyring.pairs_with_standing(Standing::Current).next();
        let report = status.rotations.iter().find(|report| report.keyring == keyring.name);
        rows.push(vec![
            keyring.name.to_string(),
            current.map_or_else(|| "none".to_owned(), |pair| pair.key_pair.short()),
            current.map_or_else(print::dash, |pair| print::in_time(status.now, pair.validity.not_after)),
            report.map_or_else(print::dash, |report| print::in_time(status.now, report.ends)),
            report.map_or_else(print::dash, |report| report.verdict.retire.as_str().to_owned()),
            keyring.owner.clone().unwrap_or_else(print::dash),
        ]);
    }
    rows
}

fn listeners(status: &StatusReport) -> Vec<Vec<String>> {
    let mut rows = vec![["LISTENER", "SIDE", "STATE"].map(str::to_owned).to_vec()];
    for listener in &status.listeners {
        let state = match &listener.waits_for {
            None => "serving".to_owned(),
            Some(what) => format!("waiting for {what}"),
        };
        rows.push(vec![listener.name.to_string(), listener.side.clone(), state]);
    }
    rows
}
