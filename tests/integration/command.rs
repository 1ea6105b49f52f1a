//! The real executable, as a user types it: exit codes, what goes to standard output, what a wrong configuration says.
//!
//! Must hold: exit 0 done, 1 failed, 2 wrong usage, configuration or folder; an error names file, line, column and the
//! nearest key; `run` without a key pair waits and says for what; a second signal leaves at once.

mod head_limit;
mod log_flags;
mod ports;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::ca::Ca;
use crate::support::sidecar::{drop_pair, folder, put};

pub use ports::{free_port, run_in, sidekey_after};

pub fn sidekey() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidekey"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIDEKEY_")) {
        command.env_remove(name);
    }
    // Where one without state makes its control socket: not among those of the machine.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR")).env_remove("RUNTIME_DIRECTORY");
    command
}

pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("it runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running sidecar and its log lines.
pub struct Running {
    pub child: Child,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command.stdin(Stdio::null()).stderr(Stdio::inherit()))
    }

    /// With standard input and error as they are set.
    pub fn start_with(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let out = child.stdout.take().expect("piped");
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that holds all of these.
    pub fn line(&self, parts: &[&str]) -> String {
        self.lines(&[parts]).remove(0)
    }

    /// A line for each of these, in whatever order they come: nothing is said of which of two threads writes first.
    pub fn lines(&self, wanted: &[&[&str]]) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut found: Vec<Option<String>> = vec![None; wanted.len()];
        while let Some(missing) = found.iter().position(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {:?}", wanted[missing]));
            let fits = |parts: &[&str]| parts.iter().all(|part| line.contains(part));
            if let Some((place, _)) = found.iter_mut().zip(wanted).find(|(place, parts)| place.is_none() && fits(parts))
            {
                *place = Some(line);
            }
        }
        found.into_iter().flatten().collect()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    pub fn code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status.code();
            }
            std::thread::yield_now();
        }
        panic!("it did not end");
    }
}

#[test]
fn wrong_usage_and_configuration_exit_with_2_and_name_line_column_and_nearest_key() {
    assert_eq!(output(sidekey().arg("frobnicate")).status.code(), Some(2));
    let folder = folder();
    let none = output(sidekey().current_dir(folder.path()).arg("run"));
    assert_eq!(none.status.code(), Some(2), "{}", text(&none.stderr));
    assert!(text(&none.stderr).contains("--backend"), "{}", text(&none.stderr));
    std::fs::write(
        folder.path().join("sidekey.toml"),
        "certs = \"certs\"\n\n[[ingress]]\nname = \"api\"\nlistn = \"127.0.0.1:0\"\nbackend = \"http://127.0.0.1:1\"\n",
    )
    .expect("written");
    for command in ["run", "check"] {
        let wrong = output(sidekey().current_dir(folder.path()).arg(command));
        assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
        let said = text(&wrong.stderr);
        assert!(said.contains("sidekey.toml:5:1") && said.contains("listen"), "{said}");
        assert!(wrong.stdout.is_empty(), "an error on standard output");
    }
}

