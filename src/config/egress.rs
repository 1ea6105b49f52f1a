//! `[[egress]]`: where the application connects, to which upstream, and with which keyring.

use std::sync::Arc;
use std::time::Duration;

use super::file::{ConfigItem, ConfigSection};
use super::ingress::{IngressContext, read_trust_name};
use super::listeners;
use super::top::is_local_address;
use super::value;
use crate::evidence::ProbeMode;
use crate::jwt::{GrantType, SignatureAlgorithm};
use crate::keyring::KeyringName;
use crate::net::{KEEPALIVE_INTERVAL, ListenAddress};
use crate::snapshot::bearer::{self, TokenEndpoint};
use crate::snapshot::egress::EgressSettings;
use crate::snapshot::ingress::ListenerLimits;
use crate::trust::PeerRole;

/// Statuses with which servers refuse a certificate that TLS has let pass: nginx' 400, 495 and 496, and what applications
/// say.
const DEFAULT_REFUSAL_STATUSES: [u16; 5] = [400, 401, 403, 495, 496];
/// The longest validity of an assertion: more is never needed, and many partners accept less.
const MAX_ASSERTION_LIFETIME: Duration = Duration::from_hours(1);
/// How much of a body is kept for sending it again, unless the configuration says otherwise.
const DEFAULT_REPLAY_LIMIT: usize = 64 << 10;

/// Reads them in order. A listener that lacks what it cannot do without is left out; there is a fault then.
pub(super) fn read_egresses(top: &ConfigSection<'_>, context: &IngressContext<'_>) -> Vec<EgressSettings> {
    let mut names = Vec::new();
    let sections = top.tables("egress");
    let is_only = sections.len() == 1;
    let listeners = sections.into_iter().map(|section| {
        let name = listeners::read_listener_name(&section, is_only, &mut names);
        let settings = read_egress(&section, context, name);
        section.report_unknown_keys();
        settings
    });
    // Every section is read to its end, so that all faults are found.
    listeners.collect::<Vec<_>>().into_iter().flatten().collect()
}

