//! Where the configuration comes from: a file, or flags and environment alone. Each command takes the flags that it uses.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ArgMatches;
use clap::parser::ValueSource;

use super::failure::CommandFailure;
use super::print;
use crate::config::{self, Config};
use crate::log::LogFormat;

/// Where `run` and `check` have their configuration from.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ConfigSource {
    /// Configuration file [default: ./sidekey.toml, then /etc/sidekey/sidekey.toml, if there is one]
    #[arg(long, env = "SIDEKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The application's address, without a configuration file: http://HOST:PORT, h2c://HOST:PORT or unix:PATH
    #[arg(long, env = "SIDEKEY_BACKEND", value_name = "URL")]
    backend: Option<String>,
    /// Address that peers connect to [default: [::]:8443]
    #[arg(long, env = "SIDEKEY_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Watched folder [default: certs]
    #[arg(long, env = "SIDEKEY_CERTS", value_name = "FOLDER")]
    certs: Option<PathBuf>,
    /// The CAs of accepted peers, in place of the folder's ca.crt
    #[arg(long, env = "SIDEKEY_CLIENT_CA", value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Folder where decisions survive a restart [default: memory only]
    #[arg(long, env = "SIDEKEY_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Address of the probes listener, with /livez, /readyz and /metrics
    #[arg(long, env = "SIDEKEY_PROBES", value_name = "ADDRESS")]
    probes: Option<String>,
    /// Address of the admin listener (loopback or unix:PATH)
    #[arg(long, env = "SIDEKEY_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    /// Control socket [default: in $RUNTIME_DIRECTORY, else the state folder, $XDG_RUNTIME_DIR, /run/sidekey]
    #[arg(long, env = "SIDEKEY_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
    /// Log format, text or json, whatever the file says [default: text on a terminal, json otherwise]
    #[arg(long, env = "SIDEKEY_LOG_FORMAT", value_name = "FORMAT", value_parser = parse_log_format)]
    log_format: Option<LogFormat>,
    /// Log level, whatever the file says: off, error, warn, info, debug, trace, or with targets: info,handshake=debug
    #[arg(long, env = "SIDEKEY_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Where the commands on the registry have its place from.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RegistrySource {
    /// Configuration file [default: ./sidekey.toml, then /etc/sidekey/sidekey.toml, if there is one]
    #[arg(long, env = "SIDEKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// State folder of a sidecar without a configuration file, which holds its registry
    #[arg(long, env = "SIDEKEY_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
}

/// Flags that say the same as keys of a configuration file.
pub(super) trait FlagSource {
    /// The configuration file that was named.
    fn named_file(&self) -> Option<&Path>;
    /// Lets go of a flag's value, by clap's id.
    fn forget_flag(&mut self, id: &str);
}

impl FlagSource for ConfigSource {
    fn named_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn forget_flag(&mut self, id: &str) {
        match id {
            "backend" => self.backend = None,
            "listen" => self.listen = None,
            "certs" => self.certs = None,
            "client_ca" => self.client_ca = None,
            "state" => self.state = None,
            "probes" => self.probes = None,
            _ => self.admin = None,
        }
    }
}

impl FlagSource for RegistrySource {
    fn named_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn forget_flag(&mut self, _: &str) {
        self.state = None;
    }
}

/// What says the same as a key of the configuration file, by clap's ids.
/// `control` is not among them: every command takes it, and all must mean the same place. Nor are the log's: they
/// override the file.
const FLAGS: [&str; 7] = ["backend", "listen", "certs", "client_ca", "state", "probes", "admin"];

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("write text or json".to_owned()),
    }
}

/// The flags of this command that come from there and say the same as a key of the file.
fn flags_from(command: &ArgMatches, from: ValueSource) -> Vec<&'static str> {
    let is_flag = |id: &str| command.ids().any(|known| known.as_str() == id);
    FLAGS.into_iter().filter(|id| is_flag(id) && command.value_source(id) == Some(from)).collect()
}

/// Where there is a configuration file, named or found, it alone counts. Flags given beside it are an error, unless
/// they only name the listener to ask; environment variables (the image sets some) are ignored with a message.
pub(super) fn prefer_file(
    source: &mut dyn FlagSource,
    command: &ArgMatches,
    may_both: bool,
) -> Result<(), CommandFailure> {
    let Some(file) = find_file(source.named_file()) else { return Ok(()) };
    if let (false, [flag, ..]) = (may_both, &flags_from(command, ValueSource::CommandLine)[..]) {
        let (flag, file) = (flag.replace('_', "-"), file.display());
        return Err(CommandFailure::Wrong(anyhow::anyhow!(
            "--{flag} conflicts with {file}, which sets the same value: use only one of them"
        )));
    }
    let ids = flags_from(command, ValueSource::EnvVariable);
    if ids.is_empty() {
        return Ok(());
    }
    ids.iter().for_each(|id| source.forget_flag(id));
    let names: Vec<_> = ids.iter().map(|id| format!("SIDEKEY_{}", id.to_uppercase())).collect();
    print::talk(&format!("sidekey: the configuration file takes precedence; ignoring {}", names.join(", ")));
    Ok(())
}

/// The file that counts: the one that was named, else the one that is there.
fn find_file(named: Option<&Path>) -> Option<PathBuf> {
    let found = ["sidekey.toml", "/etc/sidekey/sidekey.toml"];
    named.map(Path::to_owned).or_else(|| found.iter().map(PathBuf::from).find(|path| path.exists()))
}

/// The file's settings, if there is one; flags are ignored.
pub(super) fn load_file(named: Option<&Path>) -> anyhow::Result<Option<Config>> {
    Ok(find_file(named).map(|path| config::load(&path)).transpose()?)
}

impl RegistrySource {
    /// The configuration: a file where there is one, else only where `--state` is.
    pub(super) fn load(&self) -> Result<Config, CommandFailure> {
        match load_file(self.config.as_deref()).map_err(CommandFailure::Wrong)? {
            Some(config) => Ok(config),
            None => config::from_folder(None, self.state.as_deref()).map_err(|e| CommandFailure::Wrong(e.into())),
        }
    }
}

impl ConfigSource {
    /// The file's, with the control socket where `--control` (`SIDEKEY_CONTROL`) wants it: the place that is named to the
    /// other commands is named to the sidecar too.
    fn load_file_with_control(&self) -> anyhow::Result<Option<Config>> {
        let Some(mut config) = load_file(self.config.as_deref())? else { return Ok(None) };
        if let Some(control) = &self.control {
            config.admin.control = Some(std::path::absolute(control).context("--control")?);
            config.admin.control_is_given = true;
        }
        Ok(Some(config))
    }

    /// The configuration: a file where there is one, else flags.
    pub(super) fn load(&self) -> Result<Config, CommandFailure> {
        let wrong = |error: config::ConfigErrors| CommandFailure::Wrong(error.into());
        let mut config = match self.load_file_with_control().map_err(CommandFailure::Wrong)? {
            Some(config) => config,
            None if self.backend.is_some() => config::from_flags(self.flags()).map_err(wrong)?,
            None => {
                return Err(CommandFailure::Wrong(anyhow::anyhow!(
                    "nothing to run: set the application's address with --backend http://HOST:PORT (or \
                     SIDEKEY_BACKEND), or write ./sidekey.toml"
                )));
            }
        };
        let flags = config::LogFlags { format: self.log_format, level: self.log_level.clone() };
        config.override_log(flags).map_err(wrong)?;
        Ok(config)
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
        }
    }
}
