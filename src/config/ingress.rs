//! `[[ingress]]`: where peers connect, which of them are allowed, and which backend they reach.

use std::path::Path;
use std::sync::Arc;

use super::file::{ConfigItem, ConfigSection};
use super::listeners::{self, ListenerNames};
use super::peers::{self, PeerNames, SYSTEM_TRUST};
use super::place::suggestion;
use super::value;
use crate::keyring::KeyringName;
use crate::net::{BackendAddress, ListenAddress};
use crate::snapshot::ingress::{IdentityHeaders, IngressSettings, ListenerLimits};
use crate::tls::{AuthorityNames, ClientAuth};
use crate::trust::{AccessRule, AccessRules, AllowList, AnchorSource, PeerMatcher, TrustName};

/// What the sections of one side share while they are read.
pub(super) struct IngressContext<'c> {
    pub(super) known: &'c PeerNames,
    pub(super) taken: &'c ListenerNames,
    pub(super) certs: &'c Path,
    pub(super) log_access: bool,
}

/// Reads them in order. A listener that lacks what it cannot do without is left out; there is a fault then.
pub(super) fn read_ingresses(top: &ConfigSection<'_>, context: &IngressContext<'_>) -> Vec<IngressSettings> {
    let mut names = Vec::new();
    let sections = top.tables("ingress");
    let is_only = sections.len() == 1;
    let listeners = sections.into_iter().map(|section| {
        let name = listeners::read_listener_name(&section, is_only, &mut names);
        let settings = read_ingress(&section, context, name);
        section.report_unknown_keys();
        settings
    });
    // Every section is read to its end, so that all faults are found.
    listeners.collect::<Vec<_>>().into_iter().flatten().collect()
}

fn read_ingress(
    section: &ConfigSection<'_>,
    context: &IngressContext<'_>,
    name: Option<Arc<str>>,
) -> Option<IngressSettings> {
    let listen = section.read_required("listen", |item| read_tcp_address(context.taken, item));
    let keyrings = section.read_or("keyrings", read_keyring_names, vec![Arc::from("default")]);
    let trust = section.read_optional("trust", |item| read_trust_name(item, context.known));
    if keyrings.len() > 1 && section.get("trust").is_none() {
        section.add_fault("has several keyrings, so the ca.crt of a keyring cannot be its trust: set trust".to_owned());
    }
    let client_auth = section.read_or(
        "client_auth",
        |item| item.read_word(&[("required", ClientAuth::Required), ("optional", ClientAuth::Optional)]),
        ClientAuth::Required,
    );
    let backend = section.read_required("backend", read_backend);
    let rules = read_rules(section, context.known, trust.as_ref(), client_auth);
    let authorities_file = section.read_optional("ca_names", |item| read_authorities(item, context.certs));
    let (authorities, authorities_file) = authorities_file.unwrap_or((AuthorityNames::Auto, None));
    let networks = |item: &ConfigItem<'_>| item.read_list(|item| item.parse_text(value::parse_network));
    let proxy_protocol_from = section.read_or("proxy_protocol_from", networks, Vec::new());
    let quiet_from = section.read_or("quiet_from", networks, Vec::new());
    let forwarded_from = |item: &ConfigItem<'_>| {
        item.read_list(|item| read_allowed_matcher(item, context.known, trust.as_ref(), client_auth))
    };
    let forwarded_from = section.read_or("forwarded_from", forwarded_from, Vec::new());
    let (jwt, jwks) = (read_jwt(section, context), section.read_or("jwks", ConfigItem::flag, false));
    let identity = section.read_or("identity", read_identity, IdentityHeaders::default());
    let also_strip = section.read_or(
        "also_strip",
        |item| item.read_list(|item| item.parse_text(value::parse_field_pattern)),
        Vec::new(),
    );
    let (tls, limits) = (listeners::read_tls(section), read_ingress_limits(section));
    Some(IngressSettings {
        name: name?,
        listen: listen?,
        keyrings,
        trust,
        client_auth,
        backend: backend?,
        identity,
        proxy_protocol_from,
        forwarded_from,
        quiet_from,
        also_strip,
        rules,
        authorities,
        authorities_file,
        jwt,
        jwks,
        tls,
        limits,
        learn: section.read_or("learn", ConfigItem::flag, true),
        log_access: context.log_access,
    })
}

