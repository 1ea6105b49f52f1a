//! The only room that speaks rustls: configs built per epoch, handshakes run under a deadline, failures explained.
//!
//! It opens no socket and decides no policy: which pair is shown comes from `keyring::choose`, who is trusted from
//! `trust`. Provider aws-lc-rs; TLS 1.3 and 1.2 (ECDHE with AEAD only); X25519MLKEM768 preferred; no early data.

pub mod acceptor;
pub mod after;
mod alert_name;
pub mod anonymous;
pub mod connector;
pub mod explain;
mod first_bytes;
pub mod handshake;
mod hello;
pub mod keep;
mod key_schedule;
pub mod late_alert;
mod offer;
pub(crate) mod passing;
pub mod recorder;
pub mod records;
pub mod refusal;
mod restated;
pub mod seen;
mod session_ticket;
mod sessions;
mod ticket_chains;
mod tls12_alert;
mod upstream_sessions;
pub mod verifier;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::UnixTime;

use crate::clock::Clock;
use crate::pki::KeyPair;

pub use acceptor::IngressAcceptor;
pub use connector::EgressConnector;
pub use explain::{FailureContext, FailureExplanation, HandshakeOutcome, PresentedPair, explain};
pub use handshake::{CompletedHandshake, FailedHandshake, HandshakeFacts, ReceivedClientHello};

/// The TLS settings of a listener or an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// `tls_min`.
    pub min: TlsVersion,
    /// `tls_max`.
    pub max: TlsVersion,
    /// `groups`, the preferred one first; empty = the provider's, X25519MLKEM768 first.
    pub groups: Vec<KeyExchangeGroup>,
    /// `alpn`, the preferred one first.
    pub alpn: Vec<AlpnProtocol>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            min: TlsVersion::Tls12,
            max: TlsVersion::Tls13,
            groups: Vec::new(),
            alpn: vec![AlpnProtocol::H2, AlpnProtocol::Http11],
        }
    }
}

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// A key exchange group that the provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchangeGroup {
    /// X25519MLKEM768.
    X25519MlKem768,
    /// X25519.
    X25519,
    /// secp256r1.
    Secp256r1,
    /// secp384r1.
    Secp384r1,
}

/// An application protocol (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlpnProtocol {
    /// `h2`.
    H2,
    /// `http/1.1`; also what is spoken where the peer offers no ALPN.
    Http11,
}

impl AlpnProtocol {
    /// The protocol's name on the wire.
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::H2 => b"h2",
            Self::Http11 => b"http/1.1",
        }
    }
}

/// Whether a client certificate is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without a certificate the handshake fails.
    #[default]
    Required,
    /// Requested, not required; rules decide about anonymous peers.
    Optional,
}

/// The list of certificate authorities that an ingress sends (`ca_names`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuthorityNames {
    /// The trust's anchors.
    #[default]
    Auto,
    /// None.
    None,
    /// The subjects (DER) of these.
    Subjects(Vec<Vec<u8>>),
}

/// A config that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsConfigError {
    /// rustls rejects the key pair or the settings.
    #[error("cannot build a TLS config with key pair {key_pair}: {why}")]
    Config {
        /// Short fingerprint.
        key_pair: String,
        /// rustls' reason.
        why: String,
    },
}

/// The provider with the groups that the settings name, in their order.
fn provider(settings: &TlsSettings) -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    let mut provider = default_provider();
    key_schedule::replace_key_schedules(&mut provider.cipher_suites);
    if !settings.groups.is_empty() {
        provider.kx_groups = settings
            .groups
            .iter()
            .map(|group| match group {
                KeyExchangeGroup::X25519MlKem768 => kx_group::X25519MLKEM768,
                KeyExchangeGroup::X25519 => kx_group::X25519,
                KeyExchangeGroup::Secp256r1 => kx_group::SECP256R1,
                KeyExchangeGroup::Secp384r1 => kx_group::SECP384R1,
            })
            .collect();
    }
    Arc::new(provider)
}

fn versions(settings: &TlsSettings) -> &'static [&'static SupportedProtocolVersion] {
    static TLS13_AND_TLS12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match (settings.min, settings.max) {
        (TlsVersion::Tls12, TlsVersion::Tls13) => &TLS13_AND_TLS12,
        (TlsVersion::Tls12, TlsVersion::Tls12) => &TLS13_AND_TLS12[1..],
        (TlsVersion::Tls13, _) => &TLS13_AND_TLS12[..1],
    }
}

fn alpn(settings: &TlsSettings) -> Vec<Vec<u8>> {
    settings.alpn.iter().map(|protocol| protocol.name().to_vec()).collect()
}

/// The name of a signature scheme by its code point (RFC 8446 4.2.3); an unknown code point as hex.
pub fn scheme_name(code: u16) -> String {
    let name = match code {
        0x0201 => "rsa_pkcs1_sha1",
        0x0203 => "ecdsa_sha1",
        0x0401 => "rsa_pkcs1_sha256",
        0x0501 => "rsa_pkcs1_sha384",
        0x0601 => "rsa_pkcs1_sha512",
        0x0403 => "ecdsa_secp256r1_sha256",
        0x0503 => "ecdsa_secp384r1_sha384",
        0x0603 => "ecdsa_secp521r1_sha512",
        0x0804 => "rsa_pss_rsae_sha256",
        0x0805 => "rsa_pss_rsae_sha384",
        0x0806 => "rsa_pss_rsae_sha512",
        0x0807 => "ed25519",
        0x0808 => "ed448",
        0x0809 => "rsa_pss_pss_sha256",
        0x080a => "rsa_pss_pss_sha384",
        0x080b => "rsa_pss_pss_sha512",
        unknown => return format!("0x{unknown:04x}"),
    };
    name.to_owned()
}

fn config_error(pair: &KeyPair, error: &rustls::Error) -> TlsConfigError {
    TlsConfigError::Config { key_pair: pair.fingerprint().short(), why: error.to_string() }
}

/// Our clock as rustls' time provider: a test that moves the clock moves it for rustls too.
#[derive(Clone, Debug)]
pub struct TlsTimeSource(Clock);

impl TlsTimeSource {
    /// For configs that are to go by this clock.
    pub fn from_clock(clock: &Clock) -> Self {
        Self(clock.clone())
    }
}

impl rustls::time_provider::TimeProvider for TlsTimeSource {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_has_its_name_and_an_unknown_one_its_number() {
        let names = [0x0403, 0x0804, 0x0809, 0x0904].map(scheme_name);
        assert_eq!(names, ["ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256", "rsa_pss_pss_sha256", "0x0904"]);
    }
}
