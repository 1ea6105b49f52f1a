//! Header and trailer fields at the border: hop-by-hop out, identity family and forwarding fields out, then ours in (contract section 11).
//!
//! Pure: one pass over a map. Nothing that a peer or an application sends may look like an identity that Sidekey vouches for.
//! What is set for the backend is in [`for_backend`]; message framing itself is judged on the bytes, before this.

pub mod for_backend;
#[cfg(test)]
mod tests;

use http::HeaderMap;
use http::header::{CONNECTION, EXPECT, HeaderName, HeaderValue, TE, UPGRADE};

pub use for_backend::BackendFields;

/// Which names are stripped beside the fixed ones (`also_strip`; `*` at the end stands for anything).
#[derive(Clone, Debug, Default)]
pub struct StripList {
    /// Normalised names, or beginnings of names.
    patterns: Vec<NamePattern>,
    /// The first bytes of all patterns: one look rejects almost every field.
    first: FirstBytes,
}

#[derive(Clone, Debug)]
struct NamePattern {
    text: Box<[u8]>,
    prefix: bool,
}

/// A set of ASCII bytes.
#[derive(Clone, Copy, Debug, Default)]
struct FirstBytes(u128);

impl FirstBytes {
    fn contains(self, byte: u8) -> bool {
        byte < 128 && self.0 & (1 << byte) != 0
    }
}

/// Why a request's fields cannot be forwarded: 400. Names the rule, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldViolation {
    /// `Connection` names a field that it must not.
    #[error("Connection names {0:?}, which is not a hop-by-hop field")]
    ConnectionNames(String),
    /// A field value that is not a legal field value or list.
    #[error("malformed {0} field")]
    Malformed(&'static str),
}

impl StripList {
    /// From `also_strip`. An empty pattern, or `*` alone, strips nothing: the configuration refuses both.
    pub fn new(also: &[String]) -> Self {
        let mut strip = Self::default();
        for pattern in also {
            let (text, prefix) = pattern.strip_suffix('*').map_or((pattern.as_str(), false), |text| (text, true));
            let text: Box<[u8]> = text.bytes().map(normalize).collect();
            let Some(first) = text.first() else { continue };
            strip.first.0 |= 1u128 << (first & 127);
            strip.patterns.push(NamePattern { text, prefix });
        }
        strip
    }

    fn matches(&self, name: &[u8]) -> bool {
        name.first().is_some_and(|first| self.first.contains(normalize(*first)))
            && self.patterns.iter().any(|pattern| {
                if pattern.prefix { name_starts_with(name, &pattern.text) } else { name_matches(name, &pattern.text) }
            })
    }
}

/// What a request asked for before it was cleaned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedFeatures {
    /// `Connection: upgrade` with exactly `Upgrade: websocket`.
    pub websocket: bool,
    /// `TE: trailers` (kept towards the backend).
    pub te_trailers: bool,
    /// `Expect: 100-continue`.
    pub expect_continue: bool,
}

/// What becomes of the fields that name the origin of a request: `X-Forwarded-*`, `Forwarded` and their look-alikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingPolicy {
    /// All are removed: the peer that sends them is not believed.
    Strip,
    /// Correctly spelled ones stay, to be extended; look-alikes are removed.
    Continue,
    /// All stay: the application sets them itself.
    Keep,
}

impl ForwardingPolicy {
    fn strips(self, name: &[u8]) -> bool {
        match self {
            Self::Strip => is_forwarding(name),
            Self::Continue => is_forwarding(name) && name != b"forwarded" && !name.starts_with(b"x-forwarded-"),
            Self::Keep => false,
        }
    }
}

/// Cleans a request on its way to the backend or upstream: fields named by `Connection` and the other hop-by-hop fields,
/// then the identity family and, as `forwarding` says, the forwarding fields.
/// `Trailer` and `TE: trailers` stay. What an upgrade needs is set again by the caller; so is `Connection: TE`, which
/// RFC 9110 10.1.4 wants beside `TE` on HTTP/1.1.
pub fn clean_request(
    headers: &mut HeaderMap,
    strip: &StripList,
    forwarding: ForwardingPolicy,
) -> Result<RequestedFeatures, FieldViolation> {
    let te_trailers = asks_for_trailers(headers);
    let upgrades = remove_named_by_connection(headers)?;
    let cleaned = RequestedFeatures {
        websocket: upgrades && only_value_is(headers, &UPGRADE, b"websocket"),
        te_trailers,
        expect_continue: only_value_is(headers, &EXPECT, b"100-continue"),
    };
    remove_all(headers, |name| {
        is_hop_by_hop(name) || is_identity(name) || is_proxy(name) || forwarding.strips(name) || strip.matches(name)
    });
    if te_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(cleaned)
}

/// Cleans a response on its way back: hop-by-hop fields, and the identity family (an application must not fake one to an
/// outer proxy).
pub fn clean_response(headers: &mut HeaderMap) {
    // A backend that names a field wrongly hurts only its own response: what may be removed is, the rest stays.
    for name in connection_names(headers).into_iter().flatten().filter(|name| !must_not_be_named(name.as_str())) {
        headers.remove(name);
    }
    remove_all(headers, |name| is_hop_by_hop(name) || is_identity(name));
}

