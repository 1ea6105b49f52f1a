//! Addresses and sockets: what is listened on, what is dialled. No TLS and no HTTP here.

pub mod dial;
pub mod listen;
pub mod pass;
pub mod proxy_protocol;
pub mod stream;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use socket2::TcpKeepalive;

pub use dial::Dialler;
pub use listen::{BoundSocket, InheritedSockets, SocketHandle, find_group_id};
pub use stream::SocketStream;

/// How long a connection is silent before TCP probes its other end, by default. Without probes a tunnel, which has no
/// idle limit, would wait for ever for an end that vanished without closing.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(45);

fn keepalive_probes(every: Duration) -> TcpKeepalive {
    TcpKeepalive::new().with_time(every).with_interval(every)
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// `[::]:PORT` by default: IPv6 and IPv4, `0.0.0.0` where the host has no IPv6.
    AnyTcp(u16),
    /// A Unix socket (egress, admin).
    Unix {
        /// Its path.
        path: PathBuf,
        /// Permissions of the socket file.
        mode: Option<u32>,
        /// Group of the socket file.
        group: Option<String>,
    },
}

/// A host name or IP address literal, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// The application behind an ingress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// `http://HOST:PORT`, HTTP/1.1.
    Http(HostPort),
    /// `h2c://HOST:PORT`, HTTP/2 with prior knowledge.
    H2c(HostPort),
    /// `unix:PATH`, HTTP/1.1.
    Unix(PathBuf),
}

/// The default port of `https`, which an authority omits.
const HTTPS_PORT: u16 = 443;

impl HostPort {
    /// How the Host field of an `https` request names it.
    pub(crate) fn https_authority(&self) -> String {
        let whole = self.to_string();
        match whole.strip_suffix(&format!(":{HTTPS_PORT}")) {
            Some(host) if self.port == HTTPS_PORT => host.to_owned(),
            _ => whole,
        }
    }
}

/// The network that one host can choose addresses from: the address itself for IPv4, its /64 for IPv6.
pub fn source_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::AnyTcp(port) => write!(out, "[::]:{port}"),
            Self::Unix { path, .. } => write!(out, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(to) => write!(out, "http://{to}"),
            Self::H2c(to) => write!(out, "h2c://{to}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// Why a socket or connection cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens there.
    #[error("{address} is in use by another process: stop it, or listen on another address")]
    InUse {
        /// Where.
        address: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The group of the socket file does not exist.
    #[error("cannot listen on {address}: group {group:?} does not exist")]
    Group {
        /// Where.
        address: String,
        /// Its name.
        group: String,
    },
    /// A host name without address.
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No address could be reached.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The last address that was tried.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The deadline passed.
    #[error("connecting to {address} timed out")]
    Late {
        /// The address.
        address: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_ipv4_address_or_a_network_of_ipv6() {
        let source = |text: &str| source_network(text.parse().unwrap()).to_string();
        assert_eq!(source("192.0.2.1"), "192.0.2.1");
        assert_eq!(source("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[test]
    fn the_default_port_is_left_out_of_the_host() {
        let named = |host: &str, port| HostPort { host: host.into(), port }.https_authority();
        assert_eq!(named("api.example", 443), "api.example");
        assert_eq!(named("api.example", 8443), "api.example:8443");
        assert_eq!(named("2001:db8::1", 443), "[2001:db8::1]");
        assert_eq!(named("2001:db8::1", 4433), "[2001:db8::1]:4433");
    }

    #[test]
    fn addresses_are_printed_as_they_are_configured() {
        let to = |host: &str| HostPort { host: host.into(), port: 8080 };
        assert_eq!(to("app").to_string(), "app:8080");
        assert_eq!(to("::1").to_string(), "[::1]:8080");
        assert_eq!(BackendAddress::Http(to("app")).to_string(), "http://app:8080");
        assert_eq!(BackendAddress::H2c(to("::1")).to_string(), "h2c://[::1]:8080");
        assert_eq!(BackendAddress::Unix("/run/app.sock".into()).to_string(), "unix:/run/app.sock");
        assert_eq!(ListenAddress::Tcp(([127, 0, 0, 1], 8443).into()).to_string(), "127.0.0.1:8443");
        assert_eq!(ListenAddress::AnyTcp(8443).to_string(), "[::]:8443");
        let socket = ListenAddress::Unix { path: "/run/out.sock".into(), mode: Some(0o660), group: None };
        assert_eq!(socket.to_string(), "unix:/run/out.sock");
    }
}
