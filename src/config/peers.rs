//! What is trusted, and which partners exist: `[trust.*]`, `[partner.*]`, and the tables of `allow`.
//!
//! Here also: which rules are too loose to be safe, because any of several authorities could issue the name they match.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::file::{ConfigItem, ConfigSection};
use super::value;
use crate::clock::Clock;
use crate::trust::partner::{self, KeyPairPreference};
use crate::trust::{self, AnchorSource, PeerMatcher, Pin, TrustName};

/// The built-in trust that holds the platform's anchors.
pub(super) const SYSTEM_TRUST: &str = "system";

/// What the listeners may refer to.
pub(super) struct PeerNames {
    pub(super) trusts: BTreeMap<TrustName, trust::TrustSettings>,
    pub(super) partners: Vec<partner::PartnerSettings>,
}

/// Reads trusts and partners. Files lie under `certs`, the watched folder.
pub(super) fn read_peers(top: &ConfigSection<'_>, certs: &Path) -> PeerNames {
    let trusts = top.named_sections("trust", parse_trust_name).into_iter().map(|(name, section)| {
        let settings = read_trust(&section, Arc::clone(&name), certs);
        section.report_unknown_keys();
        (name, settings)
    });
    let trusts = trusts.collect();
    let partners = top.named_sections("partner", value::parse_name).into_iter().map(|(name, section)| {
        let settings = read_partner(&section, name, certs);
        section.report_unknown_keys();
        settings
    });
    PeerNames { trusts, partners: partners.collect() }
}

fn parse_trust_name(text: &str) -> Result<TrustName, value::ValueError> {
    if text == SYSTEM_TRUST {
        return Err("\"system\" is built in, for the platform's anchors: choose another name".to_owned());
    }
    value::parse_name(text)
}

fn read_trust(section: &ConfigSection<'_>, name: TrustName, certs: &Path) -> trust::TrustSettings {
    let anchors = section.get("anchors");
    let pin_only = section.read_or("pin_only", ConfigItem::flag, false);
    let settings = trust::TrustSettings {
        pins: section.read_or("pins", |item| item.nonempty_list(read_pin), Vec::new()),
        pin_only,
        crls: section.read_or("crls", |item| item.read_list(|item| read_relative_file(item, certs)), Vec::new()),
        crl_whole_chain: section.read_or(
            "crl_depth",
            |item| item.read_word(&[("leaf", false), ("chain", true)]),
            false,
        ),
        crl_required: section.read_or("crl_required", ConfigItem::flag, false),
        crl_stale_refuses: section.read_or(
            "crl_stale",
            |item| item.read_word(&[("warn", false), ("refuse", true)]),
            false,
        ),
        client_eku_required: section.read_or(
            "client_eku",
            |item| item.read_word(&[("require", true), ("any", false)]),
            true,
        ),
        overlap: section.read_or("overlap", ConfigItem::duration, Duration::ZERO),
        ..trust::TrustSettings::with_anchors(
            name,
            anchors.as_ref().and_then(|item| item.nonempty_list(|item| read_anchor(item, certs))).unwrap_or_default(),
        )
    };
    let has_pins = section.read_optional("pins", |_| Some(())).is_some();
    match (pin_only, anchors) {
        (true, Some(anchors)) => anchors.add_fault("pin_only verifies by pins alone: leave anchors out".to_owned()),
        (true, None) if !has_pins => section.add_fault("pin_only needs pins".to_owned()),
        (false, None) => section.add_fault(
            "has no anchors: name at least one file, or set pin_only = true for self-signed partners".to_owned(),
        ),
        _ => {}
    }
    settings
}

/// `"FILE"`, `"system"` or `{ file = "FILE", until = DATE }`.
fn read_anchor(item: &ConfigItem<'_>, certs: &Path) -> Option<AnchorSource> {
    if item.is_text() {
        if item.text()? == SYSTEM_TRUST {
            return Some(AnchorSource::System);
        }
        return Some(AnchorSource::File { path: read_relative_file(item, certs)?, until: None });
    }
    let section = item.section()?;
    let path = section.read_required("file", |item| read_relative_file(item, certs));
    let until = section.read_required("until", ConfigItem::date);
    section.report_unknown_keys();
    Some(AnchorSource::File { path: path?, until: Some(until?) })
}

/// `"sha256:…"` or `{ pin = "sha256:…", until = DATE }`.
fn read_pin(item: &ConfigItem<'_>) -> Option<Pin> {
    let hash = |item: &ConfigItem<'_>| item.parse_text(|text| text.parse().map_err(|_| value::hash_error(text)));
    if item.is_text() {
        return hash(item).map(|spki| Pin { spki, until: None });
    }
    let section = item.section()?;
    let spki = section.read_required("pin", hash);
    let until = section.read_required("until", ConfigItem::date);
    section.report_unknown_keys();
    Some(Pin { spki: spki?, until: Some(until?) })
}

/// A file under the watched folder, relative to it.
pub(super) fn read_relative_file(item: &ConfigItem<'_>, certs: &Path) -> Option<PathBuf> {
    let text = item.nonempty_text()?;
    let path = Path::new(&text);
    let inside = path.strip_prefix(certs).unwrap_or(path);
    let plain: PathBuf = inside.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    let stays = plain.components().all(|part| matches!(part, Component::Normal(_)));
    if stays && plain.components().next().is_some() {
        return Some(plain);
    }
    item.add_fault(format!(
        "{text:?} is not inside the watched folder {:?}: move it there and write its path within that folder",
        certs.display().to_string()
    ));
    None
}

