//! Files are made by openssl at test time: no key is kept in the repository.

use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::pki::Validity;
use crate::pki::issue::{CertificateAuthority, IssueRequest, IssuedKeyPair, NewKeyKind, self_signed};

/// Runs a shell line of openssl in a fresh folder and gives the file `out`.
fn run_openssl(line: &str, issued: Option<&IssuedKeyPair>) -> Zeroizing<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    if let Some(issued) = issued {
        write(folder.path(), "crt", issued.chain_pem.as_bytes());
        write(folder.path(), "key", issued.key_pem.as_bytes());
    }
    let done =
        Command::new("sh").args(["-ec", line]).current_dir(folder.path()).stdout(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    Zeroizing::new(std::fs::read(folder.path().join("out")).unwrap())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// id-data (RFC 5652 4).
const PKCS7_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];

fn validity() -> Validity {
    Validity { not_before: "2026-01-01T00:00:00Z".parse().unwrap(), not_after: "2027-01-01T00:00:00Z".parse().unwrap() }
}

fn request(key: NewKeyKind) -> IssueRequest {
    IssueRequest {
        common_name: "api".to_owned(),
        organization: None,
        dns: vec!["api.example.com".to_owned()],
        uris: vec![],
        ips: vec![],
        server: true,
        client: true,
        validity: validity(),
        key,
    }
}

/// An end entity, its intermediate and its key.
fn issue_chain(key: NewKeyKind) -> IssuedKeyPair {
    let root = CertificateAuthority::new("Root", validity()).unwrap();
    root.intermediate("Intermediate", validity()).unwrap().issue(&request(key)).unwrap()
}

fn read_bytes(bytes: &[u8]) -> KeyMaterial {
    read(&Zeroizing::new(bytes.to_vec()), None)
}

/// Reads, and wants exactly so many certificates and keys, and no complaint.
#[track_caller]
fn read_whole(bytes: &[u8], certificates: usize, keys: usize) -> KeyMaterial {
    let blocks = read_bytes(bytes);
    assert_eq!(blocks.unreadable, []);
    assert_eq!((blocks.certificates.len(), blocks.keys.len()), (certificates, keys));
    blocks
}

/// Reads, and wants exactly one complaint and nothing else.
#[track_caller]
fn read_refused(bytes: &[u8], reason: &str) -> UnreadablePart {
    let mut blocks = read_bytes(bytes);
    let reasons: Vec<_> = blocks.unreadable.iter().map(|part| part.reason).collect();
    assert_eq!(reasons, [reason], "{:?}", blocks.unreadable);
    assert!(blocks.certificates.is_empty() && blocks.keys.is_empty());
    blocks.unreadable.remove(0)
}

mod labels;

