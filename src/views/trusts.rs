//! What peers are verified with, as tables that sort and filter: trust anchors and pins, and CRLs.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RuntimeViews;
use super::list_window::{ListPart, ListWindow};
use super::registry_reader::RegistryUnread;
use crate::registry::{
    AnchorRow, AnchorSummary, CrlRow, CrlTableRow, RegistryInventory, RegistryStore, TextList, UnixSeconds,
    summarize_anchors, summarize_crls,
};
use crate::snapshot::{Snapshot, TrustView};

/// Which anchors and pins, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnchorFilter {
    /// Of this trust.
    pub trust: Option<String>,
    /// `anchor`, `platform` or `pin`.
    pub kind: Option<String>,
    /// Of this standing: `accepted` also finds `accepted (2), removed (1)`.
    pub standing: Option<String>,
    /// With this text in trust, subject or fingerprint, whatever its case.
    pub text: Option<String>,
    /// The column to sort by.
    pub sort: AnchorOrder,
    /// The other way round.
    pub descending: bool,
    /// Which part.
    pub window: ListWindow,
}

/// A column to sort anchors by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorOrder {
    /// Trust, then those of files, the platform's, and pins.
    #[default]
    Trust,
    /// Subject.
    Subject,
    /// End of validity.
    NotAfter,
    /// Standing.
    Standing,
    /// The last peer that it verified.
    LastMatched,
}

/// A part of the registry's anchors and pins.
#[derive(Clone, Debug, Serialize)]
pub struct AnchorTable {
    /// Why these are only this instance's, as it uses them now: the registry could not be read.
    pub registry_unread: Option<String>,
    /// The rows.
    #[serde(flatten)]
    pub rows: ListPart<AnchorSummary>,
}

/// A part of the registry's CRLs, by trust and issuer.
#[derive(Clone, Debug, Serialize)]
pub struct CrlTable {
    /// Why these are only this instance's, as it uses them now: the registry could not be read.
    pub registry_unread: Option<String>,
    /// The rows.
    #[serde(flatten)]
    pub rows: ListPart<CrlTableRow>,
}

/// Anchors and pins of the registry; of this instance alone where the registry cannot be read.
pub(crate) async fn list_anchors(views: &RuntimeViews, filter: &AnchorFilter) -> AnchorTable {
    let (holdings, registry_unread) = read_holdings(views).await;
    let snapshot = views.reader.latest();
    let mut rows = summarize_anchors(&holdings.anchors, views.events.now());
    rows.retain(|row| passes(row, filter));
    rows.sort_by(|one, other| compare_anchors(one, other, filter.sort));
    if filter.descending {
        rows.reverse();
    }
    let mut rows = filter.window.cut(rows);
    for row in &mut rows.entries {
        row.listeners = find_users(&snapshot, &row.trust);
        row.cannot_vouch = explain_useless(&snapshot, row);
    }
    AnchorTable { registry_unread, rows }
}

/// CRLs of the registry; of this instance alone where the registry cannot be read.
pub(crate) async fn list_crls(views: &RuntimeViews, window: ListWindow) -> CrlTable {
    let (holdings, registry_unread) = read_holdings(views).await;
    let snapshot = views.reader.latest();
    let mut rows = window.cut(summarize_crls(&holdings.crls, views.events.now()));
    for row in &mut rows.entries {
        row.listeners = find_users(&snapshot, &row.trust);
    }
    CrlTable { registry_unread, rows }
}

async fn read_holdings(views: &RuntimeViews) -> (RegistryInventory, Option<String>) {
    let read = views.registry.read(async |store: RegistryStore| store.trust_holdings().await).await;
    let unread = read.as_ref().err().map(RegistryUnread::to_string);
    (read.unwrap_or_else(|_| holdings_of_snapshot(views)), unread)
}

/// Listeners that verify their peers with this trust.
fn find_users(snapshot: &Snapshot, trust: &str) -> Vec<String> {
    let is_it = |name: &Arc<str>| **name == *trust;
    let ingresses = snapshot.ingresses.values().filter(|ingress| is_it(ingress.trust.name()));
    let egresses = snapshot.egresses.values().filter(|egress| is_it(egress.trust.name()));
    let ingresses = ingresses.map(|ingress| format!("ingress {}", ingress.settings.name));
    ingresses.chain(egresses.map(|egress| format!("egress {}", egress.settings.name))).collect()
}

