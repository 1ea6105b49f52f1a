//! `sidekey check` looks at the state as `sidekey run` does, and only looks: what others could change, and files that are none.
//!
//! Must hold: `check` exits with 2 where `run` would refuse or could remember nothing, and writes nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use rustix::fs::{CWD, FileType, mknodat};

use crate::command::{output, sidekey, text};
use crate::support::ca::Ca;
use crate::support::sidecar::{drop_pair, folder, put};

/// A usable folder with an empty state of mode 0700.
fn prepared() -> tempfile::TempDir {
    let (ca, folder) = (Ca::new("Test CA"), folder());
    drop_pair(folder.path(), "tls", &ca.server(3));
    set_mode(&folder.path().join("certs/tls.key"), 0o600);
    put(folder.path(), "ca.crt", ca.pem());
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("made");
    set_mode(&state, 0o700);
    folder
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode set");
}

fn check(at: &Path, settings: &str) -> Output {
    let config = "certs = \"certs\"\nstate = \"state\"\n".to_owned()
        + settings
        + "\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nbackend = \"http://127.0.0.1:9\"\n";
    std::fs::write(at.join("sidekey.toml"), config).expect("written");
    output(sidekey().current_dir(at).args(["check", "--config", "sidekey.toml"]))
}

fn assert_found(checked: &Output, words: &[&str]) {
    let said = text(&checked.stdout);
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}{}", text(&checked.stderr));
}

#[test]
fn check_refuses_the_state_that_a_strict_run_refuses() {
    let folder = prepared();
    let state = folder.path().join("state");
    let strict = "strict_permissions = true";
    let good = check(folder.path(), strict);
    assert_eq!(good.status.code(), Some(0), "{}{}", text(&good.stdout), text(&good.stderr));
    assert_eq!(std::fs::read_dir(&state).expect("state").count(), 0, "check wrote into the state");
    set_mode(&state, 0o777);
    let open = check(folder.path(), strict);
    assert_found(&open, &["state", "every user can write"]);
    assert_eq!(open.status.code(), Some(2));
    let lenient = check(folder.path(), "");
    assert_found(&lenient, &["every user can write"]);
    assert_eq!(lenient.status.code(), Some(0), "without strict_permissions it is a warning");
    set_mode(&state, 0o700);
    std::os::unix::fs::symlink(folder.path(), state.join("retained")).expect("linked");
    let linked = check(folder.path(), strict);
    assert_found(&linked, &["state/retained", "is a link"]);
    assert_eq!(linked.status.code(), Some(2));
}

#[test]
fn check_names_each_file_of_the_state_that_is_a_fifo_or_unreadable() {
    for file in ["registry.db", "lock", "decisions.json"] {
        let folder = prepared();
        let path = folder.path().join("state").join(file);
        mknodat(CWD, &path, FileType::Fifo, 0o600.into(), 0).expect("FIFO");
        let checked = check(folder.path(), "");
        assert_found(&checked, &[file, "not a regular file"]);
        assert_eq!(checked.status.code(), Some(2), "{file}");
    }
    let folder = prepared();
    std::fs::write(folder.path().join("state/decisions.json"), "{").expect("written");
    let checked = check(folder.path(), "");
    assert_found(&checked, &["decisions.json", "cannot be read"]);
    assert_eq!(checked.status.code(), Some(2));
}
