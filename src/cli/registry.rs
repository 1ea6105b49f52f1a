//! `sidekey registry export|audit|history`: what the configured registry holds, whether or not a sidecar runs.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::failure::CommandFailure;
use super::print;
use super::source::{FlagSource, RegistrySource};
use crate::clock::Clock;
use crate::offline;
use crate::registry::export::{self, ExportTable, RegistryExport};
use crate::registry::store::{HistoryQuery, StoreAccess};
use crate::registry::{Finding, HistoryRow, RegistryInventory, RegistryStore, findings, short_fingerprint};

#[derive(clap::Args)]
pub(super) struct RegistryArguments {
    #[command(subcommand)]
    command: RegistryCommand,
}

#[derive(Subcommand)]
enum RegistryCommand {
    /// Export the registry's content
    Export(RegistryExportArguments),
    /// List findings that need attention; exit code 1 if there are any
    Audit(RegistryAuditArguments),
    /// Show who or what changed a keyring or a trust, when, from what to what, and why
    History(RegistryHistoryArguments),
}

#[derive(clap::Args)]
struct RegistryExportArguments {
    #[command(flatten)]
    source: RegistrySource,
    /// json holds everything, csv one table
    #[arg(long, value_enum, default_value = "json")]
    format: RegistryFormat,
    /// The table of a CSV file
    #[arg(long, value_enum, default_value = "key-pairs")]
    table: RegistryTableName,
}

#[derive(clap::Args)]
struct RegistryAuditArguments {
    #[command(flatten)]
    source: RegistrySource,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct RegistryHistoryArguments {
    #[command(flatten)]
    source: RegistrySource,
    /// Show only this keyring, trust or file
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Show only this recent period, such as 24h or 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum RegistryFormat {
    Csv,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum RegistryTableName {
    KeyPairs,
    Keyrings,
    Anchors,
    Peers,
    History,
    Failures,
}

impl RegistryArguments {
    pub(super) fn source(&mut self) -> &mut dyn FlagSource {
        match &mut self.command {
            RegistryCommand::Export(arguments) => &mut arguments.source,
            RegistryCommand::Audit(arguments) => &mut arguments.source,
            RegistryCommand::History(arguments) => &mut arguments.source,
        }
    }
}

pub(super) fn run(arguments: &RegistryArguments) -> Result<(), CommandFailure> {
    match &arguments.command {
        RegistryCommand::Export(arguments) => export(arguments),
        RegistryCommand::Audit(arguments) => audit(arguments),
        RegistryCommand::History(arguments) => history(arguments),
    }
}

fn export(arguments: &RegistryExportArguments) -> Result<(), CommandFailure> {
    let everything = HistoryQuery::default();
    let read = async |store: &RegistryStore| {
        let inventory = store.inventory().await?;
        let (history, failures) = (store.history(&everything).await?, store.failures(&everything).await?);
        Ok(RegistryExport { inventory, history, failures })
    };
    let export =
        offline::registry::with_registry(&arguments.source.load()?, StoreAccess::Read, read).map_err(unreadable)?;
    match arguments.format {
        RegistryFormat::Json => print::json(&export),
        RegistryFormat::Csv => {
            let table = match arguments.table {
                RegistryTableName::KeyPairs => ExportTable::KeyPairs,
                RegistryTableName::Keyrings => ExportTable::Keyrings,
                RegistryTableName::Anchors => ExportTable::Anchors,
                RegistryTableName::Peers => ExportTable::Peers,
                RegistryTableName::History => ExportTable::History,
                RegistryTableName::Failures => ExportTable::Failures,
            };
            print::bytes(&export::export_csv(&export, table)?);
        }
    }
    Ok(())
}

fn audit(arguments: &RegistryAuditArguments) -> Result<(), CommandFailure> {
    let now = Clock::system().now();
    let read = async |store: &RegistryStore| store.audited_inventory(now).await;
    let inventory: RegistryInventory =
        offline::registry::with_registry(&arguments.source.load()?, StoreAccess::Read, read).map_err(unreadable)?;
    let found = findings(&inventory, now);
    if arguments.json {
        print::json(&found);
    } else {
        print_findings(&found);
    }
    if found.is_empty() { Ok(()) } else { Err(CommandFailure::Said(1)) }
}

fn print_findings(found: &[Finding]) {
    for finding in found {
        print::line(&format!("{}: {}", finding.finding, finding.explanation));
        print::line(&format!("    what to do: {}", finding.remedy));
        if let Some(contact) = &finding.contact {
            print::line(&format!("    contact: {contact}"));
        }
        if finding.instances.len() > 1 {
            print::line(&format!("    at: {}", finding.instances.join(", ")));
        }
    }
    print::talk(&match found.len() {
        0 => "sidekey: no findings".to_owned(),
        1 => "sidekey: 1 finding".to_owned(),
        more => format!("sidekey: {more} findings"),
    });
}

fn history(arguments: &RegistryHistoryArguments) -> Result<(), CommandFailure> {
    let now = Clock::system().now().as_second();
    let ago = arguments.since.map(|since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let asked = HistoryQuery { since: ago.map_or(0, |ago| now.saturating_sub(ago)), ..HistoryQuery::default() };
    let read = async |store: &RegistryStore| store.history(&asked).await;
    let all: Vec<HistoryRow> =
        offline::registry::with_registry(&arguments.source.load()?, StoreAccess::Read, read).map_err(unreadable)?;
    let is_asked_for = |entry: &&HistoryRow| match &arguments.name {
        None => true,
        Some(name) => entry.name == *name || entry.name.starts_with(&format!("{name}: ")),
    };
    let entries: Vec<&HistoryRow> = all.iter().filter(is_asked_for).collect();
    if arguments.json {
        print::json(&entries);
        return Ok(());
    }
    let head = ["WHEN", "INSTANCE", "WHAT", "NAME", "KEY PAIR", "FROM", "TO", "WHO", "REASON", "WHY"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for entry in entries {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        rows.push(vec![
            entry.at.to_string(),
            entry.instance.clone(),
            entry.kind.clone(),
            entry.name.clone(),
            entry.key_pair.as_deref().map_or("-", short_fingerprint).to_owned(),
            text(&entry.was),
            text(&entry.becomes),
            entry.who.clone(),
            entry.reason.clone(),
            entry.why.clone(),
        ]);
    }
    print::bytes(print::table(&rows).as_bytes());
    Ok(())
}

/// A missing registry setting is wrong usage; an unreachable database is not.
fn unreadable(error: crate::registry::Error) -> CommandFailure {
    match error {
        crate::registry::Error::None => CommandFailure::Wrong(error.into()),
        error => CommandFailure::Failed(error.into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
}
