//! `sidekey run`: the sidecar, until it is told to stop.

use super::{Failure, Source};
use crate::app;
use crate::config::{self, Config};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) source: Source,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.source.load().map_err(Failure::Wrong)?;
    match app::run(config) {
        Ok(()) => Ok(()),
        Err(app::Error::Usage(error)) => Err(Failure::Wrong(anyhow::anyhow!(error))),
        Err(error) => Err(Failure::Failed(error.into())),
    }
}

impl Source {
    /// The file that was named or found, if any; flags are not looked at.
    pub(super) fn load_file(&self) -> anyhow::Result<Option<Config>> {
        let found = ["sidekey.toml", "/etc/sidekey/sidekey.toml"];
        let found = || found.iter().map(std::path::PathBuf::from).find(|path| path.exists());
        match self.config.clone().or_else(found) {
            Some(path) => Ok(Some(config::load(&path)?)),
            None => Ok(None),
        }
    }

    /// The configuration: flags where a backend is given, else a file.
    pub(super) fn load(&self) -> anyhow::Result<Config> {
        if self.config.is_none() && self.backend.is_some() {
            return Ok(config::from_flags(self.flags())?);
        }
        match self.load_file()? {
            Some(config) => Ok(config),
            None => anyhow::bail!(
                "nothing to run: name the application with --backend http://HOST:PORT (or SIDEKEY_BACKEND), \
                 or write ./sidekey.toml"
            ),
        }
    }

    fn flags(&self) -> config::Flags {
        config::Flags {
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
