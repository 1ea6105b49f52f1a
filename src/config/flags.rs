//! Zero configuration: one ingress named `default`, from flags alone (contract section 2).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::ConfigFault;
use super::{AdminSettings, Config, ConfigErrors, LogFlags, add_implied, named_files, top, value};
use crate::net::{BackendAddress, ListenAddress};
use crate::snapshot::ingress::{IdentityHeaders, IngressSettings, ListenerLimits};
use crate::tls::{AuthorityNames, ClientAuth};
use crate::trust::{AccessRules, AnchorSource};
use crate::{log, process, tls, writer};

/// The port that peers connect to by default.
const DEFAULT_INGRESS_PORT: u16 = 8443;

/// What can be configured without a file, as typed.
#[derive(Clone, Debug, Default)]
pub struct ZeroConfig {
    /// `--backend`: the application.
    pub backend: String,
    /// `--listen`; default `[::]:8443`.
    pub listen: Option<String>,
    /// `--certs`: the watched folder; default `certs`.
    pub certs: Option<PathBuf>,
    /// `--client-ca`: the CAs of accepted peers, in place of the folder's `ca.crt`; may be outside the folder.
    pub client_ca: Option<PathBuf>,
    /// `--state`; default memory only.
    pub state: Option<PathBuf>,
    /// `--probes`.
    pub probes: Option<String>,
    /// `--admin`.
    pub admin: Option<String>,
    /// `--control`; default as without it.
    pub control: Option<PathBuf>,
}

/// The configuration that the flags stand for. Relative paths begin at the working directory.
pub fn from_flags(flags: ZeroConfig) -> Result<Config, ConfigErrors> {
    let mut faults = Vec::new();
    let config = build_config(flags, &mut faults);
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(ConfigErrors::Invalid(faults)),
    }
}

/// A watched folder and nothing else, for commands that work on its keyrings offline. Nothing in it can be run.
pub fn from_folder(certs: Option<&Path>, state: Option<&Path>) -> Result<Config, ConfigErrors> {
    let flags = ZeroConfig {
        // Never contacted: its ingress is removed again.
        backend: "http://127.0.0.1:1".to_owned(),
        certs: certs.map(Path::to_owned),
        state: state.map(Path::to_owned),
        ..ZeroConfig::default()
    };
    let mut config = from_flags(flags)?;
    config.settings.ingresses.clear();
    config.settings.keyrings.clear();
    Ok(config)
}

fn build_config(flags: ZeroConfig, faults: &mut Vec<ConfigFault>) -> Option<Config> {
    let certs = absolute_path(&flags.certs.unwrap_or_else(|| PathBuf::from("certs")), "--certs", faults);
    let state = flags.state.as_deref().map(|state| absolute_path(state, "--state", faults));
    let backend =
        collect_fault(value::parse_backend(&flags.backend), "--backend", faults).map(|backend| match backend {
            BackendAddress::Unix(path) => BackendAddress::Unix(absolute_path(&path, "--backend", faults)),
            other => other,
        });
    let listen = match &flags.listen {
        Some(text) => parse_listen(text, "--listen", faults),
        None => Some(ListenAddress::AnyTcp(DEFAULT_INGRESS_PORT)),
    };
    if matches!(listen, Some(ListenAddress::Unix { .. })) {
        faults.push(flag_fault("--listen", "peers connect over TCP: write for example \"[::]:8443\"".to_owned()));
    }
    let probes = flags.probes.as_deref().and_then(|text| parse_absolute_listen(text, "--probes", faults));
    let admin = flags.admin.as_deref().and_then(|text| parse_absolute_listen(text, "--admin", faults));
    if admin.as_ref().is_some_and(|address| !top::is_local_address(address)) {
        let why = "would expose peer names to the network: write 127.0.0.1:PORT, [::1]:PORT or unix:PATH";
        faults.push(flag_fault("--admin", why.to_owned()));
    }
    if let Some(state) = state.as_ref().filter(|state| state.starts_with(&certs)) {
        let why =
            format!("{:?} is inside the watched folder, which Sidekey never writes to", state.display().to_string());
        faults.push(flag_fault("--state", why));
    }
    let control = flags.control.as_deref().map(|control| absolute_path(control, "--control", faults));
    let anchors = flags.client_ca.as_deref().map(|file| {
        let file = absolute_path(file, "--client-ca", faults);
        AnchorSource::File { path: file.strip_prefix(&certs).map(Path::to_owned).unwrap_or(file), until: None }
    });
    let mut settings = writer::WriterSettings {
        ingresses: vec![ingress_settings(listen?, backend?, anchors.is_some())],
        skew: std::time::Duration::from_mins(1),
        remembers: state.is_some(),
        ..writer::WriterSettings::default()
    };
    settings.trusts.extend(anchors.map(|source| {
        let name: Arc<str> = Arc::from(CLIENT_CA_TRUST);
        (Arc::clone(&name), crate::trust::TrustSettings::with_anchors(name, vec![source]))
    }));
    add_implied(&mut settings);
    let mut folder = top::default_folder_settings(certs);
    folder.named = named_files(&settings);
    let place = state.as_ref().map_or(crate::registry::RegistryLocation::Memory, |state| {
        crate::registry::RegistryLocation::File(state.join("registry.db"))
    });
    Some(Config {
        settings,
        folder,
        state,
        workers: top::count_cores(),
        instance: None,
        registry: place,
        alerts: crate::alerts::AlertSettings::default(),
        admin: AdminSettings { listen: admin, probes, control, control_is_given: false, control_group: None },
        shutdown: process::ShutdownSettings::default(),
        log: log::LogSettings::default(),
        log_flags: LogFlags::default(),
        landlock: true,
        confined_to: None,
        source: None,
        content: None,
    })
}

