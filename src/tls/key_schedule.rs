//! HKDF of TLS 1.3 (RFC 5869, RFC 8446 7.1) over HMAC keys that are prepared once. rustls' provider extracts anew for every
//! secret that it expands, and prepares the same key for every piece: two thirds of all hashing in a resumed handshake.
//!
//! The hash, the HMAC and the suites are the provider's; what is expanded when, rustls says.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use rustls::crypto::hash::HashAlgorithm;
use rustls::crypto::hmac::{Hmac, Key, Tag};
use rustls::crypto::tls13::{Hkdf, HkdfUsingHmac};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};

static HMAC_SHA256: ProviderHmac = ProviderHmac(hmac::HMAC_SHA256);
static HMAC_SHA384: ProviderHmac = ProviderHmac(hmac::HMAC_SHA384);
static HKDF_SHA256: HkdfUsingHmac<'static> = HkdfUsingHmac(&HMAC_SHA256);
static HKDF_SHA384: HkdfUsingHmac<'static> = HkdfUsingHmac(&HMAC_SHA384);

/// The provider's suites of TLS 1.3 with this HKDF.
static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let suites = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    suites.iter().filter_map(SupportedCipherSuite::tls13).filter_map(prepare_suite).collect()
});

/// The provider's suites, those of TLS 1.3 with this HKDF.
pub(super) fn replace_key_schedules(suites: &mut [SupportedCipherSuite]) {
    for suite in suites {
        if let Some(prepared) = SUITES.iter().find(|prepared| prepared.common.suite == suite.suite()) {
            *suite = SupportedCipherSuite::Tls13(prepared);
        }
    }
}

/// `None`: a suite whose hash is not known here stays as it is.
fn prepare_suite(suite: &'static Tls13CipherSuite) -> Option<Tls13CipherSuite> {
    let common = &suite.common;
    let hkdf_provider: &'static dyn Hkdf = match common.hash_provider.algorithm() {
        HashAlgorithm::SHA256 => &HKDF_SHA256,
        HashAlgorithm::SHA384 => &HKDF_SHA384,
        _ => return None,
    };
    let (suite_name, hash_provider, confidentiality_limit) =
        (common.suite, common.hash_provider, common.confidentiality_limit);
    Some(Tls13CipherSuite {
        common: CipherSuiteCommon { suite: suite_name, hash_provider, confidentiality_limit },
        hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: suite.quic,
    })
}

/// The HMAC of aws-lc with one hash.
struct ProviderHmac(hmac::Algorithm);

impl Hmac for ProviderHmac {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        Box::new(PreparedHmacKey(hmac::Key::new(self.0, key)))
    }

    fn hash_output_len(&self) -> usize {
        self.0.digest_algorithm().output_len()
    }
}

/// A key whose two inner states are computed. aws-lc overwrites it when it is dropped.
struct PreparedHmacKey(hmac::Key);

impl Key for PreparedHmacKey {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(first);
        for piece in middle {
            context.update(piece);
        }
        context.update(last);
        Tag::new(context.sign().as_ref())
    }

    fn tag_len(&self) -> usize {
        self.0.algorithm().digest_algorithm().output_len()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::tls13::OkmBlock;

    use super::*;

    #[test]
    fn every_secret_is_the_one_that_the_provider_derives() {
        let provider = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
        let mut suites = provider.to_vec();
        replace_key_schedules(&mut suites);
        let pairs: Vec<_> =
            provider.iter().zip(&suites).filter_map(|(theirs, ours)| Some((theirs.tls13()?, ours.tls13()?))).collect();
        assert_eq!(pairs.len(), 3);
        for (theirs, ours) in pairs {
            assert!(!std::ptr::eq(theirs, ours) && theirs.common.suite == ours.common.suite);
            let (theirs, ours) = (theirs.hkdf_provider, ours.hkdf_provider);
            let material: Vec<u8> = (0..200).collect();
            for (salt, secret) in [(None, 48), (Some(&material[..32]), 32), (Some(&material[..150]), 200)] {
                let [their_secrets, our_secrets] = [theirs, ours].map(|hkdf| {
                    let expanders =
                        [hkdf.extract_from_secret(salt, &material[..secret]), hkdf.extract_from_zero_ikm(salt)];
                    expanders.map(|expander| {
                        let mut slice = [0; 100];
                        expander.expand_slice(&[b"label", &material[..90], b""], &mut slice).unwrap();
                        (expander.expand_block(&[b"one"]).as_ref().to_vec(), slice, expander.hash_len())
                    })
                });
                assert!(their_secrets == our_secrets);
            }
            let block = OkmBlock::new(&material[..ours.extract_from_zero_ikm(None).hash_len()]);
            let [their_expander, our_expander] = [theirs, ours].map(|hkdf| hkdf.expander_for_okm(&block));
            assert_eq!(their_expander.expand_block(&[b"x"]).as_ref(), our_expander.expand_block(&[b"x"]).as_ref());
            let [their_tag, our_tag] = [theirs, ours].map(|hkdf| hkdf.hmac_sign(&block, b"message"));
            assert_eq!(their_tag.as_ref(), our_tag.as_ref());
        }
    }
}
