//! Private keys: loaded by the provider, and why one could not be: it says the same of everything, so the key's own bytes are
//! asked.

use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use zeroize::{Zeroize, Zeroizing};

use super::super::SpkiHash;
use super::super::der::{self, CONTEXT_0, INTEGER, OCTET_STRING, OID};
use super::super::key_pair::load::public_key;
use super::super::pem_writer::{pem_len, write_pem};
use super::refusal::{self, UnreadablePart};

/// A private key in PKCS#8, PKCS#1 or SEC1 that rustls' provider could load; its bytes are zeroised when dropped.
pub struct PrivateKey {
    der: PrivateKeyDer<'static>,
    spki: Vec<u8>,
}

impl PrivateKey {
    /// Loads it; the error says what kind of key it is and why it cannot be used (printable).
    pub fn from_der(der: PrivateKeyDer<'static>) -> Result<Arc<Self>, String> {
        Self::load(der).map_err(|unreadable| unreadable.why)
    }

    pub(super) fn load(der: PrivateKeyDer<'static>) -> Result<Arc<Self>, UnreadablePart> {
        // Owned before anything can fail, so that the bytes are zeroised in any case.
        let mut key = Self { der, spki: Vec::new() };
        key.spki = public_key(&key.der).map_err(|why| describe_unusable(&key.der, &why))?;
        Ok(Arc::new(key))
    }

    /// The matching SubjectPublicKeyInfo, DER: what keys and certificates are joined by.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }
    /// SHA-256 of [`Self::spki`].
    pub fn spki_hash(&self) -> SpkiHash {
        SpkiHash::of(self.spki())
    }
    /// The key in the first version of PKCS#8 (RFC 5208), which every other program reads: OpenSSL 3.0 does not take the
    /// second, with the public key behind the private one, in which aws-lc writes Ed25519. Older forms are wrapped, with the
    /// algorithm that the public key names.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        const VERSION: &[u8] = &[INTEGER, 1, 0];
        let inner = self.der();
        let outer = der::element(inner.secret_der()).map_or(&[][..], |(outer, _)| outer.content);
        if let PrivateKeyDer::Pkcs8(_) = &inner {
            let parts: Vec<&[u8]> = der::elements(outer).skip(1).take(2).map(|part| part.whole).collect();
            return der::sequence(&[&[VERSION], &parts[..]].concat());
        }
        let algorithm = der::element(&self.spki).and_then(|(spki, _)| der::element(spki.content));
        let algorithm = algorithm.map_or(&[][..], |(algorithm, _)| algorithm.whole);
        let secret = inner.secret_der();
        der::sequence(&[VERSION, algorithm, &der::header(OCTET_STRING, secret.len()), secret])
    }
    /// The key as PKCS#8 PEM.
    pub fn pem(&self) -> Zeroizing<String> {
        let der = self.to_pkcs8();
        let mut out = Zeroizing::new(String::with_capacity(pem_len("PRIVATE KEY", &der)));
        write_pem("PRIVATE KEY", &der, &mut out);
        out
    }
    /// The key's bytes. For signing and for `state/retained/` only.
    pub fn der(&self) -> PrivateKeyDer<'_> {
        match &self.der {
            PrivateKeyDer::Pkcs1(key) => PrivateKeyDer::Pkcs1(key.secret_pkcs1_der().into()),
            PrivateKeyDer::Sec1(key) => PrivateKeyDer::Sec1(key.secret_sec1_der().into()),
            PrivateKeyDer::Pkcs8(key) => PrivateKeyDer::Pkcs8(key.secret_pkcs8_der().into()),
            // The type may grow; a form that no reader here makes has no bytes to show.
            _ => PrivateKeyDer::Pkcs8((&[][..]).into()),
        }
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.der.zeroize();
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("PrivateKey")
    }
}

/// What to say about a key that the provider refused with `why`.
fn describe_unusable(key: &PrivateKeyDer<'_>, why: &str) -> UnreadablePart {
    let bytes = key.secret_der();
    let kind = der::element(bytes).and_then(|(outer, _)| match key {
        PrivateKeyDer::Pkcs1(_) => rsa_size(bytes),
        PrivateKeyDer::Sec1(_) => {
            let curve = der::elements(outer.content).find(|part| part.tag == CONTEXT_0)?;
            ec_curve(curve.content)
        }
        _ => pkcs8_kind(outer.content),
    });
    match kind {
        Some(kind) => refusal::key_unsupported(&kind),
        None => refusal::malformed_key(format!("the private key is damaged: {}", crate::pki::printable(why))),
    }
}

