//! Key pairs made, requested, imported and exported by the real executable, beside a sidecar that runs on the same folder,
//! and read by programs that are not ours.
//!
//! Must hold: what is written is whole, for its owner only, and never over another file; a new pair beside a current one
//! waits until it is promoted, also across a restart with state; OpenSSL, keytool and Python read what we make and we read
//! what they make; a private key leaves only where that was asked for.

mod programs;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sidekey::event::{Event, FolderRecord, KeyringRecord};
use sidekey::keyring::{self, Standing};
use sidekey::pki::Fingerprint;
use sidekey::writer::memory::StateMemory;

use crate::command::{output, sidekey, text};
use crate::support::backend::Backend;
use crate::support::ca::Ca;
use crate::support::sidecar::{Sidecar, folder, put};

/// Runs `sidekey` in the folder; exit code, standard output and standard error.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = output(sidekey().current_dir(folder).args(arguments));
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The same, and it must succeed; standard output.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, error) = run(folder, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{error}");
    out
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(folder, &[arguments, &["--json"]].concat())).expect("JSON")
}

fn key_pair(done: &Value) -> Fingerprint {
    done["key_pair"].as_str().expect("a key pair").parse().expect("a fingerprint")
}

/// Another program in the folder, which must succeed; all that it printed.
fn program(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = output(Command::new(name).current_dir(folder).args(arguments));
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
    said
}

