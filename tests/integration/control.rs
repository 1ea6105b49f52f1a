//! The commands over the control socket, through the real executable.
//!
//! Must hold: each does what it says and says what it means; what a command decided survives a kill with `state`, and no
//! rescan undoes it; who may not ask is told so; a socket that a killed sidecar left is replaced and a living one is not;
//! nothing that is written to the socket ends or holds up the sidecar.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;

use crate::command::{Running, free_port, output, run_in, sidekey, text};
use crate::support::ca::{Ca, fingerprint};
use crate::support::peer::Peer;
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
fn promote_rollback_and_retire_survive_a_kill_and_every_rescan() {
    let mut old = None;
    let mut stand = Stand::new(|ca| old.insert(ca.server(20)).clone_pair());
    let old = old.expect("made");
    let new = stand.ca.server(5);
    stand.rotate(&new);

    let said = stand.said(&["keyring", "rollback", "default"]);
    assert!(said.contains(&format!("rolled keyring default back to {}", short(&old))), "{said}");
    assert!(said.contains("is held back until it is promoted"), "{said}");
    for _ in 0..2 {
        assert_eq!((stand.standing(&old).as_str(), stand.standing(&new).as_str()), ("current", "previous"));
        // A rescan of the same folder, and a restart, find the newer pair and leave it where the command put it.
        stand.said(&["reload"]);
        assert_eq!(stand.standing(&new), "previous");
        stand.kill_and_start();
    }
    // There is one that waits: it need not be named. By a beginning of its name it works as well.
    let said = stand.said(&["keyring", "promote", "default"]);
    assert!(said.contains(&format!("promoted {}", short(&new))), "{said}");
    let again = stand.json(&["keyring", "promote", "default", &fingerprint(&new).hex()[..8]]);
    assert_eq!(again["changed"], Value::from(false), "{again}");

    let said = stand.said(&["keyring", "retire", "default"]);
    assert!(said.contains(&format!("retired {}", short(&old))) && said.contains("drained"), "{said}");
    stand.kill_and_start();
    assert_eq!(stand.standing(&old), "retired");
    // Within a week it comes back, also after the restart: its files are long gone.
    stand.said(&["keyring", "rollback", "default"]);
    assert_eq!(stand.standing(&old), "current");
}

#[test]
fn a_revoked_pair_never_comes_back() {
    let mut old = None;
    let mut stand = Stand::new(|ca| old.insert(ca.server(20)).clone_pair());
    let old = old.expect("made");
    let new = stand.ca.server(5);
    stand.rotate(&new);
    let retained = stand.folder.path().join(format!("state/retained/default/{}.pem", fingerprint(&old).hex()));
    assert!(retained.exists(), "what is in use is retained");
    let done = stand.json(&["keyring", "revoke", "default", &short(&old)]);
    assert_eq!((&done["changed"], &done["survives_restart"]), (&Value::from(true), &Value::from(true)), "{done}");
    assert!(!retained.exists(), "its key is deleted");
    stand.running.line(&["keyring", "revoked", &short(&old), "\"by\":\"uid "]);
    let shown = stand.said(&["keyring", "show", "default"]);
    assert!(shown.contains("revoked   ") && !shown.contains("overlap      ends"), "an overlap that is over: {shown}");
    for _ in 0..2 {
        drop_pair(stand.folder.path(), "again", &old);
        stand.running.line(&["keyring", "revoked", "again.crt", &short(&old)]);
        assert_eq!(stand.standing(&old), "refused");
        let status = stand.ask(&["status"]);
        assert_eq!(status.status.code(), Some(1));
        assert!(text(&status.stdout).contains("again.crt"), "{}", text(&status.stdout));
        for ending in ["crt", "key"] {
            std::fs::remove_file(stand.folder.path().join(format!("certs/again.{ending}"))).expect("removed");
        }
        stand.kill_and_start();
    }
    let show = stand.json(&["keyring", "show", "default"]);
    assert_eq!(show["revoked"][0], Value::from(fingerprint(&old).to_string()), "{show}");
    // The last pair may go too: that is said, since nothing is left to show.
    let said = stand.said(&["keyring", "revoke", "default", &short(&new)]);
    assert!(said.contains("nothing left to show"), "{said}");
}

