//! The nodes of an upstream, and how one key pair stands at each: an address, with the certificate that was shown there.
//!
//! Another certificate at the same address is another node, so what one proved does not speak for the next. The worst node
//! decides. Nodes behind one address that show the same certificate cannot be told apart.

use super::comparison::ComparisonTimes;
use super::doubts::DoubtList;
use crate::pki::Fingerprint;
use jiff::SignedDuration;
use std::net::{IpAddr, Ipv4Addr};

/// Nodes kept for one pair.
pub(super) const MAX_NODES: usize = 64;
/// A node that holds a verdict back is forgotten when so many connections in a row, made to reach it, ended elsewhere.
const MAX_MISSES: u8 = 8;

/// An upstream's verdict on one of our pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamVerdict {
    /// It accepts the pair: a 2xx, or what the previous pair gets too.
    Proved,
    /// The handshake succeeded, which in TLS 1.3 proves nothing.
    HandshakeOk,
    /// It refuses the pair.
    Refused,
}

impl UpstreamVerdict {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandshakeOk => "handshake_ok",
            Self::Proved => "proved",
            Self::Refused => "refused",
        }
    }
}

/// One node of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamNode {
    /// Its address.
    pub address: IpAddr,
    /// The end-entity certificate that it showed.
    pub certificate: Fingerprint,
}

impl UpstreamNode {
    /// A node of which only the address is known: the connection ended before it showed a certificate.
    pub fn from_address(address: Option<IpAddr>) -> Self {
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self { address, certificate: Fingerprint::from_bytes([0; 32]) }
    }

    /// Whether a proof at `other` speaks for it: it showed no certificate, and has the same address or none.
    fn is_covered_by(self, other: Self) -> bool {
        let unnamed = Self::from_address(None);
        self.certificate == unnamed.certificate && (self.address == other.address || self.address == unnamed.address)
    }
}

/// How a pair stands at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    /// A handshake succeeded.
    Unproved,
    Proved,
    Refused,
    /// It names certificate authorities that only another pair of ours chains to.
    Excluded,
    /// It asks for no certificate: nothing can be proved or refused there.
    Unasked,
}

/// What one node makes of one pair.
#[derive(Clone, Debug)]
pub(super) struct NodeProof {
    pub(super) node: UpstreamNode,
    pub(super) state: NodeState,
    /// Connections in a row that were made to reach it and ended elsewhere.
    missed: u8,
    /// When its answers were compared with those of another pair.
    pub(super) compared: ComparisonTimes,
    /// The classes in which it refused the pair by a status. While there are any it is not proved.
    pub(super) doubts: DoubtList,
    /// Its last connection ended without an answer.
    silent: bool,
}

impl NodeProof {
    /// Records a connection that ended without an answer; whether it was the second in a row, however far apart.
    pub(super) fn record_silence(&mut self) -> bool {
        std::mem::replace(&mut self.silent, true)
    }

    /// Records a connection to it: whether a certificate was asked for, if known, and whether its authorities exclude the pair.
    fn record_connection(&mut self, asked: Option<bool>, excluded: bool) {
        self.missed = 0;
        self.state = match (self.state, asked) {
            (_, Some(false)) => NodeState::Unasked,
            (_, Some(true)) if excluded => NodeState::Excluded,
            (NodeState::Unasked | NodeState::Excluded, Some(true)) => NodeState::Unproved,
            (state, _) => state,
        };
    }
}

/// The nodes that are known, bounded.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeTable(Vec<NodeProof>);

impl NodeTable {
    pub(super) fn find(&self, node: UpstreamNode) -> Option<&NodeProof> {
        self.0.iter().find(|known| known.node == node)
    }

