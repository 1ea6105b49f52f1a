//! `allow` and `rule`: may this peer send this request? And the path normalisation that rules are matched on (contract section 11).
//!
//! Pure: peer, method and path in, yes or why not out. What a pattern matches is in [`pattern`].

pub mod pattern;

use std::borrow::Cow;
use std::sync::Arc;

use super::Peer;
use crate::pki::{Certificate, Fingerprint, SpkiHash};

/// One table of `allow` (its fields are ANDed). Patterns: `*` matches within one DNS label or URI segment, `**` the rest.
///
/// Only `uri` and `dns` are patterns; the other fields are compared whole. A table without fields matches no peer: it
/// is a mistake, not a permission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMatcher {
    /// A URI SAN.
    pub uri: Option<String>,
    /// A DNS SAN.
    pub dns: Option<String>,
    /// The subject's common name.
    pub cn: Option<String>,
    /// An organizational unit of the subject.
    pub ou: Option<String>,
    /// An organization of the subject.
    pub o: Option<String>,
    /// An e-mail SAN.
    pub email: Option<String>,
    /// The end entity's fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// The end entity's key.
    pub spki: Option<SpkiHash>,
    /// The end entity's issuer, as printed.
    pub issuer: Option<String>,
    /// The partner it is.
    pub partner: Option<Arc<str>>,
    /// Any client, also without a certificate (`client_auth = "optional"`).
    pub anonymous: bool,
}

impl PeerMatcher {
    /// Whether it names one certificate or key, which no other peer can have.
    pub fn is_exact(&self) -> bool {
        self.fingerprint.is_some() || self.spki.is_some()
    }

    /// Whether the peer fits every field that is set. `None` = no certificate was shown: then only `anonymous` on its
    /// own fits, since every other field asks for a certificate.
    pub fn matches(&self, peer: Option<&Peer>) -> bool {
        let names_certificate = self.names_certificate();
        let Some(peer) = peer else {
            return self.anonymous && !names_certificate && self.partner.is_none();
        };
        (names_certificate || self.partner.is_some() || self.anonymous)
            && self.partner.as_ref().is_none_or(|partner| peer.partner() == Some(partner))
            && (!names_certificate || self.fits_certificate(peer.certificate()))
    }

    /// Whether a certificate fits every field that is set, `partner` and `anonymous` left aside: what makes a peer a
    /// partner cannot ask which partner it is. False where no field but these is set.
    pub fn matches_certificate(&self, certificate: &Certificate) -> bool {
        self.names_certificate() && self.fits_certificate(certificate)
    }

    /// Whether a field is set that only a certificate can fit.
    fn names_certificate(&self) -> bool {
        let texts = [&self.uri, &self.dns, &self.cn, &self.ou, &self.o, &self.email, &self.issuer];
        texts.iter().any(|text| text.is_some()) || self.fingerprint.is_some() || self.spki.is_some()
    }

    fn fits_certificate(&self, certificate: &Certificate) -> bool {
        fn fits_field<T: ?Sized>(wanted: Option<&T>, has: impl FnOnce(&T) -> bool) -> bool {
            wanted.is_none_or(has)
        }
        fits_field(self.uri.as_deref(), |wanted| matches_any_uri(wanted, certificate.uris()))
            && fits_field(self.dns.as_deref(), |wanted| {
                certificate.dns_names().iter().any(|name| pattern::matches_dns(wanted, name))
            })
            && fits_field(self.cn.as_deref(), |wanted| certificate.common_name() == Some(wanted))
            && fits_field(self.ou.as_deref(), |wanted| certificate.units().iter().any(|name| name == wanted))
            && fits_field(self.o.as_deref(), |wanted| certificate.organizations().iter().any(|name| name == wanted))
            && fits_field(self.email.as_deref(), |wanted| {
                certificate.emails().iter().any(|name| pattern::matches_email(wanted, name))
            })
            && fits_field(self.fingerprint.as_ref(), |wanted| certificate.fingerprint() == *wanted)
            && fits_field(self.spki.as_ref(), |wanted| certificate.spki_hash() == *wanted)
            && fits_field(self.issuer.as_deref(), |wanted| certificate.issuer() == wanted)
    }
}

