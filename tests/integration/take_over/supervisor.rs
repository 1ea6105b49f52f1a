//! The supervisor of the old process, here a socket as systemd has it: which process is the main one, and no word of a stop.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::{TakeOverScene, ended};
use crate::command::Running;
use crate::support::PATIENCE;

/// What `systemd` would read.
pub struct NotifySocket(pub UnixDatagram, pub std::path::PathBuf);

impl NotifySocket {
    pub fn new(folder: &std::path::Path) -> Self {
        let path = folder.join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Self(socket, path)
    }

    /// The next message.
    pub fn message(&self) -> String {
        let mut bytes = [0; 4096];
        let read = self.0.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    /// The messages up to one that holds this.
    pub fn until(&self, part: &str) -> Vec<String> {
        let mut all = vec![self.message()];
        while !all.last().is_some_and(|message| message.contains(part)) {
            all.push(self.message());
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchdog_is_fed_by_the_process_that_serves() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "workers = 2");
    let supervisor = NotifySocket::new(scene.folder.path());
    let mut command = scene.command(&["run"]);
    let first = Running::start(command.env("NOTIFY_SOCKET", &supervisor.1).env("WATCHDOG_USEC", "200000"));
    for _ in 0..3 {
        supervisor.until("WATCHDOG=1");
    }
    let _second = scene.take_over();
    assert_eq!(ended(first).await, Some(0));
    supervisor.until("READY=1");
    for _ in 0..3 {
        supervisor.until("WATCHDOG=1");
    }
}

#[test]
fn supervisor_is_told_what_the_sidecar_waits_for() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "");
    let pair = scene.folder.path().join("certs/tls.key");
    let aside = scene.folder.path().join("tls.key");
    std::fs::rename(&pair, &aside).expect("moved");
    let supervisor = NotifySocket::new(scene.folder.path());
    let mut command = scene.command(&["run"]);
    let _running = Running::start(command.env("NOTIFY_SOCKET", &supervisor.1));
    let waiting = supervisor.until("STATUS=not ready");
    assert!(waiting.iter().all(|message| !message.contains("READY=1")), "{waiting:?}");
    std::fs::rename(&aside, &pair).expect("moved");
    supervisor.until("READY=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn supervisor_learns_the_new_main_process_and_hears_of_no_stop() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "");
    let supervisor = NotifySocket::new(scene.folder.path());
    let mut command = scene.command(&["run"]);
    let first = Running::start(command.env("NOTIFY_SOCKET", &supervisor.1));
    supervisor.until("READY=1");
    // Started by hand: it has no supervisor of its own, and takes that of the old process. A unit with NotifyAccess=all gives
    // the same one to both.
    let second = scene.take_over();
    supervisor.until(&format!("MAINPID={}", second.child.id()));
    supervisor.until("READY=1");
    assert_eq!(ended(first).await, Some(0));
    let mut command = scene.command(&["run", "--take-over"]);
    let third = Running::start(command.env("NOTIFY_SOCKET", &supervisor.1));
    supervisor.until(&format!("MAINPID={}", third.child.id()));
    supervisor.until("READY=1");
    assert_eq!(ended(second).await, Some(0));
    let second = third;
    second.signal(rustix::process::Signal::TERM);
    let said = supervisor.until("STOPPING=1");
    assert!(said.iter().filter(|message| message.contains("STOPPING")).count() == 1, "{said:?}");
    assert_eq!(ended(second).await, Some(0));
    supervisor.0.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
    assert!(supervisor.0.recv(&mut [0; 64]).is_err(), "a stop is told once, by the process that is the main one");
}
