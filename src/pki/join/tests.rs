use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::pki::issue::{CertificateAuthority, IssueRequest, IssuedKeyPair, NewKeyKind, self_signed};
use crate::pki::{Validity, blocks};

fn validity() -> Validity {
    Validity { not_before: "2026-01-01T00:00:00Z".parse().unwrap(), not_after: "2027-01-01T00:00:00Z".parse().unwrap() }
}

fn request(name: &str) -> IssueRequest {
    IssueRequest {
        common_name: name.to_owned(),
        organization: None,
        dns: vec!["api.example.com".to_owned()],
        uris: vec![],
        ips: vec![],
        server: true,
        client: true,
        validity: validity(),
        key: NewKeyKind::P256,
    }
}

fn join_texts(files: &[(&str, &str)]) -> KeyringContents {
    join(
        files
            .iter()
            .map(|(name, text)| ((*name).into(), blocks::read(&Zeroizing::new(text.as_bytes().to_vec()), None)))
            .collect(),
    )
}

/// The subjects of each pair's chain.
fn chain_subjects(joined: &KeyringContents) -> Vec<Vec<&str>> {
    joined.pairs.iter().map(|pair| pair.chain().iter().map(|part| part.subject()).collect()).collect()
}

fn reasons(joined: &KeyringContents) -> Vec<(&str, &str, ProblemSeverity)> {
    joined.problems.iter().map(|problem| (&*problem.file, problem.reason, problem.severity)).collect()
}

fn root() -> CertificateAuthority {
    CertificateAuthority::new("Root", validity()).unwrap()
}

/// The PEM blocks of a text, each alone.
fn split_blocks(text: &str) -> Vec<String> {
    text.split_inclusive("-----\n").collect::<Vec<_>>().chunks(2).map(<[&str]>::concat).collect()
}

#[test]
fn the_names_of_kubernetes_make_a_pair_and_its_trust() {
    let root = root();
    let issued = root.intermediate("Intermediate", validity()).unwrap().issue(&request("api")).unwrap();
    let joined =
        join_texts(&[("tls.key", &issued.key_pem), ("tls.crt", &issued.chain_pem), ("ca.crt", root.certificate_pem())]);
    assert_eq!(chain_subjects(&joined), [["CN=api", "CN=Intermediate"]]);
    assert_eq!(joined.pairs[0].sources(), [FileName::from("tls.crt"), "tls.key".into()]);
    assert_eq!(joined.anchors.as_ref().unwrap()[0].subject(), "CN=Root");
    assert_eq!(joined.problems, []);
    assert_eq!(joined.waiting, []);
}

#[test]
fn a_renewal_with_the_same_key_is_a_second_pair() {
    let root = root();
    let first = root.issue(&request("api")).unwrap();
    let second = root.renew(&request("api"), &first.key_pem).unwrap();
    let joined = join_texts(&[
        ("a.pem", &first.chain_pem),
        ("b.pem", &second.chain_pem),
        ("k", &first.key_pem),
        ("ca.crt", root.certificate_pem()),
    ]);
    assert_eq!(joined.pairs.len(), 2);
    assert_eq!(joined.problems, []);
}

#[test]
fn the_same_end_entity_twice_is_one_pair() {
    let issued = root().issue(&request("api")).unwrap();
    let both = format!("{}{}", issued.chain_pem, issued.key_pem.as_str());
    let joined = join_texts(&[("a/tls.pem", &both), ("b/tls.pem", &both)]);
    assert_eq!(joined.pairs.len(), 1);
    assert_eq!(joined.pairs[0].sources().len(), 2);
}

#[test]
fn a_certificate_without_its_key_is_not_yet_a_pair() {
    let root = root();
    let (new, old) = (root.issue(&request("new")).unwrap(), root.issue(&request("old")).unwrap());
    let joined = join_texts(&[("tls.crt", &new.chain_pem), ("tls.key", &old.key_pem)]);
    assert!(joined.pairs.is_empty());
    assert_eq!(reasons(&joined), [("tls.crt", "certificate_without_key", ProblemSeverity::Incomplete)]);
    assert!(joined.problems[0].why.contains("the key in tls.key belongs to another certificate"));
    assert_eq!(&*joined.waiting[0].file, "tls.key");
}

