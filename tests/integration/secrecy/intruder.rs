//! An attacker who runs code of his own in the executable, on any of its threads: `intruder.c`, compiled here and preloaded. The
//! product has no door for it.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::command::{Running, free_port, output, sidekey, text};
use crate::support::PATIENCE;
use crate::support::ca::Ca;
use crate::support::sidecar::{drop_pair, folder, put};

/// What the kernel answers where Landlock says no: EACCES.
const DENIED: &str = "passwd=13 secret=13 own=0 change_own=13 backend=0 other=13 listen=13 run=13";

/// Tells the intruder to try everything on every thread, until each one that is there has; their names.
fn try_on_every_thread(running: &Running, report: &Path) -> BTreeSet<String> {
    let deadline = Instant::now() + PATIENCE;
    let said = || std::fs::read_to_string(report).expect("read");
    loop {
        let before = said().len();
        running.signal(rustix::process::Signal::USR1);
        while said().len() == before {
            assert!(Instant::now() < deadline, "the intruder is not there");
            std::thread::yield_now();
        }
        let said = said();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(" name=")).collect();
        for line in &lines {
            assert!(line.contains(DENIED), "more is open, or less, than its configuration names: {line}");
        }
        let tried: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", running.child.id())).expect("listed");
        let mut left = tasks.filter_map(Result::ok).filter(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            // It blocks every signal; `privileges` shows that it is a child of a confined thread.
            name.trim() != "jemalloc_bg_thd" && !tried.contains(&*task.file_name().to_string_lossy())
        });
        if left.next().is_none() {
            return lines
                .iter()
                .filter_map(|line| line.split_once(" name="))
                .map(|(_, name)| name.to_owned())
                .collect();
        }
        assert!(Instant::now() < deadline, "a thread takes no signal");
    }
}

#[test]
fn intruder_in_the_process_reads_and_reaches_nothing_but_what_its_configuration_names() {
    let (folder, outside, ca) = (folder(), folder(), Ca::new("Test CA"));
    let at = |name: &str| folder.path().join(name);
    drop_pair(&at("srv"), "tls", &ca.server(5));
    put(&at("srv"), "ca.crt", ca.pem());
    std::fs::write(outside.path().join("secret"), "another program's").expect("written");
    let library = outside.path().join("intruder.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/secrecy/intruder.c");
    let built = output(Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]));
    assert!(built.status.success(), "{}", text(&built.stderr));
    let [backend, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bound"));
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port().to_string();
    let probes = format!("127.0.0.1:{}", free_port());

    let mut command = sidekey();
    command.current_dir(folder.path()).args(["run", "--certs", "srv/certs", "--state", "state", "--probes", &probes]);
    command.args(["--listen", &format!("127.0.0.1:{}", free_port()), "--log-format", "json"]);
    command.args(["--backend", &format!("http://127.0.0.1:{}", port(&backend))]);
    let report = outside.path().join("report");
    command.env("LD_PRELOAD", &library).env("INTRUDER_REPORT", &report);
    command.env("INTRUDER_OWN", at("srv/certs/tls.key")).env("INTRUDER_SECRET", outside.path().join("secret"));
    command.env("INTRUDER_BACKEND", port(&backend)).env("INTRUDER_OTHER", port(&other));
    let mut running = Running::start(&mut command);
    let said = running.line(&["Landlock"]);
    if !said.contains("Landlock confines the process to the files and ports") {
        eprintln!("skipped: {said}");
        return;
    }
    let ready = output(sidekey().args(["wait", "--probes", &probes]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    let threads = try_on_every_thread(&running, &report);
    for name in ["sidekey", "worker-0", "control", "log"] {
        assert!(threads.contains(name), "{name} is not among {threads:?}");
    }
    // None of it has harmed the process.
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.code(), Some(0));
}
