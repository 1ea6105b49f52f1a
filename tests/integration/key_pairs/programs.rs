//! OpenSSL, keytool and Python read what we make, and we read what they make.

use super::{done, json, program, run};
use crate::support::foreign;
use crate::support::sidecar::folder;

const KINDS: [&str; 6] = ["p256", "p384", "ed25519", "rsa2048", "rsa3072", "rsa4096"];

#[test]
fn openssl_keytool_and_python_read_pairs_requests_and_keystores_of_every_kind() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("pw"), "changeit").expect("written");
    for kind in KINDS {
        let names = ["--dns", "api.example", "--uri", "spiffe://example/api", "--ip", "2001:db8::1"];
        let subject = ["--subject", "CN=api, O=Müller\\, Söhne, C=DE", "--key-type", kind, "--name", kind];
        let made = json(path, &[&["keyring", "new", kind][..], &names, &subject].concat());
        let (key, certificate) =
            (made["files"][0].as_str().expect("a key"), made["files"][1].as_str().expect("a file"));
        program(path, "openssl", &["pkey", "-in", key, "-noout", "-check"]);
        let shown = program(path, "openssl", &["x509", "-in", certificate, "-noout", "-text", "-nameopt", "utf8"]);
        for part in [
            "DNS:api.example",
            "URI:spiffe://example/api",
            "IP Address:2001:DB8:0:0:0:0:0:1",
            "Müller, Söhne",
            "CA:FALSE",
        ] {
            assert!(shown.contains(part), "{kind}: no {part} in {shown}");
        }
        let request = done(path, &["keyring", "csr", kind, "--key", "current"]);
        std::fs::write(path.join("api.csr"), request).expect("written");
        let shown =
            program(path, "openssl", &["req", "-in", "api.csr", "-noout", "-verify", "-text", "-nameopt", "utf8"]);
        assert!(shown.contains("verify OK") && shown.contains("DNS:api.example"), "{kind}: {shown}");
        let keystore = format!("{kind}.p12");
        let with_key = ["--with-private-key", "--password-file", "pw", "--out", &keystore];
        done(path, &[&["keyring", "export", kind, "--format", "p12"][..], &with_key].concat());
        program(path, "openssl", &["pkcs12", "-in", &keystore, "-passin", "pass:changeit", "-noout"]);
        let listed = program(path, "keytool", &["-list", "-v", "-keystore", &keystore, "-storepass", "changeit"]);
        assert!(listed.contains("PrivateKeyEntry") && listed.contains("Entry type"), "{kind}: {listed}");
        let store = format!("{kind}-trust.p12");
        done(path, &["keyring", "export", kind, "--format", "p12", "--password-file", "pw", "--out", &store]);
        let listed = program(path, "keytool", &["-list", "-keystore", &store, "-storepass", "changeit"]);
        assert!(listed.contains("trustedCertEntry"), "{kind}: {listed}");
        let python = foreign::python(
            path,
            "import sys\n\
             from cryptography import x509\n\
             from cryptography.hazmat.primitives.serialization import pkcs12, load_pem_private_key\n\
             key = load_pem_private_key(open(sys.argv[1], 'rb').read(), None)\n\
             certificate = x509.load_pem_x509_certificate(open(sys.argv[2], 'rb').read())\n\
             assert certificate.public_key() == key.public_key()\n\
             request = x509.load_pem_x509_csr(open('api.csr', 'rb').read())\n\
             assert request.is_signature_valid and request.public_key() == key.public_key()\n\
             store = pkcs12.load_pkcs12(open(sys.argv[3], 'rb').read(), b'changeit')\n\
             assert store.key.public_key() == key.public_key() and store.cert.certificate == certificate\n\
             print(certificate.subject.rfc4514_string())",
            &[key, certificate, &keystore],
        );
        assert_eq!(python.trim(), "CN=api,O=Müller\\, Söhne,C=DE", "{kind}");
    }
}

#[test]
fn pairs_and_keystores_of_openssl_keytool_and_python_are_imported() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("pw"), "changeit").expect("written");
    let subject = ["-subj", "/CN=api", "-addext", "subjectAltName=DNS:api.example", "-days", "30"];
    let made = [
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "a.key",
        "-out",
        "a.crt",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    program(path, "openssl", &[&["req"][..], &made, &subject].concat());
    let export = ["pkcs12", "-export", "-inkey", "a.key", "-in", "a.crt", "-passout", "pass:changeit", "-out", "a.p12"];
    program(path, "openssl", &export);
    let java = [
        "-genkeypair",
        "-keyalg",
        "EC",
        "-groupname",
        "secp256r1",
        "-alias",
        "api",
        "-dname",
        "CN=api",
        "-keystore",
        "java.p12",
    ];
    let java_more = [
        "-storetype",
        "PKCS12",
        "-storepass",
        "changeit",
        "-validity",
        "30",
        "-ext",
        "san=dns:api.example",
        "-ext",
        "bc=ca:false",
    ];
    program(path, "keytool", &[&java[..], &java_more].concat());
    let jks = ["-importkeystore", "-srckeystore", "java.p12", "-destkeystore", "java.jks", "-deststoretype", "JKS"];
    program(path, "keytool", &[&jks[..], &["-srcstorepass", "changeit", "-deststorepass", "changeit"]].concat());
    foreign::python(
        path,
        "import datetime\n\
         from cryptography import x509\n\
         from cryptography.hazmat.primitives import hashes\n\
         from cryptography.hazmat.primitives.asymmetric import ec\n\
         from cryptography.hazmat.primitives.serialization import pkcs12, BestAvailableEncryption\n\
         key = ec.generate_private_key(ec.SECP384R1())\n\
         name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'api')])\n\
         now = datetime.datetime.now(datetime.timezone.utc)\n\
         made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())\n\
         made = made.serial_number(x509.random_serial_number()).not_valid_before(now)\n\
         made = made.not_valid_after(now + datetime.timedelta(days=30))\n\
         made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName('api.example')]), False)\n\
         made = made.sign(key, hashes.SHA384())\n\
         store = pkcs12.serialize_key_and_certificates(b'api', key, made, None, BestAvailableEncryption(b'changeit'))\n\
         open('python.p12', 'wb').write(store)",
        &[],
    );
    for store in ["a.p12", "java.p12", "python.p12"] {
        let keyring = store.trim_end_matches(".p12");
        let imported = json(path, &["keyring", "import", keyring, store, "--password-file", "pw"]);
        assert_eq!(imported["standing"], "current", "{store}: {imported}");
        assert_eq!(imported["files"].as_array().map(Vec::len), Some(2), "key and certificate");
    }
    let imported = json(path, &["keyring", "import", "pem", "a.crt", "a.key"]);
    assert_eq!(imported["standing"], "current", "{imported}");
    // What cannot be read says how to convert it, and the wrong password says that.
    for (file, says) in [("java.jks", "keytool -importkeystore"), ("a.p12", "password")] {
        let (code, out, error) = run(path, &["keyring", "import", "x", file]);
        assert!(code == Some(2) && out.is_empty() && error.contains(says), "{file}: {error}");
    }
    assert!(!path.join("certs/x").exists(), "something was written");
}