/// The trust that `--client-ca` makes.
const CLIENT_CA_TRUST: &str = "client-ca";

fn ingress_settings(listen: ListenAddress, backend: BackendAddress, has_trust: bool) -> IngressSettings {
    IngressSettings {
        name: Arc::from("default"),
        listen,
        keyrings: vec![Arc::from("default")],
        trust: has_trust.then(|| Arc::from(CLIENT_CA_TRUST)),
        client_auth: ClientAuth::Required,
        backend,
        identity: IdentityHeaders::default(),
        proxy_protocol_from: Vec::new(),
        forwarded_from: Vec::new(),
        quiet_from: Vec::new(),
        also_strip: Vec::new(),
        rules: AccessRules::default(),
        authorities: AuthorityNames::Auto,
        authorities_file: None,
        jwt: None,
        jwks: false,
        tls: tls::TlsSettings::default(),
        limits: ListenerLimits::default(),
        learn: true,
        log_access: true,
    }
}

fn parse_listen(text: &str, flag: &str, faults: &mut Vec<ConfigFault>) -> Option<ListenAddress> {
    collect_fault(value::parse_listen(text), flag, faults)
}

/// An address whose socket path, if it is one, is made absolute.
fn parse_absolute_listen(text: &str, flag: &str, faults: &mut Vec<ConfigFault>) -> Option<ListenAddress> {
    let mut address = parse_listen(text, flag, faults)?;
    if let ListenAddress::Unix { path, .. } = &mut address {
        *path = absolute_path(path, flag, faults);
    }
    Some(address)
}

fn collect_fault<T>(read: Result<T, value::ValueError>, flag: &str, faults: &mut Vec<ConfigFault>) -> Option<T> {
    read.map_err(|wrong| faults.push(flag_fault(flag, wrong))).ok()
}

fn absolute_path(path: &Path, flag: &str, faults: &mut Vec<ConfigFault>) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|error| {
        faults.push(flag_fault(flag, error.to_string()));
        path.to_owned()
    })
}

pub(super) fn flag_fault(flag: &str, message: String) -> ConfigFault {
    ConfigFault { file: None, line: 0, column: 0, key: flag.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_enough() {
        let flags = ZeroConfig { backend: "http://127.0.0.1:8080".to_owned(), ..ZeroConfig::default() };
        let config = from_flags(flags).unwrap();
        let ingress = &config.settings.ingresses[0];
        assert_eq!((ingress.name.as_ref(), &ingress.listen), ("default", &ListenAddress::AnyTcp(8443)));
        assert_eq!((ingress.keyrings[0].as_ref(), &ingress.trust), ("default", &None));
        assert!(config.settings.keyrings["default"].roles.server);
        assert!(config.folder.root.is_absolute() && config.folder.root.ends_with("certs"));
        assert_eq!((config.state, config.admin), (None, AdminSettings::default()));
    }

    #[test]
    fn a_client_ca_is_named_from_the_folder_where_it_lies_in_it() {
        let trusted = |file: &str| {
            let flags = ZeroConfig {
                backend: "http://a".to_owned(),
                certs: Some("/certs".into()),
                client_ca: Some(file.into()),
                ..ZeroConfig::default()
            };
            let config = from_flags(flags).unwrap();
            assert_eq!(config.settings.ingresses[0].trust.as_deref(), Some("client-ca"));
            config.folder.named.into_iter().next().unwrap()
        };
        assert_eq!(trusted("/certs/trust/peers.pem"), Path::new("trust/peers.pem"));
        assert_eq!(trusted("/etc/peers.pem"), Path::new("/etc/peers.pem"));
    }

    #[test]
    fn every_wrong_flag_is_named() {
        let flags = ZeroConfig {
            backend: "ftp://a".to_owned(),
            listen: Some("unix:/a".to_owned()),
            certs: Some("/certs".into()),
            state: Some("/certs/state".into()),
            probes: Some("9901".to_owned()),
            admin: Some("0.0.0.0:9900".to_owned()),
            client_ca: None,
            control: None,
        };
        let Err(ConfigErrors::Invalid(faults)) = from_flags(flags) else { panic!("accepted") };
        let mut keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["--admin", "--backend", "--listen", "--probes", "--state"]);
        assert!(faults.iter().any(|fault| fault.to_string().starts_with("--backend: invalid backend \"ftp://a\"")));
    }
}
