//! What concerns the whole process: the top of the file, `[keyring.*]`, `[admin]`, `[shutdown]`, `[log]`, `[alerts]`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::file::{Item, Section};
use super::listeners::Taken;
use super::{Admin, value};
use crate::keyring::{Activate, Eku, KeyringName, OnExpiry, Prefer};
use crate::net::ListenAddress;
use crate::{folder, keyring, log, process};

/// The keys without a table.
pub(super) struct Top {
    pub(super) folder: folder::Settings,
    pub(super) state: Option<PathBuf>,
    pub(super) workers: usize,
    pub(super) instance: Option<String>,
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
            item.fault("must lie outside the watched folder, which is never written to".to_owned());
        }
        Some(state)
    });
    let workers = top.or("workers", workers, all_cores());
    top.later("registry", Item::words, None);
    top.later("registry_file", Item::path, None);
    top.later("landlock", |item| item.one_of(&[("auto", true), ("off", false)]), Some(&false));
    Top {
        folder,
        state,
        workers,
        instance: top.maybe("instance", Item::words),
        skew: top.or("skew", Item::duration, Duration::from_mins(1)),
    }
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
            item.fault("is in revoked too".to_owned());
        }
        Some(current)
    });
    section.later("rotate_every", Item::positive, None);
    section.later("alert_before", alert_before, None);
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
        ..usual
    };
    section.finish();
    settings
}

/// `"auto"` or a list of durations.
fn alert_before(item: &Item<'_>) -> Option<Vec<Duration>> {
    if item.is_text() { item.one_of(&[("auto", ())]).map(|()| Vec::new()) } else { item.some(Item::positive) }
}

/// `[admin]`.
pub(super) fn admin(top: &Section<'_>, taken: &Taken) -> Admin {
    let section = top.section("admin");
    let listen = section.maybe("listen", |item| {
        let address = taken.listen(item)?;
        if !is_local(&address) {
            item.fault(
                "would show peers' names to the network: listen on 127.0.0.1, [::1] or unix:PATH (probes may listen anywhere)"
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
    Admin { listen, probes, control, control_group }
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

/// `[alerts]`: a later issue.
pub(super) fn alerts(top: &Section<'_>) {
    top.later_table("alerts", |section| {
        section.maybe("webhook", |item| {
            item.some(|item| {
                let webhook = item.section()?;
                webhook.required("url_file", Item::path);
                webhook.maybe("format", |item| item.one_of(&[("slack", ()), ("json", ())]));
                webhook.finish();
                Some(())
            })
        });
        let smtp = section.section("smtp");
        for key in ["server", "from"] {
            smtp.maybe(key, Item::words);
        }
        smtp.maybe("credentials_file", Item::path);
        smtp.maybe("tls", |item| item.one_of(&[("starttls", ()), ("tls", ()), ("none", ())]));
        smtp.finish();
    });
}
