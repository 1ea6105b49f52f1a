//! What a peer's chain may cost: long chains and many names are refused by a count, not after the work.

use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints, SanType};

use super::*;
use crate::trust::sample::{TestAuthority, now, trust};

#[test]
fn a_chain_of_a_hundred_certificates_is_refused_by_its_length() {
    let ca = TestAuthority::new("CA");
    let mut authority = ca.issue_intermediate("A0", &|_| ());
    for at in 1..99 {
        authority = authority.issue_intermediate(&format!("A{at}"), &|_| ());
    }
    let peer = authority.issue_peer("a.test", &|_| ());
    assert_eq!(peer.chain.len(), 100);
    let refused = trust(&[&ca]).verify(&peer.chain, &PeerRole::Client, now()).unwrap_err();
    assert!(matches!(refused, TrustError::Other { .. }), "{refused:?}");
}

#[test]
fn names_and_constraints_that_multiply_are_refused_at_a_bound_and_not_compared_to_the_end() {
    const MANY: u32 = 600;
    let subnet = |at: u32| GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(at.to_be_bytes(), 32));
    let ca = TestAuthority::with_params("CA", &|params| {
        let excluded_subtrees = (0..MANY).map(|at| subnet(0x0a00_0000 + at)).collect();
        params.name_constraints = Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees });
    });
    let below = ca.issue_intermediate("Below", &|params| {
        let excluded_subtrees = (0..MANY).map(|at| subnet(0x0b00_0000 + at)).collect();
        params.name_constraints = Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees });
    });
    let peer = below.issue_peer("a.test", &|params| {
        let address = |at: u32| SanType::IpAddress(std::net::Ipv4Addr::from(0xc0a8_0000 + at).into());
        params.subject_alt_names.extend((0..MANY).map(address));
    });
    // Each of 600 names meets each of 1,200 constraints: more than webpki compares.
    let refused = trust(&[&ca]).verify(&peer.chain, &PeerRole::Client, now()).unwrap_err();
    assert!(!refused.to_string().is_empty());
    let few = below.issue_peer("a.test", &|_| ());
    trust(&[&ca]).verify(&few.chain, &PeerRole::Client, now()).unwrap();
}
