//! What the configured sidecar needs of the system: the files that it reads and writes, the ports that it listens on and
//! connects to. `process::landlock` confines the process to it.

use std::path::{Path, PathBuf};

use super::Config;
use crate::alerts::{AlertSettings, webhook_port};
use crate::net::{BackendAddress, HostPort, ListenAddress};
use crate::process::landlock::{ProcessAccess, linked_folders, parent_folder};
use crate::registry::RegistryLocation;
use crate::snapshot::egress::EgressSettings;
use crate::snapshot::ingress::IngressSettings;

/// Where groups have their numbers.
const GROUPS: &str = "/etc/group";
/// The port of DNS: a long answer comes over TCP.
const DNS_PORT: u16 = 53;
/// The port of https, where a webhook's URL cannot be read yet.
const HTTPS_PORT: u16 = 443;
/// The entries of the watched folder whose links are followed.
const MAX_LINK_ENTRIES: usize = 8192;

/// Everything that a sidecar with this configuration opens after its start. `control` is its control socket.
pub fn process_access(config: &Config, control: &Path) -> ProcessAccess {
    let mut access = ProcessAccess::default();
    add_read_places(config, &mut access);
    access.write.extend(config.state.clone());
    if let RegistryLocation::File(file) = &config.registry {
        access.write.extend(file.parent().map(Path::to_owned));
    }
    access.write.extend(control.parent().map(Path::to_owned));
    add_listeners(config, &mut access);
    add_connections(config, &mut access);
    access
}

/// The folder's parent too, so that a folder that is deleted and made again is still read; and where its links lead.
fn add_read_places(config: &Config, access: &mut ProcessAccess) {
    let root = &config.folder.root;
    access.read.insert(root.clone());
    let real = root.canonicalize().unwrap_or_else(|_| root.clone());
    access.read.extend([root, &real].into_iter().filter_map(|path| parent_folder(path)));
    access.read.extend(linked_folders(root, MAX_LINK_ENTRIES));
    let webhooks = config.alerts.webhooks.iter().map(|webhook| &webhook.url_file);
    let smtp = config.alerts.smtp.as_ref().and_then(|smtp| smtp.credentials_file.as_ref());
    let named = config.folder.named.iter().filter(|file| file.is_absolute());
    let authorities = config.settings.ingresses.iter().filter_map(|ingress| ingress.authorities_file.as_ref());
    let passwords = config.folder.pkcs12_passwords.values();
    let registry = match &config.registry {
        RegistryLocation::PostgresFile(file) => Some(file),
        _ => None,
    };
    let files = webhooks.chain(smtp).chain(named).chain(authorities).chain(passwords).chain(registry);
    for file in files.chain(config.source.as_ref()) {
        // A file that is replaced by a rename is another one: its folder counts, unless that is the root.
        access.read.insert(parent_folder(file).unwrap_or_else(|| file.clone()));
        let target = file.canonicalize().ok().and_then(|target| parent_folder(&target));
        access.read.extend(target);
    }
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR", "PGPASSFILE"] {
        access.read.extend(std::env::var_os(variable).map(PathBuf::from));
    }
    if let (Some(home), true) = (std::env::var_os("HOME"), config.registry.is_postgres()) {
        access.read.extend([".pgpass", ".postgresql"].map(|name| Path::new(&home).join(name)));
    }
    if resolves_names(config) {
        access.read.extend(resolver_folder());
    }
}

fn add_listeners(config: &Config, access: &mut ProcessAccess) {
    let ingresses = config.settings.ingresses.iter().map(|ingress| &ingress.listen);
    let egresses = config.settings.egresses.iter().map(|egress| &egress.listen);
    let own = [&config.admin.listen, &config.admin.probes].into_iter().flatten();
    for address in ingresses.chain(egresses).chain(own) {
        match address {
            ListenAddress::Tcp(address) => drop(access.bind.insert(address.port())),
            ListenAddress::AnyTcp(port) => drop(access.bind.insert(*port)),
            ListenAddress::Unix { path, group, .. } => {
                access.write.extend(path.parent().map(Path::to_owned));
                add_groups(group.as_deref(), access);
            }
        }
    }
    add_groups(config.admin.control_group.as_deref(), access);
}

/// What a group's name is looked up in, when the socket is bound.
fn add_groups(group: Option<&str>, access: &mut ProcessAccess) {
    if group.is_some_and(|name| name.parse::<u32>().is_err()) {
        access.read.insert(PathBuf::from(GROUPS));
    }
}

