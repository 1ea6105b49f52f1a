//! What is trusted, and which partners exist: `[trust.*]`, `[partner.*]`, and the tables of `allow`.
//!
//! Here also: which rules are too loose to be safe, because any of several authorities could issue the name they match.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::file::{Item, Section};
use super::value;
use crate::clock::Clock;
use crate::trust::partner::{self, Wish};
use crate::trust::{self, AnchorSource, Matcher, Pin, TrustName};

/// The built-in trust that holds the platform's anchors.
pub(super) const SYSTEM: &str = "system";

/// What the listeners may refer to.
pub(super) struct Known {
    pub(super) trusts: BTreeMap<TrustName, trust::Settings>,
    pub(super) partners: Vec<partner::Settings>,
}

/// Reads trusts and partners. Files lie under `certs`, the watched folder.
pub(super) fn read(top: &Section<'_>, certs: &Path) -> Known {
    let trusts = top.named("trust", trust_name).into_iter().map(|(name, section)| {
        let settings = trust(&section, Arc::clone(&name), certs);
        section.finish();
        (name, settings)
    });
    let trusts = trusts.collect();
    let partners = top.named("partner", value::name).into_iter().map(|(name, section)| {
        let settings = partner(&section, name, certs);
        section.finish();
        settings
    });
    Known { trusts, partners: partners.collect() }
}

fn trust_name(text: &str) -> Result<TrustName, value::Wrong> {
    if text == SYSTEM {
        return Err("\"system\" is built in, for the platform's anchors: choose another name".to_owned());
    }
    value::name(text)
}

fn trust(section: &Section<'_>, name: TrustName, certs: &Path) -> trust::Settings {
    let anchors = section.get("anchors");
    let pin_only = section.or("pin_only", Item::flag, false);
    let settings = trust::Settings {
        pins: section.or("pins", |item| item.some(pin), Vec::new()),
        pin_only,
        crls: section.or("crls", |item| item.list(|item| under(item, certs)), Vec::new()),
        crl_whole_chain: section.or("crl_depth", |item| item.one_of(&[("leaf", false), ("chain", true)]), false),
        crl_required: section.or("crl_required", Item::flag, false),
        crl_stale_refuses: section.or("crl_stale", |item| item.one_of(&[("warn", false), ("refuse", true)]), false),
        client_eku_required: section.or("client_eku", |item| item.one_of(&[("require", true), ("any", false)]), true),
        overlap: section.or("overlap", Item::duration, Duration::ZERO),
        ..trust::Settings::of(
            name,
            anchors.as_ref().and_then(|item| item.some(|item| anchor(item, certs))).unwrap_or_default(),
        )
    };
    let has_pins = section.maybe("pins", |_| Some(())).is_some();
    match (pin_only, anchors) {
        (true, Some(anchors)) => anchors.fault("pin_only verifies by pins alone: leave anchors out".to_owned()),
        (true, None) if !has_pins => section.fault("pin_only needs pins".to_owned()),
        (false, None) => section.fault(
            "has no anchors: name at least one file, or set pin_only = true for self-signed partners".to_owned(),
        ),
        _ => {}
    }
    settings
}

/// `"FILE"`, `"system"` or `{ file = "FILE", until = DATE }`.
fn anchor(item: &Item<'_>, certs: &Path) -> Option<AnchorSource> {
    if item.is_text() {
        if item.text()? == SYSTEM {
            return Some(AnchorSource::System);
        }
        return Some(AnchorSource::File { path: under(item, certs)?, until: None });
    }
    let section = item.section()?;
    let path = section.required("file", |item| under(item, certs));
    let until = section.required("until", Item::date);
    section.finish();
    Some(AnchorSource::File { path: path?, until: Some(until?) })
}

/// `"sha256:…"` or `{ pin = "sha256:…", until = DATE }`.
fn pin(item: &Item<'_>) -> Option<Pin> {
    let hash = |item: &Item<'_>| item.parse(|text| text.parse().map_err(|_| value::no_hash(text)));
    if item.is_text() {
        return hash(item).map(|spki| Pin { spki, until: None });
    }
    let section = item.section()?;
    let spki = section.required("pin", hash);
    let until = section.required("until", Item::date);
    section.finish();
    Some(Pin { spki: spki?, until: Some(until?) })
}

/// A file under the watched folder, relative to it.
pub(super) fn under(item: &Item<'_>, certs: &Path) -> Option<PathBuf> {
    let text = item.words()?;
    let path = Path::new(&text);
    let inside = path.strip_prefix(certs).unwrap_or(path);
    let plain: PathBuf = inside.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    let stays = plain.components().all(|part| matches!(part, Component::Normal(_)));
    if stays && plain.components().next().is_some() {
        return Some(plain);
    }
    item.fault(format!(
        "{text:?} is not inside the watched folder {:?}: move it there and write its path within that folder",
        certs.display().to_string()
    ));
    None
}