/// A certificate with several URI names has no SPIFFE identity (X.509-SVID 2), so none of them fits a SPIFFE pattern.
fn matches_any_uri(wanted: &str, names: &[String]) -> bool {
    if wanted.starts_with("spiffe:") && names.len() != 1 {
        return false;
    }
    names.iter().any(|name| pattern::matches_uri(wanted, name))
}

/// `allow`: any of these. Left out = any peer that the trust verifies (not an anonymous one).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(pub Option<Vec<PeerMatcher>>);

impl AllowList {
    /// Whether this peer is allowed. `None` = no certificate was shown.
    pub fn permits(&self, peer: Option<&Peer>) -> bool {
        match &self.0 {
            None => peer.is_some(),
            Some(matchers) => matchers.iter().any(|matcher| matcher.matches(peer)),
        }
    }
}

/// One `[[ingress.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// Patterns on the normalised path; empty = every path.
    pub paths: Vec<String>,
    /// Methods, upper case; empty = every method.
    pub methods: Vec<String>,
    /// The peers that may send them.
    pub allow: AllowList,
}

impl AccessRule {
    /// `path` is normalised; a slash at its end does not count, as most backends route `/admin/` like `/admin`. Methods are compared without regard to case: a backend that reads `post` as POST must not
    /// be reached around a rule for POST.
    fn matches(&self, method: &str, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|named| named.eq_ignore_ascii_case(method)))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| fits_path(pattern, path)))
    }

    /// The same without regard to the case of the path.
    fn matches_in_any_case(&self, method: &str, path: &str) -> bool {
        self.matches(method, path) || {
            let folded = path.to_ascii_lowercase();
            let paths = self.paths.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
            Self { paths, methods: self.methods.clone(), allow: AllowList(None) }.matches(method, &folded)
        }
    }
}

fn fits_path(pattern: &str, path: &str) -> bool {
    fn strip_slash(text: &str) -> &str {
        text.strip_suffix('/').unwrap_or(text)
    }
    pattern::matches_path(pattern, path) || pattern::matches_path(strip_slash(pattern), strip_slash(path))
}

/// An ingress' rules (first match decides) and then its `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// In order.
    pub rules: Vec<AccessRule>,
    /// Where no rule matches.
    pub allow: AllowList,
}

/// Why a request is not allowed; for the log, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// The first rule that matched does not allow this peer.
    #[error("rule {index} ({paths}) does not allow {identity}")]
    Rule {
        /// Its place, 1 is the first.
        index: usize,
        /// Its paths, printable.
        paths: String,
        /// The client's identity.
        identity: String,
    },
    /// The ingress' `allow` does not include this peer.
    #[error("allow does not include {identity}")]
    Allow {
        /// The client's identity.
        identity: String,
    },
    /// The path cannot be normalised without ambiguity: 400, not 403.
    #[error("ambiguous path: {0}")]
    Path(&'static str),
}

impl AccessRules {
    /// Whether rules name paths (only then is the path normalised, and exactly what matched is forwarded).
    pub fn name_paths(&self) -> bool {
        self.rules.iter().any(|rule| !rule.paths.is_empty())
    }

    /// Whether another rule decided if case did not count: many backends route `/Admin` like `/admin`, and others do not,
    /// so neither answer is safe.
    fn depends_on_case(&self, method: &str, path: &str, first: Option<usize>) -> bool {
        let capital = |text: &str| text.bytes().any(|byte| byte.is_ascii_uppercase());
        let matters = capital(path) || self.rules.iter().flat_map(|rule| &rule.paths).any(|pattern| capital(pattern));
        matters && self.rules.iter().position(|rule| rule.matches_in_any_case(method, path)) != first
    }

