//! What a process does with its rights at start: no thread may gain more from a program that it runs (no_new_privs, prctl(2); Landlock
//! sets it too, here it is off), as many descriptors are open to it as may be, a process of root says that it needs none of that, and
//! the threads beside the workers give up their share of the processor.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::Instant;

use super::{Process, Scene};
use crate::command::{Running, output, sidekey, sidekey_after, text};
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

/// A thread's nice value: field 19 of its `stat`, of which the name may contain anything (proc_pid_stat(5)).
fn nice_values(child: &Child, is_meant: impl Fn(&str) -> bool) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("listed");
    let all = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let meant = all.filter_map(|line| {
        let (name, fields) = line.rsplit_once(") ")?;
        is_meant(name.split_once('(')?.1).then(|| fields.split(' ').nth(16)?.parse().ok()).flatten()
    });
    meant.collect()
}

#[test]
fn traffic_goes_before_the_page_and_what_is_written_to_the_registry() {
    let scene = Scene::new();
    let running = Running::start(sidekey().current_dir(scene.path()).args(["run", "--config", "sidekey.toml"]));
    let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{}", scene.ports[3])]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    let [usual] = nice_values(&running.child, |name| name == "worker-0")[..] else { panic!("not one such worker") };
    for name in ["control", "admin", "sqlx-sqlite"] {
        // A thread has its name before it gives up its share.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let values = nice_values(&running.child, |thread| thread.starts_with(name));
            if !values.is_empty() && values.iter().all(|nice| *nice > usual) {
                break;
            }
            assert!(Instant::now() < deadline, "{name}: {values:?}, the worker {usual}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn sidecar_opens_as_many_descriptors_as_its_hard_limit_allows() {
    let scene = Scene::new();
    let mut command = sidekey_after("ulimit -Sn 64");
    let running = Running::start(command.current_dir(scene.path()).args(["run", "--config", "sidekey.toml"]));
    let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{}", scene.ports[3])]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.child.id())).expect("read");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let [soft, hard] = [0, 1].map(|at| line.split_whitespace().nth(at).expect("a number"));
    assert!(soft == hard && soft != "64", "{line}");
}

#[test]
fn sidecar_warns_where_it_runs_as_root_and_there_alone() {
    let scene = Scene::new();
    let is_root = rustix::process::geteuid().is_root();
    let said = |other: Option<u32>| {
        let log = scene.path().join("log");
        let file = File::create(&log).expect("a file");
        let mut command = sidekey();
        command.current_dir("/").arg("run").arg("--config").arg(scene.path().join("sidekey.toml")).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a file")).stderr(file);
        if let Some(user) = other {
            command.uid(user).gid(user);
        }
        let _running = Process(command.spawn().ok()?);
        let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{}", scene.ports[3])]));
        assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
        Some(std::fs::read_to_string(&log).expect("read"))
    };
    let own = said(None).expect("it starts");
    assert_eq!(own.contains("this process runs as root"), is_root, "{own}");
    if !is_root {
        return;
    }
    let given = std::process::Command::new("chown").args(["-R", "65534:65534"]).arg(scene.path()).status();
    assert!(given.expect("it runs").success());
    match said(Some(65534)) {
        Some(other) => assert!(!other.contains("runs as root"), "{other}"),
        None => eprintln!("PARTLY TESTED: another user may not run the executable where it lies"),
    }
}
