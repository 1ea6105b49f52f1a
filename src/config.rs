//! `sidekey.toml`, flags and environment → every area's `Settings`, or the places of the errors.
//!
//! It knows every key of the contract (section 5), also those whose feature comes later: these are refused with their
//! place, so that nothing is silently ignored. All faults are reported at once. It reads the one file it is given and
//! the environment, nothing else; whether the files that it names exist is for the watched folder to find out.

mod access;
mod alerts;
mod egress;
mod environment;
mod file;
mod flags;
mod ingress;
mod listeners;
mod peers;
mod place;
pub mod platform;
mod reload;
#[cfg(test)]
mod tests;
mod top;
mod value;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use crate::net::ListenAddress;
use crate::process::landlock::ProcessAccess;
use crate::trust::AnchorSource;
use crate::{folder, keyring, log, process, registry, writer};

pub use access::process_access;
pub use flags::{ZeroConfig, from_flags, from_folder};
pub use place::ConfigFault;
pub use reload::{ReloadPlan, plan_reload};

/// Larger files are rejected.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Everything the configuration says, by area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What snapshots are made of.
    pub settings: writer::WriterSettings,
    /// The watched folder.
    pub folder: folder::FolderSettings,
    /// Where decisions survive a restart, absolute; `None`: memory only.
    pub state: Option<PathBuf>,
    /// Data-plane threads, at least one.
    pub workers: usize,
    /// This sidecar's name, where one is given.
    pub instance: Option<String>,
    /// Where the registry is.
    pub registry: registry::RegistryLocation,
    /// `[alerts]`.
    pub alerts: crate::alerts::AlertSettings,
    /// `[admin]`.
    pub admin: AdminSettings,
    /// `[shutdown]`.
    pub shutdown: process::ShutdownSettings,
    /// `[log]`.
    pub log: log::LogSettings,
    /// What was typed for the log: it overrides the file, after a reload too.
    pub log_flags: LogFlags,
    /// `landlock`: `auto` is true.
    pub landlock: bool,
    /// What the running process is confined to.
    pub confined_to: Option<Arc<ProcessAccess>>,
    /// The file it came from, absolute; `None`: flags.
    pub source: Option<PathBuf>,
    /// What that file held when it was read: a change is told from this, however soon it comes.
    pub content: Option<String>,
}

/// `--log-format` and `--log-level`, or their environment variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFlags {
    /// In place of `log.format`.
    pub format: Option<log::LogFormat>,
    /// In place of `log.level`.
    pub level: Option<String>,
}

impl Config {
    /// Lets flags override what the file says of the log.
    ///
    /// # Errors
    /// `--log-level` is not a valid filter.
    pub fn override_log(&mut self, flags: LogFlags) -> Result<(), ConfigErrors> {
        if let Some(level) = &flags.level {
            log::LogFilter::parse(level)
                .map_err(|error| ConfigErrors::Invalid(vec![flags::flag_fault("--log-level", error.to_string())]))?;
            self.log.level.clone_from(level);
        }
        self.log.format = flags.format.or(self.log.format);
        self.log_flags = flags;
        Ok(())
    }
}

/// `[admin]`: listeners that only read, and the socket for commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminSettings {
    /// Page, API and metrics: this host only.
    pub listen: Option<ListenAddress>,
    /// `/livez`, `/readyz` and `/metrics` only: anywhere.
    pub probes: Option<ListenAddress>,
    /// Where the control socket is, absolute; `None`: the default place.
    pub control: Option<PathBuf>,
    /// `--control` was given: it overrides the file.
    pub control_is_given: bool,
    /// The group that may use it in addition to its owner and root.
    pub control_group: Option<String>,
}

/// Why the configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Unreadable {
        /// Which file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Its text, or a flag, is invalid: every fault, in the order of the file.
    #[error("{}", join_faults(.0))]
    Invalid(Vec<ConfigFault>),
}