#[test]
fn the_intermediates_of_a_certificate_without_key_are_not_reported() {
    let issued = root().intermediate("Intermediate", validity()).unwrap().issue(&request("api")).unwrap();
    let joined = join_texts(&[("tls.crt", &issued.chain_pem)]);
    assert_eq!(reasons(&joined), [("tls.crt", "certificate_without_key", ProblemSeverity::Incomplete)]);
}

#[test]
fn a_key_alone_waits() {
    let issued = root().issue(&request("api")).unwrap();
    let joined = join_texts(&[("tls.key", &issued.key_pem)]);
    assert_eq!(joined.problems, []);
    assert_eq!(joined.waiting.len(), 1);
}

#[test]
fn trust_is_not_chain() {
    let root = root();
    let lower = root.intermediate("Intermediate", validity()).unwrap();
    let issued = lower.issue(&request("api")).unwrap();
    let end_entity = &split_blocks(&issued.chain_pem)[0];
    let trust = format!("{}{}", lower.certificate_pem(), root.certificate_pem());
    let joined = join_texts(&[("tls.crt", end_entity), ("tls.key", &issued.key_pem), ("ca-bundle.crt", &trust)]);
    assert_eq!(chain_subjects(&joined), [["CN=api"]]);
    assert_eq!(joined.anchors.unwrap().len(), 2);
    assert_eq!(joined.problems, []);
}

#[test]
fn everything_in_ca_pem_is_still_a_pair_and_does_not_trust_itself() {
    let root = root();
    let issued = root.intermediate("Intermediate", validity()).unwrap().issue(&request("api")).unwrap();
    let all = format!("{}{}{}", issued.chain_pem, issued.key_pem.as_str(), root.certificate_pem());
    let joined = join_texts(&[("ca.pem", &all)]);
    assert_eq!(chain_subjects(&joined), [["CN=api", "CN=Intermediate"]]);
    let mut anchors: Vec<_> = joined.anchors.as_ref().unwrap().iter().map(|anchor| anchor.subject()).collect();
    anchors.sort_unstable();
    assert_eq!(anchors, ["CN=Intermediate", "CN=Root"]);
}

#[test]
fn a_self_signed_certificate_can_be_both_pair_and_trust() {
    let issued = self_signed(&request("api")).unwrap();
    let joined =
        join_texts(&[("tls.crt", &issued.chain_pem), ("tls.key", &issued.key_pem), ("ca.crt", &issued.chain_pem)]);
    assert_eq!(joined.pairs.len(), 1);
    assert_eq!(joined.anchors.unwrap().len(), 1);
    assert_eq!(joined.problems, []);
}

#[test]
fn a_broken_trust_file_is_never_a_removal() {
    let root = root();
    let whole = root.certificate_pem();
    let cut = format!("{whole}{}", &whole[..whole.len() / 2]);
    assert!(join_texts(&[("ca.crt", &cut)]).anchors.is_none());
    assert!(join_texts(&[("ca.crt", "")]).anchors.is_none());
    assert!(join_texts(&[("ca.crt", "nothing")]).anchors.is_none());
    assert_eq!(reasons(&join_texts(&[("ca.crt", &cut)])), [("ca.crt", "truncated", ProblemSeverity::Incomplete)]);
    assert_eq!(join_texts(&[("ca.crt", whole)]).anchors.unwrap().len(), 1);
}

#[test]
fn the_root_is_left_out_without_a_word() {
    let root = root();
    let issued = root.issue(&request("api")).unwrap();
    let all = format!("{}{}{}", root.certificate_pem(), issued.key_pem.as_str(), issued.chain_pem);
    let joined = join_texts(&[("all.pem", &all)]);
    assert_eq!(chain_subjects(&joined), [["CN=api"]]);
    assert_eq!(joined.problems, []);
}

