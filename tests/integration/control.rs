//! The commands over the control socket, through the real executable.
//!
//! Must hold: each does what it says and says what it means; what a command decided survives a kill with `state`, and no
//! rescan undoes it; who may not ask is told so; a socket that a killed sidecar left is replaced and a living one is not;
//! nothing that is written to the socket ends or holds up the sidecar.

mod key_pairs;
mod report;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use sidekey::pki::issue::IssuedKeyPair;

use crate::command::{Running, free_port, output, run_in, sidekey, text};
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::{drop_pair, folder, put};

/// A sidecar of its own, zero configuration, and how to ask it.
struct Stand {
    folder: tempfile::TempDir,
    ca: Ca,
    port: u16,
    probes: u16,
    running: Running,
}

impl Stand {
    /// Serves `pair` as its keyring `default`, with `state`.
    fn new(pair: impl FnOnce(&Ca) -> IssuedKeyPair) -> Self {
        let (folder, ca) = (folder(), Ca::new("Test CA"));
        put(folder.path(), "ca.crt", ca.pem());
        drop_pair(folder.path(), "tls", &pair(&ca));
        let (port, probes) = (free_port(), free_port());
        let running = Running::start(run_in(folder.path(), port, probes).args(["--state", "state"]));
        let stand = Self { folder, ca, port, probes, running };
        stand.wait();
        stand
    }

    fn wait(&self) {
        let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{}", self.probes)]));
        assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    }

    /// Kills it as a power cut would, and starts it again.
    fn kill_and_start(&mut self) {
        self.kill();
        self.start();
    }

    fn kill(&mut self) {
        self.running.signal(rustix::process::Signal::KILL);
        self.running.code();
    }

    fn start(&mut self) {
        self.running = Running::start(run_in(self.folder.path(), self.port, self.probes).args(["--state", "state"]));
        self.wait();
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        ask_in(self.folder.path(), arguments)
    }

    /// What a command prints, where it succeeds.
    fn said(&self, arguments: &[&str]) -> String {
        let done = self.ask(arguments);
        assert_eq!(done.status.code(), Some(0), "{arguments:?}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stdout)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        serde_json::from_str(&self.said(&arguments)).expect("JSON")
    }

    /// Where a pair of the keyring `default` stands.
    fn standing(&self, pair: &IssuedKeyPair) -> String {
        let keyring = self.json(&["keyring", "show", "default"]);
        let name = fingerprint(pair).to_string();
        let pairs = keyring["key_pairs"].as_array().expect("pairs");
        let found = pairs.iter().find(|pair| pair["key_pair"] == name.as_str());
        found.map_or_else(|| "unknown".to_owned(), |pair| pair["standing"].as_str().expect("a word").to_owned())
    }

    /// Drops a pair over the one that is there, and waits until it is current.
    fn rotate(&self, pair: &IssuedKeyPair) {
        drop_pair(self.folder.path(), "tls", pair);
        self.running.line(&["rotation", &fingerprint(pair).short(), "newer_arrived"]);
    }

    fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

fn ask_in(folder: &Path, arguments: &[&str]) -> Output {
    output(sidekey().current_dir(folder).args(arguments))
}

fn short(pair: &IssuedKeyPair) -> String {
    fingerprint(pair).short()
}

#[test]
fn stop_drains_and_ends_with_0_and_removes_the_socket() {
    let (folder, ca) = (folder(), Ca::new("Test CA"));
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(5));
    let toml = format!(
        "certs = \"certs\"\nstate = \"state\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{}\"\nkeyrings = [\"default\"]\n\
         backend = \"http://127.0.0.1:9\"\n[admin]\ncontrol = \"own.sock\"\nprobes = \"127.0.0.1:{}\"\n[shutdown]\ndelay = \"0s\"\negress_linger = \"0s\"\n[log]\nformat = \"json\"\n",
        free_port(),
        free_port()
    );
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let mut running = Running::start(sidekey().current_dir(folder.path()).arg("run"));
    let ready = output(sidekey().current_dir(folder.path()).arg("wait"));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    // The command finds the socket where the configuration says.
    let stop = ask_in(folder.path(), &["stop"]);
    assert_eq!(stop.status.code(), Some(0), "{}", text(&stop.stderr));
    assert!(text(&stop.stdout).contains("stopping"), "{}", text(&stop.stdout));
    assert_eq!(running.code(), Some(0));
    let gone = ask_in(folder.path(), &["status"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("no sidekey answers at"), "{}", text(&gone.stderr));
    assert!(!folder.path().join("own.sock").exists(), "the socket goes with its sidecar");
}

#[test]
fn reload_reports_its_outcome() {
    let (folder, ca) = (folder(), Ca::new("Test CA"));
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(5));
    let (port, probes, file) = (free_port(), free_port(), folder.path().join("sidekey.toml"));
    let toml = |more: &str| {
        format!(
            "certs = \"certs\"\nstate = \"state\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{port}\"\nkeyrings = [\"default\"]\n\
             backend = \"http://127.0.0.1:9\"\n[admin]\nprobes = \"127.0.0.1:{probes}\"\n[log]\nformat = \"json\"\n{more}"
        )
    };
    std::fs::write(&file, toml("")).expect("written");
    let _running = Running::start(sidekey().current_dir(folder.path()).arg("run"));
    let ready = output(sidekey().current_dir(folder.path()).arg("wait"));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    let fine = ask_in(folder.path(), &["reload"]);
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine.stderr));

    std::fs::write(&file, toml("[shutdown]\ndelay = \"1s\"\n")).expect("written");
    let restart = ask_in(folder.path(), &["reload"]);
    assert!(text(&restart.stdout).contains("shutdown.delay"), "{}", text(&restart.stdout));

    // A file that is wrong is found by the command as well; a command that names the socket gets it from the sidecar.
    std::fs::write(&file, toml("[keyring.default]\noverlp = \"1d\"\n")).expect("written");
    let wrong = ask_in(folder.path(), &["reload", "--control", "state/control.sock"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("overlap"), "{}", text(&wrong.stderr));
    let status = ask_in(folder.path(), &["status", "--control", "state/control.sock", "--json"]);
    assert_eq!(status.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["act_on"][0]["code"], "settings_refused", "{status}");
    assert_eq!(ask_in(folder.path(), &["status"]).status.code(), Some(2), "its own reading of the file fails first");
}