fn read_partner(section: &ConfigSection<'_>, name: Arc<str>, certs: &Path) -> partner::PartnerSettings {
    let settings = partner::PartnerSettings {
        name,
        anchors: section.read_or(
            "anchors",
            |item| item.nonempty_list(|item| read_relative_file(item, certs)),
            Vec::new(),
        ),
        pins: section.read_or("pins", |item| item.nonempty_list(read_pin), Vec::new()),
        peers: section.read_or("peers", |item| item.nonempty_list(read_partner_matcher), Vec::new()),
        sources: section.read_or(
            "sources",
            |item| item.read_list(|item| item.parse_text(value::parse_network)),
            Vec::new(),
        ),
        show: section.read_optional("show", read_show),
        accept_expired_until: section.read_optional("accept_expired_until", read_exception_end),
        max_connections: section.read_optional("max_connections", |item| item.count(1_000_000)),
        contact: section.read_optional("contact", ConfigItem::nonempty_text),
    };
    if settings.show.is_some() && settings.sources.is_empty() {
        section.add_fault(
            "has show, which applies before the peer sends its certificate: set sources to the addresses it connects from"
                .to_owned(),
        );
    }
    let says = |key: &'static str| section.get(key).is_some();
    if !["anchors", "pins", "peers"].into_iter().any(says) {
        section.add_fault("does not identify its peers: give it anchors or pins of its own, and peers".to_owned());
    } else if !settings.is_bound() && !says("anchors") && !says("pins") {
        section.add_fault(
            "is identified by names alone, which any authority of a trust could issue: give it anchors or pins of its own, or \
             peers by fingerprint or spki"
                .to_owned(),
        );
    }
    settings
}

/// A date at most two weeks ahead: an exception to a rule must be short.
fn read_exception_end(item: &ConfigItem<'_>) -> Option<Timestamp> {
    let date = item.date()?;
    let latest = Clock::system().now() + SignedDuration::from_hours(14 * 24);
    if date > latest {
        item.add_fault(format!(
            "{date} is more than 14 days ahead: choose an earlier date, and have the certificate renewed by then"
        ));
        return None;
    }
    Some(date)
}

fn read_partner_matcher(item: &ConfigItem<'_>) -> Option<PeerMatcher> {
    let matcher = read_matcher(item)?;
    if matcher.partner.is_some() || matcher.anonymous {
        item.add_fault(
            "a partner's peers are identified by their certificates: leave out partner and anonymous".to_owned(),
        );
        return None;
    }
    Some(matcher)
}

/// `"new_only"` or `{ old_until = DATE }`.
fn read_show(item: &ConfigItem<'_>) -> Option<KeyPairPreference> {
    if item.is_text() {
        return item.read_word(&[("new_only", KeyPairPreference::NewOnly)]);
    }
    let section = item.section()?;
    let until = section.read_required("old_until", ConfigItem::date);
    section.report_unknown_keys();
    until.map(KeyPairPreference::OldUntil)
}

/// One table of `allow`.
pub(super) fn read_matcher(item: &ConfigItem<'_>) -> Option<PeerMatcher> {
    let section = item.with_schema("allow").section()?;
    let matcher = PeerMatcher {
        uri: section.read_optional("uri", ConfigItem::nonempty_text),
        dns: section.read_optional("dns", ConfigItem::nonempty_text).map(|dns| dns.to_ascii_lowercase()),
        cn: section.read_optional("cn", ConfigItem::nonempty_text),
        ou: section.read_optional("ou", ConfigItem::nonempty_text),
        o: section.read_optional("o", ConfigItem::nonempty_text),
        email: section.read_optional("email", ConfigItem::nonempty_text),
        fingerprint: section.read_optional("fingerprint", |item| {
            item.parse_text(|text| text.parse().map_err(|_| value::hash_error(text)))
        }),
        spki: section
            .read_optional("spki", |item| item.parse_text(|text| text.parse().map_err(|_| value::hash_error(text)))),
        issuer: section.read_optional("issuer", ConfigItem::nonempty_text),
        partner: section.read_optional("partner", |item| item.parse_text(value::parse_name)),
        anonymous: section.read_or("anonymous", ConfigItem::flag, false),
    };
    section.report_unknown_keys();
    let empty = PeerMatcher::default();
    if matcher == empty {
        item.add_fault(
            "has no condition: add one, or leave allow out to accept every peer that the trust verifies".to_owned(),
        );
        return None;
    }
    if matcher.anonymous && matcher != (PeerMatcher { anonymous: true, ..empty }) {
        item.add_fault(
            "anonymous cannot be combined with other conditions: a peer without a certificate has no names".to_owned(),
        );
        return None;
    }
    Some(matcher)
}

/// Why a rule with this matcher would be unsafe over this trust, if it would be.
pub(super) fn explain_loose_matcher(
    matcher: &PeerMatcher,
    trust: &trust::TrustSettings,
    partners: &[partner::PartnerSettings],
) -> Option<String> {
    let partner = matcher.partner.as_ref().and_then(|name| partners.iter().find(|partner| partner.name == *name));
    if matcher.anonymous
        || matcher.is_exact()
        || partner.is_some_and(partner::PartnerSettings::is_bound)
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