const INGRESS: &str = r#"
certs = "certs"
state = "state"
settle = "1s"
[[ingress]]
name = "api"
listen = "127.0.0.1:0"
keyrings = ["api"]
backend = "http://BACKEND"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pair_beside_the_current_one_waits_until_it_is_promoted_also_across_a_restart() {
    let backend = Backend::echo().await;
    let toml = INGRESS.replace("BACKEND", &backend.address.to_string());
    let folder = folder();
    std::fs::write(folder.path().join("sidekey.toml"), &toml).expect("written");
    put(folder.path(), "api/ca.crt", Ca::new("Partners").pem());
    let first = json(folder.path(), &["keyring", "new", "api", "--dns", "api.example", "--ip", "127.0.0.1"]);
    assert_eq!(first["standing"], "current", "{first}");
    let mut sidecar = Sidecar::start(folder, &toml).await;
    let path = sidecar.folder.path().to_owned();
    // Without names: those of the current pair.
    let second = json(&path, &["keyring", "new", "api", "--key-type", "p384"]);
    assert_eq!(second["standing"], "staged", "{second}");
    assert!(second["next"].as_str().is_some_and(|next| next.contains("keyring promote api")), "{second}");
    let staged = |event: &Event| match event {
        Event::Keyring(KeyringRecord {
            event: keyring::KeyringEvent::Moved { key_pair, to: Standing::Staged, reason, explanation, .. },
            ..
        }) => Some((*key_pair, *reason, explanation.clone())),
        _ => None,
    };
    let (staged, reason, explanation) = sidecar.event("staged", staged).await;
    assert_eq!((staged, reason), (key_pair(&second), "marked_staged"), "{explanation}");
    for file in first["files"].as_array().into_iter().chain(second["files"].as_array()).flatten() {
        let mode = std::fs::metadata(file.as_str().expect("a path")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    // The next start remembers that it waits.
    let Sidecar { app, folder, .. } = sidecar;
    app.stop_now().await;
    let mut sidecar = Sidecar::start(folder, &toml).await;
    let snapshot = sidecar.app.reader().latest();
    let standing = |of: Fingerprint| {
        let pairs = snapshot.keyrings.iter().flat_map(|keyring| &keyring.key_pairs);
        pairs.filter(|pair| pair.key_pair == of).map(|pair| pair.standing).next()
    };
    assert_eq!(standing(key_pair(&first)), Some(Standing::Current));
    assert_eq!(standing(key_pair(&second)), Some(Standing::Staged));
    // What is looked at offline says the same, from the same state.
    let exported = done(&path, &["keyring", "export", "api"]);
    assert_eq!(fingerprint(&exported), key_pair(&first));

    // Taking the line out of the file ends the wait.
    let file = second["files"][1].as_str().expect("a certificate");
    let certificate = std::fs::read_to_string(file).expect("read");
    std::fs::write(file, certificate.split_once('\n').expect("a line").1).expect("written");
    assert_eq!(sidecar.rotation("api").await, key_pair(&second));
}

fn fingerprint(pem: &str) -> Fingerprint {
    let bytes = zeroize::Zeroizing::new(pem.as_bytes().to_vec());
    sidekey::pki::blocks::read(&bytes, None).certificates.first().expect("a certificate").fingerprint()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_waits_without_alarm_until_the_ca_answers_and_activate_rotates_at_once() {
    let backend = Backend::echo().await;
    let toml = INGRESS.replace("BACKEND", &backend.address.to_string());
    let folder = folder();
    std::fs::write(folder.path().join("sidekey.toml"), &toml).expect("written");
    put(folder.path(), "api/ca.crt", Ca::new("Partners").pem());
    json(folder.path(), &["keyring", "new", "api", "--dns", "api.example"]);
    let mut sidecar = Sidecar::start(folder, &toml).await;
    let path = sidecar.folder.path().to_owned();
    program(
        &path,
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-subj",
            "/CN=Their CA",
            "-days",
            "30",
        ],
    );
    std::fs::write(path.join("api.csr"), done(&path, &["keyring", "csr", "api", "--name", "next"])).expect("written");
    let waiting = |event: &Event| match event {
        Event::Folder(FolderRecord { problem, .. }) => Some((problem.reason, problem.severity)),
        _ => None,
    };
    let told = sidecar.event("a key that waits", waiting).await;
    assert_eq!(told, ("waiting_for_certificate", sidekey::pki::ProblemSeverity::Info));
    assert_eq!(
        done(&path, &["keyring", "csr", "api", "--key", "waiting"]).lines().next(),
        Some("-----BEGIN CERTIFICATE REQUEST-----")
    );
    program(
        &path,
        "openssl",
        &[
            "x509",
            "-req",
            "-in",
            "api.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-days",
            "20",
            "-copy_extensions",
            "copyall",
            "-out",
            "answer.crt",
        ],
    );
    let prospect: Value =
        serde_json::from_str(&done(&path, &["inspect", "answer.crt", "--keyring", "api", "--json"])).expect("JSON");
    assert_eq!(prospect[0]["prospect"]["accepted"], true, "{prospect}");
    let imported = json(&path, &["keyring", "import", "api", "answer.crt", "--activate"]);
    assert_eq!(imported["standing"], "current", "{imported}");
    assert!(path.join("certs/api/next.crt").exists(), "beside its key");
    assert_eq!(sidecar.rotation("api").await, key_pair(&imported));
    // Again, and into another keyring: neither.
    for keyring in ["api", "other"] {
        let (code, out, _) = run(&path, &["keyring", "import", keyring, "answer.crt"]);
        assert_eq!((code, out.as_str()), (Some(2), ""));
    }
    assert!(!path.join("certs/other").exists(), "something was written");
}

#[test]
fn a_pair_that_the_rules_would_refuse_is_not_written_and_no_file_is_overwritten() {
    let folder = folder();
    let path = folder.path();
    let toml = INGRESS.replace("BACKEND", "127.0.0.1:9");
    std::fs::write(path.join("sidekey.toml"), toml).expect("written");
    let (code, _, error) = run(path, &["keyring", "new", "api", "--dns", "api.example", "--usage", "client"]);
    assert!(code == Some(2) && error.contains("serverAuth"), "{error}");
    assert!(!path.join("certs/api").exists(), "something was written");
    done(path, &["keyring", "new", "api", "--dns", "api.example", "--name", "2026"]);
    let before = std::fs::read(path.join("certs/api/2026.key")).expect("read");
    let (code, _, error) = run(path, &["keyring", "new", "api", "--dns", "api.example", "--name", "2026"]);
    assert!(code == Some(2) && error.contains("already exists"), "{error}");
    assert_eq!(std::fs::read(path.join("certs/api/2026.key")).expect("read"), before);
    for wrong in [
        &["keyring", "new", "none"][..],
        &["keyring", "new", "../api", "--dns", "a.example"],
        &["keyring", "new", "api", "--dns", "not a name"],
        &["keyring", "new", "api", "--uri", "no-scheme"],
        &["keyring", "new", "api", "--subject", "Example"],
        &["keyring", "new", "api", "--valid-for", "12"],
        &["keyring", "new", "api", "--name", "ca"],
        &["keyring", "csr", "api", "--key", "waiting"],
        &["keyring", "export", "api", "ffffffff"],
        &["keyring", "export", "api", "--format", "p12", "--out", "x.p12"],
        &["keyring", "export", "api", "--format", "der", "--with-private-key"],
        &["keyring", "import", "api", "sidekey.toml"],
        &["inspect", "sidekey.toml", "--keyring", ""],
    ] {
        let (code, out, error) = run(path, wrong);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{wrong:?}: {error}");
        assert!(error.len() > 30, "{wrong:?} is not explained: {error}");
    }
    assert_eq!(std::fs::read_dir(path.join("certs/api")).expect("listed").count(), 2);
}

#[test]
fn a_private_key_leaves_only_where_that_is_asked_for() {
    let folder = folder();
    let path = folder.path();
    done(path, &["keyring", "new", "api", "--dns", "api.example"]);
    std::fs::write(path.join("pw"), "secret\n").expect("written");
    assert!(!done(path, &["keyring", "export", "api"]).contains("PRIVATE KEY"));
    done(path, &["keyring", "export", "api", "--format", "p12", "--password-file", "pw", "--out", "certificates.p12"]);
    let shown = program(path, "openssl", &["pkcs12", "-in", "certificates.p12", "-passin", "pass:secret", "-nodes"]);
    assert!(shown.contains("BEGIN CERTIFICATE") && !shown.contains("PRIVATE KEY"), "{shown}");
    assert!(done(path, &["keyring", "export", "api", "--with-private-key"]).contains("BEGIN PRIVATE KEY"));
    done(path, &["keyring", "export", "api", "--with-private-key", "--out", "pair.pem"]);
    let mode = std::fs::metadata(path.join("pair.pem")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, _, error) = run(path, &["keyring", "export", "api", "--out", "pair.pem"]);
    assert!(code == Some(1) && error.contains("pair.pem"), "{error}");
}

#[test]
fn inspect_tells_apart_every_kind_of_file() {
    let folder = folder();
    let path = folder.path();
    done(path, &["keyring", "new", "api", "--dns", "api.example", "--name", "api"]);
    std::fs::write(path.join("api.csr"), done(path, &["keyring", "csr", "api", "--key", "current"])).expect("written");
    program(path, "openssl", &["req", "-in", "api.csr", "-outform", "DER", "-out", "api.csr.der"]);
    let key = std::fs::read_to_string(path.join("api.csr")).expect("read");
    std::fs::write(path.join("tampered.csr"), tampered(&key)).expect("written");
    program(
        path,
        "openssl",
        &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=CA"],
    );
    std::fs::write(path.join("index.txt"), "").expect("written");
    std::fs::write(path.join("ca.cnf"), "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n")
        .expect("written");
    program(
        path,
        "openssl",
        &[
            "ca", "-gencrl", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.crt", "-crldays", "7", "-out",
            "ca.crl",
        ],
    );
    let inspect = |file: &str, code: i32, says: &[&str]| {
        let (got, out, error) = run(path, &["inspect", file, "--keyring", "api"]);
        assert_eq!(got, Some(code), "{file}: {out}{error}");
        says.iter().for_each(|part| assert!(out.contains(part), "{file}: no {part:?} in {out}"));
    };
    let asked = ["certification request for CN=api.example", "dns:api.example", "by its own key", "api/api.key"];
    inspect("api.csr", 0, &asked);
    inspect("api.csr.der", 0, &asked);
    inspect("tampered.csr", 0, &["it was altered or damaged"]);
    inspect("ca.crl", 0, &["certificate revocation list of CN=CA", "revokes      0"]);
    inspect("ca.crt", 0, &["CA certificate CN=CA", "trust would hold: CN=CA"]);
    inspect("certs/api/api.crt", 0, &["would be current"]);
    inspect("ca.key", 0, &["would wait for its certificate"]);
    program(path, "openssl", &["crl2pkcs7", "-nocrl", "-certfile", "ca.crt", "-out", "ca.p7b"]);
    inspect("ca.p7b", 1, &["openssl pkcs7"]);
    program(path, "openssl", &["pkey", "-in", "ca.key", "-aes256", "-passout", "pass:x", "-out", "locked.key"]);
    inspect("locked.key", 1, &["openssl pkey"]);
}

/// The same request with another name in it.
fn tampered(pem: &str) -> String {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let python = "import base64,sys;print(base64.b64encode(base64.b64decode(sys.argv[1]).replace(b'api.example',b'apj.example')).decode())";
    let output = Command::new("python3").args(["-c", python, &body]).output().expect("python");
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}-----END CERTIFICATE REQUEST-----\n", text(&output.stdout))
}

#[test]
fn offline_commands_read_the_state_and_never_write_it() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("sidekey.toml"), INGRESS.replace("BACKEND", "127.0.0.1:9")).expect("written");
    done(path, &["keyring", "new", "api", "--dns", "api.example"]);
    assert!(!path.join("state").exists(), "an offline command made the state folder");
    // A sidecar holds the folder's lock; looking goes beside it.
    let _held = StateMemory::open(path.join("state"), false).expect("opened");
    let made = json(path, &["keyring", "new", "api"]);
    assert_eq!(made["standing"], "staged");
    let listed = std::fs::read_dir(path.join("state")).expect("listed").count();
    assert_eq!(listed, 1, "more than the lock is there");
}