#[test]
fn a_file_beside_the_image_s_environment_is_fine_and_beside_typed_flags_is_2() {
    let folder = folder();
    std::fs::write(
        folder.path().join("own.toml"),
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nbackend = \"http://127.0.0.1:1\"\n",
    )
    .expect("written");
    let check = |extra: &[&str]| {
        let mut command = sidekey();
        command.current_dir(folder.path()).env("SIDEKEY_CERTS", "/certs").env("SIDEKEY_PROBES", "[::]:9901");
        output(command.args(["check", "--config-only", "--config", "own.toml"]).args(extra))
    };
    let fine = check(&[]);
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine.stderr));
    assert_eq!(text(&fine.stderr).matches("SIDEKEY_CERTS, SIDEKEY_PROBES").count(), 1, "{}", text(&fine.stderr));
    let missing = output(sidekey().args(["check", "--config", "/nowhere.toml"]));
    assert_eq!(missing.status.code(), Some(2));
    assert_eq!(text(&missing.stderr).matches("No such file").count(), 1, "{}", text(&missing.stderr));
    let both = check(&["--certs", "elsewhere"]);
    assert_eq!(both.status.code(), Some(2), "{}", text(&both.stderr));
    assert!(text(&both.stderr).contains("--certs"), "{}", text(&both.stderr));
    // `wait` asks where the file's sidecar answers, which here is nowhere; what is typed it asks in any case.
    let wait = |extra: &[&str]| {
        let mut command = sidekey();
        command.current_dir(folder.path()).env("SIDEKEY_PROBES", "127.0.0.1:1").env("SIDEKEY_CONFIG", "own.toml");
        output(command.args(["wait", "--timeout", "0"]).args(extra))
    };
    let nowhere = wait(&[]);
    assert_eq!(nowhere.status.code(), Some(2), "{}", text(&nowhere.stderr));
    assert!(text(&nowhere.stderr).contains("neither probes nor listen in [admin]"), "{}", text(&nowhere.stderr));
    let asked = wait(&["--probes", "127.0.0.1:1"]);
    assert_eq!(asked.status.code(), Some(1), "{}", text(&asked.stderr));
}

#[test]
fn every_command_uses_the_control_socket_that_it_was_given_also_beside_a_file() {
    let folder = folder();
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nkeyrings = [\"default\"]\nlisten = \"127.0.0.1:{}\"\n\
         backend = \"http://127.0.0.1:9\"\n[admin]\ncontrol = \"file.sock\"\n[log]\nformat = \"json\"\n[shutdown]\ndelay = \"0s\"\n\
         egress_linger = \"0s\"\n",
        free_port()
    );
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let here = |command: &str| {
        let mut here = sidekey();
        here.current_dir(folder.path()).env("SIDEKEY_CONTROL", "told.sock").arg(command);
        here
    };
    let mut running = Running::start(&mut here("run"));
    let first = running.line(&["starting"]);
    assert!(first.contains("ingress api on 127.0.0.1:") && first.contains("sidekey.toml"), "{first}");
    running.line(&["not ready", "key pair"]);
    // The line may be there a moment before the socket listens.
    let deadline = Instant::now() + PATIENCE;
    let mut reloaded = output(&mut here("reload"));
    while text(&reloaded.stderr).contains("no sidekey answers") && Instant::now() < deadline {
        reloaded = output(&mut here("reload"));
    }
    assert_eq!(reloaded.status.code(), Some(0), "{}", text(&reloaded.stderr));
    assert!(!running.line(&["configuration reloaded"]).contains("admin.control"), "the file's place does not count");
    assert!(!folder.path().join("file.sock").exists());
    let stopped = output(&mut here("stop"));
    assert_eq!(stopped.status.code(), Some(0), "{}", text(&stopped.stderr));
    running.line(&["\"message\":\"stopped\""]);
    assert_eq!(running.code(), Some(0));
}

#[test]
fn a_port_in_use_is_one_clear_line_and_exit_1() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let failed = output(&mut run_in(folder.path(), port, free_port()));
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
    let said = text(&failed.stderr);
    assert!(said.contains(&port.to_string()) && said.trim().lines().count() == 1, "{said}");
}

#[test]
fn run_waits_for_its_first_pair_and_says_so_and_is_then_ready() {
    let folder = folder();
    let (port, probes) = (free_port(), free_port());
    let running = Running::start(&mut run_in(folder.path(), port, probes));
    running.line(&["waiting", "key pair"]);
    let wait = |timeout: &str| {
        output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{probes}"), "--timeout", timeout]))
    };
    // The line may be there a moment before the probes listen.
    let deadline = Instant::now() + PATIENCE;
    let mut early = wait("0");
    while text(&early.stderr).contains("no answer") && Instant::now() < deadline {
        early = wait("0");
    }
    assert_eq!(early.status.code(), Some(1), "{}", text(&early.stderr));
    assert!(text(&early.stderr).contains("not ready"), "{}", text(&early.stderr));
    let ca = Ca::new("Test CA");
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(1));
    let late = wait("20");
    assert_eq!(late.status.code(), Some(0), "{}", text(&late.stderr));
}

