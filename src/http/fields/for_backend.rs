//! What an ingress tells its backend about the peer: `X-Forwarded-Client-Cert`, `X-Sidekey-Peer`, RFC 9440 and the forwarding fields.
//!
//! Prepared once a connection, so that a request only copies ready values. A value is whole or absent, never cut: a
//! shortened identity could be another peer's.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue};

use crate::pki::Certificate;
use crate::snapshot::ingress::IdentityHeaders;
use crate::trust::Peer;

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const PEER: HeaderName = HeaderName::from_static("x-sidekey-peer");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Subject alternative names in `X-Forwarded-Client-Cert`, at most.
const MAX_SANS: usize = 16;
/// Bytes of `X-Forwarded-Client-Cert` and of `X-Sidekey-Peer`, at most.
const MAX_VALUE_BYTES: usize = 8 * 1024;
/// Bytes of `Client-Cert` and of `Client-Cert-Chain`, at most: backends bound a whole request head.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// What an ingress sets for the backend: prepared once a connection, because it depends only on the peer and its address.
#[derive(Clone, Debug)]
pub struct BackendFields {
    /// Fields that are the same for every request of the connection.
    fields: Vec<(HeaderName, HeaderValue)>,
    /// `Forwarded` up to and without the host.
    forwarded: String,
    /// The `Forwarded` of the request before, and the host it was for: almost always the next one's too.
    last: RefCell<Option<(HeaderValue, HeaderValue)>>,
    /// The peer's forwarding fields are kept, and this hop is added to them.
    continues: bool,
    /// Identity fields that are left out because their value is too long, and how long it may be.
    left_out: Vec<(HeaderName, usize)>,
}

impl BackendFields {
    /// From the verified peer (`None` = anonymous) and the peer's address (`None` on a Unix socket).
    pub fn new(peer: Option<&Peer>, from: Option<IpAddr>, identity: IdentityHeaders) -> Self {
        let mut fields = vec![(FORWARDED_PROTO, HeaderValue::from_static("https"))];
        let from = from.map(|address| address.to_canonical());
        let mut set = |name: HeaderName, value: Option<String>| {
            fields.extend(value.and_then(|value| HeaderValue::try_from(value).ok()).map(|value| (name, value)));
        };
        set(FORWARDED_FOR, from.map(|address| address.to_string()));
        let mut left_out = Vec::new();
        if let Some(peer) = peer {
            let certificate = peer.certificate();
            if identity.xfcc {
                set(XFCC, Some(xfcc_value(&CertificateNames::from_certificate(certificate))));
            }
            let mut set_whole = |name: HeaderName, value: Option<String>, limit: usize| {
                if value.is_none() {
                    left_out.push((name.clone(), limit));
                }
                set(name, value);
            };
            if identity.peer {
                set_whole(PEER, peer_value(peer.identity()), MAX_VALUE_BYTES);
            }
            if identity.client_cert {
                set_whole(CLIENT_CERT, byte_sequences([certificate.der().as_ref()]), MAX_CERTIFICATE_BYTES);
            }
            let issuers = peer.verified().path.get(1..).unwrap_or_default();
            if identity.client_cert_chain && !issuers.is_empty() {
                let chain = byte_sequences(issuers.iter().map(|issuer| issuer.der().as_ref()));
                set_whole(CLIENT_CERT_CHAIN, chain, MAX_CERTIFICATE_BYTES);
            }
        }
        Self { fields, forwarded: forwarded_prefix(from), last: RefCell::default(), continues: false, left_out }
    }

    /// Identity fields that are left out because their value is too long, and how many bytes it may have.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, usize)> {
        self.left_out.iter().map(|(name, limit)| (name.as_str(), *limit))
    }

    /// Extends the peer's own forwarding fields (`forwarded_from`) instead of replacing them.
    pub fn with_continuation(mut self, continues: bool) -> Self {
        self.continues = continues;
        self
    }

    /// Whether it does.
    pub fn continues(&self) -> bool {
        self.continues
    }

    /// Sets `X-Forwarded-Client-Cert`, `X-Sidekey-Peer`, `Client-Cert…`, `X-Forwarded-For/-Proto/-Host` and `Forwarded`.
    pub fn apply_to(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        headers.reserve(self.fields.len() + 2);
        for (name, value) in &self.fields {
            match (self.continues, name) {
                (true, name) if *name == FORWARDED_FOR => append_member(headers, name, value.as_bytes()),
                // The first hop saw these, and we did not.
                (true, name) if *name == FORWARDED_PROTO && headers.contains_key(name) => {}
                _ => drop(headers.insert(name.clone(), value.clone())),
            }
        }
        if !(self.continues && headers.contains_key(FORWARDED_HOST)) {
            headers.insert(FORWARDED_HOST, host.clone());
        }
        let Some(value) = self.forwarded_value(host) else { return };
        if self.continues {
            append_member(headers, &FORWARDED, value.as_bytes());
        } else {
            headers.insert(FORWARDED, value);
        }
    }

    /// This hop's `Forwarded`.
    fn forwarded_value(&self, host: &HeaderValue) -> Option<HeaderValue> {
        if let Some((known, value)) = &*self.last.borrow()
            && known == host
        {
            return Some(value.clone());
        }
        let mut value = Vec::with_capacity(self.forwarded.len() + host.len() + 8);
        value.extend_from_slice(self.forwarded.as_bytes());
        // A host that needs escapes inside quotes is not a host; it then stays out of this field.
        if host.as_bytes().iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
            value.extend_from_slice(b";host=\"");
            value.extend_from_slice(host.as_bytes());
            value.push(b'"');
        }
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()?;
        *self.last.borrow_mut() = Some((host.clone(), value.clone()));
        Some(value)
    }
}

