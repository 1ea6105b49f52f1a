//! The addresses of an upstream that were reached of late: a pair that arrives next has to be proved at each of them.
//!
//! Only addresses: what certificate is there by then is for the next connection to show. One that is gone holds a proof back until
//! connections that were made to reach it have ended elsewhere a few times.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::comparison::is_within;
use super::nodes::{MAX_NODES, UpstreamNode};
use crate::keyring::fit::shift_time;

/// How long an address counts after it was reached last.
const REACHED_WITHIN: Duration = Duration::from_hours(24);

/// The addresses, bounded: the one that was reached least recently is forgotten first.
#[derive(Clone, Debug, Default)]
pub(super) struct ReachedNodes(Vec<(IpAddr, Timestamp)>);

impl ReachedNodes {
    /// Records that a connection reached a node.
    pub(super) fn record(&mut self, node: UpstreamNode, now: Timestamp) {
        self.0.retain(|(address, _)| *address != node.address);
        if self.0.len() == MAX_NODES {
            self.0.remove(0);
        }
        self.0.push((node.address, now));
    }

    /// After a step of the clock they count as long as before it.
    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        self.0.iter_mut().for_each(|(_, last)| *last = shift_time(*last, step));
    }

    /// Those that count.
    pub(super) fn recent(&self, now: Timestamp) -> impl Iterator<Item = UpstreamNode> {
        let recent = self.0.iter().filter(move |(_, last)| is_within(*last, REACHED_WITHIN, now));
        recent.map(|(address, _)| UpstreamNode::from_address(Some(*address)))
    }
}
