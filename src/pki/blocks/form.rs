//! Tells formats apart by their first bytes, whole or cut off.

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::super::der::{self, BIT_STRING, CONTEXT_0, DerElement, INTEGER, OCTET_STRING, OID, SEQUENCE, SET};

/// What a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DetectedFormat {
    Certificate,
    Pkcs8,
    Pkcs1,
    Sec1,
    EncryptedKey,
    Crl,
    Csr,
    PublicKey,
    Pkcs7,
    Pkcs12,
    Jks,
    /// DER that ends before it says what it is.
    CutOff,
    /// Anything else: perhaps PEM.
    Text,
}

impl DetectedFormat {
    /// With its article, for sentences.
    pub(super) fn article(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Pkcs8 | Self::Pkcs1 | Self::Sec1 => "a private key",
            Self::EncryptedKey => "an encrypted private key",
            Self::Crl => "a CRL",
            Self::Csr => "a certification request",
            Self::PublicKey => "a public key",
            Self::Pkcs7 => "PKCS#7",
            Self::Pkcs12 => "PKCS#12",
            Self::Jks => "a Java KeyStore",
            Self::CutOff | Self::Text => "DER",
        }
    }
}

/// id-data and id-signedData share all but the last byte (RFC 5652 4).
const PKCS7: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];

/// What these bytes look like.
pub(super) fn detect(bytes: &[u8]) -> DetectedFormat {
    if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) || bytes.starts_with(&[0xce, 0xce, 0xce, 0xce]) {
        return DetectedFormat::Jks;
    }
    match bytes {
        // Indefinite lengths (BER), as old Windows and Java tools write keystores.
        [SEQUENCE, 0x80, INTEGER, 1, 3, ..] => return DetectedFormat::Pkcs12,
        [SEQUENCE, 0x80, OID, ..] => return DetectedFormat::Pkcs7,
        _ => {}
    }
    let Some((outer, _)) = der::element(bytes) else {
        // A long length is not UTF-8 text, so this was going to be DER.
        let began = matches!(bytes, [SEQUENCE, 0x81..=0x84, ..]);
        return if began { DetectedFormat::CutOff } else { DetectedFormat::Text };
    };
    if outer.tag != SEQUENCE {
        return DetectedFormat::Text;
    }
    // Text may begin with "0" and a character that reads as a short length: cut-off DER must have a long one.
    let is_long = bytes[1] >= 0x80;
    match detect_sequence(outer.content) {
        Some(_) if outer.missing > 0 && !is_long => DetectedFormat::Text,
        Some(form) => form,
        None if is_long && outer.missing > 0 => DetectedFormat::CutOff,
        None => DetectedFormat::Text,
    }
}

fn detect_sequence(content: &[u8]) -> Option<DetectedFormat> {
    let mut parts = der::elements(content);
    let first = parts.next()?;
    match first.tag {
        INTEGER => detect_versioned(first, parts.next()?),
        OID if first.content.starts_with(&PKCS7) => Some(DetectedFormat::Pkcs7),
        SEQUENCE => match der::element(first.content)?.0.tag {
            OID => match parts.next()?.tag {
                OCTET_STRING => Some(DetectedFormat::EncryptedKey),
                BIT_STRING => Some(DetectedFormat::PublicKey),
                _ => None,
            },
            CONTEXT_0 => Some(DetectedFormat::Certificate),
            INTEGER => detect_signed(first.content),
            SEQUENCE => Some(DetectedFormat::Crl),
            _ => None,
        },
        _ => None,
    }
}

/// A sequence that begins with a number.
fn detect_versioned(version: DerElement<'_>, second: DerElement<'_>) -> Option<DetectedFormat> {
    match (version.content, second.tag) {
        ([3], SEQUENCE) => {
            let (kind, _) = der::element(second.content)?;
            (kind.tag == OID && kind.content.starts_with(&PKCS7)).then_some(DetectedFormat::Pkcs12)
        }
        ([0 | 1], SEQUENCE) => Some(DetectedFormat::Pkcs8),
        ([1], OCTET_STRING) => Some(DetectedFormat::Sec1),
        ([0], INTEGER) => Some(DetectedFormat::Pkcs1),
        _ => None,
    }
}

/// Signed data whose first part is a number: a v1 certificate, a CRL or a certification request.
fn detect_signed(signed: &[u8]) -> Option<DetectedFormat> {
    let mut parts = der::elements(signed).skip(1);
    let second = parts.next()?;
    let is_name = der::element(second.content).is_none_or(|(part, _)| part.tag == SET);
    if is_name {
        return Some(DetectedFormat::Csr);
    }
    let (_name, fourth) = (parts.next()?, parts.next()?);
    match fourth.tag {
        der::UTC_TIME | der::GENERALIZED_TIME => Some(DetectedFormat::Crl),
        SEQUENCE => Some(DetectedFormat::Certificate),
        _ => None,
    }
}

/// One thing found in a file, not yet parsed.
pub(super) enum UnparsedItem {
    Certificate(CertificateDer<'static>),
    Key(PrivateKeyDer<'static>),
    Crl(CertificateRevocationListDer<'static>),
}

impl UnparsedItem {
    /// These bytes as what they look like; `None` where that cannot be used.
    pub(super) fn from_der(form: DetectedFormat, bytes: &[u8]) -> Option<Self> {
        let copy = || bytes.to_vec();
        Some(match form {
            DetectedFormat::Certificate => Self::Certificate(copy().into()),
            DetectedFormat::Crl => Self::Crl(copy().into()),
            DetectedFormat::Pkcs8 => Self::Key(PrivateKeyDer::Pkcs8(copy().into())),
            DetectedFormat::Pkcs1 => Self::Key(PrivateKeyDer::Pkcs1(copy().into())),
            DetectedFormat::Sec1 => Self::Key(PrivateKeyDer::Sec1(copy().into())),
            _ => return None,
        })
    }
}
