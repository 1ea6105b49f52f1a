//! What a process shows when it dies or is looked into: no panic's text and no core holds a private key.

use std::fmt::Debug;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use sidekey::folder::read::read_final;
use sidekey::pki::blocks;
use zeroize::Zeroizing;

use super::{KEYRINGS, Process, Scene, holds, spellings_of};
use crate::command::{output, sidekey, text};

/// What a panic says of this.
fn panicked(value: impl Debug) -> String {
    let panics = |result: Result<(), _>| result.expect("the test's own panic");
    let said = catch_unwind(AssertUnwindSafe(move || panics(Err(value)))).expect_err("it panics");
    said.downcast_ref::<String>().expect("a text").clone()
}

#[test]
fn no_panic_holds_a_private_key() {
    let scene = Scene::new();
    let config = sidekey::config::load(&scene.path().join("sidekey.toml")).expect("a configuration");
    let contents = read_final(&config.folder);
    assert!(KEYRINGS.iter().all(|name| contents.keyrings.contains_key(*name)), "{:?}", contents.keyrings.keys());
    let mut said = vec![panicked(&config), panicked(&contents)];
    for file in scene.files() {
        let bytes = Zeroizing::new(std::fs::read(scene.path().join(file)).expect("read"));
        let blocks = blocks::read(&bytes, None);
        said.push(panicked(&blocks));
        said.extend(blocks.keys.iter().map(panicked));
    }
    for pair in contents.keyrings.values().flat_map(|joined| &joined.pairs) {
        said.push(panicked(pair));
        // What TLS signs with, as deep as the library's own Debug goes.
        said.push(panicked(pair.certified_key()));
    }
    let said = said.join("\n");
    assert!(said.contains("PrivateKey") && said.contains("localhost"), "{said}");
    for key in &scene.keys {
        assert!(!holds(said.as_bytes(), &spellings_of(key)), "{said}");
    }
}

/// No core, and no looking into: what belongs to a process in `/proc` is root's where no other user may look.
fn is_closed(child: &Child) {
    let of = |name: &str| format!("/proc/{}/{name}", child.id());
    let limits = std::fs::read_to_string(of("limits")).expect("read");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["Max", "core", "file", "size", "0", "0", "bytes"]);
    if std::fs::metadata(of("")).expect("there").uid() == 0 {
        // Root may look into everything, and has everything.
        return;
    }
    assert_eq!(std::fs::metadata(of("environ")).expect("there").uid(), 0, "others of its user may look into it");
}

#[test]
fn neither_a_sidecar_nor_a_command_writes_a_core_or_can_be_looked_into() {
    let scene = Scene::new();
    let become_other = rustix::process::geteuid().is_root();
    if become_other {
        // Another user's process: what the kernel gives to root is told from what is its own.
        let mut all = vec![PathBuf::from("."), "certs".into(), "sidekey.toml".into()];
        all.extend(["client", "signer", "broken"].map(|name| Path::new("certs").join(name)));
        all.extend(scene.files());
        for path in all {
            std::os::unix::fs::chown(scene.path().join(path), Some(65534), Some(65534)).expect("given away");
        }
    }
    let start = |arguments: &[&str]| {
        let mut command = sidekey();
        command.current_dir(scene.path()).args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if become_other {
            command.uid(65534).gid(65534);
        }
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && become_other => {
                eprintln!("PARTLY TESTED: another user may not run the executable where it lies");
                command.uid(0).gid(0).spawn()
            }
            started => started,
        }
    };
    let running = Process(start(&["run", "--config", "sidekey.toml"]).expect("it starts"));
    let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{}", scene.ports[3])]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    is_closed(&running.0);

    // One that holds keys and waits for a partner that says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = silent.local_addr().expect("an address").to_string();
    let probing = Process(start(&["probe", &to, "--keyring", "client"]).expect("it starts"));
    let connected = silent.accept().expect("it connects");
    is_closed(&probing.0);
    drop(connected);
}