#[test]
fn what_belongs_to_no_pair_is_an_info() {
    let (root, stranger) = (root(), CertificateAuthority::new("Stranger", validity()).unwrap());
    let issued = root.issue(&request("api")).unwrap();
    let joined = join_texts(&[
        ("tls.crt", &issued.chain_pem),
        ("tls.key", &issued.key_pem),
        ("ca.crt", root.certificate_pem()),
        ("x.pem", stranger.certificate_pem()),
    ]);
    assert_eq!(joined.pairs.len(), 1);
    assert_eq!(reasons(&joined), [("x.pem", "certificate_unused", ProblemSeverity::Info)]);
}

#[test]
fn a_chain_with_the_wrong_intermediate_is_refused() {
    let wrong = root().intermediate("Wrong", validity()).unwrap();
    let issued = root().intermediate("Right", validity()).unwrap().issue(&request("api")).unwrap();
    let text = format!("{}{}", split_blocks(&issued.chain_pem)[0], wrong.certificate_pem());
    let refused = join_texts(&[("tls.crt", &text), ("tls.key", &issued.key_pem)]);
    assert!(refused.pairs.is_empty() && refused.waiting.is_empty());
    let refusal = refused.problems.iter().find(|problem| problem.reason == "chain_does_not_link").unwrap();
    assert_eq!(refusal.severity, ProblemSeverity::Refused);
    assert!(refusal.why.contains("CN=Right") && refusal.why.contains("CN=Wrong"));
    let both = join_texts(&[
        ("tls.crt", &format!("{text}{}", split_blocks(&issued.chain_pem)[1])),
        ("tls.key", &issued.key_pem),
    ]);
    assert_eq!(chain_subjects(&both), [["CN=api", "CN=Right"]]);
}

#[test]
fn a_pair_s_files_are_those_with_its_own_certificate_or_key_and_shared_intermediates_are_listed_as_such() {
    let lower = root().intermediate("Intermediate", validity()).unwrap();
    let (old, new) = (lower.issue(&request("old")).unwrap(), lower.issue(&request("new")).unwrap());
    let joined = join_texts(&[
        ("tls.crt", &old.chain_pem),
        ("tls.key", &old.key_pem),
        ("2027.crt", &split_blocks(&new.chain_pem)[0]),
        ("2027.key", &new.key_pem),
    ]);
    let pair = joined.pairs.iter().find(|pair| pair.end_entity().subject() == "CN=new").unwrap();
    assert_eq!(pair.chain().len(), 2);
    assert_eq!(pair.sources(), [FileName::from("2027.crt"), "2027.key".into()]);
    assert_eq!(pair.origin().shared_files, [FileName::from("tls.crt")]);
    assert_eq!(joined.problems, []);
}

#[test]
fn a_certificate_whose_intermediate_is_cut_off_makes_a_pair_of_a_broken_file() {
    let issued = root().intermediate("Intermediate", validity()).unwrap().issue(&request("api")).unwrap();
    let [own, above] = &split_blocks(&issued.chain_pem)[..] else { panic!("two certificates") };
    let cut = &above[..above.len() / 2];
    let of = |files: &[(&str, &str)]| {
        let joined = join_texts(files);
        joined.pairs[0].origin().broken_file.clone()
    };
    let together = format!("{own}{cut}");
    assert_eq!(of(&[("tls.crt", &together), ("tls.key", &issued.key_pem)]).as_deref(), Some("tls.crt"));
    // The intermediate as a file of its own, as certbot keeps it.
    let apart = [("cert.pem", own.as_str()), ("chain.pem", cut), ("privkey.pem", &issued.key_pem)];
    assert_eq!(of(&apart).as_deref(), Some("chain.pem"));
    // The same certificate whole elsewhere, and a broken file that has nothing to do with it.
    let elsewhere = [("a.crt", together.as_str()), ("b.crt", &issued.chain_pem), ("tls.key", &issued.key_pem)];
    assert_eq!(of(&elsewhere), None);
    assert_eq!(of(&[("tls.crt", &issued.chain_pem), ("x.pem", cut), ("tls.key", &issued.key_pem)]), None);
}

