//! Reads a certificate's facts from its DER, by the X.509 parser.

use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, Oid,
};
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AlgorithmIdentifier, AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name, X509Version};

use super::super::{Fingerprint, SpkiHash, Validity, der, hex, printable};
use super::algorithm::{RSASSA_PSS, name_signature};

/// What `Certificate::parse` read. Texts are `pki::printable`.
pub(super) struct CertificateFacts {
    pub(super) fingerprint: Fingerprint,
    pub(super) spki: Vec<u8>,
    pub(super) spki_hash: SpkiHash,
    pub(super) subject: String,
    pub(super) subject_der: Vec<u8>,
    pub(super) issuer: String,
    pub(super) issuer_der: Vec<u8>,
    pub(super) serial: String,
    pub(super) validity: Validity,
    pub(super) common_name: Option<String>,
    pub(super) organizations: Vec<String>,
    pub(super) units: Vec<String>,
    pub(super) dns: Vec<String>,
    pub(super) uris: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) is_ca: bool,
    pub(super) usage: ExtendedKeyUsage,
    pub(super) key: KeyKind,
    pub(super) version: u32,
    pub(super) weakness: Option<String>,
    pub(super) signature: String,
    pub(super) authority_key: Option<Vec<u8>>,
}

/// The extended key usages that matter for TLS (RFC 5280 4.2.1.12). Without the extension every usage is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ExtendedKeyUsage {
    /// The extension is there.
    pub limited: bool,
    /// serverAuth or anyExtendedKeyUsage, or no extension.
    pub server: bool,
    /// clientAuth or anyExtendedKeyUsage, or no extension.
    pub client: bool,
}

/// The kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum KeyKind {
    /// RSA with this modulus length in bits.
    Rsa(u32),
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// ECDSA on NIST P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// Something that TLS here cannot use.
    Other,
}

/// As people know it.
impl std::fmt::Display for KeyKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rsa(bits) => write!(out, "RSA {bits}"),
            Self::P256 => out.write_str("ECDSA P-256"),
            Self::P384 => out.write_str("ECDSA P-384"),
            Self::P521 => out.write_str("ECDSA P-521"),
            Self::Ed25519 => out.write_str("Ed25519"),
            Self::Other => out.write_str("of another kind"),
        }
    }
}

impl CertificateFacts {
    /// Reads them; the error is printable.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (rest, x509) = x509_parser::parse_x509_certificate(bytes).map_err(|error| match error {
            x509_parser::nom::Err::Incomplete(_) => "it is truncated".to_owned(),
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => {
                printable(&error.to_string())
            }
        })?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certificate", rest.len()));
        }
        check_extensions(&x509)?;
        let names = SubjectAltNames::read(&x509)?;
        let subject = x509.subject();
        Ok(Self {
            fingerprint: Fingerprint::of(bytes),
            spki: x509.public_key().raw.to_vec(),
            spki_hash: SpkiHash::of(x509.public_key().raw),
            subject: name_text(subject),
            subject_der: subject.as_raw().to_vec(),
            issuer: name_text(x509.issuer()),
            issuer_der: x509.issuer().as_raw().to_vec(),
            serial: serial_text(x509.raw_serial()),
            validity: Validity {
                not_before: timestamp(x509.validity().not_before),
                not_after: timestamp(x509.validity().not_after),
            },
            common_name: attributes(subject, &OID_X509_COMMON_NAME).next(),
            organizations: attributes(subject, &OID_X509_ORGANIZATION_NAME).collect(),
            units: attributes(subject, &OID_X509_ORGANIZATIONAL_UNIT).collect(),
            dns: names.dns,
            uris: names.uris,
            emails: names.emails,
            ips: names.ips,
            is_ca: x509.is_ca(),
            usage: usage(&x509)?,
            key: key_kind(x509.public_key()),
            version: x509.version().0.saturating_add(1),
            weakness: weakness(&x509),
            signature: signature_name(&x509.signature_algorithm),
            authority_key: authority_key(&x509),
        })
    }
}

