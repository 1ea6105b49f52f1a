//! Folders that come while a confined sidecar runs: what Kubernetes, certbot and an operator who mounts something do later than
//! its start is read all the same.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use sidekey::pki::issue::IssuedKeyPair;

use crate::command::{Running, free_port, output, sidekey, text};
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::folder;

/// A confined sidecar on `srv/certs` with `state`, in a mount namespace of its own where this user may have one.
struct ConfinedScene {
    folder: tempfile::TempDir,
    ca: Ca,
    running: Running,
    may_mount: bool,
}

impl ConfinedScene {
    /// What its log says instead where the kernel cannot confine all of it.
    fn start(prepare: impl FnOnce(&Path, &Ca)) -> Result<Self, String> {
        let (folder, ca) = (folder(), Ca::new("Test CA"));
        std::fs::create_dir_all(folder.path().join("srv/certs")).expect("made");
        prepare(&folder.path().join("srv/certs"), &ca);
        let probes = format!("127.0.0.1:{}", free_port());
        let toml = format!(
            "certs = \"../srv/certs\"\nstate = \"../state\"\nrescan = \"1s\"\n[admin]\nprobes = \"{probes}\"\n[log]\nformat = \"json\"\n\
             [[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{}\"\nkeyrings = [\"api\"]\nbackend = \"http://127.0.0.1:9\"\n",
            free_port()
        );
        std::fs::create_dir(folder.path().join("config")).expect("made");
        std::fs::write(folder.path().join("config/sidekey.toml"), toml).expect("written");
        let plain = sidekey();
        let unshare = |program: &std::ffi::OsStr| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "--"]).arg(program);
            command
        };
        let may_mount = unshare("true".as_ref()).output().is_ok_and(|done| done.status.success());
        let mut command = if may_mount { unshare(plain.get_program()) } else { sidekey() };
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(folder.path()).args(["run", "--config", "config/sidekey.toml"]);
        let running = Running::start(&mut command);
        let said = running.line(&["Landlock"]);
        if !said.contains("Landlock confines the process to the files and ports") {
            return Err(said);
        }
        let ready = output(sidekey().args(["wait", "--probes", &probes]));
        assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
        Ok(Self { folder, ca, running, may_mount })
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A shell inside the sidecar's mount namespace, in the folder of the scene.
    fn run_inside(&self, script: &str) {
        let process = self.running.child.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &process, "--mount", "--", "sh", "-euc", script]);
        let done = output(command.current_dir(self.folder.path()).arg(self.folder.path()));
        assert!(done.status.success(), "{}", text(&done.stderr));
    }

    /// The pair comes into use as the current one of this keyring.
    #[track_caller]
    fn see_in_use(&self, keyring: &str, pair: &IssuedKeyPair) {
        let keyring = format!("\"keyring\":\"{keyring}\"");
        self.running.line(&[&keyring, &fingerprint(pair).short().to_string(), "\"to\":\"current\""]);
    }
}

fn write_pair(folder: &Path, pair: &IssuedKeyPair, ca: &Ca) {
    std::fs::create_dir_all(folder).expect("made");
    std::fs::write(folder.join("tls.key"), pair.key_pem.as_str()).expect("written");
    std::fs::write(folder.join("tls.crt"), &pair.chain_pem).expect("written");
    std::fs::write(folder.join("ca.crt"), ca.pem()).expect("written");
}

#[test]
fn folders_that_are_flipped_linked_and_mounted_after_the_start_are_read() {
    let flip = |certs: &Path, version: &str, pair: &IssuedKeyPair, ca: &Ca| {
        write_pair(&certs.join("api").join(version), pair, ca);
        symlink(version, certs.join("api/..data_tmp")).expect("linked");
        std::fs::rename(certs.join("api/..data_tmp"), certs.join("api/..data")).expect("flipped");
    };
    let scene = ConfinedScene::start(|certs, ca| {
        flip(certs, "..2026_01", &ca.server(9), ca);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(format!("..data/{name}"), certs.join("api").join(name)).expect("linked");
        }
    });
    let scene = match scene {
        Ok(scene) => scene,
        Err(said) => {
            eprintln!("skipped: {said}");
            return;
        }
    };

    // Kubelet: a new folder, and the link that leads to it.
    let flipped = scene.ca.server(5);
    flip(&scene.at("srv/certs"), "..2026_02", &flipped, &scene.ca);
    std::fs::remove_dir_all(scene.at("srv/certs/api/..2026_01")).expect("removed");
    scene.see_in_use("api", &flipped);

    // Links to folders that were not there at the start: below the watched folder, and beside it as certbot has them.
    let (below, beside) = (scene.ca.server(4), scene.ca.server(4));
    write_pair(&scene.at("srv/certs/.store/2027"), &below, &scene.ca);
    symlink(".store/2027", scene.at("srv/certs/below")).expect("linked");
    scene.see_in_use("below", &below);
    write_pair(&scene.at("srv/archive/2027"), &beside, &scene.ca);
    std::fs::create_dir(scene.at("srv/certs/beside")).expect("made");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("../../archive/2027/{name}"), scene.at("srv/certs/beside").join(name)).expect("linked");
    }
    scene.see_in_use("beside", &beside);

    if !scene.may_mount {
        eprintln!("PARTLY TESTED: this user may not have a mount namespace");
        return;
    }
    // Another file system inside the watched folder, a folder from elsewhere, and one in place of the watched folder itself.
    let [tmpfs, bound, instead] = [3, 3, 2].map(|days| scene.ca.server(days));
    for (name, pair) in [("tmpfs", &tmpfs), ("bound", &bound), ("instead/api", &instead)] {
        write_pair(&scene.at("elsewhere").join(name), pair, &scene.ca);
    }
    for name in ["tmpfs", "bound"] {
        std::fs::create_dir(scene.at("srv/certs").join(name)).expect("made");
    }
    scene.run_inside("cd \"$0\"; mount -t tmpfs none srv/certs/tmpfs; cp elsewhere/tmpfs/* srv/certs/tmpfs");
    scene.see_in_use("tmpfs", &tmpfs);
    scene.run_inside("cd \"$0\"; mount --bind elsewhere/bound srv/certs/bound");
    scene.see_in_use("bound", &bound);
    scene.run_inside("cd \"$0\"; mount -t tmpfs none srv/certs; cp -r elsewhere/instead/. srv/certs");
    scene.see_in_use("api", &instead);
}
