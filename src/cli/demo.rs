//! `sidekey demo`: shows the demonstration of `demo` and its table. Exit code 1 if a single request was lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::failure::CommandFailure;
use super::print;
use crate::demo;
use crate::demo::{DemoOptions, DemoReport, DemoStage};
use crate::pki::Fingerprint;

#[derive(clap::Args)]
pub(super) struct DemoArguments {
    /// Keep the demo's folder, in the current directory
    #[arg(long)]
    keep: bool,
    /// Keep both sidecars running and print curl commands to try
    #[arg(long)]
    serve: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &DemoArguments) -> Result<(), CommandFailure> {
    let wishes = DemoOptions { keep: arguments.keep, serve: arguments.serve };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcomes = runtime.block_on(demo::run(Arc::new(DemoProgress::default()), wishes))?;
    if arguments.json {
        print::json(&figures(&outcomes));
    } else {
        print::line(&print::table(&rows(&outcomes)));
    }
    if let Some(folder) = &outcomes.folder {
        print::talk(&format!("kept: {}", folder.display()));
        print::talk(&format!("try:  sidekey run --config {}/partner/sidekey.toml", folder.display()));
    }
    if let Some(loss) = &outcomes.served.first_loss {
        print::talk(&format!("sidekey: first lost request: {loss}"));
    }
    if outcomes.is_good() { Ok(()) } else { Err(CommandFailure::Said(1)) }
}

/// A bar on a terminal, plain lines elsewhere.
#[derive(Default)]
struct DemoProgress {
    bar: Mutex<Option<ProgressBar>>,
    told: Mutex<u64>,
}

impl DemoStage for DemoProgress {
    fn part(&self, title: &str) {
        self.print_line("");
        self.print_line(&format!("── {title}"));
    }

    fn print_line(&self, line: &str) {
        match &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.println(line),
            None => print::talk(line),
        }
    }

    fn progress(&self, answered: u64, of: u64, lost: u64) {
        if print::is_terminal() {
            let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
            let bar = bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{bar:30} {pos}/{len} requests  {msg}");
                ProgressBar::new(of).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_position(answered);
            bar.set_message(format!("{lost} lost"));
            return;
        }
        // Plain lines: one each fifth of the way.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if answered * 5 / of.max(1) > *told {
            *told = answered * 5 / of.max(1);
            print::talk(&format!("load: {answered} of {of} requests answered, {lost} lost"));
        }
    }

    fn progress_ends(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

fn rows(outcomes: &DemoReport) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let took = |took: Option<Duration>| took.map_or_else(|| "not seen".to_owned(), millis);
    let served = &outcomes.served;
    vec![
        row("requests sent", served.sent.to_string()),
        row("lost", served.lost.to_string()),
        row("served with the old client key pair", by_pair(outcomes, outcomes.client.0)),
        row("served with the new client key pair", by_pair(outcomes, outcomes.client.1)),
        row("drop to first handshake, partner's new key pair", took(outcomes.server_took)),
        row("drop to first handshake, our new key pair", took(outcomes.client_took)),
        row("latency p50", millis(served.quantile(0.50))),
        row("latency p99", millis(served.quantile(0.99))),
    ]
}

fn by_pair(outcomes: &DemoReport, key_pair: Fingerprint) -> String {
    let count = outcomes.served.by_pair.get(&key_pair).copied().unwrap_or(0);
    format!("{count}  ({})", key_pair.short())
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn figures(outcomes: &DemoReport) -> serde_json::Value {
    let served = &outcomes.served;
    let count = |key_pair| served.by_pair.get(&key_pair).copied().unwrap_or(0);
    serde_json::json!({
        "sent": served.sent,
        "lost": served.lost,
        "first_loss": served.first_loss,
        "old_key_pair": { "key_pair": outcomes.client.0, "served": count(outcomes.client.0) },
        "new_key_pair": { "key_pair": outcomes.client.1, "served": count(outcomes.client.1) },
        "first_handshake_ms": {
            "server": outcomes.server_took.map(|took| took.as_secs_f64() * 1e3),
            "client": outcomes.client_took.map(|took| took.as_secs_f64() * 1e3),
        },
        "p50_ms": served.quantile(0.50).as_secs_f64() * 1e3,
        "p99_ms": served.quantile(0.99).as_secs_f64() * 1e3,
    })
}