/// Duplicates are forbidden (RFC 5280 4.2), and an extension that decides what a certificate may do must not be
/// passed over because it cannot be read.
fn check_extensions(x509: &X509Certificate<'_>) -> Result<(), String> {
    x509.extensions_map().map_err(|_| "an extension appears twice".to_owned())?;
    for extension in x509.extensions() {
        let what = match &extension.oid {
            oid if *oid == OID_X509_EXT_BASIC_CONSTRAINTS => "basic constraints",
            oid if *oid == OID_X509_EXT_EXTENDED_KEY_USAGE => "extended key usage",
            oid if *oid == OID_X509_EXT_SUBJECT_ALT_NAME => "subject alternative name",
            _ => continue,
        };
        if matches!(
            extension.parsed_extension(),
            ParsedExtension::ParseError { .. }
                | ParsedExtension::UnsupportedExtension { .. }
                | ParsedExtension::Unparsed
        ) {
            return Err(format!("its {what} extension cannot be read"));
        }
    }
    Ok(())
}

/// The names of the SAN extension.
#[derive(Default)]
pub(super) struct SubjectAltNames {
    dns: Vec<String>,
    uris: Vec<String>,
    emails: Vec<String>,
    ips: Vec<IpAddr>,
}

impl SubjectAltNames {
    fn read(x509: &X509Certificate<'_>) -> Result<Self, String> {
        let mut names = Self::default();
        let extension = x509.subject_alternative_name().map_err(|error| printable(&error.to_string()))?;
        if let Some(extension) = extension {
            names.add_all(&extension.value.general_names);
        }
        Ok(names)
    }

    /// Adds these.
    pub(super) fn add_all(&mut self, general_names: &[GeneralName<'_>]) {
        let names = self;
        for name in general_names {
            match name {
                GeneralName::DNSName(dns) => names.dns.push(printable(&dns.to_ascii_lowercase())),
                GeneralName::URI(uri) => names.uris.push(printable(uri)),
                GeneralName::RFC822Name(email) => names.emails.push(printable(email)),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                        names.ips.push(v4.into());
                    } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                        names.ips.push(v6.into());
                    }
                }
                // Other forms name nothing that is ever compared.
                _ => {}
            }
        }
    }

    /// All of them, each with its kind.
    pub(super) fn to_typed(&self) -> Vec<String> {
        let dns = self.dns.iter().map(|name| format!("dns:{name}"));
        let uris = self.uris.iter().map(|name| format!("uri:{name}"));
        let ips = self.ips.iter().map(|name| format!("ip:{name}"));
        let emails = self.emails.iter().map(|name| format!("email:{name}"));
        dns.chain(uris).chain(ips).chain(emails).collect()
    }
}

fn usage(x509: &X509Certificate<'_>) -> Result<ExtendedKeyUsage, String> {
    let extension = x509.extended_key_usage().map_err(|error| printable(&error.to_string()))?;
    Ok(extension.map_or(ExtendedKeyUsage { limited: false, server: true, client: true }, |extension| {
        ExtendedKeyUsage {
            limited: true,
            server: extension.value.any || extension.value.server_auth,
            client: extension.value.any || extension.value.client_auth,
        }
    }))
}

pub(super) fn key_kind(spki: &SubjectPublicKeyInfo<'_>) -> KeyKind {
    match spki.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => {
            let modulus = der::element(&spki.subject_public_key.data).and_then(|(key, _)| der::element(key.content));
            modulus.map_or(KeyKind::Other, |(modulus, _)| KeyKind::Rsa(der::bit_len(modulus.content)))
        }
        "1.2.840.10045.2.1" => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            match curve.map(|curve| curve.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => KeyKind::P256,
                Some("1.3.132.0.34") => KeyKind::P384,
                Some("1.3.132.0.35") => KeyKind::P521,
                _ => KeyKind::Other,
            }
        }
        "1.3.101.112" => KeyKind::Ed25519,
        _ => KeyKind::Other,
    }
}

/// The identifier of the issuer's key (RFC 5280 4.2.1.1), if the certificate names it.
fn authority_key(x509: &X509Certificate<'_>) -> Option<Vec<u8>> {
    x509.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(named) => named.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    })
}