fn add_connections(config: &Config, access: &mut ProcessAccess) {
    access.connect.insert(DNS_PORT);
    access.connect.extend(listener_access(&config.settings.ingresses, &config.settings.egresses).connect);
    access.connect.extend(config.alerts.smtp.as_ref().map(|smtp| smtp.server.port));
    access.connect.extend(webhook_ports(&config.alerts));
    access.connect.extend(config.registry.port());
}

/// What these listeners need of what a reload may change.
pub(super) fn listener_access(ingresses: &[IngressSettings], egresses: &[EgressSettings]) -> ProcessAccess {
    let read =
        ingresses.iter().filter_map(|ingress| ingress.authorities_file.clone()).filter(|file| file.is_absolute());
    let connect = servers(ingresses, egresses).map(|server| server.port).collect();
    ProcessAccess { read: read.collect(), connect, ..ProcessAccess::default() }
}

/// The servers that listeners lead to.
fn servers<'c>(ingresses: &'c [IngressSettings], egresses: &'c [EgressSettings]) -> impl Iterator<Item = &'c HostPort> {
    let backends = ingresses.iter().filter_map(|ingress| match &ingress.backend {
        BackendAddress::Http(server) | BackendAddress::H2c(server) => Some(server),
        BackendAddress::Unix(_) => None,
    });
    let egresses = egresses.iter();
    let upstreams = egresses.clone().map(|egress| &egress.upstream);
    let endpoints = egresses.filter_map(|egress| Some(&egress.bearer.as_ref()?.endpoint.as_ref()?.to));
    backends.chain(upstreams).chain(endpoints)
}

fn webhook_ports(alerts: &AlertSettings) -> impl Iterator<Item = u16> {
    // The file may come later, or name another URL: those are mostly https.
    let usual = (!alerts.webhooks.is_empty()).then_some(HTTPS_PORT);
    alerts.webhooks.iter().filter_map(webhook_port).chain(usual)
}

/// Whether a name has to be looked up in DNS.
fn resolves_names(config: &Config) -> bool {
    let is_name = |server: &HostPort| server.host.parse::<std::net::IpAddr>().is_err() && &*server.host != "localhost";
    let settings = &config.settings;
    !config.alerts.webhooks.is_empty()
        || config.registry.is_postgres()
        || config.alerts.smtp.as_ref().is_some_and(|smtp| is_name(&smtp.server))
        || servers(&settings.ingresses, &settings.egresses).any(is_name)
}

/// The folder of the resolver's configuration, where programs replace that file by a rename: a rule for the file itself
/// would end with it. In a container it is a mount of its own, and on most hosts a link into /run.
fn resolver_folder() -> Option<PathBuf> {
    const RESOLVER: &str = "/etc/resolv.conf";
    let is_file = std::fs::symlink_metadata(RESOLVER).is_ok_and(|metadata| metadata.is_file());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_mount = mounts.lines().any(|line| line.split(' ').nth(4) == Some(RESOLVER));
    (is_file && !is_mount).then(|| PathBuf::from("/etc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_configuration_names_is_allowed_and_nothing_else() {
        let text = r#"
            certs = "/srv/sidekey/certs"
            state = "/var/lib/sidekey"
            [[ingress]]
            listen = "[::]:8443"
            backend = "http://127.0.0.1:8080"
            [[egress]]
            listen = "unix:/run/app/out.sock"
            upstream = "https://192.0.2.1:9443"
            keyring = "out"
            trust = "system"
            [alerts.smtp]
            server = "127.0.0.1:2525"
            from = "sidekey@example.com"
            credentials_file = "/run/secrets/smtp"
            tls = "none"
            [admin]
            probes = "[::]:9901"
        "#;
        let config = crate::config::parse(text, Path::new("/etc/sidekey")).unwrap();
        let access = process_access(&config, Path::new("/run/sidekey/control.sock"));
        let paths = |paths: &std::collections::BTreeSet<PathBuf>| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let reads = paths(&access.read);
        for expected in ["/srv/sidekey/certs", "/srv/sidekey", "/run/secrets"] {
            assert!(reads.contains(&expected.to_owned()), "{expected}: {reads:?}");
        }
        assert!(!reads.iter().any(|path| path == "/" || path == "/etc"), "{reads:?}");
        assert_eq!(paths(&access.write), ["/run/app", "/run/sidekey", "/var/lib/sidekey"]);
        assert_eq!(access.bind.iter().copied().collect::<Vec<_>>(), [8443, 9901]);
        assert_eq!(access.connect.iter().copied().collect::<Vec<_>>(), [53, 2525, 8080, 9443]);
    }
}
