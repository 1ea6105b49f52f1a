//! Every `reason` of the handshake log really occurs: each is produced here over a real socket, on ingress or on egress.
//!
//! Must hold: `docs/handshakes.md` lists exactly the reasons that have a case here, or a word why there is none; and each
//! case leaves its own reason and no other.

mod egress;
mod ingress;

use std::collections::BTreeSet;
use std::pin::Pin;

use sidekey::event::Event;

use crate::support::sidecar::Sidecar;

const DOCUMENTED: &str = include_str!("../../docs/handshakes.md");

/// Reasons that no peer or upstream can bring about at will, and why.
const NOT_ON_A_SOCKET: &[(&str, &str)] = &[
    ("io_error", "the kernel would have to report something else than an end, a reset or a time-out in mid-handshake"),
    ("internal_error", "our own TLS library would have to fail, for example for want of random bytes"),
];

/// One way to a reason.
pub struct Case {
    reason: &'static str,
    /// Brings it about; gives back the reason that was logged.
    run: Pin<Box<dyn Future<Output = &'static str>>>,
}

fn case(reason: &'static str, run: impl Future<Output = &'static str> + 'static) -> Case {
    Case { reason, run: Box::pin(run) }
}

/// The reason of the next handshake.
async fn reason(sidecar: &mut Sidecar) -> &'static str {
    let handshake = |event: &Event| match event {
        Event::Handshake(handshake) => Some((handshake.reason, handshake.explanation.clone())),
        _ => None,
    };
    let (reason, explanation) = sidecar.event("a handshake", handshake).await;
    // What a person reads is there, and says more than the code.
    assert!(explanation.len() > reason.len(), "{reason}: {explanation:?}");
    reason
}

async fn all(cases: Vec<Case>) {
    for Case { reason, run } in cases {
        assert_eq!(run.await, reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_of_an_ingress_occurs() {
    all(ingress::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_of_an_egress_occurs() {
    all(egress::cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_reasons_are_those_that_occur() {
    let documented = DOCUMENTED.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let documented: BTreeSet<&str> = documented.collect();
    let here = ingress::cases().into_iter().chain(egress::cases()).map(|case| case.reason);
    let excused: BTreeSet<&str> = NOT_ON_A_SOCKET.iter().map(|(reason, _)| *reason).collect();
    let here: BTreeSet<&str> = here.collect();
    assert!(here.is_disjoint(&excused), "it has a case: no excuse is needed");
    let covered: BTreeSet<&str> = here.union(&excused).copied().collect();
    assert_eq!(documented.difference(&covered).collect::<Vec<_>>(), Vec::<&&str>::new(), "without a case");
    assert_eq!(covered.difference(&documented).collect::<Vec<_>>(), Vec::<&&str>::new(), "not documented");
}
