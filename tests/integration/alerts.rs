//! Alerts: the right people are told, in time, once, at a real SMTP server and an HTTP endpoint; and silence has a reason.
//!
//! Must hold: each (certificate, threshold) arrives once, across restarts and for a whole fleet; the log tells without a
//! database; a sink that is away is tried again and in the end given up visibly; an acknowledgement and a successor silence.
//! And the story of the twelve integrations: registry, owners and 60-day alerts in place of a spreadsheet.

mod delivery;
mod story;

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use sidekey::event::{AlertRecord, DeliveryRecord, Event};
use sidekey::pki::issue::{CertificateAuthority, IssueRequest, IssuedKeyPair};
use sidekey::registry::store::StoreAccess;
use sidekey::registry::{RegistryStore, findings};
use sqlx::Connection as _;

use crate::support::backend::Backend;
use crate::support::ca::{Ca, around, fingerprint, later};
use crate::support::database::{Database, databases, postgres, sqlite, until};
use crate::support::eventually;
use crate::support::mailbox::{Hook, Mailbox, text};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

/// A server's pair that is valid from one day to another, counted from now.
fn pair(ca: &Ca, name: &str, from: i64, to: i64) -> IssuedKeyPair {
    let mut request = ca.request(name);
    request.validity = around(ca.now, -from, to);
    ca.issue(&request)
}

/// `[alerts]` with a webhook, and with mail where there is a mailbox.
fn sinks(folder: &Path, hook: &Hook, mailbox: Option<&Mailbox>) -> String {
    std::fs::write(folder.join("hook-url"), format!("http://{}/hook?token=hush\n", hook.address)).expect("a file");
    let mut toml = "[alerts]\nwebhook = [{ url_file = \"hook-url\" }]\n".to_owned();
    if let Some(mailbox) = mailbox {
        std::fs::write(folder.join("smtp"), "sidekey:pass:word\n").expect("a file");
        toml += &format!(
            "[alerts.smtp]\nserver = \"127.0.0.1:{}\"\nfrom = \"Sidekey <sidekey@example.com>\"\ncredentials_file = \"smtp\"\ntls = \"none\"\n",
            mailbox.port
        );
    }
    toml
}

const OWNED: &str = "[keyring.default]\nowner = \"integrations\"\ncontact = \"i@example.com\"\n";

struct Fleet<'a> {
    database: &'a Database,
    ca: &'a Ca,
    pair: &'a IssuedKeyPair,
    backend: &'a Backend,
}

impl Fleet<'_> {
    async fn start(&self, instance: &str, hook: &Hook, mailbox: Option<&Mailbox>, now: Timestamp) -> Sidecar {
        let folder = folder();
        drop_pair(folder.path(), "tls", self.pair);
        put(folder.path(), "ca.crt", self.ca.pem());
        let top = format!("{}{}{OWNED}", self.database.toml(instance), sinks(folder.path(), hook, mailbox));
        // Tables of the top come before the listeners.
        Sidecar::start_at(folder, &crate::handshake::config(&top, "", self.backend.address), now).await
    }
}

