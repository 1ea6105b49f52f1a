//! Why an upstream could not even be connected to: the line that stands where its handshake would.

use std::io;

use super::context::{FailureExplanation, FailureReason, clip};
use crate::pki::printable;

/// How dialling failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// The name did not resolve.
    NotResolved,
    /// Nothing listens there.
    Refused,
    /// No route to it.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// Anything else.
    Other,
}

impl DialFailure {
    /// What kind of failure a failed connect is.
    pub fn from_io_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
                Self::Unreachable
            }
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Other,
        }
    }
}

/// Explains a failed dial. `address` is what was dialled, `why` the system's reason.
pub fn explain_dial(dial: DialFailure, address: &str, why: &str) -> FailureExplanation {
    let (address, why) = (printable(address), printable(why));
    let (address, why) = (clip(&address), clip(&why));
    let (reason, sentence) = match dial {
        DialFailure::NotResolved => (
            "name_not_resolved",
            format!("{address} cannot be resolved ({why}): check the name in upstream, and this host's resolver"),
        ),
        DialFailure::Refused => (
            "connection_refused",
            format!("{address} refuses connections ({why}): nothing listens on that port, or a firewall rejects them"),
        ),
        DialFailure::Unreachable => (
            "unreachable",
            format!(
                "{address} cannot be reached from here ({why}): check routes, firewalls and, for IPv6, whether this \
                 host supports it"
            ),
        ),
        DialFailure::TimedOut => (
            "connect_timed_out",
            format!(
                "{address} did not answer in time ({why}): a firewall may drop our packets, or limits.connect is \
                 too short"
            ),
        ),
        DialFailure::Other => ("connect_failed", format!("cannot connect to {address}: {why}")),
    };
    FailureReason::failed(reason, sentence).with_alerts(None, None)
}
