use std::collections::BTreeSet;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::fixture::{issue, put, settings};
use super::*;
use crate::pki::Severity;
use crate::pki::issue::Issued;

/// A folder under watch.
struct Harness {
    contents: mpsc::Receiver<Contents>,
    settings: watch::Sender<Settings>,
}

impl Harness {
    async fn next(&mut self) -> Contents {
        let next = tokio::time::timeout(Duration::from_secs(20), self.contents.recv());
        next.await.expect("contents within 20 s").expect("the watch runs on")
    }

    /// The first contents in which this keyring holds exactly these pairs; every reading in between is fine.
    async fn until(&mut self, keyring: &str, pairs: &[&Issued]) -> Contents {
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
    async fn is_quiet_until(&mut self, mark: &Path) -> Contents {
        put(mark, &issue("mark.example"));
        self.next().await
    }
}

/// The body of the end entity's PEM: enough to tell pairs apart.
fn first_line(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).take(6).collect()
}

/// Runs a watch on the control plane's kind of runtime beside a test.
fn watching<F: Future<Output = ()>>(settings: Settings, test: impl FnOnce(Harness) -> F) {
    watching_from(settings, None, test);
}

/// The same, going on from a reading.
fn watching_from<F: Future<Output = ()>>(settings: Settings, first: Option<Reading>, test: impl FnOnce(Harness) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (settings, current) = watch::channel(settings);
        let (out, contents) = mpsc::channel(1);
        tokio::select! {
            () = run(current, first, out) => panic!("the watch ended"),
            () = test(Harness { contents, settings }) => {}
        }
    });
}

/// A temporary folder and its `certs`, by its real path.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap().join("certs");
    fs::create_dir(&root).unwrap();
    (folder, root)
}

#[test]
fn the_first_contents_come_at_once_and_a_drop_acts_after_quiet() {
    let (_folder, root) = folder();
    let (old, new) = (issue("old.example"), issue("new.example"));
    put(&root.join("api"), &old);
    watching(settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        fs::write(root.join("api/.new"), format!("{}{}", new.chain_pem, *new.key_pem)).unwrap();
        fs::rename(root.join("api/.new"), root.join("api/new.pem")).unwrap();
        harness.until("api", &[&old, &new]).await;
    });
}

#[test]
fn a_symlink_flip_is_one_change_each_time() {
    let (_folder, root) = folder();
    let api = root.join("api");
    let flip = |version: &str, pair: &Issued| {
        put(&api.join(version), pair);
        symlink(version, api.join("..data_tmp")).unwrap();
        fs::rename(api.join("..data_tmp"), api.join("..data")).unwrap();
    };
    let pairs = [issue("a.example"), issue("b.example"), issue("c.example")];
    flip("..v0", &pairs[0]);
    symlink("..data/tls.crt", api.join("tls.crt")).unwrap();
    symlink("..data/tls.key", api.join("tls.key")).unwrap();
    watching(settings(&root), async |mut harness| {
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
    let (_folder, root) = folder();
    let (old, new) = (issue("old.example"), issue("new.example"));
    put(&root.join("api"), &old);
    watching(settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        put(&root.join("api"), &new);
        harness.until("api", &[&new]).await;
    });
}

#[test]
fn links_to_an_archive_outside_are_followed_when_the_archive_changes() {
    let (folder, root) = folder();
    let archive = folder.path().join("archive");
    let (old, new) = (issue("old.example"), issue("new.example"));
    put(&archive, &old);
    fs::create_dir(root.join("live")).unwrap();
    symlink("../../archive/tls.crt", root.join("live/cert.pem")).unwrap();
    symlink(archive.join("tls.key"), root.join("live/key.pem")).unwrap();
    watching(settings(&root), async |mut harness| {
        harness.until("live", &[&old]).await;
        put(&archive, &new);
        harness.until("live", &[&new]).await;
    });
}

#[test]
fn a_linked_folder_outside_is_watched_too() {
    let (folder, root) = folder();
    let outside = folder.path().join("outside");
    let (old, new) = (issue("old.example"), issue("new.example"));
    put(&outside, &old);
    symlink(&outside, root.join("api")).unwrap();
    watching(settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        put(&outside.join("new/below"), &new);
        harness.until("api", &[&old, &new]).await;
    });
}

#[test]
fn a_folder_deleted_and_made_again_is_seen_again() {
    let (_folder, root) = folder();
    let pairs = [issue("a.example"), issue("b.example"), issue("c.example")];
    put(&root.join("api"), &pairs[0]);
    watching(settings(&root), async |mut harness| {
        harness.until("api", &[&pairs[0]]).await;
        fs::remove_dir_all(root.join("api")).unwrap();
        harness.until("api", &[]).await;
        put(&root.join("api"), &pairs[1]);
        harness.until("api", &[&pairs[1]]).await;
        put(&root.join("api"), &pairs[2]);
        harness.until("api", &[&pairs[2]]).await;
    });
}

#[test]
fn the_whole_root_may_be_replaced_and_missing_removes_nothing() {
    let (folder, root) = folder();
    let (old, new) = (issue("old.example"), issue("new.example"));
    put(&root.join("api"), &old);
    watching(settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        fs::rename(&root, folder.path().join("former")).unwrap();
        let missing = harness.next().await;
        assert_eq!(missing.problems[0].reason, "folder_missing");
        assert_eq!(missing.keyrings["api"].pairs.len(), 1);
        put(&root.join("api"), &new);
        let back = harness.until("api", &[&new]).await;
        assert_eq!(back.problems, []);
        let newest = issue("newest.example");
        put(&root.join("api"), &newest);
        harness.until("api", &[&newest]).await;
    });
}

