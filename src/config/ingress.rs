//! `[[ingress]]`: where peers connect, which of them are allowed, and which backend they reach.

use std::path::Path;
use std::sync::Arc;

use super::file::{Item, Section};
use super::listeners::{self, Taken};
use super::peers::{self, Known, SYSTEM};
use super::place::hint;
use super::value;
use crate::keyring::KeyringName;
use crate::net::{Backend, ListenAddress};
use crate::snapshot::ingress::{Identity, Limits, Settings};
use crate::tls::{AuthorityNames, ClientAuth};
use crate::trust::{Allow, AnchorSource, Matcher, Rule, Rules, TrustName};

/// What the sections of one side share while they are read.
pub(super) struct Context<'c> {
    pub(super) known: &'c Known,
    pub(super) taken: &'c Taken,
    pub(super) certs: &'c Path,
    pub(super) log_access: bool,
}

/// Reads them in order. A listener that lacks what it cannot do without is left out; there is a fault then.
pub(super) fn read(top: &Section<'_>, context: &Context<'_>) -> Vec<Settings> {
    let mut names = Vec::new();
    let listeners = top.tables("ingress").into_iter().map(|section| {
        let settings = ingress(&section, context, &mut names);
        section.finish();
        settings
    });
    // Every section is read to its end, so that all faults are found.
    listeners.collect::<Vec<_>>().into_iter().flatten().collect()
}

fn ingress(section: &Section<'_>, context: &Context<'_>, names: &mut Vec<Arc<str>>) -> Option<Settings> {
    let name = listeners::name(section, names);
    let listen = section.required("listen", |item| tcp_only(context.taken, item));
    let keyrings = section.or("keyrings", keyrings, vec![Arc::from("default")]);
    let trust = section.maybe("trust", |item| trust(item, context.known));
    if keyrings.len() > 1 && section.get("trust").is_none() {
        section.fault("has several keyrings, so the ca.crt of a keyring cannot be its trust: set trust".to_owned());
    }
    let client_auth = section.or(
        "client_auth",
        |item| item.one_of(&[("required", ClientAuth::Required), ("optional", ClientAuth::Optional)]),
        ClientAuth::Required,
    );
    let backend = section.required("backend", backend);
    let rules = rules(section, context.known, trust.as_ref(), client_auth);
    let authorities_file = section.maybe("ca_names", |item| authorities(item, context.certs));
    let (authorities, authorities_file) = authorities_file.unwrap_or((AuthorityNames::Auto, None));
    let networks = |item: &Item<'_>| item.list(|item| item.parse(value::network));
    let proxy_protocol_from = section.or("proxy_protocol_from", networks, Vec::new());
    let quiet_from = section.or("quiet_from", networks, Vec::new());
    let forwarded_from = |item: &Item<'_>| item.list(|item| allowed(item, context.known, trust.as_ref(), client_auth));
    let forwarded_from = section.or("forwarded_from", forwarded_from, Vec::new());
    let (jwt, jwks) = (jwt(section, context), section.or("jwks", Item::flag, false));
    let identity = section.or("identity", identity, Identity::default());
    let also_strip = section.or("also_strip", |item| item.list(|item| item.parse(value::field_pattern)), Vec::new());
    let (tls, limits) = (listeners::tls(section), limits(section));
    Some(Settings {
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
        learn: section.or("learn", Item::flag, true),
        log_access: context.log_access,
    })
}

/// `[ingress.limits]`: what both sides have, and what only handshakes with peers need.
fn limits(listener: &Section<'_>) -> Limits {
    let (usual, section) = (Limits::default(), listener.section("limits"));
    let limits = Limits {
        hello_waiting: section.or("hello_waiting", |item| item.count(1_000_000), usual.hello_waiting),
        handshakes: section.or("handshakes", |item| item.count(1_000_000), usual.handshakes),
        handshakes_per_source: section.or(
            "handshakes_per_source",
            |item| item.count(1_000_000),
            usual.handshakes_per_source,
        ),
        ..listeners::limits(&section)
    };
    section.finish();
    limits
}

/// `[ingress.jwt]`.
fn jwt(section: &Section<'_>, context: &Context<'_>) -> Option<crate::jwt::verify::Settings> {
    let jwt = section.section("jwt");
    if !jwt.is_there() {
        return None;
    }
    let partner = jwt.required("partner", |item| {
        let name = item.parse(value::name)?;
        let known = context.known.partners.iter().find(|partner| *partner.name == *name);
        if known.is_none() {
            let names = context.known.partners.iter().map(|partner| partner.name.as_ref());
            item.fault(format!("[partner.{name}] does not exist{}", hint(&name, names)));
        }
        known.map(|partner| Arc::clone(&partner.name))
    });
    let certificates = jwt.required("certificates", |item| item.some(|item| peers::under(item, context.certs)));
    let audience = jwt.required("audience", Item::words);
    let issuer = jwt.maybe("issuer", Item::words);
    let max_lifetime = jwt.or("max_lifetime", Item::positive, std::time::Duration::from_hours(1));
    jwt.finish();
    Some(crate::jwt::verify::Settings {
        partner: partner?,
        certificates: certificates?,
        audience: audience?,
        issuer,
        max_lifetime,
    })
}

