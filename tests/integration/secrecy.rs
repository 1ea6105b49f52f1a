//! Private keys stay where they are: a sidecar and its commands are asked whatever they can be asked.
//!
//! Must hold: no answer of a command or of a listener, no log line, no file of the registry and no text of a panic holds a
//! private key, in any spelling, also not one that was refused; neither a sidecar nor a command writes a core or can be
//! looked into by others of its user. What was asked for with `--with-private-key` is found: the search works.

mod intruder;
mod landlock;
mod leftover;
mod modes;
mod mounts;
mod privileges;
mod process;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use memchr::memmem;
use sidekey::pki::blocks;
use sidekey::pki::issue::{IssuedKeyPair, NewKeyKind};
use zeroize::Zeroizing;

use crate::command::{free_port, output, sidekey, text};
use crate::support::PATIENCE;
use crate::support::ca::Ca;
use crate::support::sidecar::{drop_pair, folder, put};

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with key pairs of three kinds, and with keys that are refused in every way.
struct Scene {
    folder: tempfile::TempDir,
    /// Every private key that was made for it, PEM.
    keys: Vec<String>,
    ports: [u16; 4],
}

const KEYRINGS: [&str; 4] = ["default", "client", "signer", "broken"];

impl Scene {
    fn new() -> Self {
        let (folder, ca) = (folder(), Ca::new("Test CA"));
        let of = |name: &str, key: NewKeyKind| {
            let mut request = ca.request(name);
            request.key = key;
            ca.issue(&request)
        };
        let pairs = [
            ("old", ca.server(20)),
            ("new", ca.server(5)),
            ("client/rsa", of("client.example", NewKeyKind::Rsa(2048))),
            ("signer/ed25519", of("signer.example", NewKeyKind::Ed25519)),
        ];
        for (name, pair) in &pairs {
            drop_pair(folder.path(), name, pair);
        }
        for name in ["ca.crt", "client/ca.crt"] {
            put(folder.path(), name, ca.pem());
        }
        // A key that does not match, one that breaks off, one with something typed into it, one that is said to be a chain.
        let wrong: Vec<IssuedKeyPair> = (0..4).map(|_| of("broken.example", NewKeyKind::P256)).collect();
        let key = |number: usize| wrong[number].key_pem.to_string();
        put(folder.path(), "broken/pair.crt", &wrong[1].chain_pem);
        put(folder.path(), "broken/pair.key", &key(0));
        put(folder.path(), "broken/cut.key", key(1).split_once("-----END").expect("PEM").0);
        put(folder.path(), "broken/typed.key", &key(2).replacen('\n', "\n?? ", 2));
        put(folder.path(), "broken/chain.crt", &key(3).replace("PRIVATE KEY", "CERTIFICATE"));
        let mut keys: Vec<String> = pairs.iter().map(|(_, pair)| pair.key_pem.to_string()).collect();
        keys.extend((0..4).map(key));
        let ports = [(); 4].map(|()| free_port());
        let [api, out, admin, probes] = ports;
        let toml = format!(
            r#"
certs = "certs"
state = "state"
settle = "1s"
[keyring.default]
owner = "integrations"
[admin]
listen = "127.0.0.1:{admin}"
probes = "127.0.0.1:{probes}"
[[ingress]]
name = "api"
listen = "127.0.0.1:{api}"
keyrings = ["default"]
backend = "http://127.0.0.1:9"
jwks = true
[[egress]]
name = "out"
listen = "127.0.0.1:{out}"
upstream = "https://localhost:{api}"
keyring = "client"
[egress.jwt_bearer]
keyring = "signer"
issuer = "app"
subject = "app"
audience = "https://localhost"
"#
        );
        std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
        Self { folder, keys, ports }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Standard output and standard error of a command.
    fn asked(&self, arguments: &[&str]) -> Vec<u8> {
        let done = output(sidekey().current_dir(self.path()).args(arguments));
        [done.stdout, done.stderr].concat()
    }

    /// Every file under `certs`, as seen from the folder.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from("certs")];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(self.path().join(&next)).expect("listed") {
                let entry = entry.expect("an entry");
                let path = next.join(entry.file_name());
                if entry.file_type().expect("a kind").is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

fn get(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    answer
}

/// What only the owner of a key may know, in every spelling that a text or a file could have it in. A piece of it is enough.
fn spellings(der: &[u8]) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let behind = |marker: &[u8]| memmem::find(der, marker).map(|at| at + marker.len());
    // ECPrivateKey's and CurvePrivateKey's octets; of an RSA key all that follows the public exponent.
    let secret = if let Some(at) = behind(&[0x02, 0x01, 0x01, 0x04, 0x20]).or_else(|| behind(&[0x04, 0x22, 0x04, 0x20]))
    {
        &der[at..at + 32]
    } else {
        &der[behind(&[0x02, 0x03, 0x01, 0x00, 0x01]).expect("a key of a known kind")..]
    };
    let step = if secret.len() == 32 { 15 } else { 64 };
    let mut all = Vec::new();
    for at in (0..=secret.len() - 17).step_by(step) {
        let piece = &secret[at..at + 17];
        let joined = |form: fn(&u8) -> String, between: &str| {
            piece.iter().map(form).collect::<Vec<_>>().join(between).into_bytes()
        };
        all.push(piece.to_vec());
        for between in ["", ":", " "] {
            all.push(joined(|byte| format!("{byte:02x}"), between));
            all.push(joined(|byte| format!("{byte:02X}"), between));
        }
        all.push(joined(u8::to_string, ", "));
        for shift in 0..3 {
            // Fifteen bytes are twenty letters, wherever they stand in what is encoded.
            all.push(STANDARD_NO_PAD.encode(&piece[shift..shift + 15]).into_bytes());
            all.push(URL_SAFE_NO_PAD.encode(&piece[shift..shift + 15]).into_bytes());
        }
    }
    all
}

pub fn spellings_of(key_pem: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let body: String = key_pem.lines().filter(|line| !line.starts_with("-----")).collect();
    spellings(&base64::engine::general_purpose::STANDARD.decode(body).expect("base64"))
}

pub fn holds(said: &[u8], spellings: &[Vec<u8>]) -> bool {
    spellings.iter().any(|spelling| memmem::find(said, spelling).is_some())
}

/// Every command that prints something of keyrings; nothing of them asks for a private key.
const ASKED: [&[&str]; 30] = [
    &["status"],
    &["check"],
    &["keyring", "list"],
    &["keyring", "show", "default"],
    &["keyring", "show", "client"],
    &["keyring", "show", "signer"],
    &["keyring", "show", "broken"],
    &["keyring", "csr", "default", "--key", "current"],
    &["keyring", "csr", "waiting", "--dns", "waiting.example"],
    &["keyring", "new", "default"],
    &["keyring", "new", "another", "--dns", "another.example", "--key-type", "ed25519"],
    &["keyring", "import", "default", "certs/broken/pair.crt", "certs/broken/pair.key"],
    &["keyring", "import", "default", "certs/broken/cut.key"],
    &["keyring", "export", "default"],
    &["keyring", "export", "client", "--format", "der"],
    &["keyring", "export", "signer", "--format", "p12", "--password-file", "sidekey.toml"],
    &["keyring", "ack", "default", "--why", "known"],
    &["keyring", "rollback", "default"],
    &["rotation"],
    &["handshakes"],
    &["registry", "export"],
    &["registry", "export", "--format", "csv"],
    &["registry", "export", "--format", "csv", "--table", "history"],
    &["registry", "export", "--format", "csv", "--table", "failures"],
    &["registry", "audit"],
    &["registry", "history"],
    &["token", "signer"],
    &["token", "default", "--issuer", "a", "--audience", "b"],
    &["reload"],
    &["completions", "bash"],
];

/// Starts the sidecar with its log in the file `log`, and waits until it is ready and every broken drop is refused.
fn started(scene: &Scene) -> Process {
    let [api, out, _, probes] = scene.ports;
    let log = scene.path().join("log");
    let file = File::create(&log).expect("a file");
    let mut run = sidekey();
    run.current_dir(scene.path()).args(["run", "--config", "sidekey.toml"]).stdin(Stdio::null());
    run.stdout(file.try_clone().expect("a file")).stderr(file);
    let running = Process(run.spawn().expect("it starts"));
    let ready = output(sidekey().args(["wait", "--probes", &format!("127.0.0.1:{probes}")]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    // A request that goes through the egress with a token, and through the ingress; and a peer that is refused.
    let answered = get(out, "/");
    assert!(answered.starts_with(b"HTTP/1.1 502"), "{}", text(&answered));
    let mut plain = TcpStream::connect(("127.0.0.1", api)).expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    // How it ends is its own business.
    let _ = plain.read_to_end(&mut Vec::new());
    // Until the folder has been quiet for `settle`, what is refused may still become whole.
    let deadline = Instant::now() + PATIENCE;
    let said = || std::fs::read_to_string(&log).expect("read");
    let is_reported = |(name, what): &(&str, &str)| {
        said().lines().any(|line| line.contains("broken") && line.contains(name) && line.contains(what))
    };
    // The key that lacks in `pair.crt` may be in the file that is cut off; a key is read whatever the label of its block.
    let expected = [
        ("pair.crt", "key_unreadable"),
        ("cut.key", "refused"),
        ("typed.key", "refused"),
        ("chain.crt", "waiting_for_certificate"),
    ];
    while !expected.iter().all(is_reported) {
        assert!(Instant::now() < deadline, "not reported:\n{}", said());
        std::thread::yield_now();
    }
    running
}

/// Everything that commands and listeners say, each under its name.
fn answers(scene: &Scene) -> Vec<(String, Vec<u8>)> {
    let [api, _, admin, probes] = scene.ports;
    let mut said: Vec<(String, Vec<u8>)> = Vec::new();
    let mut ask = |arguments: &[&str]| {
        let plain = scene.asked(arguments);
        assert!(!plain.is_empty() && !text(&plain).contains("Usage: "), "{arguments:?}: {}", text(&plain));
        said.push((format!("{arguments:?}"), plain));
        let json = [arguments, &["--json"]].concat();
        said.push((format!("{json:?}"), scene.asked(&json)));
    };
    ASKED.into_iter().for_each(&mut ask);
    for port in [api, admin] {
        ask(&["probe", &format!("localhost:{port}"), "--keyring", "client"]);
    }
    let listed = text(&scene.asked(&["handshakes"]));
    let shown = |line: &str| Some(line.split("connection=").nth(1)?.split(' ').next()?.to_owned());
    let connections: Vec<String> = listed.lines().filter_map(shown).collect();
    assert!(connections.len() >= 2, "{listed}");
    for connection in connections {
        ask(&["handshakes", "show", &connection]);
    }
    let files = scene.files();
    assert!(files.len() > 14, "{files:?}");
    for file in &files {
        let file = file.to_str().expect("text");
        ask(&["inspect", file]);
        ask(&["inspect", file, "--keyring", "default"]);
    }
    for (port, path) in [
        (admin, "/"),
        (admin, "/livez"),
        (admin, "/readyz"),
        (admin, "/metrics"),
        (admin, "/.well-known/jwks.json"),
        (admin, "/api/v1/keyrings"),
        (admin, "/api/v1/openapi.json"),
        (probes, "/readyz"),
        (probes, "/metrics"),
    ] {
        said.push((format!("GET {path}"), get(port, path)));
    }
    said
}

#[test]
fn no_answer_holds_a_private_key() {
    let mut scene = Scene::new();
    let running = started(&scene);
    let mut said = answers(&scene);
    drop(running);
    for name in ["log", "state/registry.db", "state/registry.db-wal", "state/decisions.json"] {
        // Where the process was killed the log of the database is there, where it closed it is not.
        if let Ok(bytes) = std::fs::read(scene.path().join(name)) {
            said.push((name.to_owned(), bytes));
        }
    }

    // What the commands made has a key as well.
    for file in scene.files() {
        let bytes = Zeroizing::new(std::fs::read(scene.path().join(file)).expect("read"));
        scene.keys.extend(blocks::read(&bytes, None).keys.iter().map(|key| key.pem().to_string()));
    }
    assert!(scene.keys.len() > 12, "{} keys", scene.keys.len());
    for key in &scene.keys {
        let spellings = spellings_of(key);
        for (name, said) in &said {
            assert!(!holds(said, &spellings), "{name} shows a private key");
        }
    }
    let everything = |wanted: &[u8]| said.iter().filter(|(_, said)| memmem::find(said, wanted).is_some()).count();
    assert!(everything(b"CN=localhost") > 10, "the search finds nothing");
    for keyring in ["client", "signer"] {
        let asked = scene.asked(&["keyring", "export", keyring, "--with-private-key"]);
        assert!(scene.keys.iter().any(|key| holds(&asked, &spellings_of(key))), "the search finds no key of {keyring}");
    }
}
