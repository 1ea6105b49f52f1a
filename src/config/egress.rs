//! `[[egress]]`: where the application connects, to which upstream, and with which keyring.

use std::sync::Arc;
use std::time::Duration;

use super::file::{Item, Section};
use super::ingress::{Context, trust};
use super::listeners;
use super::top::is_local;
use super::value;
use crate::jwt::{Algorithm, Grant};
use crate::keyring::KeyringName;
use crate::keyring::Probe;
use crate::net::{KEEPALIVE, ListenAddress};
use crate::snapshot::bearer::{self, Endpoint};
use crate::snapshot::egress::Settings;
use crate::snapshot::ingress::Limits;
use crate::trust::Role;

/// Statuses with which servers refuse a certificate that TLS has let pass: nginx' 400, 495 and 496, and what applications
/// say.
const REFUSALS: [u16; 5] = [400, 401, 403, 495, 496];
/// The longest validity of an assertion: more is never needed, and many partners accept less.
const LONGEST_ASSERTION: Duration = Duration::from_hours(1);
/// How much of a body is kept for sending it again, unless the configuration says otherwise.
const REPLAY_LIMIT: usize = 64 << 10;

/// Reads them in order. A listener that lacks what it cannot do without is left out; there is a fault then.
pub(super) fn read(top: &Section<'_>, context: &Context<'_>) -> Vec<Settings> {
    let mut names = Vec::new();
    let listeners = top.tables("egress").into_iter().map(|section| {
        let settings = egress(&section, context, &mut names);
        section.finish();
        settings
    });
    // Every section is read to its end, so that all faults are found.
    listeners.collect::<Vec<_>>().into_iter().flatten().collect()
}

fn egress(section: &Section<'_>, context: &Context<'_>, names: &mut Vec<Arc<str>>) -> Option<Settings> {
    let name = listeners::name(section, names);
    let listen = listen(section, context);
    let upstream = section.required("upstream", |item| item.parse(value::upstream));
    let keyring = section.required("keyring", |item| item.parse(value::keyring_name));
    let trust = section.maybe("trust", |item| trust(item, context.known));
    let expects = expects(section, upstream.as_ref().map(|upstream| &upstream.host));
    let mut limits = limits(section);
    let in_limits = section.section("limits").get("response").is_some();
    limits.response = section.or(
        "response_timeout",
        |item| {
            if in_limits {
                item.fault("duplicates limits.response: set only one of them".to_owned());
            }
            item.positive()
        },
        limits.response,
    );
    let keep_host = section.or("host", |item| item.one_of(&[("upstream", false), ("keep", true)]), false);
    let tcp_keepalive = section.or("tcp_keepalive", Item::positive, KEEPALIVE);
    let dns_refresh = section.or("dns_refresh", Item::positive, Duration::from_secs(30));
    let probe = section.or("probe", probe, Probe::default());
    let prove_within = section.or("prove_within", Item::positive, Duration::from_hours(1));
    let mut refusal_statuses = section.or("refusal_statuses", |item| item.list(refusal), REFUSALS.to_vec());
    refusal_statuses.sort_unstable();
    let replay_limit = section.or("replay_limit", |item| item.size(0, 64 << 20), REPLAY_LIMIT);
    later(section);
    let bearer = bearer(section, context, keyring.as_ref());
    let tls = listeners::tls(section);
    Some(Settings {
        name: name?,
        listen: listen?,
        upstream: upstream?,
        keyring: keyring?,
        trust,
        expects: expects?,
        keep_host,
        tcp_keepalive,
        dns_refresh,
        probe,
        prove_within,
        refusal_statuses,
        replay_limit,
        bearer,
        tls,
        limits,
        log_access: context.log_access,
    })
}

/// `[egress.limits]`. No peer shakes hands with an egress: it speaks plain text on this side.
fn limits(listener: &Section<'_>) -> Limits {
    let section = listener.section("limits");
    for key in ["hello_waiting", "handshakes", "handshakes_per_source"] {
        section.never(key, "limits handshakes of peers, and peers do not connect to an egress: leave it out");
    }
    let limits = listeners::limits(&section);
    section.finish();
    limits
}

