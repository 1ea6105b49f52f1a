//! Whether a key pair fits what a ClientHello offers: protocol version, cipher suites, groups, signature schemes.
//!
//! In TLS 1.3 the suite says nothing about the certificate, but RSA signs only with PSS (RFC 8446 4.2.3). In TLS 1.2 the
//! suite names the kind of key (RFC 5289), and the groups name the curves of certificates too (RFC 8422 5.1.1).

/// The cipher suites of TLS 1.3 (RFC 8446 B.4).
pub const TLS13_SUITES: std::ops::RangeInclusive<u16> = 0x1301..=0x1305;
/// ECDHE_ECDSA with AEAD (RFC 5289, RFC 7905): AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.
const ECDSA_SUITES: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
/// ECDHE_RSA with AEAD (RFC 5289, RFC 7905), the same ciphers.
const RSA_SUITES: [u16; 3] = [0xc02f, 0xc030, 0xcca8];
/// RSASSA-PKCS1-v1_5 with SHA-256, SHA-384, SHA-512: not for handshakes of TLS 1.3.
const PKCS1_SCHEMES: [u16; 3] = [0x0401, 0x0501, 0x0601];
/// ECDSA schemes and the groups that are their curves.
const CURVES: [(u16, u16); 3] = [(0x0403, 23), (0x0503, 24), (0x0603, 25)];
/// ed25519.
const ED25519: u16 = 0x0807;

/// What a ClientHello offers, as code points; an empty list = not stated.
#[derive(Clone, Copy, Debug)]
pub struct OfferedParameters<'a> {
    /// Cipher suites, of the versions that are spoken here.
    pub suites: &'a [u16],
    /// Groups.
    pub groups: &'a [u16],
    /// Signature schemes.
    pub schemes: &'a [u16],
}

/// Whether a key that signs with these schemes can serve the offer. Where a hello states nothing, everything fits.
pub fn fits_offer(schemes: &[u16], asked: OfferedParameters<'_>) -> bool {
    if asked.suites.is_empty() {
        return true;
    }
    let common = |usable: &dyn Fn(u16) -> bool| {
        schemes.iter().any(|scheme| usable(*scheme) && (asked.schemes.is_empty() || asked.schemes.contains(scheme)))
    };
    if asked.suites.iter().any(|suite| TLS13_SUITES.contains(suite)) {
        return common(&|scheme| !PKCS1_SCHEMES.contains(&scheme));
    }
    let offers = |suites: [u16; 3]| suites.iter().any(|suite| asked.suites.contains(suite));
    let has_curve = |scheme: u16| {
        let curve = CURVES.iter().find(|(of, _)| *of == scheme).map(|(_, group)| *group);
        asked.groups.is_empty() || curve.is_none_or(|group| asked.groups.contains(&group))
    };
    let is_elliptic = |scheme: u16| scheme == ED25519 || CURVES.iter().any(|(of, _)| *of == scheme);
    if schemes.iter().any(|scheme| is_elliptic(*scheme)) {
        offers(ECDSA_SUITES) && common(&has_curve)
    } else {
        offers(RSA_SUITES) && common(&|_| true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RSA: [u16; 6] = [0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601];
    const P256: [u16; 1] = [0x0403];
    const P384: [u16; 1] = [0x0503];
    const ALL: [u16; 10] = [0x0403, 0x0503, 0x0603, 0x0807, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601];

    const fn hello<'a>(suites: &'a [u16], groups: &'a [u16], schemes: &'a [u16]) -> OfferedParameters<'a> {
        OfferedParameters { suites, groups, schemes }
    }

    #[test]
    fn the_kind_of_key_follows_the_version_the_suites_the_groups_and_the_schemes() {
        let both = [0xc02b, 0xc02f];
        for (case, asked, [rsa, p256, p384, ed25519]) in [
            ("nothing is stated", hello(&[], &[], &[]), [true; 4]),
            ("TLS 1.3", hello(&[0x1301, 0xc02f], &[29], &ALL), [true; 4]),
            ("TLS 1.3, PKCS#1 only", hello(&[0x1302], &[29, 23], &[0x0401, 0x0501]), [false; 4]),
            ("TLS 1.3, one curve", hello(&[0x1301], &[29, 23], &[0x0403, 0x0804]), [true, true, false, false]),
            ("RSA suites only", hello(&[0xc02f, 0xc030], &[29, 23], &ALL), [true, false, false, false]),
            ("ECDSA suites only", hello(&[0xc02c], &[29, 23, 24], &ALL), [false, true, true, true]),
            ("both kinds", hello(&both, &[29, 23, 24], &ALL), [true; 4]),
            ("PKCS#1 is enough in TLS 1.2", hello(&both, &[23], &[0x0401]), [true, false, false, false]),
            ("the curve is not among the groups", hello(&both, &[29, 23], &ALL), [true, true, false, true]),
            ("suites that no key of ours has", hello(&[0x002f, 0x009e], &[23], &ALL), [false; 4]),
        ] {
            let keys: [&[u16]; 4] = [&RSA, &P256, &P384, &[ED25519]];
            assert_eq!(keys.map(|key| fits_offer(key, asked)), [rsa, p256, p384, ed25519], "{case}");
        }
    }

    proptest! {
        #[test]
        fn a_hello_that_offers_more_is_fitted_by_no_less(
            suites in prop::collection::vec(prop::sample::select(vec![0xc02b_u16, 0xc02f, 0xc030, 0xcca9]), 1..4),
            groups in prop::collection::vec(23..26_u16, 1..3),
            schemes in prop::collection::vec(prop::sample::select(ALL.to_vec()), 1..6),
            more in (prop::sample::select(vec![0xc02b_u16, 0xc02f]), 23..26_u16, prop::sample::select(ALL.to_vec())),
        ) {
            let less = hello(&suites, &groups, &schemes);
            let (more_suites, more_groups) = ([&suites[..], &[more.0]].concat(), [&groups[..], &[more.1]].concat());
            let more_schemes = [&schemes[..], &[more.2]].concat();
            let wider = hello(&more_suites, &more_groups, &more_schemes);
            for key in [&RSA[..], &P256, &P384, &[ED25519]] {
                prop_assert!(!fits_offer(key, less) || fits_offer(key, wider));
            }
        }
    }
}
