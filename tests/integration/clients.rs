//! Clients and servers that others wrote, through the executable: `tests/clients/clients.py`, with what `tests/all` installs.
//!
//! Must hold: gRPC, HTTP/1.0, 1.1 and 2, WebSockets, events, expectations and large bodies work through a sidecar as without.

use std::process::Command;

#[test]
fn common_clients_work_through_a_sidecar() {
    let Some(python) = std::env::var_os("SIDEKEY_CLIENTS_PYTHON") else {
        println!(
            "skipped: SIDEKEY_CLIENTS_PYTHON names no interpreter; tests/all installs one, and so does tests/clients/run"
        );
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/clients.py");
    let mut command = Command::new(python);
    command.args([script, "--sidekey", env!("CARGO_BIN_EXE_sidekey")]);
    let output = command.output().expect("the interpreter runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let verdict = said.lines().last().expect("a verdict");
    let passed = verdict.split(' ').next().and_then(|count| count.parse::<u32>().ok());
    assert!(passed.is_some_and(|count| count >= 10), "hardly any client ran: {verdict}");
}
