//! PKCS#12 (RFC 7292): opens a keystore and takes its bags apart; nothing that was decrypted outlives the reading but in
//! buffers that are zeroised. What its password opens is `cipher`'s.

mod cipher;
mod parts;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::super::der::{self, CONTEXT_0, INTEGER, OCTET_STRING, OID, SEQUENCE};
use super::form::UnparsedItem;
use super::refusal::{self, UnreadablePart};
use cipher::{MAX_ROUNDS, PasswordCipher};
use parts::{KeystoreError, TaggedParts};

/// Larger keystores are refused before anything in them is read.
const MAX_BYTES: usize = 128 * 1024;

/// Implicit `[0]`, primitive: where EncryptedContentInfo has what is encrypted (RFC 5652 6.1).
const ENCRYPTED_CONTENT: u8 = 0x80;

/// id-data (RFC 5652 4).
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// id-encryptedData (RFC 5652 8).
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// keyBag, pkcs8ShroudedKeyBag and certBag (RFC 7292 4.2).
const KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x01];
const SHROUDED_KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02];
const CERTIFICATE_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
/// x509Certificate (RFC 7292 4.2.3).
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];

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
    // What is encrypted hides what it asks for; that is counted when it is reached.
    let rounds = sum_visible_rounds(outer.content, 0);
    if rounds > u64::from(MAX_ROUNDS) {
        let why = format!("it requires {rounds} rounds of key derivation, more than {MAX_ROUNDS}");
        return Err(refusal::pkcs12_unsupported(&why));
    }
    let mut cipher = PasswordCipher::new(password.unwrap_or_default());
    let opened = OpenedBags::read(outer.content, &mut cipher).map_err(|error| match error {
        KeystoreError::WrongPassword => refusal::pkcs12_password(password.is_some()),
        KeystoreError::Unsupported(why) => refusal::pkcs12_unsupported(&why),
        KeystoreError::Malformed(what) => refusal::pkcs12_malformed(&format!("{what} is not where it should be")),
    })?;
    Ok(opened.into_items())
}

/// The sum of all numbers that follow a salt, wherever they are visible: PBKDF1, PBKDF2 and the MAC all have this shape
/// (RFC 8018 A, RFC 7292 4).
fn sum_visible_rounds(content: &[u8], depth: u8) -> u64 {
    const MAX_DEPTH: u8 = 24;
    if depth > MAX_DEPTH {
        return u64::MAX;
    }
    let mut sum = 0u64;
    let mut after_salt = false;
    for part in der::elements(content) {
        if after_salt && part.tag == INTEGER {
            sum = sum.saturating_add(u64::from(cipher::read_rounds(part.content)));
        }
        after_salt = part.tag == OCTET_STRING;
        // Octet strings may hold DER again; what is encrypted hardly ever looks like one whole sequence.
        let is_nested = part.tag & 0x20 != 0
            || (part.tag == OCTET_STRING
                && der::element(part.content)
                    .is_some_and(|(inner, rest)| inner.tag == SEQUENCE && inner.missing == 0 && rest.is_empty()));
        if is_nested {
            sum = sum.saturating_add(sum_visible_rounds(part.content, depth + 1));
        }
    }
    sum
}

/// What a keystore holds, decrypted. Its keys are zeroised wherever the reading ends.
#[derive(Default)]
struct OpenedBags {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<Zeroizing<Vec<u8>>>,
}

impl OpenedBags {
    /// The content of a PFX (RFC 7292 4).
    fn read(content: &[u8], cipher: &mut PasswordCipher<'_>) -> Result<Self, KeystoreError> {
        let mut pfx = TaggedParts::new(content);
        if pfx.read_part(INTEGER, "its version")?.content != [3] {
            return Err(KeystoreError::Unsupported("its version is not 3".into()));
        }
        let safes = read_content(&mut pfx, "its content")?;
        if safes.oid != DATA {
            return Err(KeystoreError::Unsupported(format!(
                "its content is of the type {}",
                parts::write_oid(safes.oid)
            )));
        }
        let safes = TaggedParts::new(safes.value).read_part(OCTET_STRING, "its content")?.content;
        if let Some(mac) = pfx.read_optional(SEQUENCE) {
            cipher.verify_mac(mac.content, safes)?;
        }
        let mut safes = TaggedParts::new(TaggedParts::new(safes).read_part(SEQUENCE, "the list of safes")?.content);
        let mut opened = Self::default();
        while !safes.is_empty() {
            let safe = read_content(&mut safes, "a safe")?;
            let mut value = TaggedParts::new(safe.value);
            match safe.oid {
                DATA => opened.read_safe(value.read_part(OCTET_STRING, "a safe")?.content, cipher)?,
                ENCRYPTED_DATA => {
                    let plain = decrypt_safe(value.read_part(SEQUENCE, "an encrypted safe")?.content, cipher)?;
                    opened.read_safe(&plain, cipher)?;
                }
                other => {
                    let why = format!("a safe is of the type {}", parts::write_oid(other));
                    return Err(KeystoreError::Unsupported(why));
                }
            }
        }
        Ok(opened)
    }