#[test]
fn a_missing_issuer_is_a_note_that_names_it() {
    let issued = root().intermediate("Issuing CA", validity()).unwrap().issue(&request("api")).unwrap();
    let own = &split_blocks(&issued.chain_pem)[0];
    let joined = join_texts(&[("tls.crt", own), ("tls.key", &issued.key_pem)]);
    assert_eq!(reasons(&joined), [("tls.crt", "chain_incomplete", ProblemSeverity::Info)]);
    let note = &joined.problems[0];
    assert!(note.why.contains("CN=Issuing CA") && note.remedy.contains("append"), "{note:?}");
    let whole = join_texts(&[("tls.crt", &issued.chain_pem), ("tls.key", &issued.key_pem)]);
    assert_eq!(whole.problems, []);
}

#[test]
fn the_certificate_of_a_refused_key_is_not_blamed_beside_it() {
    let issued = root().issue(&request("api")).unwrap();
    let damaged = "-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n";
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAMCAQA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (key, reason) in [(damaged, "key_malformed"), (encrypted, "key_encrypted")] {
        let joined = join_texts(&[("tls.crt", &issued.chain_pem), ("tls.key", key)]);
        let blamed = reasons(&joined);
        let expected =
            [("tls.crt", "key_unreadable", ProblemSeverity::Info), ("tls.key", reason, ProblemSeverity::Refused)];
        assert_eq!(blamed, expected);
        // A key in another folder has nothing to do with it.
        let apart = join_texts(&[("tls.crt", &issued.chain_pem), ("old/tls.key", key)]);
        assert!(reasons(&apart).contains(&("tls.crt", "certificate_without_key", ProblemSeverity::Incomplete)));
    }
}

#[test]
fn issuers_of_one_name_are_told_apart_by_their_signature() {
    let (root_a, root_b) = (root(), root());
    let (a, b) = (root_a.intermediate("I", validity()).unwrap(), root_b.intermediate("I", validity()).unwrap());
    let issued = a.issue(&request("api")).unwrap();
    let text = format!("{}{}", b.certificate_pem(), issued.chain_pem);
    let joined = join_texts(&[("all.pem", &text), ("key", &issued.key_pem)]);
    assert_eq!(joined.pairs[0].chain()[1].pem(), a.certificate_pem().replace("\r\n", "\n"));
}

#[test]
fn an_authority_with_its_key_is_a_pair_for_others_to_refuse_but_not_from_a_trust_file() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ca"])
        .args(["-keyout", "k", "-out", "c"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success());
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let pair = join_texts(&[("tls.crt", &text("c")), ("tls.key", &text("k"))]);
    assert!(pair.pairs[0].end_entity().is_ca());
    let trust = join_texts(&[("ca.crt", &text("c")), ("ca.key", &text("k"))]);
    assert!(trust.pairs.is_empty() && trust.waiting.is_empty() && trust.anchors.is_some());
    assert_eq!(reasons(&trust), [("ca.key", "ca_key_present", ProblemSeverity::Warning)]);
}

#[test]
fn a_keystore_beside_a_pair_is_only_an_info() {
    let issued = self_signed(&request("api")).unwrap();
    let both = format!("{}{}", issued.chain_pem, issued.key_pem.as_str());
    let jks = || KeyMaterial {
        unreadable: vec![UnreadablePart {
            reason: "jks",
            why: "it is JKS".to_owned(),
            remedy: "keytool FILE".to_owned(),
            incomplete: false,
            keystore: true,
            hides_key: true,
        }],
        ..KeyMaterial::default()
    };
    let alone = join(vec![("keystore.jks".into(), jks())]);
    assert_eq!(reasons(&alone), [("keystore.jks", "jks", ProblemSeverity::Refused)]);
    assert_eq!(alone.problems[0].remedy, "keytool keystore.jks");
    let pem = blocks::read(&Zeroizing::new(both.into_bytes()), None);
    let beside = join(vec![("key store.jks".into(), jks()), ("tls.pem".into(), pem)]);
    assert_eq!(reasons(&beside), [("key store.jks", "jks", ProblemSeverity::Info)]);
    assert_eq!(beside.problems[0].remedy, "keytool FILE");
}