/// `[ingress.limits]`: what both sides have, and what only handshakes with peers need.
fn read_ingress_limits(listener: &ConfigSection<'_>) -> ListenerLimits {
    let (usual, section) = (ListenerLimits::default(), listener.section("limits"));
    let limits = ListenerLimits {
        hello_waiting: section.read_or("hello_waiting", |item| item.count(1_000_000), usual.hello_waiting),
        handshakes: section.read_or("handshakes", |item| item.count(1_000_000), usual.handshakes),
        handshakes_per_source: section.read_or(
            "handshakes_per_source",
            |item| item.count(1_000_000),
            usual.handshakes_per_source,
        ),
        ..listeners::read_limits(&section)
    };
    section.report_unknown_keys();
    limits
}

/// `[ingress.jwt]`.
fn read_jwt(
    section: &ConfigSection<'_>,
    context: &IngressContext<'_>,
) -> Option<crate::jwt::verify::TokenVerifierSettings> {
    let jwt = section.section("jwt");
    if !jwt.is_present() {
        return None;
    }
    let partner = jwt.read_required("partner", |item| {
        let name = item.parse_text(value::parse_name)?;
        let known = context.known.partners.iter().find(|partner| *partner.name == *name);
        if known.is_none() {
            let names = context.known.partners.iter().map(|partner| partner.name.as_ref());
            item.add_fault(format!("[partner.{name}] does not exist{}", suggestion(&name, names)));
        }
        known.map(|partner| Arc::clone(&partner.name))
    });
    let certificates = jwt.read_required("certificates", |item| {
        item.nonempty_list(|item| peers::read_relative_file(item, context.certs))
    });
    let audience = jwt.read_required("audience", ConfigItem::nonempty_text);
    let issuer = jwt.read_optional("issuer", ConfigItem::nonempty_text);
    let max_lifetime = jwt.read_or("max_lifetime", ConfigItem::positive_duration, std::time::Duration::from_hours(1));
    jwt.report_unknown_keys();
    Some(crate::jwt::verify::TokenVerifierSettings {
        partner: partner?,
        certificates: certificates?,
        audience: audience?,
        issuer,
        max_lifetime,
    })
}

fn read_tcp_address(taken: &ListenerNames, item: &ConfigItem<'_>) -> Option<ListenAddress> {
    let address = taken.reserve_address(item)?;
    if matches!(address, ListenAddress::Unix { .. }) {
        item.add_fault("peers connect over TCP: write for example \"[::]:8443\"".to_owned());
        return None;
    }
    Some(address)
}

fn read_keyring_names(item: &ConfigItem<'_>) -> Option<Vec<KeyringName>> {
    let names = item.nonempty_list(|item| item.parse_text(value::parse_keyring_name))?;
    if names.iter().enumerate().any(|(i, name)| names[..i].contains(name)) {
        item.add_fault("lists a keyring twice".to_owned());
    }
    Some(names)
}

/// A trust by name; it must be in the file, or be the platform's.
pub(super) fn read_trust_name(item: &ConfigItem<'_>, known: &PeerNames) -> Option<TrustName> {
    let name = item.text()?;
    if name == SYSTEM_TRUST {
        return Some(Arc::from(SYSTEM_TRUST));
    }
    let found = known.trusts.get_key_value(name.as_str()).map(|(name, _)| Arc::clone(name));
    if found.is_none() {
        let names = known.trusts.keys().map(AsRef::as_ref).chain([SYSTEM_TRUST]);
        item.add_fault(format!("[trust.{name}] does not exist{}", suggestion(&name, names)));
    }
    found
}

fn read_backend(item: &ConfigItem<'_>) -> Option<BackendAddress> {
    let backend = item.parse_text(value::parse_backend)?;
    Some(if let BackendAddress::Unix(path) = backend {
        BackendAddress::Unix(item.resolve_path(&path))
    } else {
        backend
    })
}

