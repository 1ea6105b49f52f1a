//! What to act on in the files of a trust: those that cannot be used, and CRLs that are out of date or soon will be.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{StatusItem, Urgency, item};
use crate::pki::format_day;
use crate::snapshot::TrustView;

/// Adds the items to act on.
pub(super) fn look_at_trust(trust: &TrustView, now: Timestamp, out: &mut Vec<StatusItem>) {
    if trust.used_by.is_empty() {
        return;
    }
    let name = trust.holds.describe_trust();
    for fault in &trust.holds.faults {
        let what = format!("file {} of {name} cannot be used: {}; {}", fault.file, fault.why, fault.kept.consequence());
        out.push(item(Urgency::Now, "trust_file_unusable", what, "put a usable file in its place"));
    }
    for anchor in trust.holds.anchors.iter().filter(|anchor| !anchor.platform) {
        if let Some(why) = &anchor.cannot_vouch {
            let (id, subject) = (anchor.anchor.short(), &anchor.subject);
            let what = format!("no peer can be verified with trust anchor {id} ({subject}) of {name}: {why}");
            let remedy = "have the CA issue with a key of another kind, and remove this anchor";
            out.push(item(Urgency::Soon, "anchor_cannot_vouch", what, remedy));
        }
    }
    // The newest of an issuer comes first.
    let mut seen = BTreeSet::new();
    for crl in trust.holds.crls.iter().filter(|crl| seen.insert(&crl.issuer)) {
        let due = format_day(crl.next_update);
        let (urgency, state) = if crl.next_update < now {
            (Urgency::Now, format!("is out of date: the next update was due on {due}"))
        } else if crl.warned_from() <= now {
            (Urgency::Soon, format!("will be out of date on {due}"))
        } else {
            continue;
        };
        let what = format!("the CRL of {} in {name} {state}", crl.issuer);
        out.push(item(urgency, "crl_stale", what, "put the CA's current CRL into the folder"));
    }
}