/// A folder may hold any number of authorities, one below the other.
#[test]
fn of_a_hundred_authorities_one_below_the_other_the_chain_takes_as_many_as_libraries_follow() {
    let root = root();
    let mut authorities = vec![root.intermediate("A0", validity()).unwrap()];
    for at in 1..100 {
        let next = authorities[at - 1].intermediate(&format!("A{at}"), validity()).unwrap();
        authorities.push(next);
    }
    let issued = authorities[99].issue(&request("api")).unwrap();
    let joined = join_texts(&[("tls.crt", &issued.chain_pem), ("tls.key", &issued.key_pem)]);
    assert_eq!(joined.pairs.len(), 1);
    assert_eq!(joined.pairs[0].chain().len(), 8);
}

/// Two authorities that sign each other, over and over.
#[test]
fn cross_signed_authorities_cannot_hang_it() {
    let folder = tempfile::tempdir().unwrap();
    let line = "for n in 1 2 3 4 5 6; do openssl ecparam -name prime256v1 -genkey -noout -out k$n; \
        openssl req -new -key k$n -subj /CN=c$n -out r$n; done; \
        printf 'basicConstraints=critical,CA:TRUE' > e; \
        for n in 1 2 3 4 5 6; do openssl req -x509 -key k$n -subj /CN=c$n -out s$n; done; \
        for n in 1 2 3 4 5 6; do for m in 1 2 3 4 5 6; do if [ $n != $m ]; then \
        openssl x509 -req -in r$n -CA s$m -CAkey k$m -CAcreateserial -extfile e >> all; fi; done; done; \
        openssl ecparam -name prime256v1 -genkey -noout -out k; openssl req -new -key k -subj /CN=leaf -out r; \
        openssl x509 -req -in r -CA s1 -CAkey k1 -CAcreateserial >> all; cat k >> all";
    let made = std::process::Command::new("sh").args(["-ec", line]).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(folder.path().join("all")).unwrap();
    let joined = join_texts(&[("all.pem", &text)]);
    assert_eq!(joined.pairs.len(), 1);
    assert_eq!(joined.pairs[0].chain().len(), 7);
}

/// Made once: two pairs of different depth and the key of a third.
fn material() -> &'static [String] {
    static MATERIAL: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    MATERIAL.get_or_init(|| {
        let root = root();
        let upper = root.intermediate("Upper", validity()).unwrap();
        let lower = upper.intermediate("Lower", validity()).unwrap();
        let (deep, flat) = (lower.issue(&request("deep")).unwrap(), root.issue(&request("flat")).unwrap());
        let IssuedKeyPair { key_pem: lonely, .. } = root.issue(&request("lonely")).unwrap();
        let mut blocks = split_blocks(&deep.chain_pem);
        blocks.extend(split_blocks(&flat.chain_pem));
        blocks.push(root.certificate_pem().to_owned());
        blocks.extend([deep.key_pem.to_string(), flat.key_pem.to_string(), lonely.to_string()]);
        blocks
    })
}

proptest! {
    #[test]
    fn any_split_into_files_gives_the_same_pairs(
        order in Just((0..material().len()).collect::<Vec<_>>()).prop_shuffle(),
        files in proptest::collection::vec(0usize..4, material().len()),
        line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\n  ")],
    ) {
        let mut texts = vec![String::new(); 4];
        for block in order {
            texts[files[block]].push_str(&material()[block].replace("\r\n", "\n").replace('\n', line_end));
        }
        let names = ["z.pem", "a/b.crt", "tls.key", "m"];
        let files: Vec<(&str, &str)> = names.iter().copied().zip(texts.iter().map(String::as_str)).collect();
        let joined = join_texts(&files);
        let mut found = chain_subjects(&joined);
        found.sort_unstable();
        prop_assert_eq!(found, [vec!["CN=deep", "CN=Lower", "CN=Upper"], vec!["CN=flat"]]);
        prop_assert_eq!(joined.waiting.len(), 1);
        prop_assert_eq!(joined.problems, []);
        prop_assert!(joined.pairs.is_sorted_by_key(|pair| pair.fingerprint()));
    }
}