fn read_identity(item: &ConfigItem<'_>) -> Option<IdentityHeaders> {
    const IDENTITY_HEADERS: [(&str, u8); 4] = [("xfcc", 0), ("peer", 1), ("client-cert", 2), ("client-cert-chain", 3)];
    let set = item.read_list(|item| item.read_word(&IDENTITY_HEADERS))?;
    let holds = |header: u8| set.contains(&header);
    Some(IdentityHeaders { xfcc: holds(0), peer: holds(1), client_cert: holds(2), client_cert_chain: holds(3) })
}

fn read_authorities(item: &ConfigItem<'_>, certs: &Path) -> Option<(AuthorityNames, Option<std::path::PathBuf>)> {
    match item.text()?.as_str() {
        "auto" => Some((AuthorityNames::Auto, None)),
        "none" => Some((AuthorityNames::None, None)),
        _ => peers::read_relative_file(item, certs).map(|file| (AuthorityNames::Auto, Some(file))),
    }
}

/// `[[ingress.rule]]` and `allow`, and whether they are safe over the listener's trust.
fn read_rules(
    section: &ConfigSection<'_>,
    known: &PeerNames,
    trust: Option<&TrustName>,
    client_auth: ClientAuth,
) -> AccessRules {
    let check = |item: &ConfigItem<'_>| read_allowed_matcher(item, known, trust, client_auth);
    let rules = section.tables("rule").into_iter().map(|rule| {
        let read = AccessRule {
            paths: rule.read_or(
                "paths",
                |item| item.nonempty_list(|item| item.parse_text(value::parse_path_pattern)),
                Vec::new(),
            ),
            methods: rule.read_or(
                "methods",
                |item| item.nonempty_list(|item| item.parse_text(value::parse_method)),
                Vec::new(),
            ),
            allow: AllowList(rule.read_optional("allow", |item| item.read_list(check))),
        };
        if rule.get("allow").is_none() {
            refuse_system_trust(&rule, known, trust);
        }
        rule.report_unknown_keys();
        read
    });
    let rules = rules.collect();
    let allow = AllowList(section.read_optional("allow", |item| item.read_list(check)));
    if section.get("allow").is_none() {
        refuse_system_trust(section, known, trust);
    }
    AccessRules { rules, allow }
}

/// Without `allow`, every peer with a certificate from a public authority would be accepted.
fn refuse_system_trust(section: &ConfigSection<'_>, known: &PeerNames, trust: Option<&TrustName>) {
    let Some(name) = trust else { return };
    let holds = known.trusts.get(name).is_none_or(|trust| trust.anchors.contains(&AnchorSource::System));
    if holds {
        section.add_fault(format!(
            "trust {name:?} holds the platform's anchors, so without allow every peer with a certificate from a public authority is accepted: restrict it with allow"
        ));
    }
}

fn read_allowed_matcher(
    item: &ConfigItem<'_>,
    known: &PeerNames,
    trust: Option<&TrustName>,
    client_auth: ClientAuth,
) -> Option<PeerMatcher> {
    let matcher = peers::read_matcher(item)?;
    if let Some(name) = &matcher.partner
        && !known.partners.iter().any(|partner| partner.name == *name)
    {
        let names = known.partners.iter().map(|partner| partner.name.as_ref());
        item.add_fault(format!("[partner.{name}] does not exist{}", suggestion(name, names)));
        return None;
    }
    if matcher.anonymous && client_auth == ClientAuth::Required {
        item.add_fault("anonymous never matches here: set client_auth = \"optional\", or leave it out".to_owned());
    }
    let system = crate::trust::TrustSettings::with_anchors(Arc::from(SYSTEM_TRUST), vec![AnchorSource::System]);
    let trust = trust.map(|name| known.trusts.get(name).unwrap_or(&system));
    if let Some(why) = trust.and_then(|trust| peers::explain_loose_matcher(&matcher, trust, &known.partners)) {
        item.add_fault(why);
    }
    Some(matcher)
}
