//! The registry's content, as JSON for programs and as CSV for spreadsheets. Pure.
//!
//! A certificate's subject is untrusted text: in CSV no cell can begin like a formula (OWASP, "CSV injection"). A pair
//! that many instances have is one row that names them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::trust_tables::join_standings;
use super::{FailureRow, HistoryRow, KeyringRow, PlacementRow, RegistryInventory, TextList, UnixSeconds};

/// The complete export.
#[derive(Serialize)]
pub struct RegistryExport {
    /// The inventory.
    #[serde(flatten)]
    pub inventory: RegistryInventory,
    /// The history, the newest first.
    pub history: Vec<HistoryRow>,
    /// Failed handshakes, the newest first.
    pub failures: Vec<FailureRow>,
}

/// The table that a CSV file contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportTable {
    /// One row for each key pair in each keyring: replaces the spreadsheet.
    KeyPairs,
    /// Keyrings by instance.
    Keyrings,
    /// Trust anchors and pins by instance.
    Anchors,
    /// Peers and upstreams by instance.
    Peers,
    /// The history.
    History,
    /// Failed handshakes.
    Failures,
}

const KEY_PAIR_COLUMNS: [&str; 22] = [
    "keyring",
    "purpose",
    "owner",
    "contact",
    "rotate_every_days",
    "key_pair",
    "standing",
    "subject",
    "names",
    "issuer",
    "serial",
    "key_kind",
    "spki",
    "created",
    "not_before",
    "not_after",
    "first_seen",
    "last_seen",
    "last_used",
    "overlap_ends",
    "sources",
    "instances",
];
const KEYRING_COLUMNS: [&str; 9] =
    ["keyring", "instance", "purpose", "owner", "contact", "rotate_every", "first_seen", "last_seen", "present"];
const ANCHOR_COLUMNS: [&str; 12] = [
    "trust",
    "kind",
    "anchor",
    "subject",
    "not_before",
    "not_after",
    "accepted_until",
    "last_matched",
    "first_seen",
    "last_seen",
    "present",
    "instance",
];
const PEER_COLUMNS: [&str; 19] = [
    "side",
    "listener",
    "identity",
    "partner",
    "certificate",
    "subject",
    "issuer",
    "serial",
    "not_before",
    "not_after",
    "public_ca",
    "address",
    "keyring",
    "key_pair",
    "chosen_by",
    "handshakes",
    "first_seen",
    "last_seen",
    "instance",
];
const HISTORY_COLUMNS: [&str; 10] =
    ["at", "instance", "kind", "name", "key_pair", "was", "becomes", "who", "reason", "why"];
const FAILURE_COLUMNS: [&str; 14] = [
    "at",
    "instance",
    "side",
    "listener",
    "reason",
    "explanation",
    "address",
    "server_name",
    "subject",
    "issuer",
    "certificate",
    "key_pair",
    "alert",
    "repeats",
];

/// One table as CSV (RFC 4180), the first row its columns' names.
///
/// # Errors
/// Only if writing to memory fails.
pub fn export_csv(export: &RegistryExport, table: ExportTable) -> Result<Vec<u8>, csv::Error> {
    match table {
        ExportTable::KeyPairs => encode_table(&KEY_PAIR_COLUMNS, &summarize_key_pairs(&export.inventory)),
        ExportTable::Keyrings => encode_table(&KEYRING_COLUMNS, &export.inventory.keyrings),
        ExportTable::Anchors => encode_table(&ANCHOR_COLUMNS, &export.inventory.anchors),
        ExportTable::Peers => encode_table(&PEER_COLUMNS, &export.inventory.peers),
        ExportTable::History => encode_table(&HISTORY_COLUMNS, &export.history),
        ExportTable::Failures => encode_table(&FAILURE_COLUMNS, &export.failures),
    }
}

fn encode_table<T: Serialize>(columns: &[&str], rows: &[T]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns)?;
    for row in rows {
        let row = serde_json::to_value(row).unwrap_or_default();
        writer.write_record(columns.iter().map(|column| cell(row.get(column))))?;
    }
    writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))
}

fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        Some(other) => other.to_string(),
    };
    escape_formula(text)
}

/// Escapes a cell that a spreadsheet would take for a formula.
fn escape_formula(text: String) -> String {
    let starts = text.trim_start_matches(' ').chars().next();
    let is_formula =
        starts.is_some_and(|c| matches!(c, '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠'));
    if is_formula { format!("'{text}") } else { text }
}