#[test]
fn sigterm_drains_and_ends_with_0_and_a_second_signal_leaves_at_once() {
    let ca = Ca::new("Test CA");
    for twice in [false, true] {
        let folder = folder();
        put(folder.path(), "ca.crt", ca.pem());
        drop_pair(folder.path(), "tls", &ca.server(1));
        let delay = if twice { "10m" } else { "0s" };
        let (port, probes) = (free_port(), free_port());
        let toml = format!(
            "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{port}\"\nkeyrings = [\"default\"]\nbackend = \"http://127.0.0.1:9\"\n\
             [admin]\nprobes = \"127.0.0.1:{probes}\"\n[shutdown]\ndelay = \"{delay}\"\negress_linger = \"0s\"\n[log]\nformat = \"json\"\n"
        );
        std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
        let mut running = Running::start(sidekey().current_dir(folder.path()).arg("run"));
        let ready = output(sidekey().current_dir(folder.path()).arg("wait"));
        assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
        running.signal(rustix::process::Signal::TERM);
        running.line(&["stopping"]);
        if twice {
            running.signal(rustix::process::Signal::TERM);
            running.code();
        } else {
            assert_eq!(running.code(), Some(0));
        }
    }
}

#[test]
fn check_says_what_would_be_accepted_and_as_what() {
    let folder = folder();
    let ca = Ca::new("Test CA");
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(9));
    drop_pair(folder.path(), "next", &ca.server(1));
    let check = |extra: &[&str]| {
        output(sidekey().current_dir(folder.path()).args(["check", "--backend", "http://127.0.0.1:9"]).args(extra))
    };
    let good = check(&[]);
    assert_eq!(good.status.code(), Some(0), "{}{}", text(&good.stdout), text(&good.stderr));
    for word in ["current", "previous", "tls.crt", "next.crt", "ready"] {
        assert!(text(&good.stdout).contains(word), "{word}: {}", text(&good.stdout));
    }
    let json: serde_json::Value = serde_json::from_slice(&check(&["--json"]).stdout).expect("JSON");
    assert_eq!(json["keyrings"][0]["key_pairs"].as_array().map(Vec::len), Some(2));
    // A certificate without its key would be refused.
    put(folder.path(), "lonely.crt", &ca.server(0).chain_pem);
    let bad = check(&[]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stdout).contains("lonely.crt"), "{}", text(&bad.stdout));
}

#[test]
fn inspect_explains_what_a_file_is_and_how_to_convert_it() {
    let folder = folder();
    let ca = Ca::new("Test CA");
    let pair = ca.server(1);
    put(folder.path(), "pair.pem", &format!("{}{}", pair.chain_pem, pair.key_pem.as_str()));
    put(folder.path(), "store.jks", "\u{0}");
    std::fs::write(folder.path().join("certs/store.jks"), [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 0])
        .expect("written");
    let good = output(sidekey().current_dir(folder.path()).args(["inspect", "certs/pair.pem"]));
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    for word in ["CN=localhost", "dns:localhost", "valid until", "private key  in this file", "sha256:"] {
        assert!(text(&good.stdout).contains(word), "{word}: {}", text(&good.stdout));
    }
    assert!(!text(&good.stdout).contains("PRIVATE KEY"));
    let bad = output(sidekey().current_dir(folder.path()).args(["inspect", "certs/store.jks"]));
    assert_eq!(bad.status.code(), Some(1));
    // The command can be copied, so it names the file; a name that needs quotes is left to the reader.
    assert!(
        text(&bad.stdout).contains("keytool -importkeystore -srckeystore certs/store.jks "),
        "{}",
        text(&bad.stdout)
    );
    std::fs::rename(folder.path().join("certs/store.jks"), folder.path().join("certs/my store.jks")).expect("renamed");
    let spaced = output(sidekey().current_dir(folder.path()).args(["inspect", "--json", "certs/my store.jks"]));
    assert!(text(&spaced.stdout).contains("keytool -importkeystore -srckeystore FILE "), "{}", text(&spaced.stdout));
    // One that cannot be read does not keep the others from being explained.
    let mixed = output(sidekey().current_dir(folder.path()).args(["inspect", "/nowhere", "certs/pair.pem"]));
    assert_eq!(mixed.status.code(), Some(2));
    assert!(text(&mixed.stdout).contains("CN=localhost"), "{}", text(&mixed.stdout));
    assert!(text(&mixed.stderr).contains("/nowhere"), "{}", text(&mixed.stderr));
}

