//! The peer's identity: only ever made from a [`Verified`] path.
//!
//! Identity is typed (`uri:`, `dns:`, `subject:`, …) so that one kind of name can never pass for another.

use std::sync::Arc;

use jiff::Timestamp;

use super::partner::Partners;
use super::verdict::Verified;
use crate::pki::Certificate;

/// A verified peer. Shared by every request of its connection.
#[derive(Debug)]
pub struct Peer {
    verified: Arc<Verified>,
    identity: String,
    partner: Option<Arc<str>>,
}

impl Peer {
    /// From the proof and the configured partners.
    pub fn new(verified: Arc<Verified>, partners: &Partners) -> Arc<Self> {
        let identity = identity(&verified.path[0]);
        let partner = partners.recognise(&verified);
        Arc::new(Self { verified, identity, partner })
    }
    /// `uri:…`, `dns:…` or `subject:…`: the first URI SAN, else DNS SAN, else subject, else `email:…` or `ip:…`, else
    /// `fingerprint:…`; never empty. Several URI SANs give no SPIFFE identity: then the next of these. Printable.
    pub fn identity(&self) -> &str {
        &self.identity
    }
    /// The partner it is, if any.
    pub fn partner(&self) -> Option<&Arc<str>> {
        self.partner.as_ref()
    }
    /// Its certificate.
    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.verified.path[0]
    }
    /// The proof.
    pub fn verified(&self) -> &Arc<Verified> {
        &self.verified
    }
    /// No connection outlives this.
    pub fn valid_until(&self) -> Timestamp {
        self.verified.valid_until
    }
}

fn identity(certificate: &Certificate) -> String {
    let first = |names: &[String]| names.iter().find(|name| !name.is_empty()).cloned();
    if let [uri] = certificate.uris()
        && !uri.is_empty()
    {
        return format!("uri:{uri}");
    }
    if let Some(dns) = first(certificate.dns_names()) {
        return format!("dns:{dns}");
    }
    if !certificate.subject().is_empty() {
        return format!("subject:{}", certificate.subject());
    }
    if let Some(email) = first(certificate.emails()) {
        return format!("email:{email}");
    }
    match certificate.ips().first() {
        Some(ip) => format!("ip:{ip}"),
        None => format!("fingerprint:{}", certificate.fingerprint().hex()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::SanType;

    use super::*;
    use crate::trust::PeerRole;
    use crate::trust::sample::{TestAuthority, now, trust};

    #[test]
    fn identity_is_the_one_uri_else_dns_else_the_subject() {
        let ca = TestAuthority::new("CA");
        let trust = trust(&[&ca]);
        let identity = |uris: &[&str], dns: &[&str]| {
            let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
            let names: Vec<_> =
                uris.chain(dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()))).collect();
            let peer = ca.issue_peer("a.test", &|params| params.subject_alt_names = names.clone());
            let verified = trust.verify(&peer.chain, &PeerRole::Client, now()).unwrap();
            Peer::new(verified, &Partners::default()).identity().to_owned()
        };
        assert_eq!(identity(&["spiffe://a/b"], &["b.test"]), "uri:spiffe://a/b");
        assert_eq!(identity(&["spiffe://a/b", "spiffe://a/c"], &["b.test"]), "dns:b.test");
        assert_eq!(identity(&["spiffe://a/b", "spiffe://a/c"], &[]), "subject:CN=a.test");
        assert_eq!(identity(&[], &["b.test", "c.test"]), "dns:b.test");
    }

    #[test]
    fn identity_of_a_peer_without_uri_dns_and_subject_is_its_email_its_address_or_its_fingerprint() {
        let ca = TestAuthority::new("CA");
        let trust = trust(&[&ca]);
        let identity = |names: Vec<SanType>| {
            let peer = ca.issue_peer("a.test", &|params| {
                params.distinguished_name = rcgen::DistinguishedName::new();
                params.subject_alt_names.clone_from(&names);
            });
            let verified = trust.verify(&peer.chain, &PeerRole::Client, now()).unwrap();
            let fingerprint = verified.path[0].fingerprint().hex();
            (Peer::new(verified, &Partners::default()).identity().to_owned(), fingerprint)
        };
        let email = || SanType::Rfc822Name("etl@acme.test".try_into().unwrap());
        let address = || SanType::IpAddress("192.0.2.7".parse().unwrap());
        assert_eq!(identity(vec![address(), email()]).0, "email:etl@acme.test");
        assert_eq!(identity(vec![address()]).0, "ip:192.0.2.7");
        let uris = ["spiffe://a/b", "spiffe://a/c"].map(|uri| SanType::URI(uri.try_into().unwrap()));
        for names in [Vec::new(), uris.to_vec()] {
            let (identity, fingerprint) = identity(names);
            assert_eq!(identity, format!("fingerprint:{fingerprint}"));
        }
    }
}
