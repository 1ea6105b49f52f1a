//! A CRL that lacks what RFC 5280 5.1.2 and 5.2 bind its *issuer* to, completed so that webpki reads it: version 2, the next
//! update and an extension. What it revokes is the same, and its signature is checked over the bytes as they came.

use super::der::{self, CONTEXT_0, DerElement, GENERALIZED_TIME, INTEGER, UTC_TIME};

const VERSION_2: &[u8] = &[2, 1, 1];
/// 9999-12-31 23:59:59 UTC, which stands for no date (RFC 5280 4.1.2.5).
const NO_NEXT_UPDATE: &[u8] = b"\x18\x0f99991231235959Z";
/// An empty authorityKeyIdentifier, which webpki does not look at.
const EXTENSIONS: &[u8] = &[0xa0, 13, 0x30, 11, 0x30, 9, 6, 3, 0x55, 0x1d, 0x23, 4, 2, 0x30, 0];
/// Algorithm, issuer and this update.
const HEAD: usize = 3;

/// Whether this is the tag of a time.
pub(crate) fn is_time(tag: u8) -> bool {
    matches!(tag, UTC_TIME | GENERALIZED_TIME)
}

/// The completed list; `None` where nothing is missing, or where these bytes are not those of a CRL.
pub(crate) fn complete_list(list: &[u8]) -> Option<Vec<u8>> {
    let (outer, _) = der::element(list)?;
    let (signed, signature) = der::element(outer.content)?;
    let parts: Vec<DerElement<'_>> = der::elements(signed.content).collect();
    let has_version = parts.first()?.tag == INTEGER;
    let parts = &parts[usize::from(has_version)..];
    let (head, rest) = parts.split_at_checked(HEAD)?;
    if !is_time(head.last()?.tag) {
        return None;
    }
    let has_next_update = rest.first().is_some_and(|part| is_time(part.tag));
    let has_extensions = rest.iter().any(is_extensions);
    if has_version && has_next_update && has_extensions {
        return None;
    }
    let mut all = vec![VERSION_2];
    all.extend(head.iter().map(|part| part.whole));
    if !has_next_update {
        all.push(NO_NEXT_UPDATE);
    }
    all.extend(rest.iter().filter(|part| part.tag != CONTEXT_0 || is_extensions(part)).map(|part| part.whole));
    if !has_extensions {
        all.push(EXTENSIONS);
    }
    Some(der::sequence(&[&der::sequence(&all), signature]).to_vec())
}

/// A block of extensions that holds one at least.
fn is_extensions(part: &DerElement<'_>) -> bool {
    part.tag == CONTEXT_0 && der::element(part.content).is_some_and(|(list, _)| !list.content.is_empty())
}
