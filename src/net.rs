//! Addresses and sockets: what is listened on, what is dialled. No TLS and no HTTP here.

pub mod dial;
pub mod listen;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// `[::]:PORT` by default: IPv6 and IPv4, `0.0.0.0` where there is no IPv6.
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
pub enum Backend {
    /// `http://HOST:PORT`, HTTP/1.1.
    Http(HostPort),
    /// `h2c://HOST:PORT`, HTTP/2 with prior knowledge.
    H2c(HostPort),
    /// `unix:PATH`, HTTP/1.1.
    Unix(PathBuf),
}
