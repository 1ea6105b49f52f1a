//! The registry as a table that sorts and filters: key pairs, history, failed handshakes.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RuntimeViews;
use super::list_window::{ListPart, ListWindow, MOST_ENTRIES};
use super::registry_reader::RegistryUnread;
use crate::registry::store::{HistoryQuery, RegistryStore};
use crate::registry::{FailureRow, HistoryRow, KeyPairSummary, TextList, UnixSeconds, summarize_key_pairs};
use crate::snapshot::{KeyPairView, KeyringView};

/// Which key pairs, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPairFilter {
    /// Of this keyring.
    pub keyring: Option<String>,
    /// Of this standing: `current` also finds `current (2), gone (1)`.
    pub standing: Option<String>,
    /// Of this owner.
    pub owner: Option<String>,
    /// With this text in keyring, fingerprint, subject, issuer, serial or a name, whatever its case.
    pub text: Option<String>,
    /// Whose certificate ends before this time.
    pub expires_before: Option<Timestamp>,
    /// The column to sort by.
    pub sort: KeyPairOrder,
    /// The other way round.
    pub descending: bool,
    /// Which part.
    pub window: ListWindow,
}

/// A column to sort key pairs by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPairOrder {
    /// Keyring, then the newest pair first.
    #[default]
    Keyring,
    /// End of validity.
    NotAfter,
    /// Begin of validity.
    NotBefore,
    /// Subject.
    Subject,
    /// Issuer.
    Issuer,
    /// Standing.
    Standing,
    /// Owner.
    Owner,
    /// The last successful handshake that showed it.
    LastUsed,
}

/// A part of the registry's key pairs.
#[derive(Clone, Debug, Serialize)]
pub struct KeyPairTable {
    /// Why these are only this instance's, as it serves them now: the registry could not be read.
    pub registry_unread: Option<String>,
    /// The rows.
    #[serde(flatten)]
    pub rows: ListPart<KeyPairSummary>,
}

/// Key pairs of the registry; of this instance alone where the registry cannot be read.
pub(crate) async fn list_key_pairs(views: &RuntimeViews, filter: &KeyPairFilter) -> KeyPairTable {
    let (mut rows, registry_unread) =
        match views.registry.read(async |store: RegistryStore| store.key_pairs().await).await {
            Ok(inventory) => (summarize_key_pairs(&inventory), None),
            Err(unread) => (rows_of_snapshot(views), Some(unread.to_string())),
        };
    rows.retain(|row| passes(row, filter));
    rows.sort_by(|one, other| compare_rows(one, other, filter.sort));
    if filter.descending {
        rows.reverse();
    }
    KeyPairTable { registry_unread, rows: filter.window.cut(rows) }
}

/// The history, the newest first; of one keyring, trust, file or upstream where a name is given.
///
/// # Errors
/// The registry cannot be read.
pub(crate) async fn list_history(
    views: &RuntimeViews,
    name: Option<String>,
    window: ListWindow,
) -> Result<ListPart<HistoryRow>, RegistryUnread> {
    let asked = HistoryQuery { name, ..query_part(window) };
    let read = async move |store: RegistryStore| {
        let (total, entries) = (store.count_history(&asked).await?, store.history(&asked).await?);
        Ok(ListPart { total, offset: window.offset, entries })
    };
    views.registry.read(read).await
}

/// Failed handshakes of the last 30 days, the newest first.
///
/// # Errors
/// The registry cannot be read.
pub(crate) async fn list_failures(
    views: &RuntimeViews,
    window: ListWindow,
) -> Result<ListPart<FailureRow>, RegistryUnread> {
    let asked = query_part(window);
    let read = async move |store: RegistryStore| {
        let (total, entries) = (store.count_failures(&asked).await?, store.failures(&asked).await?);
        Ok(ListPart { total, offset: window.offset, entries })
    };
    views.registry.read(read).await
}

fn query_part(window: ListWindow) -> HistoryQuery {
    let most = i64::try_from(window.limit.min(MOST_ENTRIES)).unwrap_or_default();
    HistoryQuery { most, offset: window.offset, ..HistoryQuery::default() }
}

fn passes(row: &KeyPairSummary, filter: &KeyPairFilter) -> bool {
    let is = |wanted: &Option<String>, text: Option<&str>| wanted.as_deref().is_none_or(|wanted| text == Some(wanted));
    let has = |wanted: &String| {
        let wanted = wanted.to_lowercase();
        let texts = [&row.keyring, &row.key_pair, &row.subject, &row.issuer, &row.serial];
        let mut texts = texts.into_iter().map(String::as_str).chain(row.names.iter());
        texts.any(|text| text.to_lowercase().contains(&wanted))
    };
    is(&filter.keyring, Some(&row.keyring))
        && is(&filter.owner, row.owner.as_deref())
        && filter.standing.as_deref().is_none_or(|wanted| row.standing.split([' ', ',']).any(|word| word == wanted))
        && filter.expires_before.is_none_or(|before| row.not_after.time() < before)
        && filter.text.as_ref().is_none_or(has)
}

fn compare_rows(one: &KeyPairSummary, other: &KeyPairSummary, by: KeyPairOrder) -> Ordering {
    let first = match by {
        KeyPairOrder::Keyring => Ordering::Equal,
        KeyPairOrder::NotAfter => one.not_after.cmp(&other.not_after),
        KeyPairOrder::NotBefore => one.not_before.cmp(&other.not_before),
        KeyPairOrder::Subject => one.subject.cmp(&other.subject),
        KeyPairOrder::Issuer => one.issuer.cmp(&other.issuer),
        KeyPairOrder::Standing => one.standing.cmp(&other.standing),
        KeyPairOrder::Owner => one.owner.cmp(&other.owner),
        KeyPairOrder::LastUsed => one.last_used.cmp(&other.last_used),
    };
    let usual = |row: &KeyPairSummary| (row.keyring.clone(), std::cmp::Reverse(row.not_before), row.key_pair.clone());
    first.then_with(|| usual(one).cmp(&usual(other)))
}

fn rows_of_snapshot(views: &RuntimeViews) -> Vec<KeyPairSummary> {
    let now = views.events.now();
    let snapshot = views.reader.latest();
    let keyrings = snapshot.keyrings.iter();
    keyrings.flat_map(|keyring| keyring.key_pairs.iter().map(move |pair| row_of_pair(keyring, pair, now))).collect()
}

fn row_of_pair(keyring: &KeyringView, pair: &KeyPairView, now: Timestamp) -> KeyPairSummary {
    KeyPairSummary {
        keyring: keyring.name.to_string(),
        purpose: keyring.purpose.clone(),
        owner: keyring.owner.clone(),
        contact: keyring.contact.clone(),
        rotate_every_days: keyring.rotate_every.map(|every| (every.as_secs() / 86_400).cast_signed()),
        key_pair: pair.key_pair.to_string(),
        standing: pair.standing.as_str().to_owned(),
        subject: pair.subject.clone(),
        names: pair.names.iter().collect::<TextList>(),
        issuer: pair.issuer.clone(),
        serial: pair.serial.clone(),
        key_kind: pair.key.clone(),
        spki: pair.spki.to_string(),
        created: pair.validity.not_before.into(),
        not_before: pair.validity.not_before.into(),
        not_after: pair.validity.not_after.into(),
        first_seen: pair.since.into(),
        last_seen: now.into(),
        last_used: None,
        overlap_ends: pair.overlap_ends.map(UnixSeconds::from),
        sources: pair.sources.iter().map(Arc::as_ref).collect::<TextList>(),
        instances: Vec::new(),
    }
}