/// Waits until every claimed alert has been sent, and a round has passed in which nothing was left to do.
async fn settled(store: &RegistryStore) {
    until("all alerts are sent", async || {
        let all = store.deliveries().await.expect("read");
        let failed: Vec<_> = all.iter().filter_map(|delivery| delivery.error.as_ref()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        (!all.is_empty() && all.iter().all(|delivery| delivery.state == "sent")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_threshold_arrives_once_across_three_restarts_and_three_instances() {
    for database in databases().await {
        let (ca, hook, mailbox, backend) =
            (Ca::new("Test CA"), Hook::new().await, Mailbox::new(), Backend::echo().await);
        let pair = pair(&ca, "localhost", -300, 25);
        let name = |days: u64| format!("expires:{}:{}", fingerprint(&pair).hex(), days * 86_400);
        let fleet = Fleet { database: &database, ca: &ca, pair: &pair, backend: &backend };
        // SQLite is one sidecar's own; a Postgres is shared by three.
        let instances: &[&str] = if database.address.is_some() { &["a", "b", "c"] } else { &["a"] };
        let store = RegistryStore::open(&database.settings("test"), StoreAccess::Write).await.expect("a registry");
        for restart in 0..3 {
            let mut sidecars = Vec::new();
            for instance in instances {
                sidecars.push(fleet.start(instance, &hook, Some(&mailbox), later(ca.now, restart)).await);
            }
            for sidecar in &mut sidecars {
                let told = |event: &Event| match event {
                    Event::Alert(AlertRecord { kind: "expires", .. }) => Some(()),
                    _ => None,
                };
                sidecar.event("every instance's own line", told).await;
            }
            settled(&store).await;
            for sidecar in sidecars {
                sidecar.app.stop_now().await;
            }
        }
        eventually("the first threshold", || hook.alerts() == [name(30)] && mailbox.mails().len() == 1).await;
        // The next threshold, on all at once.
        let mut sidecars = Vec::new();
        for instance in instances {
            sidecars.push(fleet.start(instance, &hook, Some(&mailbox), later(ca.now, 12)).await);
        }
        eventually("the next threshold", || hook.alerts().contains(&name(14)) && mailbox.mails().len() == 2).await;
        settled(&store).await;
        for sidecar in sidecars {
            sidecar.app.stop_now().await;
        }
        let mut expected = [name(14), name(30)];
        expected.sort();
        assert_eq!(hook.alerts(), expected, "{}", database.kind);
        let mail = &mailbox.mails()[0];
        assert_eq!((&mail["to"][0], &mail["user"]), (&"i@example.com".into(), &"sidekey".into()));
        assert!(text(&mail["subject"]).contains("a key pair expires: default"), "{mail}");
        assert!(text(&mail["text"]).contains("expires in 25 days"), "{mail}");
        assert_eq!(mailbox.mails().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_the_metrics_tell_without_a_database() {
    let (ca, hook, backend) = (Ca::new("Test CA"), Hook::new().await, Backend::echo().await);
    let folder = folder();
    drop_pair(folder.path(), "tls", &pair(&ca, "localhost", -300, 25));
    put(folder.path(), "ca.crt", ca.pem());
    let top = format!("registry = {:?}\n{}", folder.path(), sinks(folder.path(), &hook, None));
    let mut sidecar = Sidecar::start_at(folder, &crate::handshake::config(&top, "", backend.address), ca.now).await;
    let alert = |event: &Event| match event {
        Event::Alert(AlertRecord { kind, explanation, .. }) => Some((*kind, explanation.clone())),
        _ => None,
    };
    let (kind, explanation) = sidecar.event("an alert", alert).await;
    assert_eq!(kind, "expires");
    assert!(explanation.contains("25 days"), "{explanation}");
    eventually("the gauge", || {
        sidecar.app.metrics_text().contains(r#"sidekey_alerts_active{kind="expires",keyring="default"} 1"#)
    })
    .await;
    assert!(sidecar.log().iter().any(|line| line["target"] == "alert" && line["message"] == "alert"));
    assert!(hook.alerts().is_empty(), "without a registry the sidecar cannot know what was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_holds_up_no_line_and_no_metric() {
    let Some(database) = postgres().await else { return };
    let (ca, hook, backend) = (Ca::new("Test CA"), Hook::new().await, Backend::echo().await);
    let good = pair(&ca, "localhost", -10, 300);
    let fleet = Fleet { database: &database, ca: &ca, pair: &good, backend: &backend };
    let mut sidecar = fleet.start("a", &hook, None, ca.now).await;
    let mut locker = sqlx::PgConnection::connect(database.url().trim()).await.expect("connected");
    // The tables are there once the registry is used.
    drop(database.open().await);
    sqlx::raw_sql("BEGIN; LOCK TABLE alert, acknowledgement, peer").execute(&mut locker).await.expect("locked");
    let told = |event: &Event| match event {
        Event::Alert(AlertRecord { kind, .. }) => Some(*kind),
        _ => None,
    };
    for (name, second) in [("one", 10), ("two", 20)] {
        // What is refused within two seconds is one drop, and one alert.
        sidecar.move_to(ca.now + SignedDuration::from_secs(second));
        drop_pair(sidecar.folder.path(), name, &pair(&ca, name, -30, -1));
        assert_eq!(sidecar.event("the line", told).await, "refused_drop");
    }
    assert!(hook.alerts().is_empty());
    sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.expect("unlocked");
    // Where an attempt has ended meanwhile, the next round is the next one.
    sidecar.move_to(ca.now + SignedDuration::from_mins(2));
    let is_told = |name: &str| hook.posted().iter().any(|one| text(&one["summary"]).contains(name));
    eventually("what waited", || is_told("CN=one") && is_told("CN=two")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silenced_alert_is_sent_when_it_is_due_again() {
    for database in databases().await {
        let (ca, hook, mailbox, backend) =
            (Ca::new("Test CA"), Hook::new().await, Mailbox::new(), Backend::echo().await);
        let old = pair(&ca, "localhost", -300, 25);
        hook.answer(503);
        let fleet = Fleet { database: &database, ca: &ca, pair: &old, backend: &backend };
        let mut sidecar = fleet.start("a", &hook, Some(&mailbox), ca.now).await;
        let ended = |outcome: &'static str| {
            move |event: &Event| match event {
                Event::Delivery(DeliveryRecord { outcome: found, sink: "webhook", .. }) if *found == outcome => {
                    Some(())
                }
                _ => None,
            }
        };
        sidecar.event("a failure", ended("failed")).await;
        let next = pair(&ca, "localhost", -1, 300);
        drop_pair(sidecar.folder.path(), "next", &next);
        assert_eq!(sidecar.rotation("default").await, fingerprint(&next));
        sidecar.move_to(ca.now + SignedDuration::from_mins(2));
        sidecar.event("silence", ended("silenced")).await;
        // The successor is taken back: the old pair is in use, and still expires.
        hook.answer(200);
        std::fs::remove_file(sidecar.folder.path().join("certs/next.crt")).expect("removed");
        std::fs::remove_file(sidecar.folder.path().join("certs/next.key")).expect("removed");
        sidecar.move_to(ca.now + SignedDuration::from_mins(4));
        eventually("the alert", || expiries(&hook) == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_names_the_certificate_that_may_be_acknowledged_and_only_for_an_expiry() {
    let (database, ca, hook, mailbox, backend) =
        (sqlite(), Ca::new("Test CA"), Hook::new().await, Mailbox::new(), Backend::echo().await);
    let old = pair(&ca, "localhost", -300, 25);
    let fleet = Fleet { database: &database, ca: &ca, pair: &old, backend: &backend };
    let sidecar = fleet.start("a", &hook, Some(&mailbox), ca.now).await;
    drop_pair(sidecar.folder.path(), "expired", &pair(&ca, "localhost", -30, -1));
    let of = |subject: &str| mailbox.mails().into_iter().find(|mail| text(&mail["subject"]).contains(subject));
    eventually("both", || of("a key pair expires").is_some() && of("a drop was refused").is_some()).await;
    let expiry = text(&of("a key pair expires").expect("a mail")["text"]);
    assert!(expiry.contains(&format!("keyring ack default {} --why", fingerprint(&old).short())), "{expiry}");
    let drop = text(&of("a drop was refused").expect("a mail")["text"]);
    assert!(!drop.contains("keyring ack"), "{drop}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_gone_do_not_make_the_current_pair_two() {
    for database in databases().await {
        let (ca, hook, backend) = (Ca::new("Test CA"), Hook::new().await, Backend::echo().await);
        let (old, new) = (pair(&ca, "localhost", -300, 25), pair(&ca, "localhost", -1, 300));
        for (instance, shown, days) in [("pod-a", &old, 0), ("pod-b", &new, 1)] {
            let fleet = Fleet { database: &database, ca: &ca, pair: shown, backend: &backend };
            let sidecar = fleet.start(instance, &hook, None, later(ca.now, days)).await;
            let store = database.open().await;
            let own = fingerprint(shown).to_string();
            until("the pair", async || store.find("default", &own).await.is_ok().then_some(())).await;
            sidecar.app.stop_now().await;
        }
        let store = database.open().await;
        let (current, ends) = store.find("default", "").await.expect("one");
        assert_eq!((current, ends.0), (fingerprint(&new).to_string(), later(ca.now, 300).as_second()));
        let missing = store.find("nothing", "").await.expect_err("none").to_string();
        assert!(missing.contains("no current key pair"), "{missing}");
        let several = store.find("default", "sha256:").await;
        assert!(several.is_ok(), "no digits mean the current one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_drop_is_told() {
    let (database, ca, hook, backend) = (sqlite(), Ca::new("Test CA"), Hook::new().await, Backend::echo().await);
    let good = pair(&ca, "localhost", -10, 300);
    let fleet = Fleet { database: &database, ca: &ca, pair: &good, backend: &backend };
    let sidecar = fleet.start("a", &hook, None, ca.now).await;
    drop_pair(sidecar.folder.path(), "expired", &pair(&ca, "localhost", -30, -1));
    eventually("the refusal", || hook.posted().iter().any(|one| one["kind"] == "refused_drop")).await;
}

/// A pair is worth as little as the first of its chain that ends, and a trust as little as its anchors.
#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_and_an_anchor_that_end_first_are_told_of_until_others_are_there() {
    for database in databases().await {
        let (ca, hook, backend) = (Ca::new("Own root"), Hook::new().await, Backend::echo().await);
        let issuing = ca.authority.intermediate("Issuing CA", around(ca.now, 300, 20)).expect("a CA");
        let long = |now: Timestamp| {
            let mut request = ca.request("localhost");
            request.validity = around(now, 10, 300);
            request
        };
        let ends_early = issuing.issue(&long(ca.now)).expect("a pair");
        let anchor =
            |before, after| CertificateAuthority::new("Partners' CA", around(ca.now, before, after)).expect("a CA");
        let (old, new) = (anchor(300, 25), anchor(1, 3000));
        let folder = folder();
        drop_pair(folder.path(), "tls", &ends_early);
        put(folder.path(), "ca.crt", old.certificate_pem());
        let top = format!("{}{}{OWNED}", database.toml("a"), sinks(folder.path(), &hook, None));
        let toml = crate::handshake::config(&top, "", backend.address);
        let mut sidecar = Sidecar::start_at(folder, &toml, ca.now).await;
        let told = |kind: &str| {
            let all = hook.posted().into_iter().filter(|one| one["kind"] == kind);
            all.map(|one| text(&one["summary"])).collect::<Vec<_>>()
        };
        eventually("both", || !told("expires").is_empty() && !told("anchor_expires").is_empty()).await;
        let (chain, trust) = (told("expires").remove(0), told("anchor_expires").remove(0));
        assert!(chain.contains("CN=Issuing CA") && chain.contains("expires in 20 days"), "{chain}");
        assert!(trust.contains("CN=Partners' CA") && trust.contains("expires in 25 days"), "{trust}");
        let audit = async |store: &RegistryStore| -> Vec<&'static str> {
            let found = findings(&store.inventory().await.expect("read"), ca.now);
            let mut found: Vec<_> = found.into_iter().map(|one| one.finding).collect();
            found.retain(|finding| matches!(*finding, "chain_expires" | "anchor_expires"));
            found
        };
        let store = RegistryStore::open(&database.settings("test"), StoreAccess::Write).await.expect("a registry");
        assert_eq!(audit(&store).await, ["anchor_expires", "chain_expires"], "{}", database.kind);
        let metrics = sidecar.app.metrics_text();
        let of_anchor = format!(
            r#"sidekey_trust_anchor_not_after_timestamp_seconds{{trust="own:default",anchor="{}"}} {}"#,
            &store.inventory().await.expect("read").anchors[0].anchor[7..19],
            later(ca.now, 25).as_second()
        );
        assert!(metrics.contains(&of_anchor), "{of_anchor}\n{metrics}");

        // An operator acknowledges the anchor: named by its first digits, in its trust.
        let anchor = store.inventory().await.expect("read").anchors[0].anchor.clone();
        assert_eq!(store.find("own:default", &anchor[7..15]).await.expect("the anchor").0, anchor);

        let successor = ca.issue(&IssueRequest { validity: around(ca.now, 5, 300), ..long(ca.now) });
        drop_pair(sidecar.folder.path(), "next", &successor);
        assert_eq!(sidecar.rotation("default").await, fingerprint(&successor));
        put(sidecar.folder.path(), "ca.crt", &format!("{}{}", old.certificate_pem(), new.certificate_pem()));
        eventually("silence", || nothing_expires(&sidecar)).await;
        until("the registry", async || audit(&store).await.is_empty().then_some(())).await;
    }
}

/// Nothing is told of any more.
fn nothing_expires(sidecar: &Sidecar) -> bool {
    let metrics = sidecar.app.metrics_text();
    ["expires", "anchor_expires"].iter().all(|kind| {
        let mut active =
            metrics.lines().filter(|line| line.starts_with(&format!("sidekey_alerts_active{{kind=\"{kind}\"")));
        active.all(|line| line.ends_with(" 0"))
    })
}

fn expiries(hook: &Hook) -> usize {
    hook.posted().iter().filter(|one| one["kind"] == "expires").count()
}

/// The mails about expiries.
fn mails(mailbox: &Mailbox) -> usize {
    mailbox.mails().iter().filter(|mail| text(&mail["subject"]).contains("a key pair expires")).count()
}