fn partner(section: &Section<'_>, name: Arc<str>, certs: &Path) -> partner::Settings {
    let settings = partner::Settings {
        name,
        anchors: section.or("anchors", |item| item.some(|item| under(item, certs)), Vec::new()),
        pins: section.or("pins", |item| item.some(pin), Vec::new()),
        peers: section.or("peers", |item| item.some(partners_own), Vec::new()),
        sources: section.or("sources", |item| item.list(|item| item.parse(value::network)), Vec::new()),
        show: section.maybe("show", show),
        accept_expired_until: section.maybe("accept_expired_until", soon),
        max_connections: section.maybe("max_connections", |item| item.count(1_000_000)),
        contact: section.maybe("contact", Item::words),
    };
    if settings.show.is_some() && settings.sources.is_empty() {
        section.fault(
            "has show, which applies before the peer sends its certificate: set sources to the addresses it connects from"
                .to_owned(),
        );
    }
    let says = |key: &'static str| section.get(key).is_some();
    if !["anchors", "pins", "peers"].into_iter().any(says) {
        section.fault("does not identify its peers: give it anchors or pins of its own, and peers".to_owned());
    } else if !settings.is_bound() && !says("anchors") && !says("pins") {
        section.fault(
            "is identified by names alone, which any authority of a trust could issue: give it anchors or pins of its own, or \
             peers by fingerprint or spki"
                .to_owned(),
        );
    }
    settings
}

/// A date at most two weeks ahead: an exception to a rule must be short.
fn soon(item: &Item<'_>) -> Option<Timestamp> {
    let date = item.date()?;
    let latest = Clock::system().now() + SignedDuration::from_hours(14 * 24);
    if date > latest {
        item.fault(format!("{date} is more than 14 days ahead: choose an earlier date, and have the certificate renewed by then"));
        return None;
    }
    Some(date)
}

fn partners_own(item: &Item<'_>) -> Option<Matcher> {
    let matcher = matcher(item)?;
    if matcher.partner.is_some() || matcher.anonymous {
        item.fault(
            "a partner's peers are identified by their certificates: leave out partner and anonymous".to_owned(),
        );
        return None;
    }
    Some(matcher)
}

/// `"new_only"` or `{ old_until = DATE }`.
fn show(item: &Item<'_>) -> Option<Wish> {
    if item.is_text() {
        return item.one_of(&[("new_only", Wish::NewOnly)]);
    }
    let section = item.section()?;
    let until = section.required("old_until", Item::date);
    section.finish();
    until.map(Wish::OldUntil)
}

/// One table of `allow`.
pub(super) fn matcher(item: &Item<'_>) -> Option<Matcher> {
    let section = item.known_as("allow").section()?;
    let matcher = Matcher {
        uri: section.maybe("uri", Item::words),
        dns: section.maybe("dns", Item::words).map(|dns| dns.to_ascii_lowercase()),
        cn: section.maybe("cn", Item::words),
        ou: section.maybe("ou", Item::words),
        o: section.maybe("o", Item::words),
        email: section.maybe("email", Item::words),
        fingerprint: section
            .maybe("fingerprint", |item| item.parse(|text| text.parse().map_err(|_| value::no_hash(text)))),
        spki: section.maybe("spki", |item| item.parse(|text| text.parse().map_err(|_| value::no_hash(text)))),
        issuer: section.maybe("issuer", Item::words),
        partner: section.maybe("partner", |item| item.parse(value::name)),
        anonymous: section.or("anonymous", Item::flag, false),
    };
    section.finish();
    let empty = Matcher::default();
    if matcher == empty {
        item.fault("has no condition: add one, or leave allow out to accept every peer that the trust verifies".to_owned());
        return None;
    }
    if matcher.anonymous && matcher != (Matcher { anonymous: true, ..empty }) {
        item.fault("anonymous cannot be combined with other conditions: a peer without a certificate has no names".to_owned());
        return None;
    }
    Some(matcher)
}

/// Why a rule with this matcher would be unsafe over this trust, if it would be.
pub(super) fn too_loose(matcher: &Matcher, trust: &trust::Settings, partners: &[partner::Settings]) -> Option<String> {
    let partner = matcher.partner.as_ref().and_then(|name| partners.iter().find(|partner| partner.name == *name));
    if matcher.anonymous
        || matcher.is_exact()
        || partner.is_some_and(partner::Settings::is_bound)
        || !trust.pins.is_empty()
    {
        return None;
    }
    let remedy = "add partner = \"NAME\" with anchors or pins of its own, or fingerprint or spki";
    // An anchor with `until` is the outgoing one of the same authority.
    let lasting = trust.anchors.iter().filter(|source| !matches!(source, AnchorSource::File { until: Some(_), .. }));
    let lasting = lasting.count();
    if lasting > 1 {
        return Some(format!(
            "matches a name that each of the {lasting} anchor sources of trust {:?} could issue: {remedy}",
            trust.name
        ));
    }
    if trust.anchors.contains(&AnchorSource::System) && matcher.dns.is_none() {
        return Some(format!("matches a name that public authorities do not check: add dns, or {remedy}"));
    }
    None
}
