//! Is this certificate signed with that key? Used to order chains, never to trust one: `trust` verifies paths.

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::super::der;

/// Whether the certificate's signature is by this key, or cannot be checked because its algorithm is not supported.
pub(super) fn may_be_signed_by(certificate: &[u8], spki: &[u8]) -> bool {
    let Some((tbs, algorithm, signature)) = signed_parts(certificate) else {
        return false;
    };
    let spki = SubjectPublicKeyInfoDer::from(spki);
    let Ok(key) = webpki::RawPublicKeyEntity::try_from(&spki) else {
        return false;
    };
    let mut known = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|candidate| candidate.signature_alg_id().as_ref() == algorithm)
        .peekable();
    known.peek().is_none() || known.any(|candidate| key.verify_signature(*candidate, tbs, signature).is_ok())
}

/// Whether something signed in X.509's form, as a certification request is, is signed with this key; what is wrong if not.
pub(super) fn check_signature(signed: &[u8], spki: &[u8]) -> Result<(), String> {
    let damaged = || "its signature cannot be read".to_owned();
    let (tbs, algorithm, signature) = signed_parts(signed).ok_or_else(damaged)?;
    let spki = SubjectPublicKeyInfoDer::from(spki);
    let key = webpki::RawPublicKeyEntity::try_from(&spki).map_err(|_| damaged())?;
    let known = || webpki::ALL_VERIFICATION_ALGS.iter().filter(|known| known.signature_alg_id().as_ref() == algorithm);
    match known().any(|known| key.verify_signature(*known, tbs, signature).is_ok()) {
        true => Ok(()),
        false if known().next().is_none() => Err("its signature algorithm is not supported".to_owned()),
        false => Err("its signature was not made by its own key: it was altered or damaged in transit".to_owned()),
    }
}

/// What is signed, the algorithm's content and the signature (RFC 5280 4.1.1).
fn signed_parts(certificate: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (outer, _) = der::element(certificate)?;
    let mut parts = der::elements(outer.content);
    let (tbs, algorithm, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let signature = signature.content.strip_prefix(&[0])?;
    Some((tbs.whole, algorithm.content, signature))
}
