//! Wrong folders and files, as a new user has them who knows the README alone: each is answered by one line that names the file,
//! what it is, and what to do; by `sidekey check` and in the log of `sidekey run`.
//!
//! Must hold: no case is passed over in silence, and `check` exits with 2 wherever something is refused or waited for.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{Running, free_port, output, run_in, sidekey, text};
use crate::support::ca::{Ca, around};
use crate::support::sidecar::folder;

/// What stands in one line of `check` and in one of the log.
type ExpectedLine = &'static [&'static str];

struct WrongFolder {
    name: &'static str,
    /// A shell line, run in `certs/`, beside what [`material`] wrote into the folder above.
    make: &'static str,
    expected: ExpectedLine,
}

const fn wrong(name: &'static str, make: &'static str, expected: ExpectedLine) -> WrongFolder {
    WrongFolder { name, make, expected }
}

/// `../good.crt` (with its intermediate) and `../good.key`, `../own.crt` (the end entity alone), `../ca.crt`, `../other.key`,
/// `../flat.crt` and `../flat.key` (issued by the root), `../expired.crt` and `../expired.key`.
const FOLDERS: &[WrongFolder] = &[
    wrong("no key", "cp ../good.crt tls.crt", &["tls.crt", "no private key here matches", "add the private key"]),
    wrong("no certificate", "cp ../good.key tls.key", &["tls.key", "has no certificate yet", "add its certificate"]),
    wrong(
        "another key",
        "cp ../good.crt tls.crt; cp ../other.key tls.key",
        &["tls.crt", "the key in tls.key belongs to another certificate"],
    ),
    wrong(
        "html",
        "echo '<!doctype html><h1>Login</h1>' > tls.crt; cp ../good.key tls.key",
        &["tls.crt", "HTML page", "download the file again"],
    ),
    wrong(
        "zeros",
        "cp ../good.crt tls.crt; head -c 900 /dev/zero > tls.key",
        &["tls.key", "900 zero bytes", "copy the file again"],
    ),
    wrong(
        "random",
        "printf '\\201\\376\\200\\377\\202%.0s' 1 2 3 4 5 6 7 8 > tls.p12",
        &["tls.p12", "neither text nor DER", "put the certificate or private key"],
    ),
    wrong("empty", ": > tls.crt; cp ../good.key tls.key", &["tls.crt", "it is empty", "write the complete file"]),
    wrong(
        "a request",
        "openssl req -new -key ../good.key -subj /CN=api -out tls.crt; cp ../good.key tls.key",
        &["tls.crt", "certification request", "send the request to the CA"],
    ),
    wrong(
        "a public key",
        "openssl pkey -in ../good.key -pubout -out tls.key; cp ../good.crt tls.crt",
        &["tls.key", "public key alone", "private key"],
    ),
    wrong(
        "prose",
        "echo 'ask the network team' > tls.crt",
        &["tls.crt", "a text file (1 line)", "put the certificate or private key"],
    ),
    wrong(
        "json",
        "echo '{\"error\": 404}' > tls.crt",
        &["tls.crt", "it is JSON", "put the certificate or private key"],
    ),
    wrong(
        "a manifest",
        "printf 'apiVersion: v1\\nkind: Secret\\n' > tls.pem",
        &["tls.pem", "Kubernetes manifest", "mount the Secret"],
    ),
    wrong("base64 twice", "base64 ../good.crt > tls.crt", &["tls.crt", "base64 of a PEM file", "base64 -d < tls.crt"]),
    wrong(
        "encrypted",
        "cp ../good.crt tls.crt; openssl pkey -in ../good.key -aes256 -passout pass:x -out tls.key",
        &["tls.key", "encrypted with a password", "openssl pkey -in tls.key"],
    ),
    wrong(
        "no password",
        "openssl pkcs12 -export -in ../good.crt -inkey ../good.key -passout pass:x -out api.p12",
        &["api.p12", "needs a password", "api.p12.pass"],
    ),
    wrong(
        "wrong password",
        "openssl pkcs12 -export -in ../good.crt -inkey ../good.key -passout pass:x -out api.p12; echo y > api.p12.pass",
        &["api.p12", "the password does not open", "api.p12.pass"],
    ),
    wrong(
        "keystore without key",
        "openssl pkcs12 -export -nokeys -in ../good.crt -passout pass:x -out api.p12; echo x > api.p12.pass",
        &["api.p12", "holds no private key", "export it again with its private key"],
    ),
    wrong(
        "java keystore",
        "printf '\\376\\355\\376\\355\\0\\0\\0\\2' > api.jks",
        &["api.jks", "Java KeyStore", "keytool -importkeystore -srckeystore api.jks"],
    ),
    wrong(
        "pkcs7",
        "openssl crl2pkcs7 -nocrl -certfile ../good.crt -out api.p7b; cp ../good.key tls.key",
        &["api.p7b", "it is PKCS#7", "openssl pkcs7 -print_certs -in api.p7b"],
    ),
    wrong(
        "openssh key",
        "cp ../good.crt tls.crt; ssh-keygen -q -t ecdsa -N '' -f tls.key; rm tls.key.pub",
        &["tls.key", "OpenSSH's own format", "ssh-keygen -p"],
    ),
    wrong(
        "cut off",
        "head -c 1200 ../good.crt > tls.crt; cp ../good.key tls.key",
        &["tls.crt", "is cut off", "copy the file again"],
    ),
    wrong(
        "head cut off",
        "tail -n +2 ../own.crt > tls.crt; cp ../good.key tls.key",
        &["tls.crt", "beginning of its block is cut off", "from the BEGIN line on"],
    ),
    wrong(
        "no intermediate",
        "cp ../own.crt tls.crt; cp ../good.key tls.key",
        &["tls.crt", "its issuer \\\"CN=Issuing CA\\\" is not in the folder", "append the certificate"],
    ),
    wrong(
        "wrong intermediate",
        "cat ../own.crt ../stranger.crt > tls.crt; cp ../good.key tls.key",
        &["tls.crt", "the chain does not link", "add the issuer's certificate"],
    ),
    wrong(
        "weak key",
        "openssl genrsa -out tls.key 1024; cp ../good.crt tls.crt",
        &["tls.key", "an RSA key of 1024 bits", "make a new key"],
    ),
    wrong(
        "expired",
        "cp ../expired.crt tls.crt; cp ../expired.key tls.key",
        &["tls.crt", "expired on", "add a renewed one"],
    ),
    wrong(
        "an authority",
        "cp ../rootca.crt tls.crt; cp ../rootca.key tls.key",
        &["tls.crt", "CA:TRUE", "issue one with"],
    ),
    wrong(
        "a link to nothing",
        "cp ../good.key tls.key; ln -s ../elsewhere/tls.crt tls.crt",
        &["tls.crt", "does not exist", "create the target or remove the link"],
    ),
    wrong(
        "too large",
        "cp ../good.key tls.key; head -c 2000000 /dev/zero > tls.crt",
        &["tls.crt", "2000000 bytes", "move it out of the folder"],
    ),
    wrong(
        "a fifo",
        "cp ../good.key tls.key; mkfifo tls.crt",
        &["tls.crt", "a FIFO, not a file", "remove it from the folder"],
    ),
    wrong(
        "html as trust",
        "cp ../good.crt tls.crt; cp ../good.key tls.key; echo '<html>' > ca.crt",
        &["ca.crt", "HTML page", "download the file again"],
    ),
];