#[test]
fn a_living_socket_is_not_stolen_and_a_dead_one_is_replaced() {
    let mut stand = Stand::new(|ca| ca.server(5));
    let socket = stand.folder.path().join("state/control.sock");
    let control = socket.display().to_string();
    let other = folder();
    let second = Running::start(run_in(other.path(), free_port(), free_port()).args(["--control", control.as_str()]));
    second.line(&["cannot create the control socket", "in use by another process"]);
    assert_eq!(stand.json(&["status", "--control", &control])["pid"], Value::from(stand.running.child.id()));
    stand.kill();
    assert!(socket.exists(), "a killed sidecar leaves its socket");
    // Named, as without a name the next usual place is asked, where another test's sidecar may be.
    let dead = stand.ask(&["status", "--control", &control]);
    assert!(text(&dead.stderr).contains("is it running"), "{}", text(&dead.stderr));
    stand.start();
    assert_eq!(stand.json(&["status"])["pid"], Value::from(stand.running.child.id()));
}

#[test]
fn a_user_without_access_gets_a_refusal() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let stand = Stand::new(|ca| ca.server(5));
    let socket = stand.folder.path().join("state/control.sock");
    // The folder admits no other user, and the socket neither.
    let ask = |control: &Path| {
        let mut command = sidekey();
        command.current_dir("/").args(["status", "--control"]).arg(control).uid(65534).gid(65534);
        command.stdin(std::process::Stdio::null()).output()
    };
    let outside = match ask(&socket) {
        Ok(done) => done,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("SKIPPED: the other user may not run the executable where it lies");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(outside.status.code(), Some(1));
    assert!(text(&outside.stderr).contains("permission denied for"), "{}", text(&outside.stderr));
    // Even one that got past the file's permissions is asked who it is.
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    for (path, mode) in [(stand.folder.path(), 0o755), (&stand.folder.path().join("state"), 0o755), (&socket, 0o666)] {
        std::fs::set_permissions(path, open(mode)).expect("opened");
    }
    let inside = ask(&socket).expect("it ran");
    assert_eq!(inside.status.code(), Some(1));
    assert!(text(&inside.stderr).contains("only the user that sidekey runs as"), "{}", text(&inside.stderr));
}

