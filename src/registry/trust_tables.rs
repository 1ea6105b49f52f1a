//! The tables of what peers are verified with: trust anchors and pins, and CRLs, each one row for all instances that hold it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{AnchorRow, CrlRow, TextList, UnixSeconds};

/// A trust anchor or a pin of a trust, on any number of instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnchorSummary {
    /// Of which trust.
    pub trust: String,
    /// `anchor` (of a file), `platform` or `pin`.
    pub kind: String,
    /// Fingerprint of the anchor, or the pin.
    pub anchor: String,
    /// An anchor's subject, printable.
    pub subject: Option<String>,
    /// An anchor's own begin.
    pub not_before: Option<UnixSeconds>,
    /// An anchor's own end.
    pub not_after: Option<UnixSeconds>,
    /// Until when it is accepted, where there is an end.
    pub accepted_until: Option<UnixSeconds>,
    /// `accepted`, `leaving` (until `accepted_until`), `expired` or `removed`; where instances disagree, each with its count.
    pub standing: String,
    /// Why no peer can be verified with it, half a sentence, where that is so.
    pub cannot_vouch: Option<String>,
    /// Listeners of this instance whose peers it verifies, `ingress NAME` or `egress NAME`.
    pub listeners: Vec<String>,
    /// When it last verified a peer, on any instance.
    pub last_matched: Option<UnixSeconds>,
    /// First seen on any instance.
    pub first_seen: UnixSeconds,
    /// Last seen on any instance.
    pub last_seen: UnixSeconds,
    /// The instances that have it.
    pub instances: Vec<String>,
}

/// A CRL of a trust, on any number of instances. Instances that hold lists of different days make several rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrlTableRow {
    /// Of which trust.
    pub trust: String,
    /// Its issuer, printable.
    pub issuer: String,
    /// Fingerprints of the anchors that it covers.
    pub anchors: TextList,
    /// When it was issued.
    pub this_update: UnixSeconds,
    /// When the next update is due.
    pub next_update: UnixSeconds,
    /// Certificates that it revokes; absent: an earlier version wrote the row.
    pub revoked: Option<i64>,
    /// The next update is overdue.
    pub stale: bool,
    /// Whether an instance uses it now.
    pub in_use: bool,
    /// Listeners of this instance whose peers it may refuse, `ingress NAME` or `egress NAME`.
    pub listeners: Vec<String>,
    /// The instances that have it.
    pub instances: Vec<String>,
}

/// One row for each anchor and pin of each trust, sorted by trust, kind and name, as the rows are.
pub fn summarize_anchors(rows: &[AnchorRow], now: Timestamp) -> Vec<AnchorSummary> {
    let same = rows.chunk_by(|a, b| (&a.trust, &a.kind, &a.anchor) == (&b.trust, &b.kind, &b.anchor));
    same.filter_map(|same| summarize_anchor(same, now)).collect()
}

fn summarize_anchor(same: &[AnchorRow], now: Timestamp) -> Option<AnchorSummary> {
    // Where instances differ, those that hold it now say what holds.
    let first = same.iter().max_by_key(|row| (row.present.is_set(), row.last_seen))?.clone();
    Some(AnchorSummary {
        standing: join_standings(same.iter().map(|row| name_standing(row, now))),
        cannot_vouch: None,
        listeners: Vec::new(),
        last_matched: same.iter().filter_map(|row| row.last_matched).max(),
        first_seen: same.iter().map(|row| row.first_seen).min().unwrap_or(first.first_seen),
        last_seen: first.last_seen,
        instances: same.iter().map(|row| row.instance.clone()).collect(),
        trust: first.trust,
        kind: first.kind,
        anchor: first.anchor,
        subject: first.subject,
        not_before: first.not_before,
        not_after: first.not_after,
        accepted_until: first.accepted_until,
    })
}

fn name_standing(row: &AnchorRow, now: Timestamp) -> &'static str {
    let is_over = |end: Option<UnixSeconds>| end.is_some_and(|end| end.time() <= now);
    if !row.present.is_set() || is_over(row.accepted_until) {
        "removed"
    } else if is_over(row.not_after) {
        "expired"
    } else if row.accepted_until.is_some() {
        "leaving"
    } else {
        "accepted"
    }
}