fn join_faults(faults: &[ConfigFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads a configuration file. Relative paths in it begin at its folder.
pub fn load(file: &Path) -> Result<Config, ConfigErrors> {
    let shown = crate::pki::printable(&file.display().to_string());
    let unreadable = |source| ConfigErrors::Unreadable { file: shown.clone(), source };
    let path = std::path::absolute(file).map_err(unreadable)?;
    let mut content = String::new();
    let opened = std::fs::File::open(&path).map_err(unreadable)?;
    opened.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MAX_CONFIG_BYTES {
        return Err(unreadable(std::io::Error::other("larger than 1 MiB: this is not a configuration file")));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let text = place::SourceText { file: &shown, content: &content };
    let config = read_config(text, folder, &|name| std::env::var(name).ok())?;
    Ok(Config { source: Some(path), content: Some(content), ..config })
}

/// Reads a configuration's text as if it were the file `sidekey.toml` in `folder`, which must be absolute.
pub fn parse(content: &str, folder: &Path) -> Result<Config, ConfigErrors> {
    let text = place::SourceText { file: "sidekey.toml", content };
    read_config(text, folder, &|name| std::env::var(name).ok())
}

/// An address as `listen` and the flags take it; a socket's path stays as it is written. The error says what to write.
pub fn parse_listen_address(text: &str) -> Result<ListenAddress, String> {
    value::parse_listen(text)
}

/// An upstream as `upstream` takes it: `https://HOST:PORT`. The error says what to write.
pub fn parse_upstream(text: &str) -> Result<crate::net::HostPort, String> {
    value::parse_upstream(text)
}

/// A duration as the configuration and the flags take it. The error says what to write.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    value::parse_duration(text)
}

fn read_config(
    text: place::SourceText<'_>,
    folder: &Path,
    environment: environment::EnvironmentVariables<'_>,
) -> Result<Config, ConfigErrors> {
    let (document, errors) = DeTable::parse_recoverable(text.content);
    if !errors.is_empty() {
        let fault =
            |error: &toml::de::Error| text.fault_at(&error.span().unwrap_or(0..0), "", error.message().to_owned());
        return Err(ConfigErrors::Invalid(errors.iter().map(fault).collect()));
    }
    let reading = file::ConfigReader::new(text, folder, environment);
    let config = read_sections(&reading.top_level(document.get_ref()), folder);
    match reading.into_faults() {
        faults if faults.is_empty() => Ok(config),
        faults => Err(ConfigErrors::Invalid(faults)),
    }
}

/// Reads every section. What is wrong has a fault in the reading, and is left out of the result.
fn read_sections(document: &file::ConfigSection<'_>, folder: &Path) -> Config {
    let mut top = top::read_top_level(document, folder.join("certs"));
    let (keyrings, passwords) = top::read_keyrings(document, top.skew);
    let known = peers::read_peers(document, &top.folder.root);
    let log = top::read_log(document);
    let taken = listeners::ListenerNames::default();
    let context =
        ingress::IngressContext { known: &known, taken: &taken, certs: &top.folder.root, log_access: log.access };
    let ingresses = ingress::read_ingresses(document, &context);
    let egresses = egress::read_egresses(document, &context);
    let admin = top::read_admin(document, &taken);
    let shutdown = top::read_shutdown(document);
    let alerts = alerts::read_alerts(document);
    document.report_unknown_keys();
    if document.get("ingress").is_none() && document.get("egress").is_none() {
        document.add_fault("no listeners configured: add at least one [[ingress]] or [[egress]]".to_owned());
    }
    let mut settings = writer::WriterSettings {
        keyrings,
        trusts: known.trusts,
        partners: known.partners,
        ingresses,
        egresses,
        skew: top.skew,
        ..writer::WriterSettings::default()
    };
    settings.remembers = top.state.is_some();
    add_implied(&mut settings);
    top.folder.named = named_files(&settings);
    top.folder.pkcs12_passwords = passwords;
    Config {
        settings,
        folder: top.folder,
        state: top.state,
        workers: top.workers,
        instance: top.instance,
        registry: top.place,
        alerts,
        admin,
        shutdown,
        log,
        log_flags: LogFlags::default(),
        landlock: top.landlock,
        confined_to: None,
        source: None,
        content: None,
    }
}

/// Adds what listeners imply: the built-in trust, keyrings without a section, and each keyring's roles.
fn add_implied(settings: &mut writer::WriterSettings) {
    let trusts = settings.ingresses.iter().map(|ingress| &ingress.trust);
    let endpoints = settings.egresses.iter().filter_map(|egress| egress.bearer.as_ref()?.endpoint.as_ref());
    let of_egresses = settings.egresses.iter().map(|egress| &egress.trust).chain(endpoints.map(|one| &one.trust));
    let mut trusts = trusts.chain(of_egresses).flatten();
    if trusts.any(|trust| trust.as_ref() == peers::SYSTEM_TRUST) {
        let name: Arc<str> = Arc::from(peers::SYSTEM_TRUST);
        let system = crate::trust::TrustSettings::with_anchors(Arc::clone(&name), vec![AnchorSource::System]);
        settings.trusts.insert(name, system);
    }
    for keyring in settings.keyrings.values_mut() {
        keyring.roles = keyring::KeyringRoles::default();
    }
    let servers = settings.ingresses.iter().flat_map(|ingress| &ingress.keyrings).map(|name| (name, true));
    let clients = settings.egresses.iter().map(|egress| (&egress.keyring, false));
    for (name, server) in servers.chain(clients) {
        let keyring = settings.keyrings.entry(Arc::clone(name)).or_insert_with(|| keyring::KeyringSettings {
            skew: settings.skew,
            ..keyring::KeyringSettings::with_defaults(Arc::clone(name))
        });
        if server {
            keyring.roles.server = true;
        } else {
            keyring.roles.client = true;
        }
    }
}

/// Files that the settings name: a folder that holds only such files is not a keyring.
fn named_files(settings: &writer::WriterSettings) -> std::collections::BTreeSet<PathBuf> {
    let mut files = std::collections::BTreeSet::new();
    for trust in settings.trusts.values() {
        files.extend(trust.crls.iter().cloned());
        files.extend(trust.anchors.iter().filter_map(|source| match source {
            AnchorSource::File { path, .. } => Some(path.clone()),
            AnchorSource::System | AnchorSource::Own(_) => None,
        }));
    }
    files.extend(settings.partners.iter().flat_map(|partner| partner.anchors.iter().cloned()));
    files.extend(settings.ingresses.iter().filter_map(|ingress| ingress.authorities_file.clone()));
    files.extend(
        settings.ingresses.iter().filter_map(|ingress| ingress.jwt.as_ref()).flat_map(|jwt| jwt.certificates.clone()),
    );
    files
}
