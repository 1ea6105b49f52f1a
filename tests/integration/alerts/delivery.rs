//! Delivery: sinks that are away, sinks of other teams, TLS to sinks, and a queue that does not drain.

use std::path::Path;

use jiff::SignedDuration;
use sidekey::event::{DeliveryRecord, Event};
use sidekey::pki::issue::IssuedKeyPair;
use sidekey::registry::store::{AlertNotice, StoreAccess};
use sidekey::registry::{RegistryStore, findings};

use super::{Fleet, OWNED, expiries, mails, pair};
use crate::command::{Running, sidekey};
use crate::support::backend::Backend;
use crate::support::ca::{Ca, later};
use crate::support::database::{databases, postgres, sqlite};
use crate::support::eventually;
use crate::support::mailbox::{Hook, Mailbox, text};
use crate::support::sidecar::{drop_pair, folder, put};

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_away_is_tried_again_and_in_the_end_given_up_visibly() {
    let (database, ca, hook, backend) = (sqlite(), Ca::new("Test CA"), Hook::new().await, Backend::echo().await);
    let pair = pair(&ca, "localhost", -300, 25);
    hook.answer(503);
    let fleet = Fleet { database: &database, ca: &ca, pair: &pair, backend: &backend };
    let mut sidecar = fleet.start("a", &hook, None, ca.now).await;
    let failed = |event: &Event| match event {
        Event::Delivery(DeliveryRecord { outcome, error, .. }) => Some((*outcome, error.clone().unwrap_or_default())),
        _ => None,
    };
    let (outcome, why) = sidecar.event("a failed delivery", failed).await;
    assert_eq!(outcome, "failed");
    assert!(why.contains("answered 503") && !why.contains("hush"), "{why}");
    let mut now = ca.now;
    let mut attempts = 1;
    loop {
        now += SignedDuration::from_mins(61);
        sidecar.move_to(now);
        attempts += 1;
        if sidecar.event("the next attempt", failed).await.0 == "given_up" {
            break;
        }
    }
    assert_eq!(attempts, 16);
    let metrics = sidecar.app.metrics_text();
    assert!(
        metrics.contains(r#"sidekey_alerts_total{kind="expires",sink="webhook",outcome="given_up"} 1"#),
        "{metrics}"
    );
    let store = database.open().await;
    let inventory = store.inventory().await.expect("read");
    assert!(findings(&inventory, now).iter().any(|finding| finding.finding == "alert_given_up"));
    // The next threshold is another alert, and the sink is back.
    hook.answer(200);
    sidecar.move_to(later(ca.now, 12));
    eventually("the next threshold", || hook.alerts().len() == 1).await;
}

/// Two teams on one Postgres, each with a channel of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_sends_only_to_sinks_of_its_own_and_silences_no_others() {
    let Some(database) = postgres().await else { return };
    let (ca, ours, theirs, backend) = (Ca::new("Test CA"), Hook::new().await, Hook::new().await, Backend::echo().await);
    let good = pair(&ca, "localhost", -10, 300);
    let fleet = Fleet { database: &database, ca: &ca, pair: &good, backend: &backend };
    ours.answer(503);
    let mut a = fleet.start("a", &ours, None, ca.now).await;
    drop_pair(a.folder.path(), "expired", &pair(&ca, "localhost", -30, -1));
    let failed = |event: &Event| match event {
        Event::Delivery(DeliveryRecord { outcome: "failed", .. }) => Some(()),
        _ => None,
    };
    a.event("a failure", failed).await;
    let b = fleet.start("b", &theirs, None, later(ca.now, 1)).await;
    drop_pair(b.folder.path(), "expired", &pair(&ca, "other", -30, -1));
    eventually("their own", || !theirs.posted().is_empty()).await;
    assert!(theirs.posted().iter().all(|one| one["instance"] == "b"), "{:?}", theirs.posted());
    let store = database.open().await;
    let of_a = store.deliveries().await.expect("read").into_iter().filter(|one| one.raised_by == "a");
    assert!(of_a.into_iter().all(|one| one.state == "pending"));
    ours.answer(200);
    a.move_to(later(ca.now, 1));
    eventually("what waited", || ours.posted().iter().any(|one| one["instance"] == "a")).await;
}