#[test]
fn a_root_missing_at_the_start_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("not/yet/certs");
    let pair = issue("a.example");
    watching(settings(&root), async |mut harness| {
        assert!(harness.next().await.keyrings.is_empty());
        put(&root.join("api"), &pair);
        harness.until("api", &[&pair]).await;
    });
}

#[test]
fn fifos_and_link_loops_never_block() {
    let (_folder, root) = folder();
    let pair = issue("a.example");
    put(&root.join("api"), &pair);
    let fifo = root.join("api/tls.pem");
    rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink(".", root.join("api/again")).unwrap();
    watching(settings(&root), async |mut harness| {
        let contents = harness.until("api", &[&pair]).await;
        assert!(contents.keyrings["api"].problems.iter().any(|problem| problem.reason == "not_a_file"));
        assert_eq!(contents.problems[0].reason, "link_loop");
    });
}

#[test]
fn a_lost_notification_is_found_by_the_rescan() {
    let (folder, root) = folder();
    // Behind a bind mount or on a network there are no events; an inode that is reached by a hard link has none either.
    let (old, new) = (issue("old.example"), issue("new.example"));
    put(&root.join("api"), &old);
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for file in ["tls.crt", "tls.key"] {
        fs::hard_link(root.join("api").join(file), elsewhere.join(file)).unwrap();
    }
    let settings = Settings { rescan: Duration::from_millis(300), ..settings(&root) };
    watching(settings, async |mut harness| {
        harness.until("api", &[&old]).await;
        put(&elsewhere, &new);
        harness.until("api", &[&new]).await;
    });
}

#[test]
fn a_half_written_pair_is_not_yet_and_acts_once_it_is_whole() {
    let (_folder, root) = folder();
    let (old, new) = (issue("old.example"), issue("new.example"));
    put(&root.join("api"), &old);
    let patient = Settings { settle: Duration::from_secs(3600), ..settings(&root) };
    watching(patient, async |mut harness| {
        harness.until("api", &[&old]).await;
        fs::write(root.join("api/new.crt"), &new.chain_pem).unwrap();
        let contents = harness.is_quiet_until(&root.join("web")).await;
        assert_eq!((contents.keyrings["api"].pairs.len(), contents.keyrings["web"].pairs.len()), (1, 1));
        assert!(contents.keyrings["api"].problems.iter().all(|problem| problem.severity < Severity::Incomplete));
        fs::write(root.join("api/new.key"), new.key_pem.as_bytes()).unwrap();
        let contents = harness.next().await;
        assert_eq!(contents.keyrings["api"].pairs.len(), 2);
    });
}

#[test]
fn a_mismatch_is_refused_once_it_has_settled() {
    let (_folder, root) = folder();
    let (old, other) = (issue("old.example"), issue("other.example"));
    put(&root.join("api"), &old);
    watching(settings(&root), async |mut harness| {
        harness.until("api", &[&old]).await;
        let started = Instant::now();
        fs::write(root.join("api/tls.crt"), &other.chain_pem).unwrap();
        let contents = harness.next().await;
        assert!(started.elapsed() >= Duration::from_millis(600));
        assert!(contents.keyrings["api"].problems.iter().any(|problem| problem.severity == Severity::Refused));
    });
}

#[test]
fn the_same_content_again_changes_nothing() {
    let (_folder, root) = folder();
    let pair = issue("a.example");
    put(&root.join("api"), &pair);
    watching(settings(&root), async |mut harness| {
        let first = harness.until("api", &[&pair]).await;
        put(&root.join("api"), &pair);
        fs::write(root.join("api/README"), "words").unwrap();
        harness.settings.send_modify(|_| {});
        let next = harness.is_quiet_until(&root.join("web")).await;
        assert_ne!(next.digest, first.digest);
        assert!(next.keyrings.contains_key("web"));
    });
}

#[test]
fn other_settings_cause_a_reading() {
    let (_folder, root) = folder();
    let pair = issue("a.example");
    put(&root.join("api"), &pair);
    watching(settings(&root), async |mut harness| {
        harness.until("api", &[&pair]).await;
        harness.settings.send_modify(|settings| settings.strict_permissions = true);
        let contents = harness.until("api", &[]).await;
        assert!(contents.keyrings["api"].problems.iter().any(|problem| problem.reason == "permissions"));
    });
}

#[test]
fn reading_is_not_held_up_by_notifications_that_never_pause() {
    let start = Instant::now();
    let mut timing = Timing::new(start + Duration::from_secs(3600));
    for step in 1..=20 {
        timing.notice(start + step * Duration::from_millis(50));
    }
    assert_eq!(timing.due(), start + Duration::from_millis(50) + IMPATIENCE);
    assert_eq!(timing.begin(), Some(start + Duration::from_secs(1)));
    timing.notice(start + Duration::from_secs(2));
    assert_eq!(timing.due(), start + Duration::from_secs(2) + QUIET);
}

#[test]
fn a_folder_that_cannot_be_watched_is_polled() {
    let bell = Bell { rung: Notify::new(), places: Mutex::default(), exhausted: AtomicBool::new(false) };
    bell.hear(Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
    let watched = Watched { bell: Arc::new(bell), ..Watched::new() };
    assert!(watched.is_deaf());
}

#[test]
fn a_watch_that_goes_on_from_a_reading_tells_only_what_is_new_since() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(root.path());
    let (one, two, three) = (issue("one.example"), issue("two.example"), issue("three.example"));
    put(&root.path().join("api/one"), &one);
    let first = read(&settings);
    // Between the reading and the watch.
    put(&root.path().join("api/two"), &two);
    watching_from(settings, Some(first), async |mut watch: Harness| {
        watch.until("api", &[&one, &two]).await;
        put(&root.path().join("api/three"), &three);
        watch.until("api", &[&one, &two, &three]).await;
    });
}