/// The kind of a PKCS#8 key, if it is one that TLS cannot use (RFC 5958 2).
fn pkcs8_kind(content: &[u8]) -> Option<String> {
    let mut parts = der::elements(content).skip(1);
    let algorithm = parts.next()?;
    let (oid, parameters) = der::element(algorithm.content).filter(|(oid, _)| oid.tag == OID)?;
    let name = match oid.content {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01] => {
            let key = parts.next().filter(|key| key.tag == OCTET_STRING)?;
            return rsa_size(key.content);
        }
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01] => return ec_curve(parameters),
        [0x2b, 0x65, 0x70] => return None,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a] => "an RSA key restricted to PSS (RSASSA-PSS)",
        [0x2b, 0x65, 0x6e] => "an X25519 key, which cannot sign",
        [0x2b, 0x65, 0x6f] => "an X448 key, which cannot sign",
        [0x2b, 0x65, 0x71] => "an Ed448 key",
        [0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01] => "a DSA key",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x03, 0x01] => "a Diffie-Hellman key, which cannot sign",
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x11..=0x13] => "an ML-DSA key",
        other => return Some(format!("a key of the algorithm {}", oid_text(other))),
    };
    Some(name.to_owned())
}

/// An RSA key (PKCS#1, RFC 8017 A.1.2) whose size is out of bounds.
fn rsa_size(key: &[u8]) -> Option<String> {
    let (outer, _) = der::element(key)?;
    let modulus = der::elements(outer.content).nth(1).filter(|modulus| modulus.tag == INTEGER)?;
    let bits = der::bit_len(modulus.content);
    (!(2048..=8192).contains(&bits)).then(|| format!("an RSA key of {bits} bits"))
}

/// The curve of EC parameters (RFC 5480 2.1.1), if it is not one of the three that TLS uses.
fn ec_curve(parameters: &[u8]) -> Option<String> {
    let (curve, _) = der::element(parameters)?;
    let name = match (curve.tag, curve.content) {
        (OID, [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] | [0x2b, 0x81, 0x04, 0x00, 0x22 | 0x23]) => return None,
        (OID, [0x2b, 0x81, 0x04, 0x00, 0x21]) => "P-224".to_owned(),
        (OID, [0x2b, 0x81, 0x04, 0x00, 0x0a]) => "secp256k1".to_owned(),
        (OID, [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01]) => "P-192".to_owned(),
        (OID, [0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, number]) => match number {
            7 => "brainpoolP256r1".to_owned(),
            11 => "brainpoolP384r1".to_owned(),
            13 => "brainpoolP512r1".to_owned(),
            _ => "Brainpool".to_owned(),
        },
        (OID, other) => oid_text(other),
        _ => return None,
    };
    Some(format!("an elliptic-curve key on {name}"))
}

/// Dotted decimals (X.690 8.19); numbers beyond 64 bits are cut short.
fn oid_text(content: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number = 0u64;
    for byte in content.iter().take(64) {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first);
                number -= first * 40;
            }
            numbers.push(number);
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// A PKCS#8 key's content: version, algorithm with parameters, and an empty key.
    fn pkcs8(oid: &[u8], parameters: &[u8]) -> Vec<u8> {
        let algorithm = der(0x30, &[der(OID, oid).as_slice(), parameters].concat());
        [der(INTEGER, &[0]), algorithm, der(OCTET_STRING, &[])].concat()
    }

    #[test]
    fn keys_that_openssl_seldom_makes_are_named_too() {
        for (oid, name) in [
            (&[0x2b, 0x65, 0x6f][..], "an X448 key, which cannot sign"),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x03, 0x01], "a Diffie-Hellman key, which cannot sign"),
            (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12], "an ML-DSA key"),
            (&[0x2a, 0x03, 0x04], "a key of the algorithm 1.2.3.4"),
        ] {
            assert_eq!(pkcs8_kind(&pkcs8(oid, &[])).as_deref(), Some(name));
        }
    }

    #[test]
    fn keys_that_tls_can_use_or_that_are_unreadable_have_no_such_name() {
        assert_eq!(pkcs8_kind(&pkcs8(&[0x2b, 0x65, 0x70], &[])), None);
        assert_eq!(pkcs8_kind(&[]), None);
        assert_eq!(pkcs8_kind(&[INTEGER, 1, 0, 0x30, 0]), None);
        assert_eq!(rsa_size(&[]), None);
    }

    #[test]
    fn curves_are_named_and_unknown_ones_have_their_number() {
        let brainpool = |number| [0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, number];
        for (curve, name) in [
            (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01][..], "P-192"),
            (&brainpool(11), "brainpoolP384r1"),
            (&brainpool(13), "brainpoolP512r1"),
            (&brainpool(1), "Brainpool"),
            (&[0x2b, 0x81, 0x04, 0x00, 0x01], "1.3.132.0.1"),
        ] {
            let named = ec_curve(&der(OID, curve));
            assert_eq!(named, Some(format!("an elliptic-curve key on {name}")));
        }
        for usable in [0x22, 0x23] {
            assert_eq!(ec_curve(&der(OID, &[0x2b, 0x81, 0x04, 0x00, usable])), None);
        }
        // Parameters that are spelled out instead of named.
        assert_eq!(ec_curve(&der(0x30, &[])), None);
    }

    #[test]
    fn an_oid_is_printed_in_decimals() {
        assert_eq!(oid_text(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]), "1.2.840.113549");
        assert_eq!(oid_text(&[0x88, 0x37]), "2.999");
        assert_eq!(oid_text(&[0x00]), "0.0");
        // The last number never ends.
        assert_eq!(oid_text(&[0x2a, 0x86]), "1.2");
        assert!(!oid_text(&[0xff; 100]).contains('.'));
    }
}