fn weakness(x509: &X509Certificate<'_>) -> Option<String> {
    if x509.version() != X509Version::V3 {
        return Some(format!("it is an X.509 v{} certificate, which TLS no longer accepts", x509.version().0 + 1));
    }
    if let Some(why) = key_weakness(key_kind(x509.public_key())) {
        return Some(why);
    }
    if x509.subject().as_raw() == x509.issuer().as_raw() {
        return None;
    }
    weak_hash(&x509.signature_algorithm).map(|hash| format!("it is signed with {hash}"))
}

pub(super) fn key_weakness(key: KeyKind) -> Option<String> {
    match key {
        KeyKind::Rsa(bits @ ..2048) => Some(format!("its RSA key has {bits} bits, fewer than 2048")),
        _ => None,
    }
}

fn signature_name(algorithm: &AlgorithmIdentifier<'_>) -> String {
    name_signature(&algorithm.algorithm.to_id_string(), pss_hash(algorithm).as_deref())
}

/// The hash of an RSASSA-PSS signature: its parameters name it, and SHA-1 is their default (RFC 4055 3.1).
fn pss_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<String> {
    match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => Some(parameters.hash_algorithm_oid().to_id_string()),
        _ => None,
    }
}

/// The broken hash that a signature algorithm uses, if it does.
fn weak_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<&'static str> {
    match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.2" => Some("MD2"),
        "1.2.840.113549.1.1.3" => Some("MD4"),
        "1.2.840.113549.1.1.4" => Some("MD5"),
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" | "1.3.14.3.2.27" => {
            Some("SHA-1")
        }
        RSASSA_PSS if pss_hash(algorithm).as_deref() == Some("1.3.14.3.2.26") => Some("SHA-1"),
        _ => None,
    }
}

pub(super) fn timestamp(time: ASN1Time) -> Timestamp {
    let seconds = time.timestamp().clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// DER puts a zero byte before a serial number that would otherwise be negative; people and tools leave it out.
fn serial_text(raw: &[u8]) -> String {
    let digits = match raw {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    hex(digits)
}

fn attributes<'a>(name: &'a X509Name<'_>, oid: &'a Oid<'static>) -> impl Iterator<Item = String> + 'a {
    name.iter_attributes()
        .filter(move |attribute| attribute.attr_type() == oid)
        .filter_map(|attribute| attribute_text(attribute.attr_value()))
        .map(|text| printable(&text))
}

/// A name by its DER; what cannot be read is shown as hex.
pub(super) fn name_from_der(der: &[u8]) -> String {
    use x509_parser::prelude::FromDer as _;
    match X509Name::from_der(der) {
        Ok((_, name)) => name_text(&name),
        Err(_) => hex(&der[..der.len().min(64)]),
    }
}

/// The name as RFC 4514 writes it: the last part first, special characters escaped.
pub(super) fn name_text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> =
        name.iter_rdn().map(|part| part.iter().map(part_text).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(", ")
}

fn part_text(part: &AttributeTypeAndValue<'_>) -> String {
    let oid = part.attr_type().to_id_string();
    let label = match oid.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "2.5.4.97" => "organizationIdentifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        other => other,
    };
    match attribute_text(part.attr_value()) {
        Some(text) => format!("{label}={}", printable(&escape(&text))),
        None => format!("{label}=#{}", hex(part.attr_value().data)),
    }
}

/// The escapes of RFC 4514 2.4.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (at == 0 && matches!(c, ' ' | '#'))
            || (at == last && c == ' ');
        if special {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The text of a DirectoryString in any of its encodings (RFC 5280 4.1.2.4); `None` for what is not text.
fn attribute_text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::BmpString => {
            let units = value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            Some(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
        }
        Tag::UniversalString => {
            let units = value.data.chunks_exact(4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
            Some(units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
        }
        // In practice Latin-1, whatever T.61 says.
        Tag::TeletexString => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            Some(String::from_utf8_lossy(value.data).into_owned())
        }
        _ => None,
    }
}
