//! What is left of private keys in the memory of a sidecar: while a pair is in use the text of its file is nowhere, and once the
//! pair has left nothing of its key is, neither the file's text nor its bytes nor the numbers that signed. A key from a keystore
//! makes no exception: what was decrypted leaves no copy behind.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;
use sidekey::pki::issue::{IssuedKeyPair, NewKeyKind};

use crate::command::{Running, free_port, output, sidekey, text};
use crate::support::PATIENCE;
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::{drop_pair, folder, put};

/// What is looked for of one key.
struct KeyTraces {
    name: String,
    /// Pieces of lines of its file.
    text: Vec<Vec<u8>>,
    /// Pieces of its secret numbers, in the order of DER and in that of the processor.
    numbers: Vec<Vec<u8>>,
}

impl KeyTraces {
    fn new(name: &str, pem: &str) -> Self {
        let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let body = lines.concat();
        // The first line begins with what kind of key it is, so that the ends of lines count.
        let long = lines.iter().filter(|line| line.len() > 40).take(3);
        let text = long.map(|line| line.as_bytes()[line.len() - 40..].to_vec()).collect();
        let der = BASE64_STANDARD.decode(&body).expect("base64");
        let behind = |marker: &[u8]| memmem::find(&der, marker).map(|at| at + marker.len());
        // ECPrivateKey's octets of P-256 and P-384, CurvePrivateKey's; of RSA all that follows the public exponent.
        let octets = |marker: &[u8], length: usize| behind(marker).map(|at| &der[at..at + length]);
        let secret = octets(&[2, 1, 1, 4, 0x20], 32)
            .or_else(|| octets(&[2, 1, 1, 4, 0x30], 48))
            .or_else(|| octets(&[4, 0x22, 4, 0x20], 32))
            .or_else(|| behind(&[2, 3, 1, 0, 1]).map(|at| &der[at + 8..at + 200]))
            .expect("a key of a known kind");
        let pieces = [0, secret.len() / 2 - 10, secret.len() - 20].map(|at| secret[at..at + 20].to_vec());
        let turned = pieces.clone().map(|piece| piece.into_iter().rev().collect());
        Self { name: name.to_owned(), text, numbers: pieces.into_iter().chain(turned).collect() }
    }
}

/// Everything that a process could have written to; `None`: this user may not look.
fn writable_memory(child: &Child) -> Option<Vec<Vec<u8>>> {
    let file = File::open(format!("/proc/{}/mem", child.id())).ok()?;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("read");
    let regions = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw")));
    let read = |line: &str| {
        let (first, end) = line.split(' ').next()?.split_once('-')?;
        let [first, end] = [first, end].map(|number| u64::from_str_radix(number, 16).expect("an address"));
        let mut bytes = vec![0; usize::try_from(end - first).ok()?];
        // A region may be gone by now.
        file.read_exact_at(&mut bytes, first).ok().map(|()| bytes)
    };
    Some(regions.filter_map(read).collect())
}

fn is_there(memory: &[Vec<u8>], pieces: &[Vec<u8>]) -> bool {
    pieces.iter().any(|piece| memory.iter().any(|region| memmem::find(region, piece).is_some()))
}

/// Waits until none of these pieces is there: a rescan may be reading a file at this moment.
fn wait_until_gone<'k>(
    child: &Child,
    what: &str,
    wanted: impl Fn(&'k KeyTraces) -> &'k [Vec<u8>],
    keys: &'k [KeyTraces],
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let memory = writable_memory(child).expect("as before");
        let left: Vec<&str> =
            keys.iter().filter(|key| is_there(&memory, wanted(key))).map(|key| key.name.as_str()).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{what} stays in memory: {left:?}");
    }
}

/// How a pair lies in the folder.
enum PairForm {
    /// Two files.
    Pem,
    /// One, with its password beside it, made by openssl with these options.
    Keystore(&'static [&'static str]),
}

impl PairForm {
    /// Puts the pair into this keyring.
    fn put_pair(&self, certs: &Path, keyring: &str, pair: &IssuedKeyPair) {
        drop_pair(certs.parent().expect("certs has a parent"), &format!("{keyring}/old"), pair);
        let Self::Keystore(options) = self else { return };
        let place = certs.join(keyring);
        let mut openssl = Command::new("openssl");
        openssl.current_dir(&place).args(["pkcs12", "-export", "-in", "old.crt", "-inkey", "old.key"]);
        let made = output(openssl.args(["-passout", "pass:of-the-keystore", "-out", ".old.p12"]).args(*options));
        assert!(made.status.success(), "{}", text(&made.stderr));
        std::fs::write(place.join("old.p12.pass"), "of-the-keystore\n").expect("written");
        for file in ["old.crt", "old.key"] {
            std::fs::remove_file(place.join(file)).expect("removed");
        }
        std::fs::rename(place.join(".old.p12"), place.join("old.p12")).expect("renamed");
    }

