//! What a ClientHello says about the certificate that its sender wants, and the kind of sender that it comes from.
//!
//! Facts only: which pair fits them is for `keyring::choice` to say.

use rustls::server::ClientHello;

use super::{TlsSettings, TlsVersion};
use crate::keyring::PeerRequirements;
use crate::keyring::choice::offer::TLS13_SUITES;
use crate::pki::Fingerprint;

/// Reads what it says.
pub(super) fn read_requirements(hello: &ClientHello<'_>) -> PeerRequirements {
    let authorities = hello.certificate_authorities().unwrap_or_default();
    PeerRequirements {
        server_name: hello.server_name().map(|name| name.to_ascii_lowercase().into()),
        schemes: hello.signature_schemes().iter().map(|scheme| u16::from(*scheme)).collect(),
        authorities: authorities.iter().map(|name| name.as_ref().to_vec()).collect(),
        suites: hello.cipher_suites().iter().map(|suite| u16::from(*suite)).collect(),
        groups: hello.named_groups().unwrap_or_default().iter().map(|group| u16::from(*group)).collect(),
        offer: offer_digest(hello),
    }
}

/// The same number for ClientHellos that offer the same suites, groups, schemes and protocols, in whatever order. GREASE values
/// (RFC 8701), which some clients draw anew for each hello, do not count.
fn offer_digest(hello: &ClientHello<'_>) -> u64 {
    let suites = hello.cipher_suites().iter().map(|suite| (0_u8, u16::from(*suite)));
    let groups = hello.named_groups().unwrap_or_default().iter().map(|group| (1, u16::from(*group)));
    let schemes = hello.signature_schemes().iter().map(|scheme| (2, u16::from(*scheme)));
    let is_grease = |value: u16| value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff;
    let mut all: Vec<_> = suites.chain(groups).chain(schemes).filter(|(_, value)| !is_grease(*value)).collect();
    all.sort_unstable();
    all.dedup();
    let mut protocols: Vec<_> = hello.alpn().into_iter().flatten().filter(|name| !is_grease_name(name)).collect();
    protocols.sort_unstable();
    let protocols =
        protocols.into_iter().flat_map(|name| [&[3, u8::try_from(name.len()).unwrap_or(u8::MAX)], name].concat());
    let bytes: Vec<u8> =
        all.into_iter().flat_map(|(kind, value)| [kind, (value >> 8) as u8, value as u8]).chain(protocols).collect();
    let mut first = [0; 8];
    first.copy_from_slice(&Fingerprint::of(&bytes).as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// Whether a protocol's name is one of the values of GREASE (RFC 8701).
fn is_grease_name(name: &[u8]) -> bool {
    matches!(name, [first, second] if first == second && first & 0x0f == 0x0a)
}

/// Leaves out the cipher suites of versions that a listener with these settings does not speak.
pub(super) fn restrict_suites(asked: &mut PeerRequirements, settings: &TlsSettings) {
    let [tls12, tls13] = [settings.min == TlsVersion::Tls12, settings.max == TlsVersion::Tls13];
    asked.suites.retain(|suite| if TLS13_SUITES.contains(suite) { tls13 } else { tls12 });
}