    /// Decides. On success the path to forward: normalised if rules name paths, else as it came. `path` is without query.
    pub fn decide<'p>(&self, peer: Option<&Peer>, method: &str, path: &'p str) -> Result<Cow<'p, str>, AccessDenied> {
        let path = if self.name_paths() {
            let normal = normalise(path).map_err(AccessDenied::Path)?;
            if normal == path { Cow::Borrowed(path) } else { Cow::Owned(normal) }
        } else {
            Cow::Borrowed(path)
        };
        let first = self.rules.iter().enumerate().find(|(_, rule)| rule.matches(method, &path));
        if self.name_paths() && self.depends_on_case(method, &path, first.map(|(index, _)| index)) {
            return Err(AccessDenied::Path("it differs from the path of a rule only in case"));
        }
        let allow = first.map_or(&self.allow, |(_, rule)| &rule.allow);
        if allow.permits(peer) {
            return Ok(path);
        }
        let identity = peer.map_or("a client without a certificate", Peer::identity).to_owned();
        Err(match first {
            Some((index, rule)) => {
                let paths = if rule.paths.is_empty() { "every path".to_owned() } else { rule.paths.join(", ") };
                AccessDenied::Rule { index: index + 1, paths, identity }
            }
            None => AccessDenied::Allow { identity },
        })
    }
}

/// The normal form of a path (without query): unreserved escapes decoded, dot segments removed, slashes merged (RFC 3986 6.2.2).
/// Encoded `/` and `\`, a raw `\` or `;`, control characters either way, overlong UTF-8 and bad escapes are errors that
/// name what it was: a newline ends a path for regular expressions, and old decoders read `%C0%AF` as a slash.
///
/// The other escapes get upper-case digits, and bytes that may not stand raw in a path are escaped. Case is kept: paths
/// are case-sensitive.
pub fn normalise(path: &str) -> Result<String, &'static str> {
    if !path.starts_with('/') {
        return Err("it does not begin with /");
    }
    let decoded = decode_unreserved(path)?;
    // Slashes are merged by skipping empty segments, so `..` always removes a segment that a backend would see.
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    // A final slash, or a final dot segment, names a directory (RFC 3986 5.2.4).
    if out.is_empty() || matches!(decoded.rsplit('/').next(), Some("" | "." | "..")) {
        out.push('/');
    }
    Ok(out)
}

fn decode_unreserved(path: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    let mut lead = 0;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let value = if byte == b'%' { pattern::decode_escape(after).ok_or("a bad percent escape")? } else { byte };
        if is_overlong(lead, value) {
            return Err("overlong UTF-8");
        }
        lead = value;
        match byte {
            b'\\' => return Err("a backslash"),
            b';' => return Err("a semicolon"),
            b'?' | b'#' => return Err("a query or fragment within the path"),
            // Escaped, it would be one of those below.
            0 => return Err("a NUL"),
            _ if byte.is_ascii_control() => return Err("a control character"),
            b'%' => {
                rest = &after[2..];
                match value {
                    b'/' => return Err("an encoded slash"),
                    b'\\' => return Err("an encoded backslash"),
                    0 => return Err("an encoded NUL"),
                    _ if value.is_ascii_control() => return Err("an encoded control character"),
                    _ if is_unreserved(value) => out.push(char::from(value)),
                    _ => push_escaped(&mut out, value),
                }
            }
            _ if byte.is_ascii_graphic() => out.push(char::from(byte)),
            _ => push_escaped(&mut out, byte),
        }
    }
    Ok(out)
}

/// A byte that together with the one before it begins a longer form than its character needs.
fn is_overlong(lead: u8, byte: u8) -> bool {
    matches!((lead, byte), (_, 0xc0 | 0xc1) | (0xe0, 0x80..=0x9f) | (0xf0, 0x80..=0x8f))
}

fn push_escaped(out: &mut String, byte: u8) {
    const HEX_DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.push(HEX_DIGITS[usize::from(byte >> 4)]);
    out.push(HEX_DIGITS[usize::from(byte & 15)]);
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests;
