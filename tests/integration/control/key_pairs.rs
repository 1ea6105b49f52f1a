//! Commands that move key pairs: what they decided survives a kill, and a short name is enough.

use serde_json::Value;
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;

use super::{Stand, ask_in, short};
use crate::command::{Running, free_port, output, run_in, sidekey, text};
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::{drop_pair, folder, put};

#[test]
fn promote_rollback_and_retire_survive_a_kill_and_every_rescan() {
    let mut old = None;
    let mut stand = Stand::new(|ca| old.insert(ca.server(20)).clone_pair());
    let old = old.expect("made");
    let new = stand.ca.server(5);
    stand.rotate(&new);

    let said = stand.said(&["keyring", "rollback", "default"]);
    assert!(said.contains(&format!("rolled keyring default back to {}", short(&old))), "{said}");
    assert!(said.contains("is held back until it is promoted"), "{said}");
    for _ in 0..2 {
        assert_eq!((stand.standing(&old).as_str(), stand.standing(&new).as_str()), ("current", "previous"));
        // A rescan of the same folder, and a restart, find the newer pair and leave it where the command put it.
        stand.said(&["reload"]);
        assert_eq!(stand.standing(&new), "previous");
        stand.kill_and_start();
    }
    // There is one that waits: it need not be named. By a beginning of its name it works as well.
    let said = stand.said(&["keyring", "promote", "default"]);
    assert!(said.contains(&format!("promoted {}", short(&new))), "{said}");
    let again = stand.json(&["keyring", "promote", "default", &fingerprint(&new).hex()[..8]]);
    assert_eq!(again["changed"], Value::from(false), "{again}");

    let said = stand.said(&["keyring", "retire", "default"]);
    assert!(said.contains(&format!("retired {}", short(&old))) && said.contains("drained"), "{said}");
    stand.kill_and_start();
    assert_eq!(stand.standing(&old), "retired");
    // Within a week it comes back, also after the restart: its files are long gone.
    stand.said(&["keyring", "rollback", "default"]);
    assert_eq!(stand.standing(&old), "current");
}

#[test]
fn a_revoked_pair_never_comes_back() {
    let mut old = None;
    let mut stand = Stand::new(|ca| old.insert(ca.server(20)).clone_pair());
    let old = old.expect("made");
    let new = stand.ca.server(5);
    stand.rotate(&new);
    let retained = stand.folder.path().join(format!("state/retained/default/{}.pem", fingerprint(&old).hex()));
    assert!(retained.exists(), "what is in use is retained");
    let done = stand.json(&["keyring", "revoke", "default", &short(&old)]);
    assert_eq!((&done["changed"], &done["survives_restart"]), (&Value::from(true), &Value::from(true)), "{done}");
    assert!(!retained.exists(), "its key is deleted");
    stand.running.line(&["keyring", "revoked", &short(&old), "\"by\":\"uid "]);
    let shown = stand.said(&["keyring", "show", "default"]);
    assert!(shown.contains("revoked   ") && !shown.contains("overlap      ends"), "an overlap that is over: {shown}");
    for _ in 0..2 {
        drop_pair(stand.folder.path(), "again", &old);
        stand.running.line(&["keyring", "revoked", "again.crt", &short(&old)]);
        assert_eq!(stand.standing(&old), "refused");
        let status = stand.ask(&["status"]);
        assert_eq!(status.status.code(), Some(1));
        assert!(text(&status.stdout).contains("again.crt"), "{}", text(&status.stdout));
        for ending in ["crt", "key"] {
            std::fs::remove_file(stand.folder.path().join(format!("certs/again.{ending}"))).expect("removed");
        }
        stand.kill_and_start();
    }
    let show = stand.json(&["keyring", "show", "default"]);
    assert_eq!(show["revoked"][0], Value::from(fingerprint(&old).to_string()), "{show}");
    // The last pair may go too: that is said, since nothing is left to show.
    let said = stand.said(&["keyring", "revoke", "default", &short(&new)]);
    assert!(said.contains("no key pair left to show"), "{said}");
}

#[test]
fn a_revocation_without_state_must_name_until_restart() {
    let (folder, ca) = (folder(), Ca::new("Test CA"));
    let pair = ca.server(5);
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &pair);
    let control = folder.path().join("control.sock").display().to_string();
    let probes = free_port();
    let mut running = Running::start(run_in(folder.path(), free_port(), probes).args(["--control", control.as_str()]));
    let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{probes}")]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    let revoke = |more: &[&str]| {
        let first = ["keyring", "revoke", "default", &short(&pair), "--control", control.as_str()];
        ask_in(folder.path(), &[&first, more].concat())
    };
    let refused = revoke(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--until-restart"), "{}", text(&refused.stderr));
    let json: Value = serde_json::from_slice(&revoke(&["--json"]).stdout).expect("JSON");
    assert_eq!(json["refused"]["reason"], "until_restart");
    let done = revoke(&["--until-restart"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("until sidekey restarts"), "{}", text(&done.stdout));

    let stop = ask_in(folder.path(), &["stop", "--control", control.as_str()]);
    assert_eq!(stop.status.code(), Some(0), "{}", text(&stop.stderr));
    let again = ask_in(folder.path(), &["stop", "--control", control.as_str()]);
    assert!(text(&again.stderr).contains("already stopping"), "{}", text(&again.stderr));
    running.signal(rustix::process::Signal::TERM);
    running.code();
}

#[test]
fn a_pair_that_was_overwritten_unseen_is_not_lost_to_a_kill() {
    let mut old = None;
    let mut stand = Stand::new(|ca| old.insert(ca.server(20)).clone_pair());
    let old = old.expect("made");
    let new = stand.ca.server(5);
    // Stopped, it cannot have read what is dropped now; killed, it never will.
    stand.running.signal(rustix::process::Signal::STOP);
    put(stand.folder.path(), "tls.crt", &new.chain_pem);
    put(stand.folder.path(), "tls.key", new.key_pem.as_str());
    stand.kill();
    stand.start();
    assert_eq!((stand.standing(&new).as_str(), stand.standing(&old).as_str()), ("current", "previous"));
}

/// `Issued` again, since it holds a key that is not cloned by accident.
trait ClonePair {
    fn clone_pair(&self) -> IssuedKeyPair;
}

impl ClonePair for IssuedKeyPair {
    fn clone_pair(&self) -> IssuedKeyPair {
        IssuedKeyPair { chain_pem: self.chain_pem.clone(), key_pem: self.key_pem.clone() }
    }
}

#[test]
fn the_short_form_and_any_longer_beginning_name_a_pair() {
    let stand = Stand::new(|ca| ca.server(5));
    let keyring = stand.json(&["keyring", "show", "default"]);
    let name: Fingerprint = keyring["key_pairs"][0]["key_pair"].as_str().expect("a name").parse().expect("a hash");
    for typed in [&name.hex()[..4], &name.short(), &name.hex(), &name.to_string(), &name.hex().to_uppercase()] {
        let done = stand.json(&["keyring", "promote", "default", typed]);
        assert_eq!((&done["changed"], &done["key_pair"]), (&Value::from(false), &Value::from(name.to_string())));
    }
    for typed in ["abc", "xyz1", "0000000000001"] {
        assert_ne!(stand.ask(&["keyring", "promote", "default", typed]).status.code(), Some(0), "{typed}");
    }
}
