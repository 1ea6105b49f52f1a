//! A simulated upstream: its nodes, what they accept and how they refuse, which only the simulator knows.

use std::net::Ipv4Addr;

use super::random::SeededRandom;
use crate::evidence::proved::{UncertifiedAnswer, UpstreamNode};
use crate::pki::Fingerprint;

/// How a node refuses a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeManner {
    /// By this status.
    Status(u16),
    /// By an alert after the handshake.
    Alert,
    /// It ends the connection without an answer.
    Silence,
}

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeAnswer {
    Status(u16),
    Alert,
    Silence,
}

/// What requests ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestPath {
    /// What demands a certificate.
    Orders,
    /// What some upstreams answer without one.
    Health,
    /// What the application refuses, from every caller.
    Admin,
    /// What does not exist.
    Missing,
}

impl RequestPath {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Orders => "/orders",
            Self::Health => "/healthz",
            Self::Admin => "/admin",
            Self::Missing => "/missing",
        }
    }

    /// What a caller gets whose pair is accepted.
    pub(super) const fn accepted_status(self) -> u16 {
        match self {
            Self::Orders | Self::Health => 200,
            Self::Admin => 403,
            Self::Missing => 404,
        }
    }
}

/// One node.
#[derive(Clone, Debug)]
pub(super) struct SimulatedNode {
    pub(super) number: u8,
    /// How often its certificate was renewed.
    pub(super) renewals: u8,
    /// By pair: the newest ones last.
    pub(super) accepts: [bool; 3],
    /// By pair: a request that may be sent again has shown that the node refuses it, since its last change.
    pub(super) shown: [bool; 3],
    /// It answers nothing until then.
    pub(super) down_until: i64,
}

/// An upstream.
#[derive(Debug)]
pub(super) struct SimulatedUpstream {
    pub(super) nodes: Vec<SimulatedNode>,
    manner: NodeManner,
    /// Refusals are met with on some paths only.
    has_public_path: bool,
}

impl SimulatedUpstream {
    pub(super) fn new(random: &mut SeededRandom) -> Self {
        let manners = [NodeManner::Status(403), NodeManner::Status(400), NodeManner::Alert, NodeManner::Silence];
        let count = [1, 1, 2, 3][random.index(4)];
        let accepts_new = random.percent(50);
        let node = |number| SimulatedNode {
            number,
            renewals: 0,
            accepts: [true, accepts_new, accepts_new],
            shown: [false; 3],
            down_until: i64::MIN,
        };
        let mut nodes: Vec<SimulatedNode> = (1..=count).map(node).collect();
        if random.percent(30) {
            // One of several is not like the others.
            let odd = random.index(nodes.len());
            nodes[odd].accepts = [true, !accepts_new, !accepts_new];
        }
        let manner = manners[random.index(4)];
        // An alert and a silent end come before the request is read.
        let has_public_path = matches!(manner, NodeManner::Status(_)) && random.percent(40);
        Self { nodes, manner, has_public_path }
    }

    /// What a node answers to a request that shows this pair.
    pub(super) fn answer(&self, node: usize, pair: usize, path: RequestPath, second: i64) -> NodeAnswer {
        let node = &self.nodes[node];
        if second < node.down_until {
            return NodeAnswer::Silence;
        }
        if !node.accepts[pair] && !self.is_public(path) {
            return self.refuse();
        }
        NodeAnswer::Status(path.accepted_status())
    }

    /// What it answers to a request without a certificate.
    pub(super) fn answer_uncertified(&self, node: usize, path: RequestPath, second: i64) -> UncertifiedAnswer {
        let answer = if self.is_public(path) { NodeAnswer::Status(path.accepted_status()) } else { self.refuse() };
        match answer {
            _ if second < self.nodes[node].down_until => UncertifiedAnswer::Unknown,
            NodeAnswer::Status(status) => UncertifiedAnswer::Status(status),
            NodeAnswer::Alert => UncertifiedAnswer::Refused,
            NodeAnswer::Silence => UncertifiedAnswer::Unknown,
        }
    }

    /// Whether it says nothing to a caller without a certificate: then a request without one shows nothing.
    pub(super) fn ends_silently(&self) -> bool {
        self.manner == NodeManner::Silence
    }

    /// Whether it answers this path alike to everyone.
    pub(super) fn is_public(&self, path: RequestPath) -> bool {
        path == RequestPath::Health && self.has_public_path
    }

    fn refuse(&self) -> NodeAnswer {
        match self.manner {
            NodeManner::Status(status) => NodeAnswer::Status(status),
            NodeManner::Alert => NodeAnswer::Alert,
            NodeManner::Silence => NodeAnswer::Silence,
        }
    }

    /// One node, or all of them, accept other pairs from now on: after a restart, mostly.
    pub(super) fn change(&mut self, random: &mut SeededRandom, second: i64) {
        let chosen =
            [[true, true, true], [true, true, true], [true, false, false], [false, true, true]][random.index(4)];
        let only = random.percent(40).then(|| random.index(self.nodes.len()));
        let (restarts, renews) = (random.percent(50), random.percent(20));
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if only.is_none_or(|only| only == index) {
                (node.accepts, node.shown) = (chosen, [false; 3]);
                node.renewals += u8::from(renews);
                if restarts {
                    node.down_until = second + 20;
                }
            }
        }
    }

    /// A node as the sidecar sees it.
    pub(super) fn seen(&self, node: usize) -> UpstreamNode {
        let SimulatedNode { number, renewals, .. } = self.nodes[node];
        UpstreamNode {
            address: Ipv4Addr::new(198, 51, 100, number).into(),
            certificate: Fingerprint::of(&[number, renewals]),
        }
    }
}