/// The long flags that a command offers, by its help, and those of its subcommands.
fn offered(command: &[&str], out: &mut Vec<(String, Vec<String>)>) {
    let help = text(&output(sidekey().args(command).arg("--help")).stdout);
    let flag = |line: &str| {
        let line = line.trim_start();
        let long = line
            .strip_prefix("-")
            .and_then(|line| Some(line[line.find("--")?..].to_owned()))
            .or_else(|| line.starts_with("--").then(|| line.to_owned()))?;
        Some(long.split([' ', ',', '=', '[']).next().unwrap_or_default().to_owned())
    };
    out.push((command.join(" "), help.lines().filter_map(flag).collect()));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for name in commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        if !name.is_empty() && name != "help" {
            offered(&[command, &[name]].concat(), out);
        }
    }
}

#[test]
fn a_command_offers_only_flags_that_mean_something_to_it() {
    let mut commands = Vec::new();
    offered(&[], &mut commands);
    assert!(commands.len() > 30, "{commands:?}");
    let may = |command: &str, flag: &str| match flag {
        // `wait` asks the listener that they name.
        "--probes" | "--admin" => ["run", "check", "wait"].contains(&command),
        "--backend" | "--listen" | "--client-ca" | "--log-format" | "--log-level" => {
            ["run", "check"].contains(&command)
        }
        _ => true,
    };
    for (command, flags) in &commands {
        for flag in flags {
            assert!(may(command, flag), "sidekey {command} offers {flag}");
        }
    }
    let flags = |command: &str| &commands.iter().find(|(name, _)| name == command).expect("a command").1;
    assert!(flags("run").contains(&"--backend".to_owned()) && flags("wait").contains(&"--probes".to_owned()));
    assert_eq!(flags("keyring ack"), &["--why", "--by", "--config", "--state", "--json", "--help"].map(str::to_owned));
}

#[test]
fn completions_are_printed_for_a_shell() {
    let bash = output(sidekey().args(["completions", "bash"]));
    assert_eq!(bash.status.code(), Some(0));
    assert!(text(&bash.stdout).contains("sidekey"));
}

#[test]
fn the_demonstration_loses_nothing() {
    let demo = output(sidekey().args(["demo", "--json"]));
    assert_eq!(demo.status.code(), Some(0), "{}{}", text(&demo.stdout), text(&demo.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&demo.stdout).expect("JSON");
    assert_eq!(figures["lost"], 0, "{figures}");
    assert!(figures["new_key_pair"]["served"].as_u64().expect("a count") > 0, "{figures}");
    assert!(figures["old_key_pair"]["served"].as_u64().expect("a count") > 0, "{figures}");
}

#[test]
fn a_kill_at_any_moment_of_a_rotation_leaves_a_pair_that_serves() {
    let folder = folder();
    let ca = Ca::new("Test CA");
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(60));
    for round in 0..8_u64 {
        let (port, probes) = (free_port(), free_port());
        let mut command = run_in(folder.path(), port, probes);
        command.args(["--state", "state"]);
        let running = Running::start(&mut command);
        let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{probes}"), "--timeout", "20"]));
        assert_eq!(ready.status.code(), Some(0), "round {round}: {}", text(&ready.stderr));
        drop_pair(folder.path(), "tls", &ca.server(50 - i64::try_from(round).expect("small")));
        // Each round is killed a little later in the rotation.
        std::thread::park_timeout(Duration::from_millis(60 * round));
        running.signal(rustix::process::Signal::KILL);
    }
    let leftover = std::fs::read_dir(folder.path().join("state")).expect("state").count();
    assert!(leftover > 0);
}
