//! `sidekey run`: runs the sidecar until it gets a stop signal.

use std::path::PathBuf;

use anyhow::Context;

use super::{CommandFailure, ConfigSource};
use crate::app;
use crate::config::{self, Config};

#[derive(clap::Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    pub(super) source: ConfigSource,
}

pub(super) fn run(arguments: &RunArguments) -> Result<(), CommandFailure> {
    let config = arguments.source.load().map_err(CommandFailure::Wrong)?;
    match app::run(config) {
        Ok(()) => Ok(()),
        Err(app::AppError::Usage(error)) => Err(CommandFailure::Wrong(anyhow::anyhow!(error))),
        Err(error) => Err(CommandFailure::Failed(error.into())),
    }
}

impl ConfigSource {
    /// The file that counts: the one that was named, else the one that is there.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let found = ["sidekey.toml", "/etc/sidekey/sidekey.toml"];
        self.config.clone().or_else(|| found.iter().map(PathBuf::from).find(|path| path.exists()))
    }

    /// The file's settings, if there is one; flags are ignored.
    pub(super) fn load_file(&self) -> anyhow::Result<Option<Config>> {
        Ok(self.file().map(|path| config::load(&path)).transpose()?)
    }

    /// The same, with the control socket at `--control` (`SIDEKEY_CONTROL`): an operator who names it to the other
    /// commands names it to the sidecar too.
    fn load_file_with_control(&self) -> anyhow::Result<Option<Config>> {
        let Some(mut config) = self.load_file()? else { return Ok(None) };
        if let Some(control) = &self.control {
            config.admin.control = Some(std::path::absolute(control).context("--control")?);
            config.admin.control_is_given = true;
        }
        Ok(Some(config))
    }

    /// The configuration: a file where there is one, else flags.
    pub(super) fn load(&self) -> anyhow::Result<Config> {
        match self.load_file_with_control()? {
            Some(config) => Ok(config),
            None if self.backend.is_some() => Ok(config::from_flags(self.flags())?),
            None => anyhow::bail!(
                "nothing to run: set the application's address with --backend http://HOST:PORT (or SIDEKEY_BACKEND), \
                 or write ./sidekey.toml"
            ),
        }
    }

    fn flags(&self) -> config::ZeroConfig {
        config::ZeroConfig {
            backend: self.backend.clone().unwrap_or_default(),
            listen: self.listen.clone(),
            certs: self.certs.clone(),
            client_ca: self.client_ca.clone(),
            state: self.state.clone(),
            probes: self.probes.clone(),
            admin: self.admin.clone(),
            control: self.control.clone(),
            log_format: self.log_format.clone(),
        }
    }
}