fn read_egress(
    section: &ConfigSection<'_>,
    context: &IngressContext<'_>,
    name: Option<Arc<str>>,
) -> Option<EgressSettings> {
    let listen = read_egress_address(section, context);
    let upstream = section.read_required("upstream", |item| item.parse_text(value::parse_upstream));
    let keyring = section.read_required("keyring", |item| item.parse_text(value::parse_keyring_name));
    let trust = section.read_optional("trust", |item| read_trust_name(item, context.known));
    let expects = read_server_role(section, upstream.as_ref().map(|upstream| &upstream.host));
    let mut limits = read_egress_limits(section);
    let in_limits = section.section("limits").get("response").is_some();
    limits.response = section.read_or(
        "response_timeout",
        |item| {
            if in_limits {
                item.add_fault("duplicates limits.response: set only one of them".to_owned());
            }
            item.positive_duration()
        },
        limits.response,
    );
    let keep_host = section.read_or("host", |item| item.read_word(&[("upstream", false), ("keep", true)]), false);
    let hosts = section.read_or("hosts", |item| item.read_list(|item| item.parse_text(parse_host_name)), Vec::new());
    let tcp_keepalive = section.read_or("tcp_keepalive", ConfigItem::positive_duration, KEEPALIVE_INTERVAL);
    let dns_refresh = section.read_or("dns_refresh", ConfigItem::positive_duration, Duration::from_secs(30));
    let probe = section.read_or("probe", read_probe, ProbeMode::default());
    let prove_within = section.read_or("prove_within", ConfigItem::positive_duration, Duration::from_hours(1));
    let mut refusal_statuses = section.read_or(
        "refusal_statuses",
        |item| item.read_list(read_refusal_status),
        DEFAULT_REFUSAL_STATUSES.to_vec(),
    );
    refusal_statuses.sort_unstable();
    let replay_limit = section.read_or("replay_limit", |item| item.size(0, 64 << 20), DEFAULT_REPLAY_LIMIT);
    refuse_later_keys(section);
    let bearer = read_bearer(section, context, keyring.as_ref());
    let tls = listeners::read_tls(section);
    Some(EgressSettings {
        name: name?,
        listen: listen?,
        upstream: upstream?,
        keyring: keyring?,
        trust,
        expects: expects?,
        keep_host,
        hosts,
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
fn read_egress_limits(listener: &ConfigSection<'_>) -> ListenerLimits {
    let section = listener.section("limits");
    for key in ["hello_waiting", "handshakes", "handshakes_per_source"] {
        section.refuse_key(key, "limits handshakes of peers, and peers do not connect to an egress: leave it out");
    }
    let limits = listeners::read_limits(&section);
    section.report_unknown_keys();
    limits
}

/// `listen`, `mode`, `group`, `allow_remote_plaintext`.
fn read_egress_address(section: &ConfigSection<'_>, context: &IngressContext<'_>) -> Option<ListenAddress> {
    let remote = section.read_or("allow_remote_plaintext", ConfigItem::flag, false);
    let address = section.read_required("listen", |item| {
        let address = context.taken.reserve_address(item)?;
        if !remote && !is_local_address(&address) {
            item.add_fault(
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
            mode: permissions.and_then(|item| item.parse_text(value::parse_mode)),
            group: owner.and_then(|item| item.nonempty_text()),
        }),
        tcp => {
            for item in permissions.iter().chain(&owner) {
                item.add_fault("applies to Unix sockets only: leave it out".to_owned());
            }
            tcp
        }
    }
}

/// `server_name` or `server_uri`; the upstream's host where neither is set.
fn read_server_role(section: &ConfigSection<'_>, host: Option<&Arc<str>>) -> Option<PeerRole> {
    let (name, uri) = (section.get("server_name"), section.get("server_uri"));
    match (name, uri) {
        (Some(_), Some(uri)) => {
            uri.add_fault("an upstream is verified by one name: set only one of server_name and server_uri".to_owned());
            None
        }
        (Some(name), None) => name.parse_text(value::parse_server_name).map(PeerRole::ServerName),
        (None, Some(uri)) => uri.parse_text(value::parse_server_uri).map(PeerRole::ServerUri),
        (None, None) => host.map(|host| PeerRole::ServerName(Arc::clone(host))),
    }
}

/// `probe`: `true`, `false` or `{ path = "/healthz" }`.
fn read_probe(item: &ConfigItem<'_>) -> Option<ProbeMode> {
    if !item.is_table() {
        return item.flag().map(|flag| if flag { ProbeMode::Handshake } else { ProbeMode::Off });
    }
    let section = item.section()?;
    let path = section.read_required("path", |item| item.parse_text(value::parse_target));
    section.report_unknown_keys();
    path.map(ProbeMode::Head)
}

/// The status of a response that is an error.
fn read_refusal_status(item: &ConfigItem<'_>) -> Option<u16> {
    let status = item.count(599)?;
    if status < 400 {
        item.add_fault("is not an error status: write statuses from 400 to 599".to_owned());
        return None;
    }
    u16::try_from(status).ok()
}

/// A name that the application uses for an egress: exact, without port; in lower case and without the dot at its end.
fn parse_host_name(text: &str) -> Result<Arc<str>, value::ValueError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    match rustls_pki_types::DnsName::try_from(name) {
        Ok(_) => Ok(Arc::from(name.to_ascii_lowercase())),
        Err(_) => {
            Err(format!("invalid host {text:?}: write a DNS name without port or wildcard, as in \"api.internal\""))
        }
    }
}

/// Keys of later issues.
fn refuse_later_keys(section: &ConfigSection<'_>) {
    section.refuse_later("via", ConfigItem::nonempty_text, None);
    section.refuse_later("via_credentials_file", ConfigItem::path, None);
}

/// `[egress.jwt_bearer]`. `keyring` and `name` are the egress' own.
fn read_bearer(
    section: &ConfigSection<'_>,
    context: &IngressContext<'_>,
    keyring: Option<&KeyringName>,
) -> Option<bearer::BearerSettings> {
    let jwt = section.section("jwt_bearer");
    if !jwt.is_present() {
        return None;
    }
    let own = jwt.read_optional("keyring", |item| item.parse_text(value::parse_keyring_name));
    let issuer = jwt.read_required("issuer", ConfigItem::nonempty_text);
    let subject = jwt.read_optional("subject", ConfigItem::nonempty_text).or_else(|| issuer.clone());
    let audience = jwt.read_required("audience", ConfigItem::nonempty_text);
    let lifetime = jwt.read_or(
        "lifetime",
        |item| {
            let lifetime = item.positive_duration()?;
            if lifetime > MAX_ASSERTION_LIFETIME {
                item.add_fault(
                    "partners refuse assertions that are valid for so long: set one hour at most".to_owned(),
                );
            }
            Some(lifetime)
        },
        Duration::from_mins(2),
    );
    let algorithms = SignatureAlgorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    let algorithm = jwt.read_optional("alg", |item| item.read_word(&algorithms));
    let url = jwt.read_optional("token_url", |item| item.parse_text(value::parse_https_url));
    let grants = [("jwt_bearer", GrantType::JwtBearer), ("client_credentials", GrantType::ClientCredentials)];
    let grant = jwt.read_or("grant", |item| item.read_word(&grants), GrantType::JwtBearer);
    let scope = jwt.read_optional("scope", ConfigItem::nonempty_text);
    let token_types =
        jwt.read_or("token_types", |item| item.nonempty_list(ConfigItem::nonempty_text), vec!["Bearer".to_owned()]);
    let trust = jwt.read_optional("token_trust", |item| read_trust_name(item, context.known));
    if jwt.get("token_url").is_none() {
        for key in ["grant", "scope", "token_trust", "token_types"] {
            if let Some(item) = jwt.get(key) {
                item.add_fault("applies to a token_url, which is not set: leave it out".to_owned());
            }
        }
    }
    jwt.report_unknown_keys();
    let endpoint = url.map(|(to, path)| TokenEndpoint { to, path, grant, token_types, scope, trust });
    Some(bearer::BearerSettings {
        keyring: own.or_else(|| keyring.cloned())?,
        issuer: issuer?,
        subject: subject?,
        audience: audience?,
        lifetime,
        algorithm,
        endpoint,
    })
}
