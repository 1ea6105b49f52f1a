//! What to act on at the upstreams: pairs that they refuse or seem to refuse, and those that ask for no certificate.

use super::{StatusItem, Urgency};
use crate::event::{DoubtKind, UpstreamDoubt};
use crate::snapshot::Snapshot;

/// Adds the item of one doubt, if it is about the pair that its egress is to show: what was current before is for the rotation
/// report.
pub(super) fn look_at(snapshot: &Snapshot, doubt: &UpstreamDoubt, out: &mut Vec<StatusItem>) {
    let Some(egress) = snapshot.egresses.get(&doubt.listener) else { return };
    let current = egress.candidates.current().map(|current| current.key_pair);
    if doubt.key_pair.is_some() && doubt.key_pair != current {
        return;
    }
    let (urgency, code, remedy) = match doubt.kind {
        DoubtKind::Refused => (
            Urgency::Now,
            "upstream_refuses",
            "send its operator the certificate and its issuer's, or drop a key pair of an issuer that it names; `sidekey probe` \
             shows what it asks for",
        ),
        DoubtKind::Doubted => (
            Urgency::Soon,
            "upstream_doubts",
            "compare with `sidekey probe`, and ask its operator for the reason in its log; the item ends with the first \
             answer that accepts the pair",
        ),
        DoubtKind::NotMutual => (
            Urgency::Soon,
            "upstream_not_mutual",
            "ask its operator to require client certificates, or for the host and port where they are required",
        ),
    };
    let what = format!("egress {} to {}: {}", doubt.listener, egress.settings.upstream, doubt.explanation);
    out.push(StatusItem {
        urgency,
        code: code.to_owned(),
        keyring: Some(egress.settings.keyring.clone()),
        what,
        remedy: remedy.to_owned(),
    });
}
