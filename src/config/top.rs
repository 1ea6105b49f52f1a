//! What concerns the whole process: the top of the file, `[keyring.*]`, `[admin]`, `[shutdown]`, `[log]`, `[alerts]`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::{Item, Section};
use super::listeners::Taken;
use super::{Admin, value};
use crate::keyring::{Activate, Eku, KeyringName, OnExpiry, Prefer};
use crate::net::ListenAddress;
use crate::{folder, keyring, log, process, registry};

/// The keys without a table.
pub(super) struct Top {
    pub(super) folder: folder::Settings,
    pub(super) state: Option<PathBuf>,
    pub(super) workers: usize,
    pub(super) instance: Option<String>,
    pub(super) place: registry::Place,
    pub(super) skew: Duration,
}

/// Workers for every core that this process may use.
pub(super) fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The watched folder's settings with everything but its place at the default.
pub(super) fn watched(certs: PathBuf) -> folder::Settings {
    folder::Settings {
        root: certs,
        rescan: Duration::from_secs(30),
        settle: Duration::from_secs(2),
        strict_permissions: false,
        named: BTreeSet::new(),
        pkcs12_passwords: BTreeMap::new(),
    }
}

/// Reads them. `folder.named` and `folder.pkcs12_passwords` are filled in later.
pub(super) fn read(top: &Section<'_>, default_certs: PathBuf) -> Top {
    let mut folder = watched(top.or("certs", Item::path, default_certs));
    folder.rescan = top.or("rescan", Item::positive, folder.rescan);
    folder.settle = top.or("settle", Item::duration, folder.settle);
    folder.strict_permissions = top.or("strict_permissions", Item::flag, false);
    let state = top.maybe("state", |item| {
        let state = item.path()?;
        if state.starts_with(&folder.root) {
            item.fault("must be outside the watched folder, which Sidekey never writes to".to_owned());
        }
        Some(state)
    });
    let workers = top.or("workers", workers, all_cores());
    let place = place(top, state.as_deref());
    top.later("landlock", |item| item.one_of(&[("auto", true), ("off", false)]), Some(&false));
    Top {
        folder,
        state,
        workers,
        instance: top.maybe("instance", Item::words),
        place,
        skew: top.or("skew", Item::duration, Duration::from_mins(1)),
    }
}

/// `registry` and `registry_file`: an SQLite file or a Postgres; by default `registry.db` where the state is.
fn place(top: &Section<'_>, state: Option<&Path>) -> registry::Place {
    let named = top.maybe("registry", |item| {
        let text = item.words()?;
        if !text.contains("://") {
            return Some(registry::Place::File(item.resolve(Path::new(&text))));
        }
        match value::postgres(&text) {
            Ok(()) => Some(registry::Place::Postgres(text)),
            Err(wrong) => {
                item.fault(wrong);
                None
            }
        }
    });
    let in_file = top.maybe("registry_file", |item| {
        if named.is_some() {
            item.fault("conflicts with registry: set only one of them".to_owned());
        }
        item.path().map(registry::Place::PostgresFile)
    });
    let usual = || state.map_or(registry::Place::Memory, |state| registry::Place::File(state.join("registry.db")));
    named.or(in_file).unwrap_or_else(usual)
}

fn workers(item: &Item<'_>) -> Option<usize> {
    if item.is_text() { item.one_of(&[("auto", ())]).map(|()| all_cores()) } else { item.count(256) }
}

/// The sections `[keyring.NAME]`, and where their PKCS#12 passwords are.
pub(super) fn keyrings(
    top: &Section<'_>,
    skew: Duration,
) -> (BTreeMap<KeyringName, keyring::Settings>, BTreeMap<KeyringName, PathBuf>) {
    let (mut keyrings, mut passwords) = (BTreeMap::new(), BTreeMap::new());
    for (name, section) in top.named("keyring", value::keyring_name) {
        if let Some(file) = section.maybe("pkcs12_password_file", Item::path) {
            passwords.insert(Arc::clone(&name), file);
        }
        keyrings.insert(Arc::clone(&name), keyring(&section, name, skew));
    }
    (keyrings, passwords)
}

