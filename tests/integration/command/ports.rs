//! Processes that a test starts, and ports for them.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::sidekey;

/// A port that another process may listen on: below those that the kernel gives to sockets bound to 0, so that no other test
/// gets it meanwhile.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let turn =
            std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(7));
        let port = 10_000 + u16::try_from(turn % 22_000).expect("small");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn run_in(folder: &Path, port: u16, probes: u16) -> Command {
    let mut command = sidekey();
    command.current_dir(folder).args(["run", "--backend", "http://127.0.0.1:9", "--log-format", "json"]);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--probes", &format!("127.0.0.1:{probes}")]);
    command
}

/// The executable in the place of a shell that has made this setting: a mask, a limit.
pub fn sidekey_after(setting: &str) -> Command {
    let program = sidekey();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setting}; exec \"$0\" \"$@\"")]).arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}