#[test]
fn without_state_a_revocation_wants_to_be_told_that_it_does_not_last() {
    let (folder, ca) = (folder(), Ca::new("Test CA"));
    let pair = ca.server(5);
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &pair);
    let control = folder.path().join("control.sock").display().to_string();
    let probes = free_port();
    let mut running = Running::start(run_in(folder.path(), free_port(), probes).args(["--control", control.as_str()]));
    let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{probes}")]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    let revoke = |more: &[&str]| {
        let first = ["keyring", "revoke", "default", &short(&pair), "--control", control.as_str()];
        ask_in(folder.path(), &[&first, more].concat())
    };
    let refused = revoke(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--until-restart"), "{}", text(&refused.stderr));
    let json: Value = serde_json::from_slice(&revoke(&["--json"]).stdout).expect("JSON");
    assert_eq!(json["refused"]["reason"], "until_restart");
    let done = revoke(&["--until-restart"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("until sidekey restarts"), "{}", text(&done.stdout));

    let stop = ask_in(folder.path(), &["stop", "--control", control.as_str()]);
    assert_eq!(stop.status.code(), Some(0), "{}", text(&stop.stderr));
    let again = ask_in(folder.path(), &["stop", "--control", control.as_str()]);
    assert!(text(&again.stderr).contains("stopping already"), "{}", text(&again.stderr));
    running.signal(rustix::process::Signal::TERM);
    running.code();
}

#[test]
fn stop_drains_and_ends_with_0_and_then_nobody_answers() {
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
fn reload_says_what_came_of_it() {
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

    // A file that is wrong is found by the command as well; whoever names the socket hears it from the sidecar.
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

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_listed_followed_and_shown_with_the_peers_certificates() {
    let stand = tokio::task::block_in_place(|| Stand::new(|ca| ca.server(5)));
    let client = stand.ca.client("etl", 5);
    let mut follow = sidekey();
    let follow = follow.current_dir(stand.folder.path()).args(["handshakes", "--follow", "--json", "--failed"]);
    let mut follow = follow.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut followed = BufReader::new(follow.stdout.take().expect("piped")).lines();

    // An answer: in TLS 1.3 a client is done with the handshake before the other side is.
    let good = Peer::new(&[stand.ca.pem()], Some(&client)).fresh().get(stand.address(), "/").await;
    assert_eq!(good.expect("an answer").status, 502);
    // Until the follower hears: the handshakes before it began are among what it tells first.
    let stranger = Ca::new("Stranger");
    let refused = Peer::new(&[stand.ca.pem()], Some(&stranger.client("eve", 5))).tls(stand.address()).await;
    if let Ok(mut refused) = refused {
        let mut byte = [0];
        let _ = tokio::io::AsyncReadExt::read(&mut refused, &mut byte).await;
    }
    let line = tokio::task::block_in_place(|| followed.next().expect("a line").expect("read"));
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["outcome"], "refused", "{line}");
    follow.kill().expect("killed");
    follow.wait().expect("ended");

    tokio::task::block_in_place(|| {
        let all = stand.said(&["handshakes"]);
        assert_eq!(all.lines().count(), 2, "{all}");
        let failed = stand.said(&["handshakes", "--failed"]);
        assert!(failed.lines().count() == 1 && failed.contains("CN=eve.example"), "{failed}");
        let etl = stand.said(&["handshakes", "--peer", "SPIFFE://etl", "--since", "1h", "--side", "ingress"]);
        assert!(etl.lines().count() == 1 && etl.contains("accepted"), "{etl}");
        assert_eq!(stand.said(&["handshakes", "--listener", "other"]), "");
        assert_eq!(stand.said(&["handshakes", "--side", "egress"]), "");
        assert_eq!(stand.ask(&["handshakes", "--since", "yesterday"]).status.code(), Some(2));

        let id = line["connection"].to_string();
        let shown = stand.said(&["handshakes", "show", &id]);
        let pem = &shown[shown.find("-----BEGIN CERTIFICATE-----").expect("a certificate")..];
        let bytes = zeroize::Zeroizing::new(pem.as_bytes().to_vec());
        let sent = sidekey::pki::blocks::read(&bytes, None);
        assert_eq!(sent.certificates[0].subject(), "CN=eve.example");
        let good = stand.json(&["handshakes", "show", &all_ids(&etl)[0]]);
        assert_eq!(good["peer.identity"], "uri:spiffe://etl.example/app", "{good}");
        assert_eq!(good["chain_pem"].as_array().map(Vec::len), Some(1));
        assert_eq!(stand.ask(&["handshakes", "show", "999999"]).status.code(), Some(1));
    });
}

/// The connections' numbers in lines of text.
fn all_ids(lines: &str) -> Vec<String> {
    let id = |line: &str| Some(line.split("connection=").nth(1)?.split(' ').next()?.to_owned());
    lines.lines().filter_map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_who_has_proved_the_new_pair_and_who_was_not_seen() {
    let stand = tokio::task::block_in_place(|| Stand::new(|ca| ca.server(20)));
    let (etl, seldom) = (stand.ca.client("etl", 5), stand.ca.client("seldom", 5));
    let connect = async |client: &IssuedKeyPair| {
        let answer = Peer::new(&[stand.ca.pem()], Some(client)).fresh().get(stand.address(), "/").await;
        // The backend is not there; the peer is.
        assert_eq!(answer.expect("an answer").status, 502);
    };
    connect(&etl).await;
    connect(&seldom).await;
    let new = stand.ca.server(5);
    tokio::task::block_in_place(|| {
        assert!(stand.said(&["rotation"]).contains("No keyring is in overlap"));
        stand.rotate(&new);
    });
    connect(&etl).await;
    tokio::task::block_in_place(|| {
        let report = &stand.json(&["rotation"])["keyrings"][0];
        let line = |name: &str| {
            let lines = report["lines"].as_array().expect("lines");
            lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}")).clone()
        };
        assert_eq!(line("uri:spiffe://etl.example/app")["use"], "proved_new", "{report}");
        assert_eq!(line("uri:spiffe://seldom.example/app")["use"], "not_seen", "{report}");
        assert_eq!(report["verdict"]["retire"], "wait", "{report}");
        assert_eq!(report["verdict"]["first"]["name"], "uri:spiffe://seldom.example/app", "{report}");
    });
    connect(&seldom).await;
    tokio::task::block_in_place(|| {
        // Who would break without the one anchor: both, and nobody else. No keyring has to be in overlap to ask.
        let trusts = &stand.json(&["rotation"])["trusts"];
        let voucher = &trusts[0]["vouchers"][0];
        assert_eq!(
            (trusts[0]["trust"].as_str(), voucher["subject"].as_str()),
            (Some("own:default"), Some("CN=Test CA"))
        );
        let both = ["uri:spiffe://etl.example/app", "uri:spiffe://seldom.example/app"];
        assert_eq!(voucher["would_break"], Value::from(both.to_vec()), "{trusts}");
        assert!(voucher["last_matched"].is_string() && voucher["until"].is_null(), "{voucher}");
        let said = stand.said(&["rotation"]);
        assert!(said.contains(&format!("without it would break: {}", both.join(", "))), "{said}");
        let one = stand.said(&["rotation", "--keyring", "default"]);
        assert!(one.starts_with("keyring default") && !one.contains("trust "), "{one}");
        assert!(said.starts_with("keyring default: safe to retire"), "{said}");
        let none = stand.ask(&["rotation", "forget", "203.0.113.7"]);
        assert_eq!(none.status.code(), Some(1));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_insists_on_the_old_pair_is_whom_to_call_until_it_is_forgotten() {
    let mut stand = tokio::task::block_in_place(|| Stand::new(|ca| ca.server(20)));
    let etl = stand.ca.client("etl", 5);
    // It trusts only the CA of the old pair.
    let stubborn = Peer::new(&[stand.ca.pem()], Some(&etl)).fresh();
    stubborn.get(stand.address(), "/").await.expect("an answer");
    let new = Ca::new("The next CA").server(5);
    tokio::task::block_in_place(|| stand.rotate(&new));
    assert!(stubborn.get(stand.address(), "/").await.is_err(), "exactly one handshake fails");
    let unconfirmed = tokio::task::block_in_place(|| stand.json(&["rotation"])["keyrings"][0].clone());
    assert_eq!((&unconfirmed["unconfirmed"], &unconfirmed["verdict"]["retire"]), (&1.into(), &"wait".into()));
    stubborn.get(stand.address(), "/").await.expect("shown the old pair");
    tokio::task::block_in_place(|| {
        let report = &stand.json(&["rotation"])["keyrings"][0];
        let line = &report["lines"][0];
        assert_eq!(report["lines"].as_array().map(Vec::len), Some(1), "one line for it, by its name: {report}");
        assert_eq!(
            (line["name"].as_str(), line["use"].as_str()),
            (Some("uri:spiffe://etl.example/app"), Some("insists_on_old"))
        );
        assert_eq!(
            (line["reason"].as_str(), &report["verdict"]["retire"]),
            (Some("unknown_ca"), &"call".into()),
            "{report}"
        );
        let status = stand.ask(&["status"]);
        assert!(text(&status.stdout).contains("call uri:spiffe://etl.example/app"), "{}", text(&status.stdout));
        // The lesson is remembered, and the registry knows whose it is, before the peer comes again.
        eventually_remembered(stand.folder.path());
        eventually("the registry has it", || {
            let registry = ["--backend", "http://127.0.0.1:1", "--state", "state"];
            let peers = ["registry", "export", "--format", "csv", "--table", "peers"];
            stand.said(&[&peers[..], &registry[..]].concat()).contains(",learned,")
        });
        stand.kill_and_start();
        let recalled = || stand.json(&["rotation"])["keyrings"][0].clone();
        eventually("the registry has answered", || recalled()["before"] == "recalled");
        let report = recalled();
        let line = &report["lines"][0];
        assert_eq!(
            (line["name"].as_str(), line["reason"].as_str(), &report["verdict"]["retire"]),
            (Some("uri:spiffe://etl.example/app"), Some("unknown_ca"), &"call".into()),
            "{report}"
        );
        assert_eq!(report["lines"].as_array().map(Vec::len), Some(1), "{report}");
        let forgotten = stand.json(&["rotation", "forget", "127.0.0.1"]);
        assert_eq!(forgotten["changed"], Value::from(true));
    });
    assert!(stubborn.get(stand.address(), "/").await.is_err(), "it is shown the new pair again");
}

/// Waits until a confirmed lesson is in the decisions.
fn eventually_remembered(folder: &Path) {
    eventually("the lesson is remembered", || {
        std::fs::read_to_string(folder.join("state/decisions.json")).is_ok_and(|text| text.contains("unknown_ca"))
    });
}

/// Asks again and again.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_pair_that_was_overwritten_unseen_is_not_lost_to_a_kill() {
    let mut old = None;
    let mut stand = Stand::new(|ca| old.insert(ca.server(20)).clone_pair());
    let old = old.expect("made");
    let new = stand.ca.server(5);
    // Stopped, it cannot have read what is dropped now; killed, it never will.
    stand.running.signal(rustix::process::Signal::STOP);
    put(stand.folder.path(), "tls.crt", &new.chain_pem);
    put(stand.folder.path(), "tls.key", new.key_pem.as_str());
    stand.kill();
    stand.start();
    assert_eq!((stand.standing(&new).as_str(), stand.standing(&old).as_str()), ("current", "previous"));
}

#[test]
fn a_living_socket_is_not_stolen_and_a_dead_one_is_replaced() {
    let mut stand = Stand::new(|ca| ca.server(5));
    let socket = stand.folder.path().join("state/control.sock");
    let control = socket.display().to_string();
    let other = folder();
    let second = Running::start(run_in(other.path(), free_port(), free_port()).args(["--control", control.as_str()]));
    second.line(&["there is no control socket", "in use by another process"]);
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
fn who_may_not_ask_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let stand = Stand::new(|ca| ca.server(5));
    let socket = stand.folder.path().join("state/control.sock");
    // The folder lets nobody in, and the socket neither.
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
    assert!(text(&outside.stderr).contains("may not be used by this user"), "{}", text(&outside.stderr));
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
    // Silent ones take the places that there are; when they go, the next command is answered.
    let silent: Vec<UnixStream> = (0..64).map(|_| UnixStream::connect(&socket).expect("connected")).collect();
    let full = stand.ask(&["keyring", "list"]);
    assert_ne!(full.status.code(), Some(2), "{}", text(&full.stderr));
    drop(silent);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while stand.ask(&["keyring", "list"]).status.code() != Some(0) {
        assert!(std::time::Instant::now() < deadline, "no command is answered any more");
    }
}

#[test]
fn status_is_0_where_there_is_nothing_to_act_on() {
    let stand = Stand::new(|ca| ca.server(5));
    let fine = stand.said(&["status"]);
    assert!(fine.contains("is ready") && fine.contains("Nothing to act on."), "{fine}");
    // A certificate without its key is refused once the folder is quiet, and that is something to act on.
    put(stand.folder.path(), "lonely.crt", &stand.ca.server(1).chain_pem);
    stand.running.line(&["refused", "lonely.crt"]);
    let status = stand.ask(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status.stdout).contains("lonely.crt"), "{}", text(&status.stdout));
}

/// `Issued` again, since it holds a key that is not cloned by accident.
trait ClonePair {
    fn clone_pair(&self) -> IssuedKeyPair;
}

impl ClonePair for IssuedKeyPair {
    fn clone_pair(&self) -> IssuedKeyPair {
        IssuedKeyPair { chain_pem: self.chain_pem.clone(), key_pem: self.key_pem.clone() }
    }
}

#[test]
fn the_short_form_and_any_longer_beginning_name_a_pair() {
    let stand = Stand::new(|ca| ca.server(5));
    let keyring = stand.json(&["keyring", "show", "default"]);
    let name: Fingerprint = keyring["key_pairs"][0]["key_pair"].as_str().expect("a name").parse().expect("a hash");
    for typed in [&name.hex()[..4], &name.short(), &name.hex(), &name.to_string(), &name.hex().to_uppercase()] {
        let done = stand.json(&["keyring", "promote", "default", typed]);
        assert_eq!((&done["changed"], &done["key_pair"]), (&Value::from(false), &Value::from(name.to_string())));
    }
    for typed in ["abc", "xyz1", "0000000000001"] {
        assert_ne!(stand.ask(&["keyring", "promote", "default", typed]).status.code(), Some(0), "{typed}");
    }
}
