//! Blocks whose labels are wrong, and keystores that lack a key or ask for too much work.

use super::*;

#[test]
fn keys_and_certificates_are_read_whatever_the_label_of_their_block() {
    let issued = issue_chain(NewKeyKind::P256);
    let (chain, key) = (issued.chain_pem.as_str(), issued.key_pem.as_str());
    for label in [
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "DSA PRIVATE KEY",
        "ANY PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "CERTIFICATE",
        "KEY",
    ] {
        read_whole(key.replace("-PRIVATE KEY-", "-").replace(" PRIVATE KEY-", &format!(" {label}-")).as_bytes(), 0, 1);
    }
    let rsa = run_openssl("openssl genrsa -traditional -out out 2048 2>/dev/null", None);
    let rsa = String::from_utf8(rsa.to_vec()).unwrap();
    for label in ["PRIVATE KEY", "EC PRIVATE KEY"] {
        read_whole(rsa.replace("RSA PRIVATE KEY", label).as_bytes(), 0, 1);
    }
    for label in ["TRUSTED CERTIFICATE", "PRIVATE KEY", "CERTIFICATE CHAIN", "PUBLIC KEY"] {
        read_whole(chain.replace(" CERTIFICATE-", &format!(" {label}-")).as_bytes(), 2, 0);
    }
    let encrypted = run_openssl("openssl pkcs8 -topk8 -in key -passout pass:secret -out out", Some(&issued));
    let mislabelled = String::from_utf8(encrypted.to_vec()).unwrap().replace("ENCRYPTED PRIVATE", "PRIVATE");
    read_refused(mislabelled.as_bytes(), "key_encrypted");
    let request = run_openssl("openssl req -new -key key -subj /CN=api -out out", Some(&issued));
    let mislabelled = String::from_utf8(request.to_vec()).unwrap().replace("CERTIFICATE REQUEST", "CERTIFICATE");
    assert!(read_refused(mislabelled.as_bytes(), "not_key_material").why.contains("certification request"));
}

#[test]
fn pkcs12_with_certificates_alone_says_that_it_holds_no_private_key() {
    let issued = issue_chain(NewKeyKind::P256);
    let store = run_openssl("openssl pkcs12 -export -nokeys -in crt -out out -passout pass:secret", Some(&issued));
    let blocks = read(&store, Some("secret"));
    assert_eq!(blocks.certificates.len(), 2);
    let [part] = &blocks.unreadable[..] else { panic!("{:?}", blocks.unreadable) };
    assert!(part.why.contains("holds no private key") && part.keystore && part.hides_key, "{part:?}");
}

#[test]
fn pkcs12_that_asks_for_a_thousand_million_rounds_is_refused_before_the_first() {
    let issued = issue_chain(NewKeyKind::P256);
    let make = "openssl pkcs12 -export -in crt -inkey key -out out -passout pass:secret -iter 70000";
    let small = run_openssl(make, Some(&issued));
    let rounds = 70_000u32.to_be_bytes();
    let at = memchr::memmem::find(&small, &[&[2, 3], &rounds[1..]].concat()).unwrap();
    // One byte more for the number, taken from the salt before it, so that no length changes.
    let mut hostile = small.to_vec();
    // The number follows its salt, which may hold the tag of one itself.
    let is_salt = |place: &usize| hostile[*place] == 4 && place + 2 + usize::from(hostile[place + 1]) == at;
    let salt = (0..at - 1).rev().find(is_salt).unwrap();
    hostile[salt + 1] -= 1;
    hostile[at - 1..at + 5].copy_from_slice(&[2, 4, 0x3b, 0x9a, 0xca, 0x00]);
    let refusal = read(&Zeroizing::new(hostile), Some("secret")).unreadable.remove(0);
    assert_eq!(refusal.reason, "pkcs12_unsupported");
    assert!(refusal.why.contains("rounds of key derivation, more than 5000000"), "{}", refusal.why);
}
