//! What the password of a keystore opens: its MAC (RFC 7292 A), and what is encrypted by PBES2 (RFC 8018 6.2) or by the older
//! schemes of RFC 7292 C. aws-lc does what it has, RustCrypto's crates the rest; decrypted in place, in buffers that are zeroised.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{self, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, pbkdf2};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt as _, KeyInit, KeyIvInit as _};
use des::{TdesEde2, TdesEde3};
use pkcs12::kdf::{Pkcs12KeyType, derive_key};
use rc2::Rc2;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::super::super::der::{self, INTEGER, OCTET_STRING, SEQUENCE};
use super::parts::{self, KeystoreError, NamedAlgorithm, TaggedParts};

/// Rounds of key derivation in the whole file. openssl asks for 2048 per part, Windows for 2000, Java for 10,000, and the
/// most cautious for a million; five million take a few seconds.
pub(super) const MAX_ROUNDS: u32 = 5_000_000;

/// pkcs-12PbeIds (RFC 7292 C), without the last number.
const PKCS12_SCHEMES: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01];
/// id-PBES2 and id-PBKDF2 (RFC 8018 A).
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// id-scrypt (RFC 7914 7).
const SCRYPT: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];
/// id-hmacWithSHA1 and its successors (RFC 8018 B.1), without the last number.
const HMAC_WITH: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
/// aes (RFC 3565), without the last number; the ones in CBC mode are 2, 22 and 42.
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];
/// des-EDE3-CBC (RFC 8018 B.2.2).
const DES_EDE3_CBC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x03, 0x07];
/// id-sha1 (RFC 8017 B.1).
const SHA_1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// The SHA-2 family (RFC 5754), without the last number.
const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// From password, salt, purpose, rounds and length to a key (RFC 7292 B.2).
type KeyDerivation = fn(&[u8], &[u8], Pkcs12KeyType, i32, usize) -> Vec<u8>;

/// A keystore's password, and how much work the keystore may still ask for.
pub(super) struct PasswordCipher<'a> {
    password: &'a str,
    /// In the form of RFC 7292 B.1: UTF-16 with a zero at its end.
    wide: Zeroizing<Vec<u8>>,
    rounds_left: u32,
}

impl<'a> PasswordCipher<'a> {
    pub(super) fn new(password: &'a str) -> Self {
        let mut wide = Zeroizing::new(Vec::with_capacity(2 * password.len() + 2));
        password.encode_utf16().chain([0]).for_each(|unit| wide.extend(unit.to_be_bytes()));
        Self { password, wide, rounds_left: MAX_ROUNDS }
    }

