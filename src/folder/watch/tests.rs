use std::collections::BTreeSet;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::fixture::{issue_pair, rare_rescan_settings, write_pair};
use super::super::read::read_folder;
use super::*;
use crate::pki::ProblemSeverity;
use crate::pki::issue::IssuedKeyPair;

/// A folder under watch.
struct WatchHarness {
    deliveries: mpsc::Receiver<FolderDelivery>,
    settings: watch::Sender<FolderSettings>,
    orders: mpsc::Sender<ReadingReceipt>,
}

impl WatchHarness {
    async fn next(&mut self) -> FolderContents {
        match self.next_delivery().await {
            FolderDelivery::Contents(contents) => contents,
            FolderDelivery::Receipt(_) => panic!("a receipt that was not ordered"),
        }
    }

    async fn next_delivery(&mut self) -> FolderDelivery {
        let next = tokio::time::timeout(Duration::from_secs(20), self.deliveries.recv());
        next.await.expect("contents within 20 s").expect("the watch runs on")
    }

    /// The first contents in which this keyring holds exactly these pairs; every reading in between is fine.
    async fn until(&mut self, keyring: &str, pairs: &[&IssuedKeyPair]) -> FolderContents {
        let wanted: BTreeSet<String> = pairs.iter().map(|pair| first_line(&pair.chain_pem)).collect();
        loop {
            let contents = self.next().await;
            let held = contents
                .keyrings
                .get(keyring)
                .map(|joined| joined.pairs.iter().map(|pair| first_line(&pair.to_pem())).collect::<BTreeSet<_>>());
            if held.unwrap_or_default() == wanted {
                return contents;
            }
        }
    }

    /// Nothing is sent although a reading is made; a change of another keyring shows that it was.
    async fn is_quiet_until(&mut self, mark: &Path) -> FolderContents {
        write_pair(mark, &issue_pair("mark.example"));
        self.next().await
    }
}

/// The body of the end entity's PEM: enough to tell pairs apart.
fn first_line(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).take(6).collect()
}

/// Runs a watch on the control plane's kind of runtime beside a test.
fn with_watch<F: Future<Output = ()>>(settings: FolderSettings, test: impl FnOnce(WatchHarness) -> F) {
    with_watch_from(settings, None, test);
}

/// The same, going on from a reading.
fn with_watch_from<F: Future<Output = ()>>(
    settings: FolderSettings,
    first: Option<FolderReading>,
    test: impl FnOnce(WatchHarness) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (settings, current) = watch::channel(settings);
        let (out, deliveries) = mpsc::channel(1);
        let (orders, ordered) = mpsc::channel(4);
        tokio::select! {
            () = watch_folder(current, ordered, first, out) => panic!("the watch ended"),
            () = test(WatchHarness { deliveries, settings, orders }) => {}
        }
    });
}

/// A temporary folder and its `certs`, by its real path.
fn temporary_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap().join("certs");
    fs::create_dir(&root).unwrap();
    (folder, root)
}

#[test]
fn the_first_contents_come_at_once_and_a_drop_acts_after_quiet() {
    let (_folder, root) = temporary_folder();
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&root.join("api"), &old);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        fs::write(root.join("api/.new"), format!("{}{}", new.chain_pem, *new.key_pem)).unwrap();
        fs::rename(root.join("api/.new"), root.join("api/new.pem")).unwrap();
        harness.until("api", &[&old, &new]).await;
    });
}

#[test]
fn a_symlink_flip_is_one_change_each_time() {
    let (_folder, root) = temporary_folder();
    let api = root.join("api");
    let flip = |version: &str, pair: &IssuedKeyPair| {
        write_pair(&api.join(version), pair);
        symlink(version, api.join("..data_tmp")).unwrap();
        fs::rename(api.join("..data_tmp"), api.join("..data")).unwrap();
    };
    let pairs = [issue_pair("a.example"), issue_pair("b.example"), issue_pair("c.example")];
    flip("..v0", &pairs[0]);
    symlink("..data/tls.crt", api.join("tls.crt")).unwrap();
    symlink("..data/tls.key", api.join("tls.key")).unwrap();
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&pairs[0]]).await;
        for (at, pair) in pairs.iter().enumerate().skip(1) {
            flip(&format!("..v{at}"), pair);
            fs::remove_dir_all(api.join(format!("..v{}", at - 1))).unwrap();
            let contents = harness.next().await;
            assert_eq!(first_line(&contents.keyrings["api"].pairs[0].to_pem()), first_line(&pair.chain_pem));
        }
    });
}

#[test]
fn an_in_place_overwrite_is_noticed() {
    let (_folder, root) = temporary_folder();
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&root.join("api"), &old);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        write_pair(&root.join("api"), &new);
        harness.until("api", &[&new]).await;
    });
}

