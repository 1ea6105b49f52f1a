//! What a peer may like or dislike in a certificate, beside its validity: compared where it refuses one pair and may
//! accept another.

use crate::pki::KeyPair;

/// Traits of one pair. Issuer names and signature schemes stand beside them in its candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairTraits {
    /// The identifier of the issuer's key: authorities of one name may have several.
    pub authority_key: Option<Vec<u8>>,
    /// The algorithms of its key and of its signature.
    pub algorithms: (String, String),
    /// Subject, and names of every kind.
    pub names: Vec<String>,
    /// Its extended key usage: limited, server, client.
    pub usage: [bool; 3],
    /// DER of the SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

impl PairTraits {
    /// The traits of a pair's end entity.
    pub fn from_pair(pair: &KeyPair) -> Self {
        let certificate = pair.end_entity();
        let dns = certificate.dns_names().iter().map(|name| format!("dns:{name}"));
        let uris = certificate.uris().iter().map(|name| format!("uri:{name}"));
        let ips = certificate.ips().iter().map(|address| format!("ip:{address}"));
        let emails = certificate.emails().iter().map(|name| format!("email:{name}"));
        let mut names: Vec<String> = dns.chain(uris).chain(ips).chain(emails).collect();
        names.push(format!("subject:{}", certificate.subject()));
        names.sort();
        let usage = certificate.usage();
        Self {
            authority_key: certificate.authority_key().map(<[u8]>::to_vec),
            algorithms: (certificate.key().to_string(), certificate.signature_algorithm().to_owned()),
            names,
            usage: [usage.limited, usage.server, usage.client],
            public_key: certificate.spki().to_vec(),
        }
    }
}
