//! PKCS#12 (RFC 7292): opens it with its password, the work that the file may ask for bounded.

use memchr::memmem;
use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error;
use rustls_pki_types::PrivateKeyDer;

use super::super::der::{self, INTEGER, OCTET_STRING, SEQUENCE};
use super::form::UnparsedItem;
use super::refusal::{self, UnreadablePart};
use crate::pki::printable;

/// Rounds of key derivation in the whole file. openssl asks for 2048 per part, Windows for 2000, Java for 10,000, and the
/// most cautious for a million; five million take a few seconds.
const MAX_ROUNDS: u64 = 5_000_000;

/// Parts that are themselves encrypted hide the rounds they ask for; the size bounds how many there can be.
const MAX_BYTES: usize = 128 * 1024;

/// id-scrypt (RFC 7914 7).
const SCRYPT: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];

/// Everything in the file, in its order: certificates, then keys.
pub(super) fn read(bytes: &[u8], password: Option<&str>) -> Result<Vec<UnparsedItem>, UnreadablePart> {
    let Some((outer, _)) = der::element(bytes) else {
        return Err(refusal::pkcs12_unsupported("it is in BER with indefinite lengths"));
    };
    if outer.missing > 0 {
        return Err(UnreadablePart { keystore: true, ..refusal::truncated("the PKCS#12 file") });
    }
    if outer.whole.len() > MAX_BYTES {
        let why = format!("it has {} bytes, more than {MAX_BYTES}", outer.whole.len());
        return Err(refusal::pkcs12_unsupported(&why));
    }
    let rounds = count_rounds(outer.content, 0);
    if rounds > MAX_ROUNDS {
        let why = format!("it requires {rounds} rounds of key derivation, more than {MAX_ROUNDS}");
        return Err(refusal::pkcs12_unsupported(&why));
    }
    // No tool writes it, and its memory cannot be bounded by counting.
    if memmem::find(bytes, SCRYPT).is_some() {
        return Err(refusal::pkcs12_unsupported("it uses scrypt"));
    }
    let archive = Pkcs12Archive::from_pkcs12(outer.whole, password.unwrap_or_default())
        .map_err(|error| refuse(&error, password.is_some()))?;
    let certificates = archive.certs.iter().map(|bag| UnparsedItem::Certificate(bag.cert.as_der().to_vec().into()));
    let keys = archive.keys.iter().map(|bag| UnparsedItem::Key(PrivateKeyDer::Pkcs8(bag.key.as_der().to_vec().into())));
    Ok(certificates.chain(keys).collect())
}

fn refuse(error: &Error, password_given: bool) -> UnreadablePart {
    match error {
        // Without a MAC, a wrong password shows as bad padding only.
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => refusal::pkcs12_password(password_given),
        Error::UnsupportedContentType
        | Error::UnsupportedCertificateType
        | Error::UnsupportedEncryptionScheme
        | Error::UnsupportedMacAlgorithm
        | Error::InvalidParameters => refusal::pkcs12_unsupported(&printable(&error.to_string())),
        other => refusal::pkcs12_malformed(&printable(&other.to_string())),
    }
}

/// The sum of all numbers that follow a salt, wherever they are visible: PBKDF1, PBKDF2 and the MAC all have this shape
/// (RFC 8018 A, RFC 7292 4).
fn count_rounds(content: &[u8], depth: u8) -> u64 {
    const MAX_DEPTH: u8 = 24;
    if depth > MAX_DEPTH {
        return u64::MAX;
    }
    let mut sum = 0u64;
    let mut after_salt = false;
    for part in der::elements(content) {
        if after_salt && part.tag == INTEGER {
            sum = sum.saturating_add(number(part.content));
        }
        after_salt = part.tag == OCTET_STRING;
        // Octet strings may hold DER again; what is encrypted hardly ever looks like one whole sequence.
        let is_nested = part.tag & 0x20 != 0
            || (part.tag == OCTET_STRING
                && der::element(part.content)
                    .is_some_and(|(inner, rest)| inner.tag == SEQUENCE && inner.missing == 0 && rest.is_empty()));
        if is_nested {
            sum = sum.saturating_add(count_rounds(part.content, depth + 1));
        }
    }
    sum
}

fn number(content: &[u8]) -> u64 {
    match der::bit_len(content) {
        0..=63 => content.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        _ => u64::MAX,
    }
}