    /// The entry of a node, a new one where there is none. A full table forgets a proved node first.
    pub(super) fn entry(&mut self, node: UpstreamNode) -> &mut NodeProof {
        let at = self.0.iter().position(|known| known.node == node).unwrap_or_else(|| {
            if self.0.len() == MAX_NODES {
                let oldest = self.0.iter().position(|known| known.state == NodeState::Proved).unwrap_or(0);
                self.0.remove(oldest);
            }
            let state = NodeState::Unproved;
            let (compared, doubts) = (ComparisonTimes::default(), DoubtList::default());
            self.0.push(NodeProof { node, state, missed: 0, compared, doubts, silent: false });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// After a step of the clock the minutes of comparisons are as far gone as before it.
    pub(super) fn shift_times(&mut self, step: SignedDuration) {
        self.0.iter_mut().for_each(|known| known.compared.shift_times(step));
    }

    /// Records a connection that reached a node. `sought`: the address that it was made to reach, because the pair is not proved there.
    /// The next one is made to reach another such address, if there is one.
    pub(super) fn record_connection(
        &mut self,
        node: UpstreamNode,
        (asked, excluded): (Option<bool>, bool),
        sought: Option<IpAddr>,
    ) {
        self.entry(node).record_connection(asked, excluded);
        if let Some(sought) = sought {
            self.0.retain_mut(|known| {
                let is_missed = known.node.address == sought && known.node != node && known.is_blocking();
                known.missed += u8::from(is_missed);
                !is_missed || known.missed < MAX_MISSES
            });
            self.0.sort_by_key(|known| known.node.address == sought);
        }
    }

    /// Records a proof; also for entries of the same address of which no certificate is known.
    pub(super) fn record_proof(&mut self, node: UpstreamNode) {
        self.0.retain(|known| known.node == node || !known.node.is_covered_by(node));
        let known = self.entry(node);
        (known.state, known.silent) = (NodeState::Proved, false);
    }

    /// Forgets refusals at the address of a node that accepts the pair, by what showed another certificate there. For a pair that serves
    /// in place of the preferred one: it must not be left out because of a node that is gone.
    pub(super) fn forget_former(&mut self, node: UpstreamNode) {
        let is_former = |known: &NodeProof| known.node.address == node.address && known.node != node;
        self.0.retain(|known| !is_former(known) || known.state != NodeState::Refused);
    }

    /// Takes refusals back: the pair is tried again everywhere.
    pub(super) fn forget_refusals(&mut self) {
        for known in self.0.iter_mut().filter(|known| known.state == NodeState::Refused) {
            known.state = NodeState::Unproved;
        }
    }

    /// The worst of all; `None`: no node asked for a certificate, or none is known.
    pub(super) fn verdict(&self) -> Option<UpstreamVerdict> {
        let verdict_of = |known: &NodeProof| match known.state {
            NodeState::Refused | NodeState::Excluded => Some(UpstreamVerdict::Refused),
            NodeState::Unproved => Some(UpstreamVerdict::HandshakeOk),
            NodeState::Proved => Some(UpstreamVerdict::Proved),
            NodeState::Unasked => None,
        };
        self.0.iter().filter_map(verdict_of).max()
    }

    /// Whether every known node asks for no certificate.
    pub(super) fn asks_for_nothing(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|known| known.state == NodeState::Unasked)
    }

    /// An address at which the pair is not proved.
    pub(super) fn sought_address(&self) -> Option<IpAddr> {
        self.0.iter().find(|known| known.is_blocking()).map(|known| known.node.address)
    }

    /// How many nodes are known.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl NodeProof {
    /// Whether it keeps the pair from being proved.
    fn is_blocking(&self) -> bool {
        matches!(self.state, NodeState::Unproved | NodeState::Refused | NodeState::Excluded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_thousand_nodes_of_an_upstream_keep_within_the_table() {
        let mut nodes = NodeTable::default();
        for number in 0..50_000_u32 {
            let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            let node = UpstreamNode { address, certificate: Fingerprint::of(&number.to_be_bytes()) };
            nodes.record_connection(node, (Some(true), false), None);
            if number % 2 == 0 {
                nodes.record_proof(node);
            }
            assert!(nodes.0.len() <= MAX_NODES);
        }
        assert_eq!(nodes.0.len(), MAX_NODES);
    }
}
