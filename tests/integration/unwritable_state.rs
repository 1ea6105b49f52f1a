//! A `state` that cannot be used: the sidecar serves all the same, says that nothing is remembered, and never waits for a file.
//!
//! Must hold for a folder that cannot be made, for a file system that is mounted read-only, and for files that are FIFOs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{CWD, FileType, mknodat};

use crate::command::{Running, free_port, output, run_in, sidekey, text};
use crate::support::PATIENCE;
use crate::support::ca::Ca;
use crate::support::sidecar::{drop_pair, folder, put};

/// A folder from which a sidecar can serve.
fn prepared() -> tempfile::TempDir {
    let (ca, folder) = (Ca::new("Test CA"), folder());
    drop_pair(folder.path(), "tls", &ca.server(3));
    put(folder.path(), "ca.crt", ca.pem());
    folder
}

fn run(at: &Path, state: &str, control: &str) -> Command {
    let mut command = run_in(at, free_port(), free_port());
    command.args(["--state", state, "--control", control]);
    command
}

/// Waits until it answers commands; before that a signal ends it at once.
fn wait_for_answers(at: &Path) {
    let deadline = Instant::now() + PATIENCE;
    let ask = || output(sidekey().current_dir(at).args(["status", "--control", "control.sock"]));
    while text(&ask().stderr).contains("no sidekey answers") {
        assert!(Instant::now() < deadline, "it never answers");
    }
}

/// It serves, raises its alert, and `status` lists it; a stop is obeyed.
fn assert_serves_and_says_so(mut running: Running, at: &Path, file: &str) {
    let found = running.lines(&[
        &["state not saved; it would be lost on restart", file],
        &["\"target\":\"alert\"", "not_remembered", "nothing is remembered"],
    ]);
    assert_eq!(found.len(), 2);
    let status = output(sidekey().current_dir(at).args(["status", "--control", "control.sock"]));
    assert_eq!(status.status.code(), Some(1), "{}", text(&status.stderr));
    let said = text(&status.stdout);
    assert!(said.contains("cannot save decisions") && said.contains(file), "{said}");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.code(), Some(0), "a stop is not obeyed");
}

#[test]
fn a_state_that_cannot_be_made_costs_the_memory_and_not_the_service() {
    let folder = prepared();
    // Below a file no user, not even root, can make a folder.
    std::fs::write(folder.path().join("occupied"), "a file").expect("written");
    let running = Running::start(&mut run(folder.path(), "occupied/state", "control.sock"));
    assert_serves_and_says_so(running, folder.path(), "occupied/state");
}

#[test]
fn a_state_on_a_read_only_file_system_is_read_and_costs_the_memory_only() {
    let folder = prepared();
    // A first run leaves decisions.
    let mut first = Running::start(&mut run(folder.path(), "state", "control.sock"));
    first.line(&["snapshot published"]);
    wait_for_answers(folder.path());
    first.signal(rustix::process::Signal::TERM);
    assert_eq!(first.code(), Some(0));
    let before = std::fs::read(folder.path().join("state/decisions.json")).expect("decisions");
    let probe =
        Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine gives no mount namespace to a user");
        return;
    }
    let inner = run(folder.path(), "state", "control.sock");
    let mut command = Command::new("unshare");
    command.args([
        "-rm",
        "sh",
        "-c",
        "mount --bind state state && mount -o remount,bind,ro state && exec \"$0\" \"$@\"",
    ]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(folder.path());
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR")).env_remove("RUNTIME_DIRECTORY");
    let running = Running::start(&mut command);
    assert_serves_and_says_so(running, folder.path(), "state");
    assert_eq!(std::fs::read(folder.path().join("state/decisions.json")).expect("decisions"), before);
}

#[test]
fn files_of_the_state_that_are_fifos_neither_hang_the_start_nor_the_stop() {
    for name in ["lock", "decisions.json", "registry.db", "registry.db-wal"] {
        let folder = prepared();
        std::fs::create_dir(folder.path().join("state")).expect("a folder");
        mknodat(CWD, folder.path().join("state").join(name), FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        let mut running = Running::start(&mut run(folder.path(), "state", "control.sock"));
        running.lines(&[&["snapshot published"], &[name, "not a regular file"]]);
        wait_for_answers(folder.path());
        running.signal(rustix::process::Signal::TERM);
        assert_eq!(running.code(), Some(0), "{name}: a stop is not obeyed");
    }
}
