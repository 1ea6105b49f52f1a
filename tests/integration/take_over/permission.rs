//! Who may take over, and what passes: the sidecar's own user and root alone get its listening sockets, and no private key, no
//! connection and no file comes with them.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use rustix::net::sockopt::socket_acceptconn;
use sidekey::net::pass::SocketReceiver;

use super::{TakeOverScene, ended};
use crate::command::text;
use crate::secrecy::{holds, spellings_of};

#[test]
fn member_of_the_control_group_asks_but_does_not_take_over() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "state = \"state\"");
    scene.configure(&scene.toml().replace("[admin]", "[admin]\ncontrol_group = \"65534\""));
    std::fs::set_permissions(scene.folder.path(), Permissions::from_mode(0o755)).expect("opened");
    let first = scene.start();
    let asked = |arguments: &[&str]| {
        let mut command = scene.command(arguments);
        command.uid(65534).gid(65534).stdin(Stdio::null()).output()
    };
    let status = match asked(&["keyring", "list", "--control", "control.sock"]) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("SKIPPED: the other user may not run the executable where it lies");
            return;
        }
        done => done.expect("it ran"),
    };
    assert!(status.status.success(), "a member of the group may ask: {}", text(&status.stderr));
    let refused = asked(&["run", "--take-over"]).expect("it ran");
    let said = text(&refused.stderr) + &text(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("only the user that sidekey runs as, and root, may start a process that takes over"),
        "{said}"
    );
    assert_eq!(scene.readiness(), "HTTP/1.1 200 OK");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn take_over_passes_listening_sockets_and_neither_a_key_nor_a_connection() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "state = \"state\"");
    let first = scene.start();
    // A connection that is open, and must not pass.
    let mut peer = scene.peer("h2").connect(scene.address()).await.expect("connected");
    assert_eq!(peer.get("/").await.expect("answered").status, 502);
    let stream = UnixStream::connect(scene.folder.path().join("control.sock")).expect("connected");
    let mut lines = SocketReceiver::new(stream);
    let (mut said, mut sockets) = (Vec::new(), Vec::new());
    for (step, last) in [
        (r#"{"ask":"take_over"}"#, "offered"),
        (r#"{"ask":"hold"}"#, "held"),
        (r#"{"ask":"commit","is_supervised":false}"#, "released"),
    ] {
        writeln!(lines.stream(), "{step}").expect("sent");
        loop {
            let line = lines.receive_line().expect("read").expect("a line");
            sockets.extend(lines.take_socket());
            let is_last = text(&line).contains(last);
            said.extend(line);
            if is_last {
                break;
            }
        }
    }
    // Ingress, egress, probes, control.
    assert_eq!(sockets.len(), 4, "{}", text(&said));
    for socket in &sockets {
        assert!(socket_acceptconn(socket.as_fd()).expect("a socket"), "something else than a listening socket passes");
    }
    assert!(text(&said).contains("ingress"), "{}", text(&said));
    let key = std::fs::read_to_string(scene.folder.path().join("certs/tls.key")).expect("read");
    assert!(holds(key.as_bytes(), &spellings_of(&key)), "the search finds nothing");
    assert!(!holds(&said, &spellings_of(&key)), "a private key passes");
    drop(peer);
    assert_eq!(ended(first).await, Some(0));
}
