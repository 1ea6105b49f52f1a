//! What a CRL (RFC 5280 5) says of itself: for people; which peers it refuses is decided in `trust`.

use jiff::Timestamp;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::facts::{name_text, timestamp};
use crate::pki::printable;

/// A CRL's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlSummary {
    /// Its issuer, printable.
    pub issuer: String,
    /// When it was made.
    pub this_update: Timestamp,
    /// When the next one is due.
    pub next_update: Option<Timestamp>,
    /// How many certificates it revokes.
    pub revoked: usize,
}

impl CrlSummary {
    /// Parses DER; the error is printable.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| printable(&error.to_string()))?;
        Ok(Self {
            issuer: name_text(list.issuer()),
            this_update: timestamp(list.last_update()),
            next_update: list.next_update().map(timestamp),
            revoked: list.iter_revoked_certificates().count(),
        })
    }
}