/// Adds a member to a list and joins its lines into one (RFC 9110 5.3).
fn append_member(headers: &mut HeaderMap, name: &HeaderName, member: &[u8]) {
    let mut lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    lines.retain(|line| !line.trim_ascii().is_empty());
    lines.push(member);
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(lines.join(&b", "[..]))) {
        headers.insert(name.clone(), value);
    }
}

/// `for` and `proto` of RFC 7239; an IPv6 address is quoted and in brackets (section 6).
fn forwarded_prefix(from: Option<IpAddr>) -> String {
    match from {
        Some(IpAddr::V4(address)) => format!("for={address};proto=https"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\";proto=https"),
        None => "for=unknown;proto=https".to_owned(),
    }
}

/// What `X-Forwarded-Client-Cert` tells of a certificate.
struct CertificateNames<'c> {
    hash: String,
    subject: &'c str,
    uris: &'c [String],
    dns: &'c [String],
}

impl<'c> CertificateNames<'c> {
    fn from_certificate(certificate: &'c Certificate) -> Self {
        Self {
            hash: certificate.fingerprint().hex(),
            subject: certificate.subject(),
            uris: certificate.uris(),
            dns: certificate.dns_names(),
        }
    }
}

/// Envoy's form: `Hash=…;Subject="…";URI="…";DNS="…"`. What would not fit is left out from the end; `Hash` always fits.
fn xfcc_value(names: &CertificateNames<'_>) -> String {
    let mut value = format!("Hash={}", names.hash);
    let subject = std::iter::once(format!(";Subject=\"{}\"", quote(names.subject, PercentPolicy::Escape)));
    let uris = names.uris.iter().map(|uri| format!(";URI=\"{}\"", quote(uri, PercentPolicy::Keep)));
    let dns = names.dns.iter().map(|name| format!(";DNS=\"{}\"", quote(name, PercentPolicy::Escape)));
    for element in subject.chain(uris.chain(dns).take(MAX_SANS)) {
        if value.len() + element.len() > MAX_VALUE_BYTES {
            break;
        }
        value.push_str(&element);
    }
    value
}

/// The typed identity in ASCII; `None` where it is too long. A blank at the end would be lost on the wire and is escaped.
fn peer_value(identity: &str) -> Option<String> {
    let percent = if identity.starts_with("uri:") { PercentPolicy::Keep } else { PercentPolicy::Escape };
    let mut value = percent_encode(identity, percent);
    let kept = value.trim_end_matches(' ').len();
    let blanks = value.len() - kept;
    value.truncate(kept);
    value.push_str(&"%20".repeat(blanks));
    (value.len() <= MAX_VALUE_BYTES).then_some(value)
}

/// What becomes of a `%` that is already there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PercentPolicy {
    /// In a URI it begins an escape, and an escape of ours means the same (RFC 3987 3.1).
    Keep,
    /// Elsewhere it is escaped itself, so that no two texts look alike.
    Escape,
}

/// Printable ASCII with everything else percent-encoded as UTF-8.
fn percent_encode(text: &str, percent: PercentPolicy) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (byte.is_ascii_graphic() || byte == b' ') && (byte != b'%' || percent == PercentPolicy::Keep) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The inside of a quoted string.
fn quote(text: &str, percent: PercentPolicy) -> String {
    let mut out = String::with_capacity(text.len());
    for c in percent_encode(text, percent).chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// RFC 9440: DER as `:base64:`, a list where there are several. `None` for none at all or where they would be too long.
fn byte_sequences<'d>(ders: impl IntoIterator<Item = &'d [u8]>) -> Option<String> {
    let mut value = String::new();
    for der in ders {
        if !value.is_empty() {
            value.push_str(", ");
        }
        value.push(':');
        STANDARD.encode_string(der, &mut value);
        value.push(':');
    }
    (1..=MAX_CERTIFICATE_BYTES).contains(&value.len()).then_some(value)
}

#[cfg(test)]
mod tests;