    /// SafeContents (RFC 7292 4.2). Bags that are neither certificates nor private keys are passed over.
    fn read_safe(&mut self, contents: &[u8], cipher: &mut PasswordCipher<'_>) -> Result<(), KeystoreError> {
        let mut bags = TaggedParts::new(TaggedParts::new(contents).read_part(SEQUENCE, "the list of bags")?.content);
        while !bags.is_empty() {
            let bag = read_content(&mut bags, "a bag")?;
            let mut value = TaggedParts::new(bag.value);
            match bag.oid {
                KEY_BAG => {
                    let key = value.read_part(SEQUENCE, "a private key")?;
                    self.keys.push(Zeroizing::new(key.whole.to_vec()));
                }
                SHROUDED_KEY_BAG => {
                    let mut shrouded = TaggedParts::new(value.read_part(SEQUENCE, "an encrypted private key")?.content);
                    let algorithm = shrouded.read_algorithm("the encryption of a private key")?;
                    let sealed = shrouded.read_part(OCTET_STRING, "an encrypted private key")?.content;
                    self.keys.push(cipher.decrypt(&algorithm, sealed)?);
                }
                CERTIFICATE_BAG => {
                    let mut bag = TaggedParts::new(value.read_part(SEQUENCE, "a certificate")?.content);
                    let kind = bag.read_part(OID, "the kind of a certificate")?.content;
                    if kind != X509_CERTIFICATE {
                        let why = format!("a certificate is of the type {}", parts::write_oid(kind));
                        return Err(KeystoreError::Unsupported(why));
                    }
                    let mut certificate = TaggedParts::new(bag.read_part(CONTEXT_0, "a certificate")?.content);
                    let der = certificate.read_part(OCTET_STRING, "a certificate")?.content;
                    self.certificates.push(der.to_vec().into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn into_items(self) -> Vec<UnparsedItem> {
        let certificates = self.certificates.into_iter().map(UnparsedItem::Certificate);
        // Moved, not copied: from here on the key itself zeroises them.
        let keys = self.keys.into_iter().map(|mut key| PrivateKeyDer::Pkcs8(std::mem::take(&mut *key).into()));
        certificates.chain(keys.map(UnparsedItem::Key)).collect()
    }
}

/// A value with the identifier of what it is: ContentInfo and SafeBag.
struct TypedContent<'a> {
    oid: &'a [u8],
    value: &'a [u8],
}

fn read_content<'a>(parts: &mut TaggedParts<'a>, what: &'static str) -> Result<TypedContent<'a>, KeystoreError> {
    let mut inner = TaggedParts::new(parts.read_part(SEQUENCE, what)?.content);
    let oid = inner.read_part(OID, what)?.content;
    let value = inner.read_part(CONTEXT_0, what)?.content;
    Ok(TypedContent { oid, value })
}

/// EncryptedData (RFC 5652 8) of a password.
fn decrypt_safe(content: &[u8], cipher: &mut PasswordCipher<'_>) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let what = "an encrypted safe";
    let mut data = TaggedParts::new(content);
    data.read_part(INTEGER, what)?;
    let mut info = TaggedParts::new(data.read_part(SEQUENCE, what)?.content);
    info.read_part(OID, what)?;
    let algorithm = info.read_algorithm("the encryption of a safe")?;
    let sealed = info.read_part(ENCRYPTED_CONTENT, what)?.content;
    cipher.decrypt(&algorithm, sealed)
}
