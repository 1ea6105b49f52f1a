//! Identifies a client before it sends a certificate: by listener, source address and server name, and by the kind of
//! its ClientHello, so that clients of other kinds behind one address are told apart.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::pki::printable;

/// A source: listener, address (IPv6 by /64, because one host can use all of it) and server name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct PeerSource {
    /// The listener.
    pub listener: Arc<str>,
    /// The address; of IPv6 the first 64 bits.
    pub address: IpAddr,
    /// SNI.
    pub server_name: Option<Arc<str>>,
}

/// A source, and what its ClientHello offers: the nearest thing to a sender before its certificate is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SenderKind {
    /// Where it comes from.
    pub source: PeerSource,
    /// A hash of its ClientHello's offer.
    pub offer: u64,
}

impl SenderKind {
    /// The offer of an entry from before kinds were told apart: every hello of its source is meant.
    pub(super) const ANY_OFFER: u64 = 0;

    /// Every kind of this source.
    pub(super) fn any_of(source: &PeerSource) -> Self {
        Self { source: source.clone(), offer: Self::ANY_OFFER }
    }
}

impl PeerSource {
    /// The source of a connection from this address.
    pub fn new(listener: Arc<str>, address: IpAddr, server_name: Option<Arc<str>>) -> Self {
        Self { listener, address: mask_address(address, 64), server_name }
    }

    /// The network that limits count by: /24 of IPv4, /48 of IPv6, the usual size for one customer.
    pub(super) fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                IpAddr::from([a, b, c, 0])
            }
            IpAddr::V6(_) => mask_address(self.address, 48),
        }
    }

    /// Whether `ADDRESS` or `NETWORK/64`, with or without a server name, matches it.
    pub(super) fn matches(&self, text: &str) -> bool {
        let mut words = text.split_whitespace();
        let Some(address) = words.next() else { return false };
        let address = address.strip_suffix("/64").unwrap_or(address).parse::<IpAddr>();
        let named = match words.next() {
            Some(name) => self.server_name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name)),
            None => true,
        };
        named && words.next().is_none() && address.is_ok_and(|address| mask_address(address, 64) == self.address)
    }
}

/// What shares are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceScope {
    /// One address.
    Address,
    /// One network, as [`PeerSource::network`] has it.
    Network,
}

impl SourceScope {
    /// Whether both sources are in one scope of this kind.
    pub(super) fn covers(self, one: &PeerSource, other: &PeerSource) -> bool {
        match self {
            Self::Address => one.address == other.address,
            Self::Network => one.network() == other.network(),
        }
    }
}

impl fmt::Display for PeerSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.address)?;
        if self.address.is_ipv6() {
            out.write_str("/64")?;
        }
        match &self.server_name {
            Some(name) => write!(out, " {}", printable(name)),
            None => Ok(()),
        }
    }
}

/// The first bits of an IPv6 address; an IPv4 address unchanged, unmapped from IPv6 if necessary (a socket on `[::]`).
fn mask_address(address: IpAddr, bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        address @ IpAddr::V4(_) => address,
    }
}