fn tcp_only(taken: &Taken, item: &Item<'_>) -> Option<ListenAddress> {
    let address = taken.listen(item)?;
    if matches!(address, ListenAddress::Unix { .. }) {
        item.fault("peers connect over TCP: write for example \"[::]:8443\"".to_owned());
        return None;
    }
    Some(address)
}

fn keyrings(item: &Item<'_>) -> Option<Vec<KeyringName>> {
    let names = item.some(|item| item.parse(value::keyring_name))?;
    if names.iter().enumerate().any(|(i, name)| names[..i].contains(name)) {
        item.fault("lists a keyring twice".to_owned());
    }
    Some(names)
}

/// A trust by name; it must be in the file, or be the platform's.
pub(super) fn trust(item: &Item<'_>, known: &Known) -> Option<TrustName> {
    let name = item.text()?;
    if name == SYSTEM {
        return Some(Arc::from(SYSTEM));
    }
    let found = known.trusts.get_key_value(name.as_str()).map(|(name, _)| Arc::clone(name));
    if found.is_none() {
        let names = known.trusts.keys().map(AsRef::as_ref).chain([SYSTEM]);
        item.fault(format!("[trust.{name}] does not exist{}", hint(&name, names)));
    }
    found
}

fn backend(item: &Item<'_>) -> Option<Backend> {
    let backend = item.parse(value::backend)?;
    Some(if let Backend::Unix(path) = backend { Backend::Unix(item.resolve(&path)) } else { backend })
}

fn identity(item: &Item<'_>) -> Option<Identity> {
    const HEADERS: [(&str, u8); 4] = [("xfcc", 0), ("peer", 1), ("client-cert", 2), ("client-cert-chain", 3)];
    let set = item.list(|item| item.one_of(&HEADERS))?;
    let holds = |header: u8| set.contains(&header);
    Some(Identity { xfcc: holds(0), peer: holds(1), client_cert: holds(2), client_cert_chain: holds(3) })
}

fn authorities(item: &Item<'_>, certs: &Path) -> Option<(AuthorityNames, Option<std::path::PathBuf>)> {
    match item.text()?.as_str() {
        "auto" => Some((AuthorityNames::Auto, None)),
        "none" => Some((AuthorityNames::None, None)),
        _ => peers::under(item, certs).map(|file| (AuthorityNames::Auto, Some(file))),
    }
}

/// `[[ingress.rule]]` and `allow`, and whether they are safe over the listener's trust.
fn rules(section: &Section<'_>, known: &Known, trust: Option<&TrustName>, client_auth: ClientAuth) -> Rules {
    let check = |item: &Item<'_>| allowed(item, known, trust, client_auth);
    let rules = section.tables("rule").into_iter().map(|rule| {
        let read = Rule {
            paths: rule.or("paths", |item| item.some(|item| item.parse(value::path_pattern)), Vec::new()),
            methods: rule.or("methods", |item| item.some(|item| item.parse(value::method)), Vec::new()),
            allow: Allow(rule.maybe("allow", |item| item.list(check))),
        };
        if rule.get("allow").is_none() {
            refuse_system(&rule, known, trust);
        }
        rule.finish();
        read
    });
    let rules = rules.collect();
    let allow = Allow(section.maybe("allow", |item| item.list(check)));
    if section.get("allow").is_none() {
        refuse_system(section, known, trust);
    }
    Rules { rules, allow }
}

/// Without `allow`, every peer with a certificate from a public authority would be accepted.
fn refuse_system(section: &Section<'_>, known: &Known, trust: Option<&TrustName>) {
    let Some(name) = trust else { return };
    let holds = known.trusts.get(name).is_none_or(|trust| trust.anchors.contains(&AnchorSource::System));
    if holds {
        section.fault(format!(
            "trust {name:?} holds the platform's anchors, so without allow every peer with a certificate from a public authority is accepted: restrict it with allow"
        ));
    }
}

fn allowed(item: &Item<'_>, known: &Known, trust: Option<&TrustName>, client_auth: ClientAuth) -> Option<Matcher> {
    let matcher = peers::matcher(item)?;
    if let Some(name) = &matcher.partner
        && !known.partners.iter().any(|partner| partner.name == *name)
    {
        let names = known.partners.iter().map(|partner| partner.name.as_ref());
        item.fault(format!("[partner.{name}] does not exist{}", hint(name, names)));
        return None;
    }
    if matcher.anonymous && client_auth == ClientAuth::Required {
        item.fault("anonymous never matches here: set client_auth = \"optional\", or leave it out".to_owned());
    }
    let system = crate::trust::Settings::of(Arc::from(SYSTEM), vec![AnchorSource::System]);
    let trust = trust.map(|name| known.trusts.get(name).unwrap_or(&system));
    if let Some(why) = trust.and_then(|trust| peers::too_loose(&matcher, trust, &known.partners)) {
        item.fault(why);
    }
    Some(matcher)
}