fn keyring(section: &Section<'_>, name: KeyringName, skew: Duration) -> keyring::Settings {
    let usual = keyring::Settings::of(name);
    let fingerprint = |item: &Item<'_>| item.parse(|text| text.parse().map_err(|_| value::no_hash(text)));
    let revoked: BTreeSet<_> = section.or("revoked", |item| item.list(fingerprint), Vec::new()).into_iter().collect();
    let current = section.maybe("current", |item| {
        let current = fingerprint(item)?;
        if revoked.contains(&current) {
            item.fault("is also listed in revoked".to_owned());
        }
        Some(current)
    });
    let settings = keyring::Settings {
        purpose: section.maybe("purpose", Item::words),
        owner: section.maybe("owner", Item::words),
        contact: section.maybe("contact", Item::words),
        overlap: section.or("overlap", Item::duration, usual.overlap),
        prefer: section.or("prefer", |item| item.one_of(&[("new", Prefer::New), ("old", Prefer::Old)]), usual.prefer),
        activate: section.or(
            "activate",
            |item| item.one_of(&[("auto", Activate::Auto), ("manual", Activate::Manual)]),
            usual.activate,
        ),
        current,
        revoked,
        eku: section.or("eku", |item| item.one_of(&[("enforce", Eku::Enforce), ("warn", Eku::Warn)]), usual.eku),
        on_expiry: section.or(
            "on_expiry",
            |item| item.one_of(&[("serve", OnExpiry::Serve), ("refuse", OnExpiry::Refuse)]),
            usual.on_expiry,
        ),
        skew,
        rotate_every: section.maybe("rotate_every", Item::positive),
        alert_before: section.maybe("alert_before", alert_before).flatten(),
        ..usual
    };
    section.finish();
    settings
}

/// `"auto"` (`Some(None)`), or a list of durations, the longest first.
#[expect(clippy::option_option, reason = "the outer one reports a fault")]
fn alert_before(item: &Item<'_>) -> Option<Option<Vec<Duration>>> {
    if item.is_text() {
        return item.one_of(&[("auto", ())]).map(|()| None);
    }
    let mut list = item.some(Item::positive)?;
    list.sort_unstable();
    list.dedup();
    list.reverse();
    Some(Some(list))
}

/// `[admin]`.
pub(super) fn admin(top: &Section<'_>, taken: &Taken) -> Admin {
    let section = top.section("admin");
    let listen = section.maybe("listen", |item| {
        let address = taken.listen(item)?;
        if !is_local(&address) {
            item.fault(
                "would expose peer names to the network: listen on 127.0.0.1, [::1] or unix:PATH (probes may listen anywhere)"
                    .to_owned(),
            );
        }
        Some(address)
    });
    let probes = section.maybe("probes", |item| taken.listen(item));
    let control = section.maybe("control", Item::path);
    let control_group = section.maybe("control_group", Item::words);
    section.later("keyring", Item::words, None);
    section.later("trust", Item::words, None);
    section.later("allow", |item| item.list(super::peers::matcher), None);
    section.finish();
    Admin { listen, probes, control, control_is_given: false, control_group }
}

/// Whether only this host can connect.
pub(super) fn is_local(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
        ListenAddress::AnyTcp(_) => false,
        ListenAddress::Unix { .. } => true,
    }
}

/// `[shutdown]`.
pub(super) fn shutdown(top: &Section<'_>) -> process::Settings {
    let usual = process::Settings::default();
    let section = top.section("shutdown");
    let settings = process::Settings {
        delay: section.or("delay", Item::duration, usual.delay),
        drain: section.or("drain", Item::duration, usual.drain),
        egress_linger: section.or("egress_linger", Item::duration, usual.egress_linger),
    };
    section.finish();
    settings
}

/// `[log]`.
pub(super) fn log(top: &Section<'_>) -> log::Settings {
    let usual = log::Settings::default();
    let section = top.section("log");
    let settings = log::Settings {
        format: section
            .maybe("format", |item| item.one_of(&[("json", log::Format::Json), ("text", log::Format::Text)])),
        level: section.or("level", |item| item.parse(value::level), usual.level),
        access: section.or("access", Item::flag, usual.access),
        handshakes: section.or("handshakes", Item::flag, usual.handshakes),
    };
    section.finish();
    settings
}
