//! The modes of everything that a sidecar and its commands write, with the mask that takes nothing away: folders 0700, files and
//! sockets 0600, whatever the mask of its user is.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use crate::command::{Running, free_port, output, sidekey, sidekey_after, text};
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::{drop_pair, folder, put};

/// Everything below these, and they themselves.
fn written(places: &[PathBuf]) -> Vec<PathBuf> {
    let mut left = places.to_vec();
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("listed").map(|entry| entry.expect("an entry").path()));
        }
        found.push(path);
    }
    found
}

#[test]
fn everything_that_a_sidecar_writes_is_its_user_s_alone() {
    let (folder, ca) = (folder(), Ca::new("Test CA"));
    let old = ca.server(5);
    drop_pair(folder.path(), "old", &old);
    put(folder.path(), "ca.crt", ca.pem());
    let probes = format!("127.0.0.1:{}", free_port());
    let toml = format!(
        "certs = \"certs\"\nstate = \"made/state\"\nregistry = \"other/registry.db\"\n[admin]\nlisten = \"unix:admin.sock\"\nprobes = \"{probes}\"\n\
         [log]\nformat = \"json\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{}\"\nkeyrings = [\"default\"]\n\
         backend = \"http://127.0.0.1:9\"\n[[egress]]\nname = \"out\"\nlisten = \"unix:out.sock\"\n\
         upstream = \"https://localhost:9\"\nkeyring = \"default\"\n",
        free_port()
    );
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let unmasked = || {
        let mut command = sidekey_after("umask 0");
        command.current_dir(folder.path());
        command
    };
    let running = Running::start(unmasked().arg("run"));
    let ready = output(sidekey().args(["wait", "--probes", &probes]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    // A rotation, after which the old pair is in no file of the folder: it is kept in the state.
    let new = ca.server(1);
    for ending in ["crt", "key"] {
        std::fs::remove_file(folder.path().join(format!("certs/old.{ending}"))).expect("removed");
    }
    drop_pair(folder.path(), "new", &new);
    running.line(&["\"to\":\"current\"", &fingerprint(&new).short().to_string()]);
    for arguments in [
        &["keyring", "new", "another", "--dns", "another.example"][..],
        &["keyring", "csr", "waiting", "--dns", "waiting.example"],
        &["keyring", "export", "default", "--with-private-key", "--out", "exported.pem"],
        &["reload"],
    ] {
        let done = output(unmasked().args(arguments));
        assert!(done.status.success(), "{arguments:?}: {}", text(&done.stderr));
    }
    let places = ["made", "other", "admin.sock", "out.sock", "certs/another", "certs/waiting", "exported.pem"];
    let found = written(&places.map(|place| folder.path().join(place)));
    for expected in ["decisions.json", "retained", "registry.db", "control.sock", "lock"] {
        assert!(found.iter().any(|path| path.ends_with(expected)), "{expected} is not among {found:?}");
    }
    assert!(found.iter().any(|path| path.ancestors().any(|above| above.ends_with("retained")) && path.is_file()));
    for path in found {
        let metadata = std::fs::symlink_metadata(&path).expect("there");
        let mode = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert!(metadata.is_dir() || metadata.is_file() || metadata.file_type().is_socket());
        assert_eq!(format!("{:o}", metadata.mode() & 0o7777), format!("{mode:o}"), "{}", path.display());
    }
}
