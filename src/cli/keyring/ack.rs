//! `sidekey keyring ack`: the owner knows about an expiry, so webhooks and mail are silent until the last threshold.
//!
//! It is written into the registry itself, with user and reason, even if no sidecar runs: for a whole fleet where the
//! registry is shared. Local log lines and metrics continue.

use crate::cli::failure::CommandFailure;
use crate::cli::print;
use crate::cli::source::{FlagSource, RegistrySource};
use crate::clock::Clock;
use crate::offline::registry::with_registry;
use crate::pki::printable;
use crate::registry::store::StoreAccess;
use crate::registry::task::run_number;
use crate::registry::{AcknowledgementRow, Error, short_fingerprint};

#[derive(clap::Args)]
pub(super) struct AckArguments {
    /// Name of the keyring or trust
    keyring: String,
    /// The key pair, the partner's certificate or the trust anchor, by the start of its fingerprint [default: the
    /// current pair]
    key_pair: Option<String>,
    /// What is done about it
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Who acknowledges it [default: the user who runs the command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    source: RegistrySource,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An acknowledgement with the epoch in which it is true: none, because it belongs to the registry, which every instance
/// may share, and no snapshot holds it.
#[derive(serde::Serialize)]
struct AcknowledgementAnswer<'a> {
    #[serde(flatten)]
    acknowledgement: &'a AcknowledgementRow,
    epoch: Option<u64>,
}

impl AckArguments {
    pub(super) fn source(&mut self) -> &mut dyn FlagSource {
        &mut self.source
    }

    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        if self.why.trim().is_empty() {
            return Err(CommandFailure::Wrong(anyhow::anyhow!(
                "--why must not be empty: say what is being done about it"
            )));
        }
        let config = self.source.load()?;
        let who = self.by.clone().unwrap_or_else(asking);
        let work = async |store: &crate::registry::RegistryStore| {
            let (key_pair, ends) = store.find(&self.keyring, self.key_pair.as_deref().unwrap_or_default()).await?;
            let acknowledgement = AcknowledgementRow {
                key_pair,
                at: Clock::system().now().into(),
                keyring: self.keyring.clone(),
                who: printable(&who),
                why: printable(&self.why),
                ends: Some(ends),
            };
            store.acknowledge(&acknowledgement, run_number()).await?;
            Ok(acknowledgement)
        };
        let done = with_registry(&config, StoreAccess::Change, work).map_err(|error| match error {
            Error::None | Error::Unknown { .. } | Error::Several { .. } => CommandFailure::Wrong(error.into()),
            error => CommandFailure::Failed(error.into()),
        })?;
        if self.json {
            print::json(&AcknowledgementAnswer { acknowledgement: &done, epoch: None });
        } else {
            print::line(&format!(
                "{} of keyring {} acknowledged by {}: no webhooks or mail about its expiry until the last threshold",
                short_fingerprint(&done.key_pair),
                done.keyring,
                done.who
            ));
        }
        Ok(())
    }
}

/// The user who runs the command: the one behind sudo, if any.
fn asking() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let uid = rustix::process::getuid().as_raw();
    name.filter(|name| !name.is_empty()).map_or_else(|| format!("uid {uid}"), |name| format!("uid {uid} ({name})"))
}