#[test]
fn nothing_that_is_written_to_the_socket_holds_up_the_sidecar() {
    let stand = Stand::new(|ca| ca.server(5));
    let socket = stand.folder.path().join("state/control.sock");
    let long = vec![b'{'; 100_000];
    let lines: [&[u8]; 5] =
        [b"\n", b"hello\n", b"{\"ask\":\"status\",\"more\":1}\n", b"{\"ask\":\"nothing\"}\n", &long];
    for line in lines {
        let mut stream = UnixStream::connect(&socket).expect("connected");
        let _ = stream.write_all(line);
        let mut answer = String::new();
        // What was not read is reset, the answer is there all the same or the connection is just closed.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("not_understood"), "{answer}");
    }
    // Silent ones keep no command out.
    let silent: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(&socket).expect("connected")).collect();
    assert_eq!(stand.ask(&["keyring", "list"]).status.code(), Some(0));
    drop(silent);
}

#[test]
fn followers_keep_other_commands_in() {
    let stand = Stand::new(|ca| ca.server(5));
    let socket = stand.folder.path().join("state/control.sock");
    let follow = || {
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.write_all(b"{\"ask\":\"handshakes\",\"follow\":true}\n").expect("asked");
        stream
    };
    // One of them is refused, so the others have their places.
    let mut followers: Vec<UnixStream> = (0..17).map(|_| follow()).collect();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    let refused = loop {
        let ended = followers.iter_mut().find_map(|stream| {
            stream.set_read_timeout(Some(std::time::Duration::from_millis(20))).expect("set");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok().map(|_| answer)
        });
        assert!(std::time::Instant::now() < deadline, "none is refused");
        if let Some(answer) = ended {
            break answer;
        }
    };
    assert!(refused.contains("16 commands that list handshakes already run"), "{refused}");
    for command in [&["status"][..], &["keyring", "list"], &["stop"]] {
        assert_eq!(stand.ask(command).status.code(), Some(0), "{command:?}");
    }
}

#[test]
fn status_is_0_where_there_is_nothing_to_act_on() {
    let stand = Stand::new(|ca| ca.server(5));
    let fine = stand.said(&["status"]);
    assert!(fine.contains("is ready") && fine.contains("Nothing needs attention."), "{fine}");
    // A certificate without its key is refused once the folder is quiet, and that is something to act on.
    put(stand.folder.path(), "lonely.crt", &stand.ca.server(1).chain_pem);
    stand.running.line(&["refused", "lonely.crt"]);
    let status = stand.ask(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status.stdout).contains("lonely.crt"), "{}", text(&status.stdout));
}

#[test]
fn reload_is_answered_when_settings_and_folder_are_in_use_and_says_the_epoch() {
    let stand = Stand::new(|ca| ca.server(20));
    let before = stand.json(&["status"])["epoch"].as_u64().expect("an epoch");
    let new = stand.ca.server(5);
    put(stand.folder.path(), "lonely.crt", &stand.ca.server(1).chain_pem);
    drop_pair(stand.folder.path(), "tls", &new);
    let reloaded = stand.json(&["reload"]);
    assert_eq!(stand.standing(&new), "current", "{reloaded}");
    assert_eq!(reloaded["changed"], Value::from(true), "{reloaded}");
    let epoch = reloaded["epoch"].as_u64().expect("an epoch");
    assert!(before < epoch, "{reloaded}");
    let said = |field: &str, part: &str| {
        let all = reloaded[field].as_array().expect("sentences");
        assert!(all.iter().any(|one| one.as_str().is_some_and(|one| one.contains(part))), "{field}: {reloaded}");
    };
    said("loaded", &format!("{} of keyring default is current", short(&new)));
    said("refused", "lonely.crt");
    // The same again changes nothing, and every other answer names the same epoch.
    let again = stand.json(&["reload"]);
    assert_eq!((&again["changed"], &again["epoch"]), (&Value::from(false), &Value::from(epoch)), "{again}");
    for command in [&["keyring", "list"][..], &["keyring", "show", "default"], &["rotation"]] {
        assert_eq!(stand.json(command)["epoch"], Value::from(epoch), "{command:?}");
    }
    let missing = stand.ask(&["rotation", "forget", "203.0.113.7", "--json"]);
    let missing: Value = serde_json::from_slice(&missing.stdout).expect("JSON");
    assert_eq!(missing["refused"]["epoch"], Value::from(epoch), "{missing}");
    let rolled = stand.said(&["keyring", "rollback", "default"]);
    assert!(rolled.contains(&format!("(epoch {})", epoch + 1)), "{rolled}");
}