/// A key pair in a keyring, on any number of instances: a row of the registry's main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyPairSummary {
    /// The keyring.
    pub keyring: String,
    /// What the keyring is for.
    pub purpose: Option<String>,
    /// Its owner.
    pub owner: Option<String>,
    /// Where alerts go.
    pub contact: Option<String>,
    /// The schedule that the owner is held to, in days.
    pub rotate_every_days: Option<i64>,
    /// The pair's fingerprint.
    pub key_pair: String,
    /// Its standing; where instances disagree, each with its count; `gone`: no keyring holds it any more.
    pub standing: String,
    /// Subject, printable.
    pub subject: String,
    /// Names of every kind.
    pub names: TextList,
    /// Issuer, printable.
    pub issuer: String,
    /// Serial number, hex.
    pub serial: String,
    /// Kind of its key.
    pub key_kind: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: String,
    /// When the certificate was issued, by its `not_before`.
    pub created: UnixSeconds,
    /// Begin of validity.
    pub not_before: UnixSeconds,
    /// End of validity.
    pub not_after: UnixSeconds,
    /// First seen on any instance.
    pub first_seen: UnixSeconds,
    /// Last seen on any instance.
    pub last_seen: UnixSeconds,
    /// The last successful handshake that showed it.
    pub last_used: Option<UnixSeconds>,
    /// When the last overlap ends.
    pub overlap_ends: Option<UnixSeconds>,
    /// Files that it came from.
    pub sources: TextList,
    /// The instances that have it.
    pub instances: Vec<String>,
}

/// One row for each key pair in each keyring, sorted by keyring, the newest pair first.
pub fn summarize_key_pairs(inventory: &RegistryInventory) -> Vec<KeyPairSummary> {
    let mut rings: BTreeMap<&str, &KeyringRow> = BTreeMap::new();
    for ring in &inventory.keyrings {
        // Of several instances the one that wrote last wins.
        let known = rings.entry(&ring.keyring).or_insert(ring);
        if (known.present.is_set(), known.last_seen) < (ring.present.is_set(), ring.last_seen) {
            *known = ring;
        }
    }
    // Sorted by keyring and pair: the rows of one pair are adjacent.
    let pairs = inventory.key_pairs.chunk_by(|a, b| (&a.keyring, &a.key_pair) == (&b.keyring, &b.key_pair));
    pairs.filter_map(|same| summarize_pair(same, rings.get(same.first()?.keyring.as_str()).copied())).collect()
}

fn summarize_pair(same: &[PlacementRow], ring: Option<&KeyringRow>) -> Option<KeyPairSummary> {
    let first = same.first()?.clone();
    Some(KeyPairSummary {
        purpose: ring.and_then(|ring| ring.purpose.clone()),
        owner: ring.and_then(|ring| ring.owner.clone()),
        contact: ring.and_then(|ring| ring.contact.clone()),
        rotate_every_days: ring.and_then(|ring| ring.rotate_every).map(|seconds| seconds / 86_400),
        standing: summarize_standing(same),
        created: first.not_before,
        first_seen: same.iter().map(|pair| pair.first_seen).min().unwrap_or(first.first_seen),
        last_seen: same.iter().map(|pair| pair.last_seen).max().unwrap_or(first.last_seen),
        last_used: same.iter().filter_map(|pair| pair.last_used).max(),
        overlap_ends: same.iter().filter_map(|pair| pair.overlap_ends).max(),
        instances: same.iter().map(|pair| pair.instance.clone()).collect(),
        keyring: first.keyring,
        key_pair: first.key_pair,
        subject: first.subject,
        names: first.names,
        issuer: first.issuer,
        serial: first.serial,
        key_kind: first.key_kind,
        spki: first.spki,
        not_before: first.not_before,
        not_after: first.not_after,
        sources: first.sources,
    })
}

/// One standing if all instances agree, else each with its count; what is no longer present is `gone`.
fn summarize_standing(same: &[PlacementRow]) -> String {
    // A retired pair that is no longer present keeps its last standing.
    let is_over = |pair: &PlacementRow| matches!(pair.standing.as_str(), "retired" | "revoked");
    let is_told = |pair: &PlacementRow| pair.present.is_set() || is_over(pair);
    join_standings(same.iter().map(|pair| if is_told(pair) { pair.standing.as_str() } else { "gone" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_begins_like_a_formula() {
        for evil in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"] {
            assert!(escape_formula(evil.to_owned()).starts_with('\''), "{evil:?}");
        }
        for fine in ["", "CN=api", "2026-11-25", "'quoted", "sha256:aa"] {
            assert_eq!(escape_formula(fine.to_owned()), fine);
        }
    }

    #[test]
    fn every_column_of_a_table_is_a_field_of_its_rows() {
        let row = |columns: &[&str], value: &Value| {
            for column in columns {
                assert!(value.get(column).is_some(), "{column} is not a field");
            }
        };
        let entry = HistoryRow {
            instance: "a".to_owned(),
            at: UnixSeconds(0),
            kind: "keyring".to_owned(),
            name: "=evil".to_owned(),
            key_pair: None,
            was: None,
            becomes: None,
            who: "folder".to_owned(),
            reason: "first".to_owned(),
            why: "a \"quoted\", text\nwith lines".to_owned(),
        };
        row(&HISTORY_COLUMNS, &serde_json::to_value(&entry).unwrap());
        let export =
            RegistryExport { inventory: RegistryInventory::default(), history: vec![entry], failures: Vec::new() };
        let text = String::from_utf8(export_csv(&export, ExportTable::History).unwrap()).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(&records[0][0], "1970-01-01T00:00:00Z");
        assert_eq!(&records[0][3], "'=evil");
        assert_eq!(&records[0][9], "a \"quoted\", text\nwith lines");
    }
}
