//! The registry: what was seen is written down, on SQLite and on a real Postgres alike, and no database can hurt traffic.
//!
//! Must hold: keyrings, key pairs, anchors, peers, failures and the history are there, also after a restart; many instances
//! on one Postgres see one pair; a database that is away, slow, locked, full, damaged or wrongly named costs a line and a metric,
//! and recovery fills in; no private key gets anywhere.

mod fleet;
mod look_up;
mod trouble;

use sidekey::event::{Event, RegistryRecord};
use sidekey::evidence::report::{PriorHistory, RetireAdvice, RotationProgress, RotationReport};
use sidekey::registry::export::{ExportTable, RegistryExport, export_csv};
use sidekey::registry::store::HistoryQuery;
use sidekey::registry::{RegistryInventory, RegistryLocation, RegistryStore, findings};

use crate::handshake::{Stand, stand};
use crate::support::between::{Between, Way};
use crate::support::ca::{Ca, fingerprint, later, today};
use crate::support::database::{databases, postgres, sqlite, until};
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, put};

/// Settings of the one keyring of a stand, behind those of the top.
const OWNED: &str = "[keyring.default]\npurpose = \"Orders\"\nowner = \"integrations\"\ncontact = \"i@example.com\"\n";

fn place(place: &RegistryLocation, instance: &str) -> String {
    let line = match place {
        RegistryLocation::PostgresFile(path) => format!("registry_file = {path:?}"),
        other => panic!("{other:?}"),
    };
    format!("{line}\ninstance = {instance:?}\n")
}

/// Waits until the database is said to be there, or not.
async fn told(stand: &mut Stand, wanted: bool) -> String {
    stand
        .sidecar
        .event("a line about the registry", |event| match event {
            Event::Registry(RegistryRecord { up, explanation, .. }) if *up == wanted => Some(explanation.clone()),
            _ => None,
        })
        .await
}

