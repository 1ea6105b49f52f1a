//! What concerns the whole process: the top of the file, `[keyring.*]`, `[admin]`, `[shutdown]`, `[log]`, `[alerts]`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::{ConfigItem, ConfigSection};
use super::listeners::ListenerNames;
use super::{AdminSettings, value};
use crate::keyring::{ActivationPolicy, EkuPolicy, ExpiryPolicy, KeyringName, PreferPolicy};
use crate::net::ListenAddress;
use crate::{folder, keyring, log, process, registry};

/// The keys without a table.
pub(super) struct TopSettings {
    pub(super) landlock: bool,
    pub(super) folder: folder::FolderSettings,
    pub(super) state: Option<PathBuf>,
    pub(super) workers: usize,
    pub(super) instance: Option<String>,
    pub(super) place: registry::RegistryLocation,
    pub(super) skew: Duration,
}

/// Workers for every core that this process may use.
pub(super) fn count_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The watched folder's settings with everything but its place at the default.
pub(super) fn default_folder_settings(certs: PathBuf) -> folder::FolderSettings {
    folder::FolderSettings {
        root: certs,
        rescan: Duration::from_secs(30),
        settle: Duration::from_secs(2),
        strict_permissions: false,
        named: BTreeSet::new(),
        pkcs12_passwords: BTreeMap::new(),
    }
}

/// Reads them. `folder.named` and `folder.pkcs12_passwords` are filled in later.
pub(super) fn read_top_level(top: &ConfigSection<'_>, default_certs: PathBuf) -> TopSettings {
    let mut folder = default_folder_settings(top.read_or("certs", ConfigItem::path, default_certs));
    folder.rescan = top.read_or("rescan", ConfigItem::positive_duration, folder.rescan);
    folder.settle = top.read_or("settle", ConfigItem::duration, folder.settle);
    folder.strict_permissions = top.read_or("strict_permissions", ConfigItem::flag, false);
    let state = top.read_optional("state", |item| {
        let state = item.path()?;
        if state.starts_with(&folder.root) {
            item.add_fault("must be outside the watched folder, which Sidekey never writes to".to_owned());
        }
        Some(state)
    });
    let workers = top.read_or("workers", read_workers, count_cores());
    let place = read_registry_location(top, state.as_deref());
    let landlock = top.read_or("landlock", |item| item.read_word(&[("auto", true), ("off", false)]), true);
    TopSettings {
        landlock,
        folder,
        state,
        workers,
        instance: top.read_optional("instance", ConfigItem::nonempty_text),
        place,
        skew: top.read_or("skew", ConfigItem::duration, Duration::from_mins(1)),
    }
}

/// `registry` and `registry_file`: an SQLite file or a Postgres; by default `registry.db` where the state is.
fn read_registry_location(top: &ConfigSection<'_>, state: Option<&Path>) -> registry::RegistryLocation {
    let named = top.read_optional("registry", |item| {
        let text = item.nonempty_text()?;
        if !text.contains("://") {
            return Some(registry::RegistryLocation::File(item.resolve_path(Path::new(&text))));
        }
        match value::check_postgres_url(&text) {
            Ok(()) => Some(registry::RegistryLocation::Postgres(text)),
            Err(wrong) => {
                item.add_fault(wrong);
                None
            }
        }
    });
    let in_file = top.read_optional("registry_file", |item| {
        if named.is_some() {
            item.add_fault("conflicts with registry: set only one of them".to_owned());
        }
        item.path().map(registry::RegistryLocation::PostgresFile)
    });
    let usual = || {
        state.map_or(registry::RegistryLocation::Memory, |state| {
            registry::RegistryLocation::File(state.join("registry.db"))
        })
    };
    named.or(in_file).unwrap_or_else(usual)
}

fn read_workers(item: &ConfigItem<'_>) -> Option<usize> {
    if item.is_text() { item.read_word(&[("auto", ())]).map(|()| count_cores()) } else { item.count(256) }
}

/// The sections `[keyring.NAME]`, and where their PKCS#12 passwords are.
pub(super) fn read_keyrings(
    top: &ConfigSection<'_>,
    skew: Duration,
) -> (BTreeMap<KeyringName, keyring::KeyringSettings>, BTreeMap<KeyringName, PathBuf>) {
    let (mut keyrings, mut passwords) = (BTreeMap::new(), BTreeMap::new());
    for (name, section) in top.named_sections("keyring", value::parse_keyring_name) {
        if let Some(file) = section.read_optional("pkcs12_password_file", ConfigItem::path) {
            passwords.insert(Arc::clone(&name), file);
        }
        keyrings.insert(Arc::clone(&name), read_keyring(&section, name, skew));
    }
    (keyrings, passwords)
}