/// `listen`, `mode`, `group`, `allow_remote_plaintext`.
fn listen(section: &Section<'_>, context: &Context<'_>) -> Option<ListenAddress> {
    let remote = section.or("allow_remote_plaintext", Item::flag, false);
    let address = section.required("listen", |item| {
        let address = context.taken.listen(item)?;
        if !remote && !is_local(&address) {
            item.fault(
                "any client that reaches this address could use this sidecar's key pair: listen on 127.0.0.1, [::1] or unix:PATH, or set allow_remote_plaintext = true"
                    .to_owned(),
            );
        }
        Some(address)
    });
    let (permissions, owner) = (section.get("mode"), section.get("group"));
    match address {
        Some(ListenAddress::Unix { path, .. }) => Some(ListenAddress::Unix {
            path,
            mode: permissions.and_then(|item| item.parse(value::mode)),
            group: owner.and_then(|item| item.words()),
        }),
        tcp => {
            for item in permissions.iter().chain(&owner) {
                item.fault("applies to Unix sockets only: leave it out".to_owned());
            }
            tcp
        }
    }
}

/// `server_name` or `server_uri`; the upstream's host where neither is set.
fn expects(section: &Section<'_>, host: Option<&Arc<str>>) -> Option<Role> {
    let (name, uri) = (section.get("server_name"), section.get("server_uri"));
    match (name, uri) {
        (Some(_), Some(uri)) => {
            uri.fault("an upstream is verified by one name: set only one of server_name and server_uri".to_owned());
            None
        }
        (Some(name), None) => name.parse(value::server_name).map(Role::ServerName),
        (None, Some(uri)) => uri.parse(value::server_uri).map(Role::ServerUri),
        (None, None) => host.map(|host| Role::ServerName(Arc::clone(host))),
    }
}

/// `probe`: `true`, `false` or `{ path = "/healthz" }`.
fn probe(item: &Item<'_>) -> Option<Probe> {
    if !item.is_table() {
        return item.flag().map(|flag| if flag { Probe::Handshake } else { Probe::Off });
    }
    let section = item.section()?;
    let path = section.required("path", |item| item.parse(value::target));
    section.finish();
    path.map(Probe::Head)
}

/// The status of a response that is an error.
fn refusal(item: &Item<'_>) -> Option<u16> {
    let status = item.count(599)?;
    if status < 400 {
        item.fault("is not an error status: write statuses from 400 to 599".to_owned());
        return None;
    }
    u16::try_from(status).ok()
}

/// Keys of later issues.
fn later(section: &Section<'_>) {
    section.later("via", Item::words, None);
    section.later("via_credentials_file", Item::path, None);
}

/// `[egress.jwt_bearer]`. `keyring` and `name` are the egress' own.
fn bearer(section: &Section<'_>, context: &Context<'_>, keyring: Option<&KeyringName>) -> Option<bearer::Settings> {
    let jwt = section.section("jwt_bearer");
    if !jwt.is_there() {
        return None;
    }
    let own = jwt.maybe("keyring", |item| item.parse(value::keyring_name));
    let issuer = jwt.required("issuer", Item::words);
    let subject = jwt.maybe("subject", Item::words).or_else(|| issuer.clone());
    let audience = jwt.required("audience", Item::words);
    let lifetime = jwt.or(
        "lifetime",
        |item| {
            let lifetime = item.positive()?;
            if lifetime > LONGEST_ASSERTION {
                item.fault("partners refuse assertions that are valid for so long: set one hour at most".to_owned());
            }
            Some(lifetime)
        },
        Duration::from_mins(2),
    );
    let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    let algorithm = jwt.maybe("alg", |item| item.one_of(&algorithms));
    let url = jwt.maybe("token_url", |item| item.parse(value::https_url));
    let grants = [("jwt_bearer", Grant::JwtBearer), ("client_credentials", Grant::ClientCredentials)];
    let grant = jwt.or("grant", |item| item.one_of(&grants), Grant::JwtBearer);
    let scope = jwt.maybe("scope", Item::words);
    let trust = jwt.maybe("token_trust", |item| trust(item, context.known));
    if jwt.get("token_url").is_none() {
        for key in ["grant", "scope", "token_trust"] {
            if let Some(item) = jwt.get(key) {
                item.fault("applies to a token_url, which is not set: leave it out".to_owned());
            }
        }
    }
    jwt.finish();
    let endpoint = url.map(|(to, path)| Endpoint { to, path, grant, scope, trust });
    Some(bearer::Settings {
        keyring: own.or_else(|| keyring.cloned())?,
        issuer: issuer?,
        subject: subject?,
        audience: audience?,
        lifetime,
        algorithm,
        endpoint,
    })
}