#[test]
fn links_to_an_archive_outside_are_followed_when_the_archive_changes() {
    let (folder, root) = temporary_folder();
    let archive = folder.path().join("archive");
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&archive, &old);
    fs::create_dir(root.join("live")).unwrap();
    symlink("../../archive/tls.crt", root.join("live/cert.pem")).unwrap();
    symlink(archive.join("tls.key"), root.join("live/key.pem")).unwrap();
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("live", &[&old]).await;
        write_pair(&archive, &new);
        harness.until("live", &[&new]).await;
    });
}

#[test]
fn a_linked_folder_outside_is_watched_too() {
    let (folder, root) = temporary_folder();
    let outside = folder.path().join("outside");
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&outside, &old);
    symlink(&outside, root.join("api")).unwrap();
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        write_pair(&outside.join("new/below"), &new);
        harness.until("api", &[&old, &new]).await;
    });
}

#[test]
fn a_folder_deleted_and_made_again_is_seen_again() {
    let (_folder, root) = temporary_folder();
    let pairs = [issue_pair("a.example"), issue_pair("b.example"), issue_pair("c.example")];
    write_pair(&root.join("api"), &pairs[0]);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&pairs[0]]).await;
        fs::remove_dir_all(root.join("api")).unwrap();
        harness.until("api", &[]).await;
        write_pair(&root.join("api"), &pairs[1]);
        harness.until("api", &[&pairs[1]]).await;
        write_pair(&root.join("api"), &pairs[2]);
        harness.until("api", &[&pairs[2]]).await;
    });
}

#[test]
fn the_whole_root_may_be_replaced_and_missing_removes_nothing() {
    let (folder, root) = temporary_folder();
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&root.join("api"), &old);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        fs::rename(&root, folder.path().join("former")).unwrap();
        let missing = harness.next().await;
        assert_eq!(missing.problems[0].reason, "folder_missing");
        assert_eq!(missing.keyrings["api"].pairs.len(), 1);
        write_pair(&root.join("api"), &new);
        let back = harness.until("api", &[&new]).await;
        assert_eq!(back.problems, []);
        let newest = issue_pair("newest.example");
        write_pair(&root.join("api"), &newest);
        harness.until("api", &[&newest]).await;
    });
}

#[test]
fn a_root_missing_at_the_start_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("not/yet/certs");
    let pair = issue_pair("a.example");
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        assert!(harness.next().await.keyrings.is_empty());
        write_pair(&root.join("api"), &pair);
        harness.until("api", &[&pair]).await;
    });
}

#[test]
fn fifos_and_link_loops_never_block() {
    let (_folder, root) = temporary_folder();
    let pair = issue_pair("a.example");
    write_pair(&root.join("api"), &pair);
    let fifo = root.join("api/tls.pem");
    rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink(".", root.join("api/again")).unwrap();
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        let contents = harness.until("api", &[&pair]).await;
        assert!(contents.keyrings["api"].problems.iter().any(|problem| problem.reason == "not_a_file"));
        assert_eq!(contents.problems[0].reason, "link_loop");
    });
}

#[test]
fn a_lost_notification_is_found_by_the_rescan() {
    let (folder, root) = temporary_folder();
    // Behind a bind mount or on a network there are no events; an inode that is reached by a hard link has none either.
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&root.join("api"), &old);
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for file in ["tls.crt", "tls.key"] {
        fs::hard_link(root.join("api").join(file), elsewhere.join(file)).unwrap();
    }
    let settings = FolderSettings { rescan: Duration::from_millis(300), ..rare_rescan_settings(&root) };
    with_watch(settings, async |mut harness| {
        harness.until("api", &[&old]).await;
        write_pair(&elsewhere, &new);
        harness.until("api", &[&new]).await;
    });
}

#[test]
fn a_half_written_pair_is_not_yet_and_acts_once_it_is_whole() {
    let (_folder, root) = temporary_folder();
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&root.join("api"), &old);
    let patient = FolderSettings { settle: Duration::from_secs(3600), ..rare_rescan_settings(&root) };
    with_watch(patient, async |mut harness| {
        harness.until("api", &[&old]).await;
        fs::write(root.join("api/new.crt"), &new.chain_pem).unwrap();
        let contents = harness.is_quiet_until(&root.join("web")).await;
        assert_eq!((contents.keyrings["api"].pairs.len(), contents.keyrings["web"].pairs.len()), (1, 1));
        assert!(contents.keyrings["api"].problems.iter().all(|problem| problem.severity < ProblemSeverity::Incomplete));
        fs::write(root.join("api/new.key"), new.key_pem.as_bytes()).unwrap();
        let contents = harness.next().await;
        assert_eq!(contents.keyrings["api"].pairs.len(), 2);
    });
}

