//! Sockets that systemd holds (socket activation), as it passes them: descriptors from 3 on, their number and names in the
//! environment. The test holds the sockets in systemd's place.
//!
//! Must hold: a listener uses the socket that bears its name, or its address; connections that come before there is a key
//! pair, and between two processes, wait and are served; a socket that no listener is meant for is named.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{Running, free_port, output, sidekey, text};
use crate::support::backend::Backend;
use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::sidecar::{drop_pair, folder, put};

/// A sidecar that is started with these two sockets. A shell moves them to where systemd has them; the program is the same
/// process, so its number is right.
fn activate(folder: &Path, names: &str, [first, second]: [OwnedFd; 2]) -> Running {
    let plain = sidekey();
    let mut command = Command::new("sh");
    command.current_dir(folder).envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let script = "exec 3<&0 4<&2 0</dev/null 2>/dev/null; export LISTEN_PID=$$; exec \"$0\" run";
    command.args(["-c", script]).arg(plain.get_program());
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names).env_remove("RUNTIME_DIRECTORY");
    Running::start_with(command.stdin(Stdio::from(first)).stderr(Stdio::from(second)))
}

fn configuration(backend: SocketAddr, listen: u16, probes: u16) -> String {
    format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{listen}\"\nkeyrings = [\"default\"]\ntrust = \"own\"\n\
         backend = \"http://{backend}\"\n\
         [[egress]]\nname = \"out\"\nlisten = \"unix:elsewhere.sock\"\nupstream = \"https://localhost:1\"\nkeyring = \"default\"\n\
         trust = \"own\"\n[trust.own]\nanchors = [\"ca.crt\"]\n\
         [admin]\nprobes = \"127.0.0.1:{probes}\"\ncontrol = \"control.sock\"\n[log]\nformat = \"json\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_used_by_address_and_by_name_and_no_connection_is_refused_between_two_processes() {
    let (backend, ca, folder) = (Backend::echo().await, Ca::new("Test CA"), folder());
    put(folder.path(), "ca.crt", ca.pem());
    let held = TcpListener::bind("127.0.0.1:0").expect("bound");
    let path = folder.path().join("held.sock");
    let named = UnixListener::bind(&path).expect("bound");
    let (address, probes) = (held.local_addr().expect("bound"), free_port());
    let toml = configuration(backend.address, address.port(), probes);
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let sockets = || [held.try_clone().expect("cloned").into(), named.try_clone().expect("cloned").into()];

    let mut first = activate(folder.path(), "sidekey.socket:out", sockets());
    first.lines(&[&["uses systemd's socket", "ingress-api"], &["uses systemd's socket", "egress-out", "held.sock"]]);
    let peer = Peer::new(&[ca.pem()], Some(&ca.client("etl", 5)));
    let early = tokio::spawn({
        let peer = peer.clone();
        async move { peer.get(address, "/early").await }
    });
    // The key pair comes while that connection waits.
    drop_pair(folder.path(), "tls", &ca.server(1));
    assert_eq!(early.await.expect("joined").expect("it waited").status, 200);
    std::os::unix::net::UnixStream::connect(&path).expect("the egress' socket");
    assert!(!folder.path().join("elsewhere.sock").exists(), "the egress has a socket beside the one that it was given");
    first.signal(rustix::process::Signal::TERM);
    assert_eq!(tokio::task::spawn_blocking(move || first.code()).await.expect("joined"), Some(0));
    assert!(path.exists(), "systemd's socket file was removed");

    let between = tokio::spawn(async move { peer.get(address, "/between").await });
    let second = activate(folder.path(), "api:out", sockets());
    assert_eq!(between.await.expect("joined").expect("it waited").status, 200);
    drop(second);
}

#[test]
fn socket_that_no_listener_is_meant_for_is_named_and_a_datagram_socket_too() {
    let (ca, folder) = (Ca::new("Test CA"), folder());
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(1));
    let stray = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = stray.local_addr().expect("bound").port();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let toml = configuration(([127, 0, 0, 1], 9).into(), free_port(), free_port());
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let running = activate(folder.path(), "stray:datagrams", [stray.into(), datagrams.into()]);
    running.lines(&[
        &["no listener is meant for", &format!("stray (127.0.0.1:{port})")],
        &["descriptor 4 (datagrams) is not a listening stream socket"],
    ]);
    let ready = output(sidekey().current_dir(folder.path()).arg("wait"));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
}
