//! Peers and upstreams that were seen: one entry for each identity, with its certificates, its progress and its handshakes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::RuntimeViews;
use super::handshakes::{self, HandshakeFilter};
use super::list_window::{ListPart, MOST_ENTRIES};
use super::registry_reader::RegistryUnread;
use super::rotation::read_reports;
use crate::evidence::report::ReportLine;
use crate::keyring::KeyringName;
pub use crate::registry::store::PeerQuery;
use crate::registry::{PeerRow, RegistryStore, UnixSeconds};

/// Rows of the registry that are read of one peer, those that came last.
const MOST_ROWS: i64 = 50_000;
/// Recent handshakes of one peer.
const MOST_HANDSHAKES: usize = 50;

/// A peer or an upstream, by its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerSummary {
    /// `ingress`: a peer; `egress`: an upstream.
    pub side: String,
    /// Its identity; without one, the subject of its certificate.
    pub identity: String,
    /// Its partner.
    pub partner: Option<String>,
    /// The listeners that it came to, or that lead to it.
    pub listeners: BTreeSet<String>,
    /// Its certificates, the one that it showed last first.
    pub certificates: Vec<String>,
    /// When the certificate that it showed last ends.
    pub not_after: UnixSeconds,
    /// Where it last connected from, or was.
    pub address: Option<String>,
    /// The keyring of the pair that was last shown to it.
    pub keyring: Option<String>,
    /// The pair that was last shown to it.
    pub key_pair: Option<String>,
    /// Why that one.
    pub chosen_by: Option<String>,
    /// Its successful handshakes.
    pub handshakes: i64,
    /// First seen.
    pub first_seen: UnixSeconds,
    /// Last seen.
    pub last_seen: UnixSeconds,
    /// The instances that saw it.
    pub instances: BTreeSet<String>,
}

/// A peer's progress in one keyring's rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerRotation {
    /// The keyring in overlap.
    pub keyring: KeyringName,
    /// The peer's line in its report.
    #[serde(flatten)]
    pub line: ReportLine,
}

/// One peer with everything that is known.
#[derive(Clone, Debug, Serialize)]
pub struct PeerDetails {
    /// It, on each side where it was seen.
    pub peers: Vec<PeerSummary>,
    /// Its certificates at each listener and instance, the latest first.
    pub rows: Vec<PeerRow>,
    /// Its progress in each rotation.
    pub rotations: Vec<PeerRotation>,
    /// Its recent handshakes, the latest first; at most 50.
    pub handshakes: Vec<Value>,
}

/// Peers and upstreams, those that came last first where no other order is asked for.
///
/// # Errors
/// The registry cannot be read.
pub(crate) async fn list_peers(
    views: &RuntimeViews,
    asked: PeerQuery,
) -> Result<ListPart<PeerSummary>, RegistryUnread> {
    let asked = PeerQuery { limit: asked.limit.min(MOST_ENTRIES), ..asked };
    let (offset, now) = (asked.offset, views.events.now());
    let filter = PeerQuery { sort: None, descending: false, offset: 0, limit: 0, ..asked.clone() };
    let known = views.peer_totals.find_recent(&filter, now);
    let part = views.registry.read(async move |store: RegistryStore| store.peer_part(&asked, known).await).await?;
    if known.is_none() {
        views.peer_totals.store_total(filter, now, part.total);
    }
    Ok(ListPart { total: part.total, offset, entries: summarize_peers(&part.rows) })
}

/// One peer by its identity; `None`: it was never seen.
///
/// # Errors
/// The registry cannot be read.
pub(crate) async fn find_peer(views: &RuntimeViews, identity: &str) -> Result<Option<PeerDetails>, RegistryUnread> {
    let name = identity.to_owned();
    let read = async move |store: RegistryStore| store.find_peers_by_name(&name, MOST_ROWS).await;
    let rows = views.registry.read(read).await?;
    let reports = read_reports(views);
    let lines = reports.iter().flat_map(|report| report.lines.iter().map(move |line| (&report.keyring, line)));
    let lines = lines.filter(|(_, line)| line.name == identity);
    let rotations: Vec<PeerRotation> =
        lines.map(|(keyring, line)| PeerRotation { keyring: Arc::clone(keyring), line: line.clone() }).collect();
    let is_it = |text: Option<&str>| text == Some(identity);
    let recent = handshakes::find_recent(&views.events, &HandshakeFilter::default());
    let of_peer = recent.iter().filter(|handshake| {
        is_it(handshake.identity.as_deref()) || is_it(handshake.peer.as_ref().map(|peer| peer.subject.as_str()))
    });
    let handshakes: Vec<Value> = of_peer.take(MOST_HANDSHAKES).map(|one| handshakes::handshake_object(one)).collect();
    let is_known = !(rows.is_empty() && rotations.is_empty() && handshakes.is_empty());
    Ok(is_known.then(|| PeerDetails { peers: summarize_peers(&rows), rows, rotations, handshakes }))
}

/// Of rows with the latest of each peer first.
fn summarize_peers(rows: &[PeerRow]) -> Vec<PeerSummary> {
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut all: Vec<PeerSummary> = Vec::new();
    for row in rows {
        let place = *places.entry((&row.side, row.identity_or_subject())).or_insert(all.len());
        if place == all.len() {
            all.push(begin_summary(row));
        }
        let Some(summary) = all.get_mut(place) else { continue };
        summary.listeners.insert(row.listener.clone());
        summary.instances.insert(row.instance.clone());
        if !summary.certificates.contains(&row.certificate) {
            summary.certificates.push(row.certificate.clone());
        }
        summary.handshakes = summary.handshakes.saturating_add(row.handshakes);
        summary.first_seen = summary.first_seen.min(row.first_seen);
    }
    all
}

/// A summary that holds what the latest row says, and counts nothing yet.
fn begin_summary(row: &PeerRow) -> PeerSummary {
    PeerSummary {
        side: row.side.clone(),
        identity: row.identity_or_subject().to_owned(),
        partner: row.partner.clone(),
        listeners: BTreeSet::new(),
        certificates: Vec::new(),
        not_after: row.not_after,
        address: row.address.clone(),
        keyring: row.keyring.clone(),
        key_pair: row.key_pair.clone(),
        chosen_by: row.chosen_by.clone(),
        handshakes: 0,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
        instances: BTreeSet::new(),
    }
}