#[test]
fn what_people_do_to_pem_is_tolerated() {
    let issued = issue_chain(NewKeyKind::P256);
    let (chain, key) = (issued.chain_pem.as_str(), issued.key_pem.as_str());
    let plain = format!("{chain}{key}");
    read_whole(plain.as_bytes(), 2, 1);
    read_whole(format!("{key}{chain}").as_bytes(), 2, 1);
    read_whole(plain.replace('\n', "\r\n").as_bytes(), 2, 1);
    read_whole(plain.replace('\n', "\r").as_bytes(), 2, 1);
    read_whole(format!("\u{feff}{plain}").as_bytes(), 2, 1);
    read_whole(plain.trim_end().as_bytes(), 2, 1);
    read_whole(plain.replace("-----\n-----", "----------").as_bytes(), 2, 1);
    read_whole(plain.replace('\n', "\n    ").as_bytes(), 2, 1);
    read_whole(plain.replace('\n', " \t\n").as_bytes(), 2, 1);
    read_whole(plain.replace('\n', " ").as_bytes(), 2, 1);
    read_whole(plain.replace(" CERTIFICATE-", " X509 CERTIFICATE-").as_bytes(), 2, 1);
    let texts = "Bag Attributes\n    friendlyName: api\nsubject=/CN=api\n";
    read_whole(
        format!("{texts}{plain}\n# end\n").replace("-----BEGIN", &format!("{texts}-----BEGIN")).as_bytes(),
        2,
        1,
    );
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    read_whole(format!("{request}{plain}").as_bytes(), 2, 1);
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(plain.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    read_whole(&wide, 2, 1);
}

#[test]
fn every_encoding_of_a_key_is_the_same_key() {
    for (make, pem, der) in [
        (
            "openssl ecparam -name prime256v1 -genkey -out k",
            "openssl ec -in k -out out",
            "openssl ec -in k -outform DER -out out",
        ),
        (
            "openssl genrsa -out k 2048",
            "openssl rsa -in k -traditional -out out",
            "openssl rsa -in k -traditional -outform DER -out out",
        ),
        ("openssl genpkey -algorithm ed25519 -out k", "cp k out", "openssl pkey -in k -outform DER -out out"),
    ] {
        let both =
            run_openssl(&format!("{make}; {pem}; cat k >> out; openssl pkcs8 -topk8 -nocrypt -in k >> out"), None);
        let spkis: Vec<_> = read_whole(&both, 0, 3).keys.iter().map(|key| key.spki_hash()).collect();
        assert!(spkis.iter().all(|spki| *spki == spkis[0]), "{make}");
        let der = run_openssl(&format!("{make}; {der}"), None);
        assert_eq!(detect_kind(&der), KeyMaterialKind::DerKey, "{make}");
        let key = read_whole(&der, 0, 1).keys.remove(0);
        assert_eq!(key.der().secret_der(), &der[..]);
        assert_eq!(format!("{key:?}"), "PrivateKey");
    }
}

#[test]
fn der_and_openssls_trusted_certificates_are_read() {
    let issued = issue_chain(NewKeyKind::P256);
    let der = run_openssl("openssl x509 -in crt -outform DER -out out", Some(&issued));
    assert_eq!(detect_kind(&der), KeyMaterialKind::DerCertificate);
    let certificate = read_whole(&der, 1, 0).certificates.remove(0);
    read_whole(&[&der[..], b"\r\n"].concat(), 1, 0);
    assert!(!read_refused(&[&der[..], b"more"].concat(), "trailing_bytes").incomplete);
    let trusted =
        run_openssl("openssl x509 -in crt -trustout -addtrust serverAuth -setalias a -out out", Some(&issued));
    assert_eq!(read_whole(&trusted, 1, 0).certificates[0], certificate);
    let key = run_openssl("openssl pkcs8 -topk8 -nocrypt -in key -outform DER -out out", Some(&issued));
    assert_eq!(read_whole(&key, 0, 1).keys[0].spki(), certificate.spki());
}

#[test]
fn crls_are_read_in_both_forms() {
    let make = "touch index.txt; printf '[ca]\\ndefault_ca=c\\n[c]\\ndatabase=index.txt\\ndefault_md=sha256\\n' > conf; echo 01 > crlnumber; echo 'crlnumber=crlnumber' >> conf; \
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -subj /CN=ca 2>/dev/null; \
        openssl ca -config conf -gencrl -keyfile k -cert c -crldays 30 -out crl 2>/dev/null;";
    let pem = run_openssl(&format!("{make} cp crl out"), None);
    assert_eq!(read_whole(&pem, 0, 0).crls.len(), 1);
    let der = run_openssl(&format!("{make} openssl crl -in crl -outform DER -out out"), None);
    assert_eq!(detect_kind(&der), KeyMaterialKind::DerCrl);
    assert_eq!(read_whole(&der, 0, 0).crls.len(), 1);
    assert!(read_refused(&der[..der.len() - 1], "truncated").incomplete);
}

#[test]
fn pkcs12_is_opened_with_its_password() {
    let issued = issue_chain(NewKeyKind::P256);
    for (options, password) in [
        ("-passout pass:secret", Some("secret")),
        ("-passout pass:secret -legacy", Some("secret")),
        ("-passout pass:secret -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1", Some("secret")),
        ("-passout pass:secret -legacy -keypbe PBE-SHA1-2DES -certpbe PBE-SHA1-RC2-128 -macalg sha224", Some("secret")),
        ("-passout pass:secret -keypbe AES-128-CBC -certpbe AES-192-CBC -macalg sha384", Some("secret")),
        ("-passout pass:secret -keypbe DES-EDE3-CBC -certpbe AES-256-CBC -macalg sha512", Some("secret")),
        ("-passout pass:secret -keypbe NONE -certpbe NONE", Some("secret")),
        ("-passout pass:secret -nomac", Some("secret")),
        ("-passout pass:pässwörd\u{1f511}", Some("pässwörd\u{1f511}")),
        ("-passout pass:", None),
    ] {
        let store =
            run_openssl(&format!("openssl pkcs12 -export -in crt -inkey key -out out {options}"), Some(&issued));
        assert_eq!(detect_kind(&store), KeyMaterialKind::Pkcs12);
        let blocks = read(&store, password);
        assert_eq!(blocks.unreadable, [], "{options}");
        assert_eq!((blocks.certificates.len(), blocks.keys.len()), (2, 1), "{options}");
        assert_eq!(blocks.certificates[0].spki(), blocks.keys[0].spki());
    }
}

#[test]
fn pkcs12_keys_that_no_certificate_refers_to_are_read() {
    let issued = issue_chain(NewKeyKind::P256);
    let store = run_openssl("openssl pkcs12 -export -nocerts -inkey key -out out -passout pass:", Some(&issued));
    read_whole(&store, 0, 1);
}

#[test]
fn pkcs12_that_does_not_open_says_why() {
    let issued = issue_chain(NewKeyKind::P256);
    let make = "openssl pkcs12 -export -in crt -inkey key -out out -passout pass:secret";
    let store = run_openssl(make, Some(&issued));
    let wrong = read(&store, Some("wrong")).unreadable.remove(0);
    assert_eq!((wrong.reason, wrong.keystore), ("pkcs12_password", true));
    assert!(read_refused(&store, "pkcs12_password").why.contains("needs a password"));
    let cut = read_refused(&store[..store.len() - 5], "truncated");
    assert!(cut.incomplete && cut.keystore);
    // Without a MAC, what is decrypted has to say it; padding alone lets one wrong password in 256 pass.
    let without_mac = run_openssl(&format!("{make} -iter 1 -nomac"), Some(&issued));
    for guess in 0..600 {
        let wrong = read(&without_mac, Some(&format!("wrong {guess}"))).unreadable.remove(0);
        assert_eq!(wrong.reason, "pkcs12_password", "{wrong}");
    }
    read_refused(&[0x30, 0x80, 2, 1, 3, 0x30, 0x80], "pkcs12_unsupported");
    let mut damaged = store.to_vec();
    let at = memchr::memmem::find(&damaged, &PKCS7_DATA).unwrap();
    damaged[at + 9] = 0x55;
    assert!(read_refused(&damaged, "pkcs12_malformed").keystore);
    let large = [&[0x30, 0x83, 0x03, 0, 0, 2, 1, 3, 0x30, 0x0b, 6, 9], &PKCS7_DATA[..], &[0; 0x3_0000]].concat();
    assert!(read_refused(&large[..0x3_0005], "pkcs12_unsupported").why.contains("bytes"));
}

#[test]
fn pkcs12_cannot_ask_for_endless_work() {
    let issued = issue_chain(NewKeyKind::P256);
    let store = run_openssl(
        "openssl pkcs12 -export -in crt -inkey key -out out -passout pass:secret -iter 70000 -maciter",
        Some(&issued),
    );
    let rounds = 70_000u32.to_be_bytes();
    let mut hostile = store.to_vec();
    let places: Vec<usize> = memchr::memmem::find_iter(&store, &rounds[1..]).collect();
    assert!(!places.is_empty());
    for at in places {
        hostile[at..at + 3].copy_from_slice(&[0x7f, 0xff, 0xff]);
    }
    let refusal = read(&Zeroizing::new(hostile), Some("secret")).unreadable.remove(0);
    assert_eq!(refusal.reason, "pkcs12_unsupported");
    assert!(refusal.why.contains("rounds"), "{}", refusal.why);
}

#[test]
fn keys_that_tls_cannot_use_are_named() {
    for (make, name) in [
        ("openssl genrsa -out out 1024", "an RSA key of 1024 bits"),
        ("openssl genrsa -traditional -out out 1024", "an RSA key of 1024 bits"),
        ("openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out out", "restricted to PSS"),
        ("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-224 -out out", "P-224"),
        ("openssl ecparam -name secp256k1 -genkey -noout -out out", "secp256k1"),
        ("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1 -out out", "brainpoolP256r1"),
        ("openssl genpkey -algorithm ed448 -out out", "Ed448"),
        ("openssl genpkey -algorithm x25519 -out out", "X25519"),
        ("openssl dsaparam -genkey -out k 1024; openssl pkcs8 -topk8 -nocrypt -in k -out out", "DSA"),
    ] {
        let refusal = read_refused(&run_openssl(&format!("{{ {make}; }} 2>/dev/null"), None), "key_unsupported");
        assert!(refusal.why.contains(name), "{make}: {}", refusal.why);
        assert!(!refusal.incomplete);
    }
}

#[test]
fn other_formats_are_refused_with_the_command_that_converts_them() {
    let issued = issue_chain(NewKeyKind::P256);
    let der_key = "openssl pkcs8 -topk8 -in key -passout pass:secret -out out";
    for (make, reason, remedy) in [
        (der_key.to_owned(), "key_encrypted", "openssl pkey -in"),
        (format!("{der_key} -outform DER"), "key_encrypted", "openssl pkey -inform DER"),
        ("openssl ec -in key -aes128 -passout pass:secret -out out".to_owned(), "key_encrypted", "openssl pkey"),
        ("openssl crl2pkcs7 -nocrl -certfile crt -out out".to_owned(), "pkcs7", "openssl pkcs7 -print_certs"),
        (
            "openssl crl2pkcs7 -nocrl -certfile crt -outform DER -out out".to_owned(),
            "pkcs7",
            "openssl pkcs7 -inform DER",
        ),
    ] {
        let refusal = read_refused(&run_openssl(&make, Some(&issued)), reason);
        assert!(refusal.remedy.contains(remedy), "{make}: {}", refusal.remedy);
    }
    for (text, reason) in [
        (&b"\xfe\xed\xfe\xed\0\0\0\x02"[..], "jks"),
        (b"\xce\xce\xce\xce\0\0\0\x02", "jks"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "openssh"),
        (b"-----BEGIN PGP MESSAGE-----\n\nAAAA\n=aaaa\n-----END PGP MESSAGE-----\n", "pgp"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", "pgp"),
        (b"PuTTY-User-Key-File-3: ssh-rsa\n", "putty"),
        (b"----BEGIN CERTIFICATE----\nAAAA\n----END CERTIFICATE----\n", "pem_malformed"),
        (b"-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n", "unknown_block"),
        (b"-----BEGIN CERTIFICATE-----\nA!AA\n-----END CERTIFICATE-----\n", "pem_malformed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END PRIVATE KEY-----\n", "pem_malformed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate_malformed"),
        (b"-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n", "key_malformed"),
    ] {
        assert!(!read_refused(text, reason).remedy.is_empty(), "{reason}");
    }
    assert!(read_refused(b"\xfe\xed\xfe\xed", "jks").keystore);
}

#[test]
fn files_without_key_material_are_passed_over() {
    for text in [
        &b""[..],
        b"changeit\n",
        b"0a\n",
        b"0secret password that is quite long, longer than its first bytes say as a DER length\n",
        b"# Drop files that begin with -----BEGIN CERTIFICATE----- here\n",
        b"Title\n-----\ntext\n",
        b"\0\0\0\0",
    ] {
        let blocks = read_bytes(text);
        assert!(blocks.unreadable.is_empty() && blocks.certificates.is_empty(), "{text:?}: {blocks:?}");
        assert_eq!(detect_kind(text), KeyMaterialKind::Unknown, "{text:?}");
    }
    let request = run_openssl(
        "openssl req -new -key key -subj /CN=api -outform DER -out out",
        Some(&issue_chain(NewKeyKind::P256)),
    );
    assert_eq!(detect_kind(&request), KeyMaterialKind::Csr);
    read_whole(&request, 0, 0);
}

#[test]
fn every_cut_of_a_file_is_incomplete_or_says_nothing() {
    let issued = self_signed(&request(NewKeyKind::P256)).unwrap();
    let pem = format!("{}{}", issued.key_pem.as_str(), issued.chain_pem);
    for cut in 0..pem.trim_end().len() {
        let blocks = read_bytes(&pem.as_bytes()[..cut]);
        assert!(blocks.unreadable.iter().all(|part| part.incomplete), "{cut}: {:?}", blocks.unreadable);
        assert!(blocks.certificates.is_empty(), "{cut}");
    }
    let der = run_openssl("openssl x509 -in crt -outform DER -out out", Some(&issued));
    for cut in 2..der.len() {
        assert!(read_refused(&der[..cut], "truncated").incomplete, "{cut}");
    }
}

#[test]
fn a_certificate_cut_off_before_a_key_does_not_swallow_it() {
    let issued = self_signed(&request(NewKeyKind::P256)).unwrap();
    let cut = &issued.chain_pem[..200];
    let blocks = read_bytes(format!("{cut}\n{}", issued.key_pem.as_str()).as_bytes());
    assert_eq!(blocks.keys.len(), 1);
    assert_eq!(blocks.unreadable.len(), 1);
    assert!(blocks.unreadable[0].incomplete);
}

#[test]
fn a_file_with_zeros_for_content_is_incomplete() {
    let text = b"-----BEGIN CERTIFICATE-----\nMIIB\0\0\0\0\0\0\n-----END CERTIFICATE-----\n";
    assert!(read_refused(text, "truncated").incomplete);
}

proptest! {
    #[test]
    fn written_pem_reads_back(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        let mut text = String::new();
        write_pem("PRIVATE KEY", &bytes, &mut text);
        prop_assert_eq!(text.len(), crate::pki::pem_writer::pem_len("PRIVATE KEY", &bytes));
        let sections = pem::sections(text.as_bytes());
        prop_assert_eq!(sections.len(), 1);
        let decoded = pem::decode(sections[0].body, "PRIVATE KEY").unwrap();
        prop_assert_eq!(&decoded[..], &bytes[..]);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), as_der in any::<bool>()) {
        let bytes = if as_der { [&[0x30, 0x82, 0x01, 0x00][..], &bytes].concat() } else { bytes };
        detect_kind(&bytes);
        read_bytes(&bytes);
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0usize..2000, to in any::<u8>(), which in 0usize..3) {
        let samples = samples();
        let mut bytes = samples[which].to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        read(&Zeroizing::new(bytes), Some("secret"));
    }
}

/// PEM, a DER certificate and PKCS#12, made once.
fn samples() -> &'static [Zeroizing<Vec<u8>>; 3] {
    static SAMPLES: std::sync::OnceLock<[Zeroizing<Vec<u8>>; 3]> = std::sync::OnceLock::new();
    SAMPLES.get_or_init(|| {
        let issued = issue_chain(NewKeyKind::P256);
        [
            run_openssl("cat crt key > out", Some(&issued)),
            run_openssl("openssl x509 -in crt -outform DER -out out", Some(&issued)),
            run_openssl("openssl pkcs12 -export -in crt -inkey key -out out -passout pass:secret", Some(&issued)),
        ]
    })
}