/// What was posted about expiries; a drop that a slow machine took in two halves may have been told as well.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_and_mail_go_over_tls_to_servers_that_are_trusted_and_to_no_others() {
    let (ca, stranger) = (Ca::new("Own CA"), Ca::new("Stranger"));
    let server = ca.server(5);
    for (wrapped, tls) in [(false, "starttls"), (true, "tls")] {
        let (hook, other) = (Hook::tls(&server).await, Hook::tls(&stranger.server(5)).await);
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        drop_pair(folder.path(), "tls", &pair(&ca, "localhost", -360, 5));
        put(folder.path(), "ca.crt", ca.pem());
        let mailbox_of = |issued: &IssuedKeyPair, name: &str| {
            let (certificate, key) = (at(&format!("{name}.crt")), at(&format!("{name}.key")));
            std::fs::write(&certificate, &issued.chain_pem).expect("written");
            std::fs::write(&key, issued.key_pem.as_bytes()).expect("written");
            Mailbox::tls(&certificate, &key, wrapped)
        };
        let mailbox = mailbox_of(&server, "mail");
        for (name, text) in [
            ("hook", format!("https://localhost:{}/hook?token=hush", hook.address.port())),
            ("other", format!("https://localhost:{}/hook?token=hush", other.address.port())),
            ("smtp", "sidekey:pass:word".to_owned()),
            ("anchors.pem", ca.pem().to_owned()),
        ] {
            std::fs::write(at(name), text).expect("written");
        }
        let toml = format!(
            "state = \"state\"\n{OWNED}[alerts]\nwebhook = [{{ url_file = \"hook\" }}, {{ url_file = \"other\" }}]\n\
             [alerts.smtp]\nserver = \"localhost:{}\"\nfrom = \"sidekey@example.com\"\ncredentials_file = \"smtp\"\n\
             tls = \"{tls}\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\n\
             backend = \"http://127.0.0.1:9\"\n",
            mailbox.port
        );
        std::fs::write(at("sidekey.toml"), toml).expect("written");
        let run = |anchors: &Path| {
            let mut command = sidekey();
            command.current_dir(folder.path()).env("SSL_CERT_FILE", anchors);
            Running::start(command.args(["run", "--config", "sidekey.toml"]))
        };
        let running = run(&at("anchors.pem"));
        let refused =
            tokio::task::block_in_place(|| running.line(&["alert delivery", "webhook", "failed", "SSL_CERT_FILE"]));
        assert!(refused.contains(&other.address.port().to_string()) && !refused.contains("hush"), "{refused}");
        eventually("webhook and mail", || (expiries(&hook), mails(&mailbox)) == (1, 1)).await;
        assert_eq!(other.posted().len(), 0, "{tls}");
        let mail = &mailbox.mails()[0];
        assert_eq!(
            (&mail["tls"], &mail["user"], &mail["auto"]),
            (&true.into(), &"sidekey".into(), &"auto-generated".into())
        );
        assert!(text(&mail["id"]).ends_with("@example.com>"), "{mail}");
        drop(running);

        // A sidecar that trusts another CA tells this server nothing, not even its own name.
        std::fs::remove_dir_all(at("state")).expect("forgotten");
        std::fs::write(at("anchors.pem"), stranger.pem()).expect("written");
        let running = run(&at("anchors.pem"));
        tokio::task::block_in_place(|| running.line(&["alert delivery", "\"mail\"", "failed", "SSL_CERT_FILE"]));
        assert_eq!(mails(&mailbox), 1, "{tls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_undeliverable_alerts_do_not_delay_the_next_one() {
    for database in databases().await {
        let store = RegistryStore::open(&database.settings("one"), StoreAccess::Write).await.expect("opened");
        let now = crate::support::ca::today();
        let notice = |alert: String| AlertNotice {
            alert,
            sink: "webhook:1".to_owned(),
            kind: "partner_expires",
            keyring: "default".to_owned(),
            key_pair: None,
            urgent: false,
            recipient: None,
            summary: "s".to_owned(),
            remedy: "r".to_owned(),
            owner: None,
            contact: None,
            ends: None,
        };
        for number in 0..1000 {
            store.raise(&notice(format!("old {number}")), now).await.expect("written");
        }
        for delivery in store.pending().await.expect("read") {
            let pause = std::time::Duration::from_hours(1);
            store.postpone(&delivery, "it is away", pause, now).await.expect("written");
        }
        store.raise(&notice("next".to_owned()), later(now, 0) + SignedDuration::from_secs(60)).await.expect("written");
        let first = store.pending().await.expect("read").remove(0);
        assert_eq!(first.alert, "next", "{}", database.kind);
    }
}
