//! A database that is away, slow, locked, full or damaged: it costs a line and a metric, and recovery fills in.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use sidekey::event::{Event, RegistryRecord};
use sidekey::registry::store::HistoryQuery;

use super::{inventory, is_up, place, told, works};
use crate::api::get;
use crate::command::{Running, free_port, output, run_in, sidekey, text};
use crate::handshake::stand;
use crate::support::between::{Between, Way};
use crate::support::ca::{Ca, fingerprint};
use crate::support::database::{postgres, sqlite, until};
use crate::support::sidecar::{drop_pair, folder, put};

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_away_or_slow_costs_a_line_and_a_metric_and_recovery_fills_in() {
    let Some(database) = postgres().await else { return };
    let between = Between::new(database.address.expect("an address"), Way::Cut).await;
    let mut stand = stand(&place(&database.at(between.address), "one")).await;
    is_up(&stand, 0).await;
    let missed = works(&mut stand, 5).await;
    between.set(Way::Open);
    is_up(&stand, 1).await;
    let store = database.open().await;
    inventory(&store, "what was missed", |inventory| {
        inventory.key_pairs.iter().any(|pair| pair.key_pair == missed) && !inventory.peers.is_empty()
    })
    .await;
    let history = store.history(&HistoryQuery::default()).await.expect("read");
    assert!(history.iter().any(|entry| entry.key_pair.as_deref() == Some(missed.as_str())), "{history:?}");

    // Slow by ten seconds: what was asked for still comes, and traffic did not wait for it.
    between.set(Way::Slow(Duration::from_secs(10)));
    let slow = works(&mut stand, 4).await;
    is_up(&stand, 0).await;
    let log = stand.sidecar.log();
    assert!(log.iter().any(|line| line["explanation"].to_string().contains("has not answered for 5 s")), "{log:?}");
    between.set(Way::Open);
    is_up(&stand, 1).await;

    // Killed while it is in use.
    between.set(Way::Cut);
    let killed = works(&mut stand, 3).await;
    is_up(&stand, 0).await;
    between.set(Way::Open);
    is_up(&stand, 1).await;
    inventory(&store, "what was missed again", |inventory| {
        [&slow, &killed].iter().all(|pair| inventory.key_pairs.iter().any(|one| one.key_pair == **pair))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_reported_without_its_text() {
    let Some(database) = postgres().await else { return };
    let (start, rest) = database.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a URL");
    let user = start.rsplit_once(':').expect("a password").0.to_owned();
    let wrong = database.other_url(&format!("{user}:swordfish@{rest}"), "wrong");
    let mut stand = stand(&place(&wrong, "one")).await;
    let why = told(&mut stand, false).await;
    assert!(why.contains("password authentication failed") && !why.contains("swordfish"), "{why}");
    works(&mut stand, 5).await;
    assert!(stand.sidecar.log().iter().all(|line| !line.to_string().contains("swordfish")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_set_aside_and_never_silently_replaced() {
    let database = sqlite();
    std::fs::write(database.file(), vec![b'x'; 20_000]).expect("a file");
    let mut stand = stand(&database.toml("one")).await;
    let explanation = stand
        .sidecar
        .event("a line about the damage", |event| match event {
            Event::Registry(RegistryRecord { damaged: true, explanation, .. }) => Some(explanation.clone()),
            _ => None,
        })
        .await;
    assert!(explanation.contains("set aside"), "{explanation}");
    told(&mut stand, true).await;
    let folder = database.file().parent().expect("a folder").to_owned();
    let names = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let kept: Vec<_> = names.filter(|path| path.to_string_lossy().contains(".damaged-")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(std::fs::read(&kept[0]).expect("a file"), vec![b'x'; 20_000], "what it held is still there");
    let log = stand.sidecar.log();
    let line = log.iter().find(|line| line["target"] == "registry" && line["level"] == "error");
    assert!(line.is_some(), "no error line");
    works(&mut stand, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_file_holds_up_nothing_and_is_caught_up_with() {
    use sqlx::Connection as _;
    let database = sqlite();
    let mut stand = stand(&database.toml("one")).await;
    told(&mut stand, true).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database.file());
    let mut locker = sqlx::SqliteConnection::connect_with(&options).await.expect("opened");
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut locker).await.expect("locked");
    let missed = works(&mut stand, 5).await;
    is_up(&stand, 0).await;
    sqlx::query("ROLLBACK").execute(&mut locker).await.expect("unlocked");
    is_up(&stand, 1).await;
    let store = database.open().await;
    inventory(&store, "what was missed", |inventory| inventory.key_pairs.iter().any(|pair| pair.key_pair == missed))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_a_file_costs_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stand = stand(&format!("registry = {:?}\n", folder.path())).await;
    let why = told(&mut stand, false).await;
    assert!(why.contains(&*folder.path().to_string_lossy()), "{why}");
    works(&mut stand, 5).await;
}

#[test]
fn a_full_disk_costs_a_line_and_recovery_fills_in() {
    let (folder, ca) = (folder(), Ca::new("Test CA"));
    drop_pair(folder.path(), "tls", &ca.server(20));
    put(folder.path(), "ca.crt", ca.pem());
    // The kernel's limit on the size of a file is the disk, without the signal that would come with it.
    let run = run_in(folder.path(), free_port(), free_port());
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(run.get_program()).args(run.get_args());
    shell.args(["--state", "state"]).current_dir(folder.path());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let running = Running::start(&mut shell);
    running.line(&["registry connected"]);
    let (pid, maximum) = (Pid::from_child(&running.child), getrlimit(Resource::Fsize).maximum);
    let disk = |current| prlimit(Some(pid), Resource::Fsize, Rlimit { current, maximum }).expect("set");
    disk(Some(4096));
    let next = ca.server(5);
    drop_pair(folder.path(), "next", &next);
    let next = fingerprint(&next);
    running.lines(&[&["rotation", &next.short()], &["registry unavailable"]]);
    disk(maximum);
    running.line(&["registry connected"]);
    let export = ["registry", "export", "--format", "csv", "--state", "state"];
    let table = output(sidekey().current_dir(folder.path()).args(export));
    assert!(text(&table.stdout).contains(&next.to_string()), "{}{}", text(&table.stdout), text(&table.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_under_it_is_made_anew_with_what_there_is() {
    let database = sqlite();
    let mut stand = stand(&format!("{}[admin]\nlisten = \"127.0.0.1:0\"\n", database.toml("one"))).await;
    told(&mut stand, true).await;
    let admin = stand.sidecar.app.admin_address().expect("TCP");
    let shows = async |text: &str| get(admin, "/api/v1/history").await.contains(text).then_some(());
    until("the first history", async || shows(&fingerprint(&stand.server).to_string()).await).await;
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", database.file().display()));
    }
    let next = works(&mut stand, 5).await;
    let store = database.open().await;
    inventory(&store, "a new registry", |inventory| inventory.key_pairs.iter().any(|pair| pair.key_pair == next)).await;
    until("the new registry on the API", async || shows(&next).await).await;
}