/// One row for each CRL of each trust, sorted by trust and issuer, the newest first.
pub fn summarize_crls(rows: &[CrlRow], now: Timestamp) -> Vec<CrlTableRow> {
    let mut rows: Vec<&CrlRow> = rows.iter().collect();
    let key = |row: &CrlRow| (row.trust.clone(), row.issuer.clone(), std::cmp::Reverse(row.this_update));
    rows.sort_by_key(|row| key(row));
    rows.chunk_by(|a, b| key(a) == key(b)).filter_map(|same| summarize_crl(same, now)).collect()
}

fn summarize_crl(same: &[&CrlRow], now: Timestamp) -> Option<CrlTableRow> {
    let first = CrlRow::clone(same.first()?);
    Some(CrlTableRow {
        stale: first.next_update.time() < now,
        in_use: same.iter().any(|row| row.present.is_set()),
        listeners: Vec::new(),
        revoked: same.iter().find_map(|row| row.revoked),
        instances: same.iter().map(|row| row.instance.clone()).collect(),
        trust: first.trust,
        issuer: first.issuer,
        anchors: first.anchors,
        this_update: first.this_update,
        next_update: first.next_update,
    })
}

/// One standing if all instances agree, else each with its count.
pub(super) fn join_standings<'a>(standings: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    standings.for_each(|standing| *counts.entry(standing).or_default() += 1);
    match counts.len() {
        1 => counts.into_keys().next().unwrap_or_default().to_owned(),
        _ => counts.iter().map(|(word, count)| format!("{word} ({count})")).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_600_000;

    fn seconds(days: i64) -> UnixSeconds {
        UnixSeconds(NOW + days * 86_400)
    }

    fn anchor_row(instance: &str) -> AnchorRow {
        AnchorRow {
            instance: instance.to_owned(),
            trust: "partners".to_owned(),
            kind: "anchor".to_owned(),
            anchor: "sha256:aa".to_owned(),
            subject: Some("CN=Acme CA".to_owned()),
            not_before: Some(seconds(-900)),
            not_after: Some(seconds(900)),
            accepted_until: None,
            first_seen: seconds(-9),
            last_seen: seconds(0),
            last_matched: None,
            present: true.into(),
        }
    }

    #[test]
    fn an_anchor_of_several_instances_is_one_row_with_its_standing() {
        let standing = |rows: &[AnchorRow]| {
            let all = summarize_anchors(rows, seconds(0).time());
            assert_eq!(all.len(), 1, "{all:?}");
            all[0].standing.clone()
        };
        let one = |change: fn(&mut AnchorRow)| {
            let mut row = anchor_row("one");
            change(&mut row);
            row
        };
        for (change, expected) in [
            ((|_| ()) as fn(&mut AnchorRow), "accepted"),
            (|row| row.accepted_until = Some(seconds(3)), "leaving"),
            (|row| row.accepted_until = Some(seconds(-1)), "removed"),
            (|row| row.not_after = Some(seconds(-1)), "expired"),
            (|row| row.present = false.into(), "removed"),
        ] {
            assert_eq!(standing(&[one(change)]), expected);
        }
        let gone = one(|row| row.present = false.into());
        assert_eq!(standing(&[gone, anchor_row("two")]), "accepted (1), removed (1)");
        let later = AnchorRow { last_matched: Some(seconds(-1)), first_seen: seconds(-2), ..anchor_row("two") };
        let all = summarize_anchors(&[anchor_row("one"), later], seconds(0).time());
        assert_eq!((all[0].last_matched, all[0].first_seen), (Some(seconds(-1)), seconds(-9)));
        assert_eq!(all[0].instances, ["one", "two"]);
    }

    #[test]
    fn lists_of_different_days_are_rows_of_their_own_and_say_whether_they_are_stale() {
        let row = |instance: &str, made: i64| CrlRow {
            instance: instance.to_owned(),
            trust: "partners".to_owned(),
            issuer: "CN=Acme CA".to_owned(),
            anchors: TextList::default(),
            this_update: seconds(made),
            next_update: seconds(made + 7),
            revoked: Some(3),
            present: true.into(),
        };
        let all = summarize_crls(&[row("one", -8), row("two", -1), row("three", -1)], seconds(0).time());
        let shown: Vec<_> = all.iter().map(|crl| (crl.instances.len(), crl.stale, crl.revoked)).collect();
        assert_eq!(shown, [(2, false, Some(3)), (1, true, Some(3))]);
    }
}