/// Cleans trailers, either way: hop-by-hop, framing, `Host`, identity and forwarding fields, and what RFC 9110 6.5.1
/// keeps out of trailers because a receiver that merges them into the header would act on it.
pub fn clean_trailers(trailers: &mut HeaderMap, strip: &StripList) {
    remove_all(trailers, |name| {
        is_hop_by_hop(name)
            || is_identity(name)
            || is_proxy(name)
            || is_forwarding(name)
            || strip.matches(name)
            || NEVER_IN_TRAILERS.iter().any(|never| name_matches(name, never))
    });
}

const NEVER_IN_TRAILERS: [&[u8]; 10] = [
    b"host",
    b"content-length",
    b"trailer",
    b"authorization",
    b"cookie",
    b"set-cookie",
    b"content-encoding",
    b"content-type",
    b"content-range",
    b"expect",
];

/// Fields that end at this hop (RFC 9110 7.6.1) and must not be sent on, and look-alikes of them and of
/// `Content-Length`, which a backend that reads `_` as `-` would take for the real ones.
fn is_hop_by_hop(name: &[u8]) -> bool {
    match name.first() {
        Some(b'c') => {
            name_matches(name, b"connection") || (name != b"content-length" && name_matches(name, b"content-length"))
        }
        Some(b'h') => name_matches(name, b"http2-settings"),
        Some(b'k') => name_matches(name, b"keep-alive"),
        Some(b'p') => {
            name_matches(name, b"proxy-connection")
                || name_matches(name, b"proxy-authenticate")
                || name_matches(name, b"proxy-authorization")
        }
        Some(b't') => name == b"te" || name_matches(name, b"transfer-encoding"),
        Some(b'u') => name == b"upgrade",
        _ => false,
    }
}

/// A name that is not `Content-Length` or `Transfer-Encoding`, and that some backends read as one.
pub(crate) fn is_framing_twin(name: &[u8]) -> bool {
    (name != b"content-length" && name_matches(name, b"content-length"))
        || (name != b"transfer-encoding" && name_matches(name, b"transfer-encoding"))
}

/// `Proxy`: programs behind CGI take it for the variable that names their own proxy (CVE-2016-5385), and HTTP has no such
/// field.
fn is_proxy(name: &[u8]) -> bool {
    name == b"proxy"
}

/// The identity family of contract section 11.
fn is_identity(name: &[u8]) -> bool {
    match name.first() {
        Some(b'c') => name_matches(name, b"client-cert") || name_matches(name, b"client-cert-chain"),
        Some(b'x') => {
            name_matches(name, b"x-forwarded-client-cert")
                || name_starts_with(name, b"x-sidekey-")
                || name_matches(name, b"x-sidekey")
        }
        _ => false,
    }
}

/// Fields that tell a backend where a request came from.
fn is_forwarding(name: &[u8]) -> bool {
    match name.first() {
        Some(b'f') => name == b"forwarded",
        Some(b'x') => {
            name_starts_with(name, b"x-forwarded-")
                || name_matches(name, b"x-forwarded")
                || name_matches(name, b"x-real-ip")
        }
        _ => false,
    }
}

/// Every character other than a letter or digit reads as `-`, as backends that make variables of names read it.
fn normalize(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Whether `name` normalises to `wanted`, which is normal itself.
pub(crate) fn name_matches(name: &[u8], wanted: &[u8]) -> bool {
    name.len() == wanted.len() && name_starts_with(name, wanted)
}

/// Whether the normal form of `name` begins with `wanted`, which is normal itself.
fn name_starts_with(name: &[u8], wanted: &[u8]) -> bool {
    name.len() >= wanted.len() && name.iter().zip(wanted).all(|(byte, wanted)| normalize(*byte) == *wanted)
}

/// Removes every field with a condemned name (lower case, as `http` keeps it). Allocates only if one is found.
fn remove_all(headers: &mut HeaderMap, condemned: impl Fn(&[u8]) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| condemned(name.as_str().as_bytes())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Removes what `Connection` names; true if it names `upgrade`. `Upgrade` itself is left for the caller to look at.
fn remove_named_by_connection(headers: &mut HeaderMap) -> Result<bool, FieldViolation> {
    let mut upgrades = false;
    for name in connection_names(headers) {
        let name = name?;
        if must_not_be_named(name.as_str()) {
            return Err(FieldViolation::ConnectionNames(name.as_str().to_owned()));
        }
        if name == UPGRADE {
            upgrades = true;
        } else if name != CONNECTION {
            headers.remove(name);
        }
    }
    Ok(upgrades)
}

/// The members of all `Connection` fields; empty members are allowed (RFC 9110 5.6.1).
fn connection_names(headers: &HeaderMap) -> Vec<Result<HeaderName, FieldViolation>> {
    if !contains_field(headers, &CONNECTION) {
        return Vec::new();
    }
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
        .map(|member| HeaderName::from_bytes(member).map_err(|_| FieldViolation::Malformed("Connection")))
        .collect()
}

/// Naming one of these in `Connection` would make a proxy drop what the other side relies on.
fn must_not_be_named(name: &str) -> bool {
    matches!(name, "host" | "authorization" | "cookie" | "content-length" | "transfer-encoding")
}

/// Whether there is such a field. Most fields asked for here are not there, and looking at every name of a usual request
/// costs less than one hash.
fn contains_field(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|key| key == name)
}

fn only_value_is(headers: &HeaderMap, name: &HeaderName, wanted: &[u8]) -> bool {
    if !contains_field(headers, name) {
        return false;
    }
    let mut values = headers.get_all(name).iter();
    let fits = values.next().is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(wanted));
    fits && values.next().is_none()
}

fn asks_for_trailers(headers: &HeaderMap) -> bool {
    contains_field(headers, &TE)
        && headers
            .get_all(TE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}