fn explain_useless(snapshot: &Snapshot, row: &AnchorSummary) -> Option<String> {
    let trust = snapshot.trusts.iter().find(|trust| *trust.holds.name == *row.trust)?;
    trust.holds.anchors.iter().find(|anchor| anchor.anchor.to_string() == row.anchor)?.cannot_vouch.clone()
}

fn passes(row: &AnchorSummary, filter: &AnchorFilter) -> bool {
    let is = |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|wanted| text == wanted);
    let has = |wanted: &String| {
        let wanted = wanted.to_lowercase();
        let texts = [Some(&row.trust), Some(&row.anchor), row.subject.as_ref()];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&wanted))
    };
    is(&filter.trust, &row.trust)
        && is(&filter.kind, &row.kind)
        && filter.standing.as_deref().is_none_or(|wanted| row.standing.split([' ', ',']).any(|word| word == wanted))
        && filter.text.as_ref().is_none_or(has)
}

fn compare_anchors(one: &AnchorSummary, other: &AnchorSummary, by: AnchorOrder) -> Ordering {
    let first = match by {
        AnchorOrder::Trust => Ordering::Equal,
        AnchorOrder::Subject => one.subject.cmp(&other.subject),
        AnchorOrder::NotAfter => one.not_after.cmp(&other.not_after),
        AnchorOrder::Standing => one.standing.cmp(&other.standing),
        AnchorOrder::LastMatched => one.last_matched.cmp(&other.last_matched),
    };
    let usual = |row: &AnchorSummary| (row.trust.clone(), row.kind == "platform", row.kind.clone(), row.anchor.clone());
    first.then_with(|| usual(one).cmp(&usual(other)))
}

/// As the registry would have them: this instance's alone, as it uses them now.
fn holdings_of_snapshot(views: &RuntimeViews) -> RegistryInventory {
    let (snapshot, now) = (views.reader.latest(), views.events.now());
    let usages = snapshot.anchor_usages();
    let matched = |trust: &TrustView, id: &str| {
        let usage = usages.iter().find(|usage| usage.trust == trust.holds.name)?;
        usage.vouchers.iter().find(|voucher| voucher.id == id)?.last_matched
    };
    let mut holdings = RegistryInventory::default();
    for trust in &snapshot.trusts {
        let row = |kind: &str, anchor: String, until: Option<Timestamp>| AnchorRow {
            instance: views.instance.to_string(),
            trust: trust.holds.name.to_string(),
            kind: kind.to_owned(),
            subject: None,
            not_before: None,
            not_after: None,
            accepted_until: until.map(UnixSeconds::from),
            first_seen: now.into(),
            last_seen: now.into(),
            last_matched: matched(trust, &anchor).map(UnixSeconds::from),
            present: true.into(),
            anchor,
        };
        holdings.anchors.extend(trust.holds.anchors.iter().map(|anchor| AnchorRow {
            subject: Some(anchor.subject.clone()),
            not_before: Some(anchor.validity.not_before.into()),
            not_after: Some(anchor.validity.not_after.into()),
            ..row(if anchor.platform { "platform" } else { "anchor" }, anchor.anchor.to_string(), anchor.until)
        }));
        holdings.anchors.extend(trust.holds.pins.iter().map(|pin| row("pin", pin.spki.to_string(), pin.until)));
        holdings.crls.extend(trust.holds.crls.iter().map(|crl| CrlRow {
            instance: views.instance.to_string(),
            trust: trust.holds.name.to_string(),
            issuer: crl.issuer.clone(),
            anchors: crl.anchors.iter().map(ToString::to_string).collect::<TextList>(),
            this_update: crl.this_update.into(),
            next_update: crl.next_update.into(),
            revoked: i64::try_from(crl.revoked).ok(),
            present: true.into(),
        }));
    }
    holdings
}