async fn inventory(
    store: &RegistryStore,
    name: &str,
    is_there: impl Fn(&RegistryInventory) -> bool,
) -> RegistryInventory {
    until(name, async || Some(store.inventory().await.expect("read")).filter(|inventory| is_there(inventory))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_seen_is_written_down_and_outlives_a_restart() {
    for database in databases().await {
        let mut stand = stand(&format!("{}{OWNED}", database.toml("one"))).await;
        let client = stand.ca.client("etl", 5);
        let address = stand.sidecar.ingress("api");
        Peer::new(&[stand.ca.pem()], Some(&client)).get(address, "/").await.expect("answered");
        let stranger = Ca::new("=Unknown Company").client("etl", 5);
        for _ in 0..3 {
            assert!(Peer::new(&[stand.ca.pem()], Some(&stranger)).get(address, "/").await.is_err());
        }
        let next = stand.ca.server(1);
        drop_pair(stand.sidecar.folder.path(), "2027", &next);
        stand.sidecar.rotation("default").await;

        let store = database.open().await;
        let rotated = fingerprint(&next).to_string();
        let seen = inventory(&store, "rotation and peer", |inventory| {
            inventory.key_pairs.iter().any(|pair| pair.key_pair == rotated) && !inventory.peers.is_empty()
        })
        .await;
        let ring = &seen.keyrings[0];
        assert_eq!(
            (ring.instance.as_str(), ring.purpose.as_deref(), ring.owner.as_deref()),
            ("one", Some("Orders"), Some("integrations"))
        );
        let standing =
            |pair: &str| seen.key_pairs.iter().find(|one| one.key_pair == pair).map(|one| one.standing.clone());
        assert_eq!(standing(&rotated).as_deref(), Some("current"));
        let first = fingerprint(&stand.server).to_string();
        assert_eq!(standing(&first).as_deref(), Some("previous"));
        let old = seen.key_pairs.iter().find(|pair| pair.key_pair == first).expect("the first pair");
        assert!(old.last_used.is_some() && old.overlap_ends.is_some() && old.key_kind == "ECDSA P-256");
        assert_eq!(old.names.iter().collect::<Vec<_>>(), ["localhost", "127.0.0.1"]);
        let peer = &seen.peers[0];
        assert_eq!(peer.identity.as_deref(), Some("uri:spiffe://etl.example/app"));
        assert_eq!((peer.key_pair.as_deref(), peer.handshakes), (Some(first.as_str()), 1));
        assert_eq!(peer.certificate, fingerprint(&client).to_string());
        let anchor = seen.anchors.iter().find(|anchor| anchor.trust == "own:default").expect("the own trust");
        assert!(anchor.last_matched.is_some(), "the anchor that vouched was not noted");

        let failures = until("failures", async || {
            let failures = store.failures(&HistoryQuery::default()).await.expect("read");
            (failures.iter().map(|one| one.repeats + 1).sum::<i64>() == 3).then_some(failures)
        })
        .await;
        assert!(failures.iter().all(|failure| failure.reason == "unknown_issuer"));
        let history = store.history(&HistoryQuery::default()).await.expect("read");
        let rotation =
            history.iter().find(|entry| entry.key_pair.as_deref() == Some(rotated.as_str())).expect("a line");
        assert_eq!(
            (rotation.who.as_str(), rotation.becomes.as_deref(), rotation.kind.as_str()),
            ("folder", Some("current"), "keyring")
        );
        let export = RegistryExport { inventory: seen, history, failures };
        let failed = String::from_utf8(export_csv(&export, ExportTable::Failures).expect("CSV")).expect("text");
        assert!(
            failed.contains("CN=\"\"=Unknown Company")
                || failed.contains("CN=\\=Unknown Company")
                || failed.contains("CN==Unknown Company"),
            "{failed}"
        );
        let table = String::from_utf8(export_csv(&export, ExportTable::KeyPairs).expect("CSV")).expect("text");
        assert_eq!(table.lines().count(), 3, "{table}");

        // Again, as the same instance: what was seen stays, and nothing is there twice.
        let (history, folder) = (export.history.len(), stand.sidecar.folder);
        stand.sidecar.app.stop_now().await;
        let toml = crate::handshake::config(&format!("{}{OWNED}", database.toml("one")), "", stand.backend.address);
        let again = crate::support::sidecar::Sidecar::start(folder, &toml).await;
        let after = until("more history", async || {
            let all = store.history(&HistoryQuery::default()).await.expect("read");
            (all.len() > history).then_some(all)
        })
        .await;
        assert!(after.iter().any(|entry| entry.key_pair.as_deref() == Some(first.as_str())));
        let seen = store.inventory().await.expect("read");
        assert_eq!((seen.instances.len(), seen.peers.len(), seen.key_pairs.len()), (1, 1, 2), "{}", database.kind);
        again.app.stop_now().await;
    }
}

/// The rotation report of the one keyring of a stand.
fn report(sidecar: &Sidecar) -> RotationReport {
    let snapshot = sidecar.app.reader().latest();
    let mut reports = sidecar.app.events().report(&snapshot.keyrings_in_overlap(), &snapshot.contacts());
    assert_eq!(reports.len(), 1, "one keyring in overlap");
    reports.remove(0)
}

/// Who is in it, and how each stands.
fn uses(report: &RotationReport) -> Vec<(&str, RotationProgress)> {
    report.lines.iter().map(|line| (line.name.as_str(), line.stands)).collect()
}

const ETL: &str = "uri:spiffe://etl.example/app";
const SELDOM: &str = "uri:spiffe://seldom.example/app";

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_mid_overlap_keeps_every_peer_in_the_rotation_report() {
    for database in databases().await {
        let top = format!("state = \"state\"\n{}", database.toml("one"));
        let mut stand = stand(&top).await;
        let peer = |ca: &Ca, name: &str| Peer::new(&[ca.pem()], Some(&ca.client(name, 5))).fresh();
        let (etl, seldom) = (peer(&stand.ca, "etl"), peer(&stand.ca, "seldom"));
        for one in [&etl, &seldom] {
            one.get(stand.sidecar.ingress("api"), "/").await.expect("answered");
        }
        let next = stand.ca.server(1);
        drop_pair(stand.sidecar.folder.path(), "next", &next);
        stand.sidecar.rotation("default").await;
        etl.get(stand.sidecar.ingress("api"), "/").await.expect("answered");
        let store = database.open().await;
        let new = fingerprint(&next).to_string();
        inventory(&store, "both peers", |inventory| {
            let has = |pair: &str| inventory.peers.iter().any(|peer| peer.key_pair.as_deref() == Some(pair));
            has(&new) && inventory.peers.len() == 2
        })
        .await;

        let folder = stand.sidecar.folder;
        stand.sidecar.app.stop_now().await;
        let toml = crate::handshake::config(&top, "", stand.backend.address);
        let again = Sidecar::start(folder, &toml).await;
        eventually("the registry has answered", || report(&again).before == PriorHistory::Recalled).await;
        let recalled = report(&again);
        assert_eq!(
            uses(&recalled),
            [(SELDOM, RotationProgress::NotSeen), (ETL, RotationProgress::ProvedNew)],
            "{}",
            database.kind
        );
        assert!(recalled.watched_since < recalled.rotated, "{recalled:?}");
        seldom.get(again.ingress("api"), "/").await.expect("answered");
        let safe = report(&again);
        assert_eq!(safe.verdict.retire, RetireAdvice::Safe, "{}: {}", database.kind, safe.verdict.sentence);
        again.app.stop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_names_a_silent_registry_and_nothing_waits() {
    let Some(database) = postgres().await else { return };
    let between = Between::new(database.address.expect("an address"), Way::Cut).await;
    let top = format!("state = \"state\"\n{}", place(&database.at(between.address), "one"));
    let mut stand = stand(&top).await;
    works(&mut stand, 5).await;
    is_up(&stand, 0).await;
    let awaited = report(&stand.sidecar);
    assert_eq!((awaited.before, uses(&awaited)), (PriorHistory::Awaited, vec![(ETL, RotationProgress::NotSeen)]));
    between.set(Way::Open);
    eventually("the registry has answered", || report(&stand.sidecar).before == PriorHistory::Recalled).await;
    assert_eq!(uses(&report(&stand.sidecar)), [(ETL, RotationProgress::NotSeen)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_at_three_instances_is_one_pair_seen_by_three() {
    let Some(database) = postgres().await else { return };
    let mut sidecars = Vec::new();
    let first = stand(&database.toml("a")).await;
    for name in ["b", "c"] {
        let folder = crate::support::sidecar::folder();
        drop_pair(folder.path(), "tls", &first.server);
        put(folder.path(), "ca.crt", first.ca.pem());
        let toml = crate::handshake::config(&database.toml(name), "", first.backend.address);
        sidecars.push(crate::support::sidecar::Sidecar::start(folder, &toml).await);
    }
    let store = database.open().await;
    let seen = inventory(&store, "three instances", |inventory| inventory.key_pairs.len() == 3).await;
    let instances: Vec<&str> = seen.key_pairs.iter().map(|pair| pair.instance.as_str()).collect();
    assert_eq!(instances, ["a", "b", "c"]);
    let found = findings(&seen, first.ca.now);
    let owner = found.iter().find(|finding| finding.finding == "no_owner").expect("a finding");
    assert_eq!(owner.instances, ["a", "b", "c"]);
    let export = RegistryExport { inventory: seen, history: Vec::new(), failures: Vec::new() };
    let table = String::from_utf8(export_csv(&export, ExportTable::KeyPairs).expect("CSV")).expect("text");
    assert_eq!(table.lines().count(), 2, "one pair is one row: {table}");
    assert!(table.contains("a b c"), "{table}");
}

/// Serves a request and rotates, whatever the registry does.
async fn works(stand: &mut Stand, days: i64) -> String {
    let client = stand.ca.client("etl", 5);
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).fresh();
    assert_eq!(peer.get(stand.sidecar.ingress("api"), "/").await.expect("answered").status, 200);
    let next = stand.ca.server(days);
    drop_pair(stand.sidecar.folder.path(), "next", &next);
    assert_eq!(stand.sidecar.rotation("default").await, fingerprint(&next));
    fingerprint(&next).to_string()
}

/// Waits for the metric: a line may have gone by while something else was waited for.
async fn is_up(stand: &Stand, value: u8) {
    let line = format!("sidekey_registry_up {value}");
    eventually(&line, || stand.sidecar.app.metrics_text().lines().any(|found| found == line)).await;
}

/// What is too old goes, whichever pod wrote it: pods do not come back to tidy up. Their pairs stay.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_pods_that_are_gone_are_removed() {
    use sqlx::Connection as _;

    let database = sqlite();
    let mut stand = stand(&database.toml("one")).await;
    works(&mut stand, 5).await;
    let store = database.open().await;
    let before = inventory(&store, "its own", |inventory| !inventory.peers.is_empty()).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database.file());
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.expect("opened");
    let old = later(today(), -401).as_second();
    for sql in [
        format!("INSERT INTO instance VALUES ('pod', '0', {old}, {old})"),
        format!("INSERT INTO trust VALUES ('pod', 't', '', 0, {old}, {old}, 1)"),
        format!("INSERT INTO anchor VALUES ('pod', 't', 'anchor', 'a', NULL, NULL, NULL, {old}, {old}, NULL, 1, NULL)"),
        format!("INSERT INTO crl VALUES ('pod', 't', 'i', '', 0, 0, {old}, {old}, 1, NULL)"),
        format!("INSERT INTO waiting_key VALUES ('pod', 'k', 'f', 's', {old}, {old}, 1)"),
        format!(
            "INSERT INTO placement SELECT 'pod', keyring, key_pair, standing, {old}, NULL, '', NULL, {old}, {old}, NULL, 1, \
             NULL, NULL FROM placement LIMIT 1"
        ),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut other).await.expect("written");
    }
    store.tidy(today()).await.expect("tidied");
    let after = store.inventory().await.expect("read");
    let of_pod = |instance: &str| instance == "pod";
    assert!(!after.trusts.iter().any(|row| of_pod(&row.instance)));
    assert!(!after.anchors.iter().any(|row| of_pod(&row.instance)));
    assert!(!after.crls.iter().any(|row| of_pod(&row.instance)));
    assert!(!after.waiting_keys.iter().any(|row| of_pod(&row.instance)));
    assert!(after.key_pairs.iter().any(|row| of_pod(&row.instance)));
    assert_eq!(
        (after.anchors.len(), after.peers.len()),
        (before.anchors.len(), before.peers.len()),
        "what is there stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_key_appears_nowhere() {
    for database in databases().await {
        let mut stand = stand(&database.toml("one")).await;
        works(&mut stand, 5).await;
        let store = database.open().await;
        let seen = inventory(&store, "the rotation", |inventory| inventory.key_pairs.len() == 2).await;
        let history = store.history(&HistoryQuery::default()).await.expect("read");
        let failures = store.failures(&HistoryQuery::default()).await.expect("read");
        let export = RegistryExport { inventory: seen, history, failures };
        let mut everything = serde_json::to_string(&export).expect("JSON").into_bytes();
        for table in [
            ExportTable::KeyPairs,
            ExportTable::Keyrings,
            ExportTable::Anchors,
            ExportTable::Peers,
            ExportTable::History,
            ExportTable::Failures,
        ] {
            everything.extend(export_csv(&export, table).expect("CSV"));
        }
        everything.extend(stand.sidecar.app.metrics_text().into_bytes());
        for line in stand.sidecar.log() {
            everything.extend(line.to_string().into_bytes());
        }
        if let RegistryLocation::File(path) = &database.place {
            for end in ["", "-wal"] {
                everything.extend(std::fs::read(format!("{}{end}", path.display())).expect("the database's file"));
            }
        }
        let found = |wanted: &[u8]| memchr::memmem::find(&everything, wanted).is_some();
        assert!(found(b"CN=localhost"), "the search itself finds nothing");
        let der = base64_of(&stand.server.key_pem);
        let secret = secret(&der);
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!found(b"PRIVATE KEY") && !found(&secret) && !found(hex.as_bytes()));
        for line in stand.server.key_pem.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!found(line.as_bytes()), "a line of the key's PEM");
        }
    }
}

fn base64_of(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

/// The scalar of a P-256 key in PKCS#8: the 32 bytes behind the marker of ECPrivateKey's second field.
fn secret(der: &[u8]) -> Vec<u8> {
    let at = memchr::memmem::find(der, &[0x02, 0x01, 0x01, 0x04, 0x20]).expect("an EC key") + 5;
    der[at..at + 32].to_vec()
}
