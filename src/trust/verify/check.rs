//! What one certificate must be, whichever authority issued it: version, strength, validity; and its names for a refusal.

use jiff::Timestamp;

use crate::pki::Certificate;
use crate::trust::verdict::TrustError;

/// Names of a certificate, or anchors of a trust, that one refusal lists.
const MAX_LISTED_NAMES: usize = 8;

/// Refuses what cannot be a peer's own certificate: TLS takes X.509 version 3 only (RFC 8446 4.4.2.2), whichever anchor
/// vouches for it. Refuses weak keys and signatures too.
pub(super) fn check_end_entity(certificate: &Certificate) -> Result<(), TrustError> {
    let version = certificate.version();
    if version == 3 {
        return check_strength(certificate);
    }
    let why = format!("it is an X.509 v{version} certificate, and TLS takes only version 3 (RFC 8446 4.4.2.2)");
    Err(TrustError::NotAnEndEntity { subject: certificate.subject().to_owned(), why })
}

/// Refuses anchors with a weak key. Their version and signature say nothing: an anchor is a name and a key (RFC 5280 6.1.1).
pub(super) fn check_anchor_strength(anchor: &Certificate) -> Result<(), TrustError> {
    match anchor.key_weakness() {
        Some(why) => Err(TrustError::Weak { subject: anchor.subject().to_owned(), why }),
        None => Ok(()),
    }
}

/// Refuses weak keys and signatures.
pub(super) fn check_strength(certificate: &Certificate) -> Result<(), TrustError> {
    match certificate.weakness() {
        Some(why) => Err(TrustError::Weak { subject: certificate.subject().to_owned(), why: why.to_owned() }),
        None => Ok(()),
    }
}

/// Refuses what is not valid at `now`.
pub(super) fn check_validity(certificate: &Certificate, now: Timestamp) -> Result<(), TrustError> {
    let subject = || certificate.subject().to_owned();
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(TrustError::NotYetValid { subject: subject(), not_before: validity.not_before });
    }
    if now > validity.not_after {
        return Err(TrustError::Expired { subject: subject(), not_after: validity.not_after });
    }
    Ok(())
}

/// The names in the SAN as `dns:…`, `ip:…`, `uri:…`; bounded.
pub(super) fn san_names(certificate: &Certificate) -> Vec<String> {
    let dns = certificate.dns_names().iter().map(|name| format!("dns:{name}"));
    let ips = certificate.ips().iter().map(|ip| format!("ip:{ip}"));
    let uris = certificate.uris().iter().map(|uri| format!("uri:{uri}"));
    limit_list(dns.chain(ips).chain(uris))
}

/// At most [`MAX_LISTED_NAMES`] of them, and how many more there are.
pub(super) fn limit_list(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut items = items.fuse();
    let mut out: Vec<String> = items.by_ref().take(MAX_LISTED_NAMES).collect();
    let more = items.count();
    if more > 0 {
        out.push(format!("and {more} more"));
    }
    out
}
