//! The story of the twelve integrations: registry, owners and 60-day alerts in place of a spreadsheet.

use sidekey::registry::export::{ExportTable, RegistryExport, export_csv};
use sidekey::registry::store::{HistoryQuery, StoreAccess};
use sidekey::registry::{AcknowledgementRow, RegistryInventory, RegistryStore, findings};

use super::{expiries, mails, pair, sinks};
use crate::support::backend::Backend;
use crate::support::ca::{Ca, fingerprint, later};
use crate::support::database::{sqlite, until};
use crate::support::eventually;
use crate::support::mailbox::{Hook, Mailbox, text};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

/// Twelve integrations, each with an owner of its own; their certificates last a year.
#[tokio::test(flavor = "multi_thread")]
async fn twelve_integrations_need_no_spreadsheet() {
    let (database, ca, hook, backend) = (sqlite(), Ca::new("Test CA"), Hook::new().await, Backend::echo().await);
    let mailbox = Mailbox::new();
    let folder = folder();
    let name = |number: usize| format!("partner-{number:02}");
    let mut keyrings = String::new();
    for number in 1..=12 {
        drop_pair(folder.path(), &format!("{}/2026", name(number)), &pair(&ca, &name(number), -1, 364));
        keyrings += &format!(
            "[keyring.{}]\npurpose = \"Integration {number}\"\nowner = \"team-{number}\"\ncontact = \"team-{number}@example.com\"\nrotate_every = \"365d\"\n",
            name(number)
        );
    }
    drop_pair(folder.path(), "tls", &pair(&ca, "localhost", -1, 9000));
    put(folder.path(), "ca.crt", ca.pem());
    let top = format!("{}{}{keyrings}", database.toml("gateway"), sinks(folder.path(), &hook, Some(&mailbox)));
    let toml = crate::handshake::config(&top, "", backend.address);
    let mut sidecar = Sidecar::start_at(folder, &toml, ca.now).await;

    // The spreadsheet: one row each, with purpose, owner, contact and dates.
    let store = database.open().await;
    let inventory = until("the inventory", async || {
        Some(store.inventory().await.expect("read")).filter(|inventory| inventory.key_pairs.len() == 13)
    })
    .await;
    let export = RegistryExport { inventory, history: Vec::new(), failures: Vec::new() };
    let table = String::from_utf8(export_csv(&export, ExportTable::KeyPairs).expect("CSV")).expect("text");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("partner-")).collect();
    assert_eq!(rows.len(), 12, "{table}");
    assert!(rows[6].starts_with("partner-07,Integration 7,team-7,team-7@example.com,365,sha256:"), "{}", rows[6]);

    // Ten months of peace, then sixty days' notice to each owner.
    sidecar.move_to(later(ca.now, 303));
    assert!(hook.alerts().is_empty());
    sidecar.move_to(later(ca.now, 304));
    eventually("twelve alerts", || (expiries(&hook), mails(&mailbox)) == (12, 12)).await;
    let mut told: Vec<String> = mailbox.mails().iter().map(|mail| text(&mail["to"][0])).collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 12, "each owner was told, and only of what is theirs");

    // Eleven act: drop the successor beside the old pair. One knows, and says so.
    for number in 1..=11 {
        let next = pair(&ca, &name(number), 304, 304 + 365);
        drop_pair(sidecar.folder.path(), &format!("{}/2027", name(number)), &next);
        assert_eq!(sidecar.rotation(&name(number)).await, fingerprint(&next));
    }
    let (last, ends) = store.find("partner-12", "").await.expect("the current pair");
    let why = "the partner's CA is being replaced".to_owned();
    let who = "uid 1000 (kim)".to_owned();
    let at = later(ca.now, 305).into();
    let keyring = "partner-12".to_owned();
    let acknowledgement = AcknowledgementRow { key_pair: last, at, keyring, who, why, ends: Some(ends) };
    store.acknowledge(&acknowledgement, 1).await.expect("written");
    for day in [334, 350, 357] {
        sidecar.move_to(later(ca.now, day));
        let active = r#"sidekey_alerts_active{kind="expires",keyring="partner-12"} 1"#;
        eventually("the metric goes on", || sidecar.app.metrics_text().contains(active)).await;
    }
    assert_eq!((expiries(&hook), mails(&mailbox)), (12, 12), "a successor or an acknowledgement silences");

    // The last day: urgent, and no acknowledgement silences that.
    sidecar.move_to(later(ca.now, 363));
    eventually("the last call", || mails(&mailbox) == 13).await;
    let mail = mailbox.mails().into_iter().find(|mail| text(&mail["subject"]).starts_with("URGENT: ")).expect("a mail");
    assert_eq!(mail["to"][0], "team-12@example.com");

    // The audit names it too, and the history says who changed what, when, from what to what, and why.
    let without = |inventory: &RegistryInventory| -> Vec<String> {
        let found = findings(inventory, later(ca.now, 363));
        found.into_iter().filter(|one| one.finding == "no_successor").map(|one| one.about).collect()
    };
    // The registry hears of a rotation a little after everybody else.
    until("the audit", async || {
        let inventory = store.inventory().await.expect("read");
        Some(()).filter(|()| without(&inventory) == ["partner-12"])
    })
    .await;
    let history = store.history(&HistoryQuery::default()).await.expect("read");
    let of = |keyring: &str, reason: &str| {
        history
            .iter()
            .find(|entry| entry.name == keyring && entry.reason == reason && entry.was.as_deref() != Some("current"))
            .cloned()
    };
    assert_eq!(of("partner-12", "acknowledged").expect("a line").who, "uid 1000 (kim)");
    let rotation = of("partner-03", "newer_arrived").expect("a line");
    assert_eq!((rotation.who.as_str(), rotation.becomes.as_deref()), ("folder", Some("current")), "{rotation:?}");
    assert!(
        RegistryStore::open(&database.settings("audit"), StoreAccess::Read).await.is_ok(),
        "it reads beside a running sidecar"
    );
}