#[test]
fn a_mismatch_is_refused_once_it_has_settled() {
    let (_folder, root) = temporary_folder();
    let (old, other) = (issue_pair("old.example"), issue_pair("other.example"));
    write_pair(&root.join("api"), &old);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        let started = Instant::now();
        fs::write(root.join("api/tls.crt"), &other.chain_pem).unwrap();
        let contents = harness.next().await;
        assert!(started.elapsed() >= Duration::from_millis(600));
        assert!(contents.keyrings["api"].problems.iter().any(|problem| problem.severity == ProblemSeverity::Refused));
    });
}

#[test]
fn the_same_content_again_changes_nothing() {
    let (_folder, root) = temporary_folder();
    let pair = issue_pair("a.example");
    write_pair(&root.join("api"), &pair);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        let first = harness.until("api", &[&pair]).await;
        write_pair(&root.join("api"), &pair);
        fs::write(root.join("api/README"), "words").unwrap();
        harness.settings.send_modify(|_| {});
        let next = harness.is_quiet_until(&root.join("web")).await;
        assert_ne!(next.digest, first.digest);
        assert!(next.keyrings.contains_key("web"));
    });
}

#[test]
fn other_settings_cause_a_reading() {
    let (_folder, root) = temporary_folder();
    let pair = issue_pair("a.example");
    write_pair(&root.join("api"), &pair);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&pair]).await;
        harness.settings.send_modify(|settings| settings.strict_permissions = true);
        let contents = harness.until("api", &[]).await;
        assert!(contents.keyrings["api"].problems.iter().any(|problem| problem.reason == "permissions"));
    });
}

#[test]
fn reading_is_not_held_up_by_notifications_that_never_pause() {
    let start = Instant::now();
    let mut timing = WatchTiming::new(start + Duration::from_secs(3600));
    for step in 1..=20 {
        timing.record_notice(start + step * Duration::from_millis(50));
    }
    assert_eq!(timing.next_read(), start + Duration::from_millis(50) + MAX_READ_DELAY);
    assert_eq!(timing.begin_reading(), Some(start + Duration::from_secs(1)));
    timing.record_notice(start + Duration::from_secs(2));
    assert_eq!(timing.next_read(), start + Duration::from_secs(2) + QUIET_PERIOD);
}

#[test]
fn a_folder_that_cannot_be_watched_is_polled() {
    let bell = ChangeNotifier { rung: Notify::new(), places: Mutex::default(), exhausted: AtomicBool::new(false) };
    bell.handle_event(Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
    let watched = WatchedPlaces { bell: Arc::new(bell), ..WatchedPlaces::new() };
    assert!(watched.needs_polling());
}

#[test]
fn a_watch_that_goes_on_from_a_reading_tells_only_what_is_new_since() {
    let root = tempfile::tempdir().unwrap();
    let settings = rare_rescan_settings(root.path());
    let (one, two, three) = (issue_pair("one.example"), issue_pair("two.example"), issue_pair("three.example"));
    write_pair(&root.path().join("api/one"), &one);
    let first = read_folder(&settings);
    // Between the reading and the watch.
    write_pair(&root.path().join("api/two"), &two);
    with_watch_from(settings, Some(first), async |mut watch: WatchHarness| {
        watch.until("api", &[&one, &two]).await;
        write_pair(&root.path().join("api/three"), &three);
        watch.until("api", &[&one, &two, &three]).await;
    });
}

#[test]
fn an_order_is_answered_after_the_contents_that_it_waited_for() {
    let (_folder, root) = temporary_folder();
    let (old, new) = (issue_pair("old.example"), issue_pair("new.example"));
    write_pair(&root.join("api"), &old);
    with_watch(rare_rescan_settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        // A certificate whose key is missing is waited for, until it is refused; a complete pair until it is quiet.
        fs::write(root.join("lonely.crt"), &issue_pair("lonely.example").chain_pem).unwrap();
        write_pair(&root.join("api/next"), &new);
        for is_changed in [true, false] {
            let (receipt, complete) = oneshot::channel();
            harness.orders.send(receipt).await.unwrap();
            let mut last = None;
            loop {
                match harness.next_delivery().await {
                    FolderDelivery::Contents(contents) => last = Some(contents),
                    FolderDelivery::Receipt(receipt) => {
                        receipt.send(()).unwrap();
                        break;
                    }
                }
            }
            complete.await.unwrap();
            assert_eq!(last.is_some(), is_changed, "the same contents are not reported again");
            if let Some(contents) = last {
                assert_eq!(contents.keyrings["api"].pairs.len(), 2);
                let problems = &contents.keyrings[super::super::DEFAULT_KEYRING].problems;
                assert!(problems.iter().any(|problem| problem.severity == ProblemSeverity::Refused), "{problems:?}");
            }
        }
    });
}
