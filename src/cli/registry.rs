//! `sidekey registry export|audit|history`: what the registry holds, read by the configuration, whether or not a sidecar runs.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::{Failure, Source, print};
use crate::app;
use crate::clock::Clock;
use crate::registry::export::{self, Export, Table};
use crate::registry::store::{Access, Asked};
use crate::registry::{Entry, Finding, Inventory, Store, findings, short};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print what the registry holds
    Export(ExportArguments),
    /// Say what somebody should look at; exit code 1 if there is anything
    Audit(AuditArguments),
    /// Say who or what changed a keyring or a trust, when, from what to what, and why
    History(HistoryArguments),
}

#[derive(clap::Args)]
struct ExportArguments {
    #[command(flatten)]
    source: Source,
    /// json has everything, csv one table
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// The table of a CSV file
    #[arg(long, value_enum, default_value = "key-pairs")]
    table: TableName,
}

#[derive(clap::Args)]
struct AuditArguments {
    #[command(flatten)]
    source: Source,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct HistoryArguments {
    #[command(flatten)]
    source: Source,
    /// Only of this keyring, trust or file
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only what is not older, as in 24h or 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Csv,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum TableName {
    KeyPairs,
    Keyrings,
    Anchors,
    Peers,
    History,
    Failures,
}

impl Arguments {
    pub(super) fn source(&mut self) -> &mut Source {
        match &mut self.command {
            Command::Export(arguments) => &mut arguments.source,
            Command::Audit(arguments) => &mut arguments.source,
            Command::History(arguments) => &mut arguments.source,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Export(arguments) => export(arguments),
        Command::Audit(arguments) => audit(arguments),
        Command::History(arguments) => history(arguments),
    }
}

fn export(arguments: &ExportArguments) -> Result<(), Failure> {
    let everything = Asked::default();
    let read = async |store: &Store| {
        let inventory = store.inventory().await?;
        let (history, failures) = (store.history(&everything).await?, store.failures(&everything).await?);
        Ok(Export { inventory, history, failures })
    };
    let export = app::memories::with_registry(&load(&arguments.source)?, Access::Read, read).map_err(unreadable)?;
    match arguments.format {
        Format::Json => print::json(&export),
        Format::Csv => {
            let table = match arguments.table {
                TableName::KeyPairs => Table::KeyPairs,
                TableName::Keyrings => Table::Keyrings,
                TableName::Anchors => Table::Anchors,
                TableName::Peers => Table::Peers,
                TableName::History => Table::History,
                TableName::Failures => Table::Failures,
            };
            print::bytes(&export::csv(&export, table)?);
        }
    }
    Ok(())
}

fn audit(arguments: &AuditArguments) -> Result<(), Failure> {
    let read = async |store: &Store| store.inventory().await;
    let inventory: Inventory =
        app::memories::with_registry(&load(&arguments.source)?, Access::Read, read).map_err(unreadable)?;
    let found = findings(&inventory, Clock::system().now());
    if arguments.json {
        print::json(&found);
    } else {
        say(&found);
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::Said(1)) }
}

fn say(found: &[Finding]) {
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

fn history(arguments: &HistoryArguments) -> Result<(), Failure> {
    let now = Clock::system().now().as_second();
    let ago = arguments.since.map(|since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let asked = Asked { since: ago.map_or(0, |ago| now.saturating_sub(ago)), ..Asked::default() };
    let read = async |store: &Store| store.history(&asked).await;
    let all: Vec<Entry> =
        app::memories::with_registry(&load(&arguments.source)?, Access::Read, read).map_err(unreadable)?;
    let is_asked_for = |entry: &&Entry| match &arguments.name {
        None => true,
        Some(name) => entry.name == *name || entry.name.starts_with(&format!("{name}: ")),
    };
    let entries: Vec<&Entry> = all.iter().filter(is_asked_for).collect();
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
            entry.key_pair.as_deref().map_or("-", short).to_owned(),
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

fn load(source: &Source) -> Result<crate::config::Config, Failure> {
    source.load().map_err(Failure::Wrong)
}

/// Nothing configured is wrong usage; a database that is away is not.
fn unreadable(error: crate::registry::Error) -> Failure {
    match error {
        crate::registry::Error::None => Failure::Wrong(error.into()),
        error => Failure::Failed(error.into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::duration(text)
}
