//! What a process that is taken over could still open: the places of its configuration, and nothing else. And what it needs in spite
//! of that.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sidekey::process::landlock::{ConfinementLevel, confine};

use crate::command::{Running, free_port, output, run_in, sidekey, text};
use crate::support::ca::Ca;
use crate::support::sidecar::{drop_pair, folder, put};

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

/// The test's own thread is confined as the process would be: Landlock binds a thread and its children.
#[test]
fn confined_thread_opens_what_its_configuration_names_and_nothing_else() {
    let (folder, outside) = (folder(), folder());
    let at = |name: &str| folder.path().join(name);
    for name in ["inner/certs", "state", "run", "config"] {
        std::fs::create_dir_all(at(name)).expect("made");
    }
    write(&at("inner/certs/tls.crt"), "a certificate");
    write(&outside.path().join("secret"), "another program's");
    let backend = TcpListener::bind("127.0.0.1:0").expect("bound");
    let other = TcpListener::bind("127.0.0.1:0").expect("bound");
    let allowed = free_port();
    let text = format!(
        "certs = \"../inner/certs\"\nstate = \"../state\"\n[[ingress]]\nlisten = \"127.0.0.1:{allowed}\"\nbackend = \"http://{}\"\n",
        backend.local_addr().expect("bound")
    );
    write(&at("config/sidekey.toml"), &text);
    let config = sidekey::config::load(&at("config/sidekey.toml")).expect("a configuration");
    let access = sidekey::config::process_access(&config, &at("run/control.sock"));
    let level = std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            let level = confine(&access).expect("confined");
            if level != ConfinementLevel::Full {
                return level;
            }
            let denied = |result: std::io::Result<()>, what: &str| {
                assert_eq!(result.expect_err(what).kind(), ErrorKind::PermissionDenied, "{what}");
            };
            let read = |path: &Path| std::fs::read(path).map(drop);
            read(&at("inner/certs/tls.crt")).expect("its certificates");
            std::fs::write(at("state/decisions.json"), "{}").expect("its state");
            read(Path::new("/etc/hosts")).expect("the resolver's file");
            denied(read(Path::new("/etc/passwd")), "/etc/passwd");
            denied(read(&outside.path().join("secret")), "another program's secret");
            denied(std::fs::write(at("inner/certs/tls.crt"), "x"), "writing its certificates");
            denied(std::process::Command::new("/bin/true").status().map(drop), "running a program");
            TcpListener::bind(("127.0.0.1", allowed)).expect("its port");
            denied(TcpListener::bind("127.0.0.1:0").map(drop), "another port to listen on");
            TcpStream::connect(backend.local_addr().expect("bound")).expect("its backend");
            denied(TcpStream::connect(other.local_addr().expect("bound")).map(drop), "another server");
            level
        });
        confined.join().expect("as expected")
    });
    if level != ConfinementLevel::Full {
        eprintln!("skipped: this kernel cannot enforce all of Landlock ({level:?})");
    }
}

/// The name of this process' group, if it has one.
fn own_group() -> Option<String> {
    let number = rustix::process::getegid().as_raw().to_string();
    let groups = std::fs::read_to_string("/etc/group").expect("read");
    let line = groups.lines().find(|line| line.split(':').nth(2) == Some(&number))?;
    line.split(':').next().map(str::to_owned)
}

#[test]
fn confined_sidecar_finds_groups_by_their_names_and_keeps_its_state_to_itself() {
    let Some(group) = own_group() else {
        eprintln!("SKIPPED: this process' group has no name");
        return;
    };
    for (landlock, control_group, mode) in
        [("auto", false, 0o700), ("off", false, 0o700), ("auto", true, 0o710), ("off", true, 0o710)]
    {
        let (folder, ca) = (folder(), Ca::new("Test CA"));
        drop_pair(folder.path(), "tls", &ca.server(5));
        put(folder.path(), "ca.crt", ca.pem());
        let admin = if control_group { format!("control_group = \"{group}\"") } else { String::new() };
        let toml = format!(
            "certs = \"certs\"\nstate = \"made/state\"\nlandlock = \"{landlock}\"\n[admin]\nprobes = \"127.0.0.1:{}\"\n{admin}\n\
             [[egress]]\nname = \"out\"\nlisten = \"unix:out.sock\"\ngroup = \"{group}\"\nupstream = \"https://localhost:9\"\n\
             keyring = \"default\"\ntrust = \"own\"\n[trust.own]\nanchors = [\"ca.crt\"]\n",
            free_port()
        );
        std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
        let command = |name: &str| {
            let mut command = sidekey();
            command.current_dir(folder.path()).arg(name);
            command
        };
        let _running = Running::start(&mut command("run"));
        let ready = output(&mut command("wait"));
        assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
        let made = std::fs::metadata(folder.path().join("made/state")).expect("made");
        assert_eq!(made.mode() & 0o777, mode, "landlock {landlock}, control_group {control_group}");
        assert_eq!(made.gid(), rustix::process::getegid().as_raw());
    }
}

#[test]
fn running_sidecar_is_confined_and_names_a_link_that_leads_elsewhere() {
    let (folder, outside, ca) = (folder(), folder(), Ca::new("Test CA"));
    let served = folder.path().join("srv");
    drop_pair(&served, "tls", &ca.server(5));
    put(&served, "ca.crt", ca.pem());
    let mut command = run_in(folder.path(), free_port(), free_port());
    command.args(["--certs", "srv/certs", "--state", "state"]);
    let running = Running::start(&mut command);
    let said = running.line(&["Landlock"]);
    if !said.contains("Landlock confines the process to the files and ports") {
        eprintln!("skipped: {said}");
        return;
    }
    drop_pair(outside.path(), "new", &ca.server(1));
    std::os::unix::fs::symlink(outside.path().join("certs/new.crt"), served.join("certs/new.crt")).expect("linked");
    running.line(&["new.crt", "ermission denied"]);
    // The file that every attacker tries first.
    std::os::unix::fs::symlink("/etc/passwd", served.join("certs/accounts.crt")).expect("linked");
    running.line(&["accounts.crt", "ermission denied"]);
}
