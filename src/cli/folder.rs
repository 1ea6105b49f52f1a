//! Which watched folder a command works on that needs no running sidecar.

use std::path::PathBuf;

use super::failure::CommandFailure;
use super::source::load_file;
use crate::config::{self, Config};
use crate::offline::keyring::{OfflineKeyringError, OfflineKeyrings};

/// Which folder.
#[derive(clap::Args)]
pub(super) struct FolderArguments {
    /// Configuration file [default: ./sidekey.toml, then /etc/sidekey/sidekey.toml, if there is one]
    #[arg(long, env = "SIDEKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The watched folder, without a configuration file [default: certs]
    #[arg(long, env = "SIDEKEY_CERTS", value_name = "FOLDER")]
    certs: Option<PathBuf>,
    /// The state folder of a sidecar without a configuration file; only read
    #[arg(long, env = "SIDEKEY_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
}

impl FolderArguments {
    pub(super) fn open(&self, keyring: &str) -> Result<OfflineKeyrings, CommandFailure> {
        OfflineKeyrings::open(&self.config()?, keyring).map_err(explain_failure)
    }

    pub(super) fn config(&self) -> Result<Config, CommandFailure> {
        // A configuration file that happens to exist does not overrule a folder that the operator names.
        let named = if self.config.is_some() || self.certs.is_none() {
            load_file(self.config.as_deref()).map_err(CommandFailure::Wrong)?
        } else {
            None
        };
        match named {
            Some(config) => Ok(config),
            None => config::from_folder(self.certs.as_deref(), self.state.as_deref())
                .map_err(|e| CommandFailure::Wrong(e.into())),
        }
    }
}

/// Wrong usage, or something that went wrong.
pub(super) fn explain_failure(error: OfflineKeyringError) -> CommandFailure {
    match error {
        OfflineKeyringError::Wrong(_) | OfflineKeyringError::Refused { .. } | OfflineKeyringError::Folder(_) => {
            CommandFailure::Wrong(error.into())
        }
        OfflineKeyringError::Make(_) | OfflineKeyringError::Pkcs12(_) | OfflineKeyringError::Token(_) => {
            CommandFailure::Failed(error.into())
        }
    }
}