fn read_keyring(section: &ConfigSection<'_>, name: KeyringName, skew: Duration) -> keyring::KeyringSettings {
    let usual = keyring::KeyringSettings::with_defaults(name);
    let fingerprint = |item: &ConfigItem<'_>| item.parse_text(|text| text.parse().map_err(|_| value::hash_error(text)));
    let revoked: BTreeSet<_> =
        section.read_or("revoked", |item| item.read_list(fingerprint), Vec::new()).into_iter().collect();
    let current = section.read_optional("current", |item| {
        let current = fingerprint(item)?;
        if revoked.contains(&current) {
            item.add_fault("is also listed in revoked".to_owned());
        }
        Some(current)
    });
    let settings = keyring::KeyringSettings {
        purpose: section.read_optional("purpose", ConfigItem::nonempty_text),
        owner: section.read_optional("owner", ConfigItem::nonempty_text),
        contact: section.read_optional("contact", ConfigItem::nonempty_text),
        overlap: section.read_or("overlap", ConfigItem::duration, usual.overlap),
        seen_within: section.read_or("seen_within", ConfigItem::positive_duration, usual.seen_within),
        prefer: section.read_or(
            "prefer",
            |item| item.read_word(&[("new", PreferPolicy::New), ("old", PreferPolicy::Old)]),
            usual.prefer,
        ),
        activate: section.read_or(
            "activate",
            |item| item.read_word(&[("auto", ActivationPolicy::Auto), ("manual", ActivationPolicy::Manual)]),
            usual.activate,
        ),
        current,
        revoked,
        eku: section.read_or(
            "eku",
            |item| item.read_word(&[("enforce", EkuPolicy::Enforce), ("warn", EkuPolicy::Warn)]),
            usual.eku,
        ),
        on_expiry: section.read_or(
            "on_expiry",
            |item| item.read_word(&[("serve", ExpiryPolicy::Serve), ("refuse", ExpiryPolicy::Refuse)]),
            usual.on_expiry,
        ),
        skew,
        rotate_every: section.read_optional("rotate_every", ConfigItem::positive_duration),
        alert_before: section.read_optional("alert_before", read_alert_before).flatten(),
        ..usual
    };
    section.report_unknown_keys();
    settings
}

/// `"auto"` (`Some(None)`), or a list of durations, the longest first.
#[expect(clippy::option_option, reason = "the outer one reports a fault")]
fn read_alert_before(item: &ConfigItem<'_>) -> Option<Option<Vec<Duration>>> {
    if item.is_text() {
        return item.read_word(&[("auto", ())]).map(|()| None);
    }
    let mut list = item.nonempty_list(ConfigItem::positive_duration)?;
    list.sort_unstable();
    list.dedup();
    list.reverse();
    Some(Some(list))
}

/// `[admin]`.
pub(super) fn read_admin(top: &ConfigSection<'_>, taken: &ListenerNames) -> AdminSettings {
    let section = top.section("admin");
    let listen = section.read_optional("listen", |item| {
        let address = taken.reserve_address(item)?;
        if !is_local_address(&address) {
            item.add_fault(
                "would expose peer names to the network: listen on 127.0.0.1, [::1] or unix:PATH (probes may listen anywhere)"
                    .to_owned(),
            );
        }
        Some(address)
    });
    let probes = section.read_optional("probes", |item| taken.reserve_address(item));
    let control = section.read_optional("control", ConfigItem::path);
    let control_group = section.read_optional("control_group", ConfigItem::nonempty_text);
    section.refuse_later("keyring", ConfigItem::nonempty_text, None);
    section.refuse_later("trust", ConfigItem::nonempty_text, None);
    section.refuse_later("allow", |item| item.read_list(super::peers::read_matcher), None);
    section.report_unknown_keys();
    AdminSettings { listen, probes, control, control_is_given: false, control_group }
}

/// Whether only this host can connect.
pub(super) fn is_local_address(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
        ListenAddress::AnyTcp(_) => false,
        ListenAddress::Unix { .. } => true,
    }
}

/// `[shutdown]`.
pub(super) fn read_shutdown(top: &ConfigSection<'_>) -> process::ShutdownSettings {
    let usual = process::ShutdownSettings::default();
    let section = top.section("shutdown");
    let settings = process::ShutdownSettings {
        delay: section.read_or("delay", ConfigItem::duration, usual.delay),
        drain: section.read_or("drain", ConfigItem::duration, usual.drain),
        egress_linger: section.read_or("egress_linger", ConfigItem::duration, usual.egress_linger),
    };
    section.report_unknown_keys();
    settings
}

/// `[log]`.
pub(super) fn read_log(top: &ConfigSection<'_>) -> log::LogSettings {
    let usual = log::LogSettings::default();
    let section = top.section("log");
    let settings = log::LogSettings {
        format: section.read_optional("format", |item| {
            item.read_word(&[("json", log::LogFormat::Json), ("text", log::LogFormat::Text)])
        }),
        level: section.read_or("level", |item| item.parse_text(value::parse_level), usual.level),
        access: section.read_or("access", ConfigItem::flag, usual.access),
        handshakes: section.read_or("handshakes", ConfigItem::flag, usual.handshakes),
    };
    section.report_unknown_keys();
    settings
}
