//! What an ingress tells its backend about the peer: `X-Forwarded-Client-Cert`, `X-Sidekey-Peer`, RFC 9440 and the forwarding fields.
//!
//! Prepared once a connection, so that a request only copies ready values. A value is whole or absent, never cut: a
//! shortened identity could be another peer's.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::IpAddr;

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
        if let Some(peer) = peer {
            let certificate = peer.certificate();
            if identity.xfcc {
                set(XFCC, Some(xfcc_value(&CertificateNames::from_certificate(certificate))));
            }
            if identity.peer {
                set(PEER, peer_value(peer.identity()));
            }
            if identity.client_cert {
                set(CLIENT_CERT, byte_sequences([certificate.der().as_ref()]));
            }
            if identity.client_cert_chain {
                let issuers = peer.verified().path.iter().skip(1);
                set(CLIENT_CERT_CHAIN, byte_sequences(issuers.map(|issuer| issuer.der().as_ref())));
            }
        }
        Self { fields, forwarded: forwarded_prefix(from), last: RefCell::default(), continues: false }
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
        push_base64(der, &mut value);
        value.push(':');
    }
    (1..=MAX_CERTIFICATE_BYTES).contains(&value.len()).then_some(value)
}

/// RFC 4648 4, with padding.
fn push_base64(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (group >> (18 - 6 * place) & 63) as usize;
            out.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Validity;
    use crate::trust::{Partners, Verified};

    /// A peer with a certificate that an intermediate issued.
    fn peer() -> std::sync::Arc<Peer> {
        use crate::pki::issue::{CertificateAuthority, IssueRequest, NewKeyKind};
        use rustls_pki_types::{CertificateDer, pem::PemObject};

        let day = |text: &str| text.parse().unwrap();
        let validity = Validity { not_before: day("2026-01-01T00:00:00Z"), not_after: day("2027-01-01T00:00:00Z") };
        let authority = CertificateAuthority::new("Root", validity).unwrap();
        let request = IssueRequest {
            common_name: "etl".to_owned(),
            organization: None,
            dns: vec!["etl.example".to_owned()],
            uris: vec!["spiffe://a.example/etl".to_owned()],
            ips: Vec::new(),
            server: false,
            client: true,
            validity,
            key: NewKeyKind::P256,
        };
        let issued = authority.intermediate("Middle", validity).unwrap().issue(&request).unwrap();
        let certificate = |der: Result<CertificateDer<'static>, _>| Certificate::parse(der.unwrap()).unwrap();
        let path = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(certificate).collect();
        let verified = Verified { path, anchor: None, pin: None, valid_until: validity.not_after, expired: None };
        Peer::new(std::sync::Arc::new(verified), &Partners::default())
    }

    #[test]
    fn a_peer_is_told_in_the_ways_that_are_configured_and_no_other() {
        let peer = peer();
        let told = |identity: IdentityHeaders| {
            let mut headers = HeaderMap::new();
            BackendFields::new(Some(&peer), None, identity).apply_to(&mut headers, &HeaderValue::from_static("a"));
            headers
        };
        let usual = told(IdentityHeaders::default());
        assert_eq!(usual[PEER], "uri:spiffe://a.example/etl");
        let hash = peer.certificate().fingerprint().hex();
        let expected = format!("Hash={hash};Subject=\"CN=etl\";URI=\"spiffe://a.example/etl\";DNS=\"etl.example\"");
        assert_eq!(usual[XFCC], expected.as_str());
        assert!(!usual.contains_key(CLIENT_CERT) && !usual.contains_key(CLIENT_CERT_CHAIN));

        let rfc_9440 = told(IdentityHeaders { xfcc: false, peer: false, client_cert: true, client_cert_chain: true });
        assert!(!rfc_9440.contains_key(XFCC) && !rfc_9440.contains_key(PEER));
        let sequence = |index: usize| byte_sequences([peer.verified().path[index].der().as_ref()]).unwrap();
        assert_eq!(rfc_9440[CLIENT_CERT], sequence(0).as_str());
        assert_eq!(rfc_9440[CLIENT_CERT_CHAIN], sequence(1).as_str());
    }

    #[test]
    fn forwarded_names_the_host_of_this_request_and_not_of_the_one_before() {
        let for_backend = BackendFields::new(None, Some([127, 0, 0, 1].into()), IdentityHeaders::default());
        for host in ["a.example", "a.example", "b.example", "a.example"] {
            let mut headers = HeaderMap::new();
            for_backend.apply_to(&mut headers, &HeaderValue::from_static(host));
            assert_eq!(headers[FORWARDED], format!("for=127.0.0.1;proto=https;host=\"{host}\"").as_str());
            assert_eq!(headers[FORWARDED_HOST], host);
        }
    }

    #[test]
    fn every_value_from_a_certificate_is_quoted_and_escaped() {
        let names = CertificateNames {
            hash: "ab".repeat(32),
            subject: "CN=a\";URI=\"spiffe://evil, O=Bücher \\ 50%",
            uris: &["spiffe://a.example/b%20c".to_owned()],
            dns: &["a.example".to_owned()],
        };
        assert_eq!(
            xfcc_value(&names),
            format!(
                r#"Hash={};Subject="CN=a\";URI=\"spiffe://evil, O=B%C3%BCcher \\ 50%25";URI="spiffe://a.example/b%20c";DNS="a.example""#,
                "ab".repeat(32)
            )
        );
    }

    #[test]
    fn at_most_sixteen_names_and_8_kib_are_told() {
        let many: Vec<String> = (0..40).map(|i| format!("host{i}.example")).collect();
        let names = |dns| CertificateNames { hash: "0".repeat(64), subject: "CN=a", uris: &[], dns };
        assert_eq!(xfcc_value(&names(&many)).matches(";DNS=").count(), 16);
        let long: Vec<String> = (0..16).map(|_| "ä".repeat(300)).collect();
        let value = xfcc_value(&names(&long));
        assert!(value.len() <= MAX_VALUE_BYTES && value.ends_with('"') && value.contains(";DNS="), "{}", value.len());
    }

    #[test]
    fn an_identity_is_whole_or_absent() {
        assert_eq!(peer_value("uri:spiffe://a/b%20c").as_deref(), Some("uri:spiffe://a/b%20c"));
        assert_eq!(peer_value("subject:CN=ä%, O=b ").as_deref(), Some("subject:CN=%C3%A4%25, O=b%20"));
        assert_eq!(peer_value(&format!("dns:{}", "a".repeat(MAX_VALUE_BYTES))), None);
    }

    #[test]
    fn certificates_are_byte_sequences() {
        assert_eq!(byte_sequences([]), None);
        assert_eq!(
            byte_sequences([&b"f"[..], b"fo", b"foo", b"foob"]).as_deref(),
            Some(":Zg==:, :Zm8=:, :Zm9v:, :Zm9vYg==:")
        );
        assert_eq!(byte_sequences([&[0xff, 0xfe, 0xfd][..]]).as_deref(), Some("://79:"));
        assert_eq!(byte_sequences([&[0; MAX_CERTIFICATE_BYTES][..]]), None);
    }

    #[test]
    fn forwarding_fields_of_a_believed_peer_are_extended() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_static("198.51.100.1"));
        headers.append(FORWARDED_FOR, HeaderValue::from_static("10.0.0.1, 10.0.0.2"));
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        headers.insert(FORWARDED, HeaderValue::from_static("for=198.51.100.1"));
        let host = HeaderValue::from_static("api.example");
        let ours =
            BackendFields::new(None, "192.0.2.1".parse().ok(), IdentityHeaders::default()).with_continuation(true);
        ours.apply_to(&mut headers, &host);
        let all = |name| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all(FORWARDED_FOR), ["198.51.100.1, 10.0.0.1, 10.0.0.2, 192.0.2.1"]);
        assert_eq!(all(FORWARDED_PROTO), ["http"]);
        assert_eq!(all(FORWARDED_HOST), ["api.example"]);
        assert_eq!(all(FORWARDED), ["for=198.51.100.1, for=192.0.2.1;proto=https;host=\"api.example\""]);

        let mut none = HeaderMap::new();
        ours.apply_to(&mut none, &host);
        assert_eq!(
            (&none[FORWARDED_FOR], &none[FORWARDED_PROTO]),
            (&"192.0.2.1".parse().unwrap(), &"https".parse().unwrap())
        );
    }

    #[test]
    fn forwarding_fields_name_the_peer_and_replace_what_was_there() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("10.0.0.1"));
        let from = "2001:db8::1".parse().ok();
        let host = HeaderValue::from_static("api.example:8443");
        BackendFields::new(None, from, IdentityHeaders::default()).apply_to(&mut headers, &host);
        assert_eq!(headers[FORWARDED_FOR], "2001:db8::1");
        assert_eq!(headers[FORWARDED_PROTO], "https");
        assert_eq!(headers[FORWARDED_HOST], "api.example:8443");
        assert_eq!(headers[FORWARDED], "for=\"[2001:db8::1]\";proto=https;host=\"api.example:8443\"");
        assert!(!headers.contains_key(PEER) && !headers.contains_key(XFCC));

        BackendFields::new(None, "::ffff:192.0.2.1".parse().ok(), IdentityHeaders::default())
            .apply_to(&mut headers, &host);
        assert_eq!(headers[FORWARDED_FOR], "192.0.2.1");
        assert_eq!(headers[FORWARDED], "for=192.0.2.1;proto=https;host=\"api.example:8443\"");
        BackendFields::new(None, None, IdentityHeaders::default())
            .apply_to(&mut headers, &HeaderValue::from_static("a\"b"));
        assert_eq!(headers[FORWARDED], "for=unknown;proto=https");
    }
}
