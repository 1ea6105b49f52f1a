//! What no thread of a process may do any more: gain rights from a program that it runs (no_new_privs, prctl(2)). Landlock sets it
//! too; here it is off.

use std::process::{Child, Stdio};
use std::time::Instant;

use super::{Process, Scene};
use crate::command::{Running, output, sidekey, text};
use crate::support::PATIENCE;

/// The name of each thread, and whether it may gain privileges.
fn threads(child: &Child) -> Vec<(String, bool)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("listed");
    let status = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let of = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {status}")).trim().to_owned()
    };
    status.map(|status| (of(&status, "Name:"), of(&status, "NoNewPrivs:") != "1")).collect()
}

#[track_caller]
fn assert_closed(child: &Child, names: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = threads(child);
        let open: Vec<&String> = all.iter().filter(|(_, may)| *may).map(|(name, _)| name).collect();
        assert!(open.is_empty(), "threads that may gain privileges: {open:?}");
        if names.iter().all(|name| all.iter().any(|(thread, _)| thread == name)) {
            return;
        }
        assert!(Instant::now() < deadline, "{names:?} are not among {all:?}");
        std::thread::yield_now();
    }
}

#[test]
fn no_thread_of_a_sidecar_or_of_a_command_gains_privileges() {
    let scene = Scene::new();
    let path = scene.path().join("sidekey.toml");
    let toml = std::fs::read_to_string(&path).expect("read");
    for landlock in ["auto", "off"] {
        std::fs::write(&path, format!("landlock = \"{landlock}\"\n{toml}")).expect("written");
        let running = Running::start(sidekey().current_dir(scene.path()).args(["run", "--config", "sidekey.toml"]));
        let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{}", scene.ports[3])]));
        assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
        // The allocator's thread is there, which the first allocation starts, before the program does anything.
        assert_closed(&running.child, &["sidekey", "worker-0", "control", "log", "jemalloc_bg_thd"]);
    }

    // A command that waits for a partner that says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = silent.local_addr().expect("an address").to_string();
    let mut probe = sidekey();
    probe.current_dir(scene.path()).args(["probe", &to, "--keyring", "client"]).stdin(Stdio::null());
    let probing = Process(probe.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
    let connected = silent.accept().expect("it connects");
    assert_closed(&probing.0, &["sidekey"]);
    drop(connected);
}