    fn remove_pair(&self, certs: &Path, keyring: &str) {
        let files: &[&str] = match self {
            Self::Pem => &["old.key", "old.crt"],
            Self::Keystore(_) => &["old.p12", "old.p12.pass"],
        };
        files.iter().for_each(|file| std::fs::remove_file(certs.join(keyring).join(file)).expect("removed"));
    }
}

/// The keyrings of the test, each with a pair in a form of its own.
fn old_pairs(ca: &Ca) -> Vec<(&'static str, PairForm, IssuedKeyPair)> {
    let issue = |name: &str, key: NewKeyKind| {
        let mut request = ca.request(name);
        request.key = key;
        ca.issue(&request)
    };
    let older = PairForm::Keystore(&["-legacy", "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-RC2-40"]);
    vec![
        ("p256", PairForm::Pem, issue("p256.example", NewKeyKind::P256)),
        ("sec1", PairForm::Pem, issue("sec1.example", NewKeyKind::P384)),
        ("rsa", PairForm::Pem, issue("rsa.example", NewKeyKind::Rsa(2048))),
        ("ed25519", PairForm::Pem, issue("ed25519.example", NewKeyKind::Ed25519)),
        ("p12", PairForm::Keystore(&[]), issue("p12.example", NewKeyKind::P256)),
        ("p12-rsa", PairForm::Keystore(&[]), issue("p12-rsa.example", NewKeyKind::Rsa(2048))),
        ("p12-older", older, issue("p12-older.example", NewKeyKind::P384)),
        ("p12-plain", PairForm::Keystore(&["-keypbe", "NONE"]), issue("p12-plain.example", NewKeyKind::P256)),
    ]
}

#[test]
fn a_key_pair_that_left_the_folder_leaves_the_memory() {
    let (folder, ca) = (folder(), Ca::new("Test CA"));
    let certs = folder.path().join("certs");
    let mut old = old_pairs(&ca);
    // One in the form of RFC 5915.
    std::fs::write(folder.path().join("sec1"), old[1].2.key_pem.as_bytes()).expect("written");
    let traditional =
        output(Command::new("openssl").args(["pkey", "-traditional", "-in"]).arg(folder.path().join("sec1")));
    assert!(traditional.status.success(), "{}", text(&traditional.stderr));
    old[1].2.key_pem = text(&traditional.stdout).into();
    assert!(old[1].2.key_pem.starts_with("-----BEGIN EC PRIVATE KEY-----"));
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(5));
    let keys: Vec<KeyTraces> = old.iter().map(|(name, _, pair)| KeyTraces::new(name, &pair.key_pem)).collect();
    for (name, form, pair) in &old {
        form.put_pair(&certs, name, pair);
    }
    let names: Vec<String> = old.iter().map(|(name, ..)| format!("\"{name}\"")).collect();
    let probes = format!("127.0.0.1:{}", free_port());
    let toml = format!(
        "certs = \"certs\"\nstate = \"state\"\nrescan = \"1s\"\n[admin]\nprobes = \"{probes}\"\n[log]\nformat = \"json\"\n[[ingress]]\n\
         name = \"api\"\nlisten = \"127.0.0.1:{}\"\nkeyrings = [\"default\", {}]\n\
         trust = \"own\"\nbackend = \"http://127.0.0.1:9\"\n[trust.own]\nanchors = [\"ca.crt\"]\n",
        free_port(),
        names.join(", ")
    );
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let running = Running::start(sidekey().current_dir(folder.path()).arg("run"));
    let ready = output(sidekey().args(["wait", "--probes", &probes]));
    assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
    let Some(memory) = writable_memory(&running.child) else {
        eprintln!("SKIPPED: this user may not look into a process that is not dumpable");
        return;
    };
    for key in &keys {
        assert!(is_there(&memory, &key.numbers), "{} is in use, and the search does not find it", key.name);
    }
    wait_until_gone(&running.child, "the text of a file", |key| &key.text, &keys);

    // A newer pair for each, and the old one is revoked and taken away.
    for (name, form, pair) in &old {
        let new = ca.issue(&ca.request(&format!("{name}.example")));
        form.remove_pair(&certs, name);
        drop_pair(folder.path(), &format!("{name}/new"), &new);
        running.line(&["\"to\":\"current\"", &fingerprint(&new).short().to_string()]);
        let short = fingerprint(pair).short().to_string();
        let revoked = output(sidekey().current_dir(folder.path()).args(["keyring", "revoke", name, &short]));
        assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    }
    wait_until_gone(&running.child, "a private key", |key| &key.numbers, &keys);
    wait_until_gone(&running.child, "the text of a file", |key| &key.text, &keys);
}
