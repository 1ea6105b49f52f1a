//! Alerts about the files of a trust: CRLs that are out of date or soon will be, and files that cannot be used.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::super::{Alert, AlertKind};
use super::deadline::time_left;
use super::inputs::{AlertInputs, concerned_name, contacts};
use crate::pki::format_day;
use crate::snapshot::TrustView;
use crate::trust::{KeptContent, describe_trust};

/// Alerts about lists that are out of date, and before that a warning.
pub(super) fn stale_crls<'a>(
    records: &'a AlertInputs<'_>,
    trust: &'a TrustView,
    now: Timestamp,
) -> impl Iterator<Item = Alert> + 'a {
    // The newest of an issuer comes first.
    let mut seen = BTreeSet::new();
    let newest = trust.holds.crls.iter().filter(move |crl| seen.insert(&crl.issuer));
    newest.filter(move |crl| crl.warned_from() <= now).map(move |crl| {
        let (holds, due) = (&trust.holds, crl.next_update);
        let stale = due < now;
        let code = if stale { "crl_stale" } else { "crl_soon_stale" };
        let state = if stale {
            format!("is out of date: the next update was due on {}", format_day(due))
        } else {
            format!("will be out of date in {} ({})", time_left(due, now), format_day(due))
        };
        Alert {
            name: format!("{code}:{}:{}:{}", holds.name, crl.issuer, due.as_second()).into(),
            kind: AlertKind::CrlStale,
            urgent: stale && holds.stale_refuses,
            keyring: concerned_name(&holds.name),
            also: Vec::new(),
            key_pair: None,
            ends: (!stale).then_some(due),
            contacts: contacts(records, &trust.used_by),
            explanation: format!("the CRL of {} in {} {state}", crl.issuer, describe_trust(&holds.name)),
            remedy: if holds.stale_refuses {
                "put the CA's current CRL into the folder: while it is out of date its peers are refused".to_owned()
            } else {
                "put the CA's current CRL into the folder".to_owned()
            },
        }
    })
}

/// Alerts about files that are missing, empty or malformed, of trusts that verify peers.
pub(super) fn unusable_files<'a>(
    records: &'a AlertInputs<'_>,
    trust: &'a TrustView,
) -> impl Iterator<Item = Alert> + 'a {
    let faults = trust.holds.faults.iter().filter(|_| !trust.used_by.is_empty());
    faults.map(|fault| Alert {
        // At most once a day, however often it breaks.
        name: format!("trust_file_unusable:{}:{}:{}", trust.holds.name, fault.file, format_day(fault.since)).into(),
        kind: AlertKind::TrustFileUnusable,
        urgent: fault.kept != KeptContent::LastUsable,
        keyring: concerned_name(&trust.holds.name),
        also: Vec::new(),
        key_pair: None,
        ends: None,
        contacts: contacts(records, &trust.used_by),
        explanation: format!(
            "file {} of {} cannot be used: {}; {}",
            fault.file,
            describe_trust(&trust.holds.name),
            fault.why,
            fault.kept.consequence()
        ),
        remedy: "put a usable file in its place".to_owned(),
    })
}