/// What the cases are made of.
fn material(at: &Path) {
    let root = Ca::new("Root CA");
    let lower = root.authority.intermediate("Issuing CA", around(root.now, 300, 300)).expect("an authority");
    let request = root.request("localhost");
    let (good, flat) = (lower.issue(&request).expect("a pair"), root.issue(&request));
    let mut past = root.request("localhost");
    past.validity = around(root.now, 90, -1);
    let expired = root.issue(&past);
    let stranger = root.authority.intermediate("Stranger CA", around(root.now, 300, 300)).expect("an authority");
    let own = good.chain_pem.split_inclusive("-----END CERTIFICATE-----\n").next().expect("a certificate").to_owned();
    for (name, content) in [
        ("good.crt", good.chain_pem.as_str()),
        ("good.key", &good.key_pem),
        ("own.crt", &own),
        ("ca.crt", root.pem()),
        ("other.key", &flat.key_pem),
        ("expired.crt", &expired.chain_pem),
        ("expired.key", &expired.key_pem),
        ("stranger.crt", stranger.certificate_pem()),
    ] {
        std::fs::write(at.join(name), content).expect("written");
    }
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 30 \
                -addext basicConstraints=critical,CA:TRUE -keyout rootca.key -out rootca.crt";
    shell(at, make);
}

fn shell(at: &Path, line: &str) {
    let mut command = Command::new("sh");
    let done = command.args(["-ec", line]).current_dir(at).stdin(Stdio::null()).output().expect("a shell");
    assert!(done.status.success(), "{line}: {}", text(&done.stderr));
}

fn prepare(wrong: &WrongFolder, shared: &Path) -> tempfile::TempDir {
    let folder = folder();
    shell(shared, &format!("cp *.crt *.key {}", folder.path().display()));
    std::fs::copy(shared.join("ca.crt"), folder.path().join("certs/ca.crt")).expect("copied");
    shell(&folder.path().join("certs"), &format!("{{ {}; }} 2>/dev/null", wrong.make));
    folder
}

#[test]
fn every_wrong_folder_is_answered_by_one_line_with_the_file_what_it_is_and_what_to_do() {
    let shared = tempfile::tempdir().expect("a folder");
    material(shared.path());
    let folders: Vec<_> = FOLDERS.iter().map(|wrong| (wrong, prepare(wrong, shared.path()))).collect();
    let mut faults = Vec::new();
    for (wrong, folder) in &folders {
        let checked = output(sidekey().current_dir(folder.path()).args(["check", "--backend", "http://127.0.0.1:9"]));
        let said = text(&checked.stdout);
        // JSON quotes what a terminal shows as it is.
        let expected: Vec<String> = wrong.expected.iter().map(|part| part.replace('\\', "")).collect();
        if !said.lines().any(|line| expected.iter().all(|part| line.contains(part))) {
            faults.push(format!(
                "check, {}: no line with {expected:?} in:\n{said}{}",
                wrong.name,
                text(&checked.stderr)
            ));
        }
        // A chain without its intermediate may be what the peers need.
        let is_usable = wrong.name == "no intermediate";
        assert_eq!(checked.status.code(), Some(if is_usable { 0 } else { 2 }), "{}:\n{said}", wrong.name);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let running: Vec<_> = folders
        .iter()
        .map(|(wrong, folder)| (wrong, Running::start(&mut run_in(folder.path(), free_port(), free_port()))))
        .collect();
    for (wrong, running) in &running {
        let line = running.line(wrong.expected);
        assert!(line.starts_with('{'), "{}: {line}", wrong.name);
    }
}