    /// Does the content of this MacData (RFC 7292 4) fit the data?
    pub(super) fn verify_mac(&mut self, mac: &[u8], data: &[u8]) -> Result<(), KeystoreError> {
        let what = "its MAC";
        let mut parts = TaggedParts::new(mac);
        let mut digest_info = TaggedParts::new(parts.read_part(SEQUENCE, what)?.content);
        let digest = digest_info.read_algorithm(what)?.oid;
        let expected = digest_info.read_part(OCTET_STRING, what)?.content;
        let salt = parts.read_part(OCTET_STRING, what)?.content;
        let rounds = self.count_rounds(parts.read_optional(INTEGER).map_or(&[1][..], |rounds| rounds.content))?;
        let (algorithm, derive): (hmac::Algorithm, KeyDerivation) = match (digest.strip_prefix(SHA_2), digest) {
            (None, SHA_1) => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, derive_key::<Sha1>),
            (Some([4]), _) => (hmac::HMAC_SHA224, derive_key::<Sha224>),
            (Some([1]), _) => (hmac::HMAC_SHA256, derive_key::<Sha256>),
            (Some([2]), _) => (hmac::HMAC_SHA384, derive_key::<Sha384>),
            (Some([3]), _) => (hmac::HMAC_SHA512, derive_key::<Sha512>),
            _ => return Err(unsupported("its MAC is", digest)),
        };
        let (rounds, length) = (rounds.get().cast_signed(), algorithm.tag_len());
        let key = Zeroizing::new(derive(&self.wide, salt, Pkcs12KeyType::Mac, rounds, length));
        let key = hmac::Key::new(algorithm, &key);
        hmac::verify(&key, data, expected).map_err(|_| KeystoreError::WrongPassword)
    }

    /// What was encrypted with the password: a value in DER, or the password is another one.
    pub(super) fn decrypt(
        &mut self,
        algorithm: &NamedAlgorithm<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let length = match (algorithm.oid.strip_prefix(PKCS12_SCHEMES), algorithm.oid) {
            (Some([3]), _) => self.decrypt_older::<TdesEde3>(algorithm, 24, &mut buffer)?,
            (Some([4]), _) => self.decrypt_older::<TdesEde2>(algorithm, 16, &mut buffer)?,
            (Some([5]), _) => self.decrypt_older::<Rc2>(algorithm, 16, &mut buffer)?,
            (Some([6]), _) => self.decrypt_older::<Rc2>(algorithm, 5, &mut buffer)?,
            (None, PBES2) => self.decrypt_pbes2(algorithm, &mut buffer)?,
            _ => return Err(unsupported("it is encrypted with", algorithm.oid)),
        };
        buffer.truncate(length);
        // Without a MAC, padding alone would let one wrong password in 256 pass.
        let is_whole = |(value, rest): (der::DerElement<'_>, &[u8])| {
            value.tag == SEQUENCE && value.missing == 0 && rest.is_empty()
        };
        if der::element(&buffer).is_some_and(is_whole) { Ok(buffer) } else { Err(KeystoreError::WrongPassword) }
    }

    /// RFC 7292 C: the key and the first block from the password, a cipher of 64 bits.
    fn decrypt_older<C: KeyInit + BlockCipherDecrypt>(
        &mut self,
        algorithm: &NamedAlgorithm<'_>,
        key_length: usize,
        buffer: &mut [u8],
    ) -> Result<usize, KeystoreError> {
        let what = "the parameters of its encryption";
        let mut parameters = algorithm.parameters;
        let mut parameters = TaggedParts::new(parameters.read_part(SEQUENCE, what)?.content);
        let salt = parameters.read_part(OCTET_STRING, what)?.content;
        let rounds = self.count_rounds(parameters.read_part(INTEGER, what)?.content)?.get().cast_signed();
        let derive = |kind, length| Zeroizing::new(derive_key::<Sha1>(&self.wide, salt, kind, rounds, length));
        let (key, first) = (derive(Pkcs12KeyType::EncryptionKey, key_length), derive(Pkcs12KeyType::Iv, 8));
        decrypt_blocks::<C>(&key, &first, buffer)
    }

    /// RFC 8018 6.2, with PBKDF2.
    fn decrypt_pbes2(&mut self, algorithm: &NamedAlgorithm<'_>, buffer: &mut [u8]) -> Result<usize, KeystoreError> {
        let what = "the parameters of its encryption";
        let mut parameters = algorithm.parameters;
        let mut parameters = TaggedParts::new(parameters.read_part(SEQUENCE, what)?.content);
        let derivation = parameters.read_algorithm(what)?;
        let mut scheme = parameters.read_algorithm(what)?;
        match derivation.oid {
            PBKDF2 => {}
            // Its memory cannot be bounded by counting, and no tool writes it.
            SCRYPT => return Err(KeystoreError::Unsupported("it uses scrypt".into())),
            other => return Err(unsupported("its key is derived by", other)),
        }
        let first = scheme.parameters.read_part(OCTET_STRING, what)?.content;
        let (key_length, aes) = match (scheme.oid.strip_prefix(AES), scheme.oid) {
            (Some([2]), _) => (16, Some(&cipher::AES_128)),
            (Some([22]), _) => (24, Some(&cipher::AES_192)),
            (Some([42]), _) => (32, Some(&cipher::AES_256)),
            (None, DES_EDE3_CBC) => (24, None),
            _ => return Err(unsupported("it is encrypted with", scheme.oid)),
        };
        let key = self.derive_pbkdf2(&derivation, key_length)?;
        let Some(aes) = aes else {
            return decrypt_blocks::<TdesEde3>(&key, first, buffer);
        };
        let first = FixedLength::<16>::try_from(first).map_err(|_| KeystoreError::Malformed(what))?;
        let key = UnboundCipherKey::new(aes, &key).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
        let key = key.map_err(|_| KeystoreError::Malformed(what))?;
        let plain = key.decrypt(buffer, DecryptionContext::Iv128(first)).map_err(|_| KeystoreError::WrongPassword)?;
        Ok(plain.len())
    }

    /// PBKDF2-params (RFC 8018 A.2).
    fn derive_pbkdf2(
        &mut self,
        derivation: &NamedAlgorithm<'_>,
        length: usize,
    ) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let what = "the parameters of its key derivation";
        let mut parameters = derivation.parameters;
        let mut parameters = TaggedParts::new(parameters.read_part(SEQUENCE, what)?.content);
        let salt = parameters.read_part(OCTET_STRING, what)?.content;
        let rounds = self.count_rounds(parameters.read_part(INTEGER, what)?.content)?;
        // The length of the key, which the cipher gives as well.
        parameters.read_optional(INTEGER);
        let function = if parameters.is_empty() {
            pbkdf2::PBKDF2_HMAC_SHA1
        } else {
            let function = parameters.read_algorithm(what)?.oid;
            match function.strip_prefix(HMAC_WITH) {
                Some([7]) => pbkdf2::PBKDF2_HMAC_SHA1,
                Some([9]) => pbkdf2::PBKDF2_HMAC_SHA256,
                Some([10]) => pbkdf2::PBKDF2_HMAC_SHA384,
                Some([11]) => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return Err(unsupported("its key is derived by", function)),
            }
        };
        let mut key = Zeroizing::new(vec![0; length]);
        pbkdf2::derive(function, rounds, salt, self.password.as_bytes(), &mut key);
        Ok(key)
    }

    /// The rounds that the content of an INTEGER asks for, taken from those that are left.
    fn count_rounds(&mut self, content: &[u8]) -> Result<NonZeroU32, KeystoreError> {
        let rounds = read_rounds(content);
        self.rounds_left = self.rounds_left.checked_sub(rounds).ok_or_else(|| {
            KeystoreError::Unsupported(format!("it requires more than {MAX_ROUNDS} rounds of key derivation"))
        })?;
        NonZeroU32::new(rounds).ok_or(KeystoreError::Malformed("the number of rounds of a key derivation"))
    }
}

/// The content of an INTEGER; one that is too large for any count is the largest.
pub(super) fn read_rounds(content: &[u8]) -> u32 {
    match der::bit_len(content) {
        0..=31 => content.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
        _ => u32::MAX,
    }
}

/// Decrypts in place; the length of what was encrypted, without its padding.
fn decrypt_blocks<C: KeyInit + BlockCipherDecrypt>(
    key: &[u8],
    first: &[u8],
    buffer: &mut [u8],
) -> Result<usize, KeystoreError> {
    let cipher = cbc::Decryptor::<C>::new_from_slices(key, first)
        .map_err(|_| KeystoreError::Malformed("the parameters of its encryption"))?;
    Ok(cipher.decrypt_padded::<Pkcs7>(buffer).map_err(|_| KeystoreError::WrongPassword)?.len())
}

fn unsupported(what: &str, oid: &[u8]) -> KeystoreError {
    KeystoreError::Unsupported(format!("{what} {}, which is not read here", parts::write_oid(oid)))
}
