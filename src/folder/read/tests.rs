use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::fixture::{AUTHORITY, issue_pair, rare_rescan_settings, write_pair};
use super::*;

fn temporary_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("certs");
    fs::create_dir(&root).unwrap();
    (folder, root)
}

fn problem_reasons(problems: &[FolderProblem]) -> Vec<(&str, &str)> {
    problems.iter().map(|problem| (&*problem.file, problem.reason)).collect()
}

#[test]
fn the_first_sub_folder_names_the_keyring_and_the_top_is_default() {
    let (_folder, root) = temporary_folder();
    write_pair(&root, &issue_pair("top.example"));
    write_pair(&root.join("api"), &issue_pair("new.example"));
    write_pair(&root.join("api/previous"), &issue_pair("old.example"));
    fs::write(root.join("README.md"), "about").unwrap();
    fs::create_dir(root.join("nothing")).unwrap();
    fs::create_dir(root.join("words")).unwrap();
    fs::write(root.join("words/README.md"), "about").unwrap();
    let reading = read_folder(&rare_rescan_settings(&root));
    let counts: Vec<_> = reading.contents.keyrings.iter().map(|(name, joined)| (&**name, joined.pairs.len())).collect();
    assert_eq!(counts, [("api", 2), ("default", 1)]);
    assert_eq!(reading.missing, None);
    assert!(reading.parts.values().all(|seen| seen.complete));
}

#[test]
fn names_with_a_dot_backups_and_lost_found_are_passed_over() {
    let (_folder, root) = temporary_folder();
    for name in [".hidden", "lost+found"] {
        write_pair(&root.join(name), &issue_pair("a.example"));
    }
    fs::write(root.join("old.key~"), issue_pair("b.example").key_pem.as_bytes()).unwrap();
    assert!(read_folder(&rare_rescan_settings(&root)).contents.keyrings.is_empty());
}

#[test]
fn kubernetes_links_are_followed() {
    let (_folder, root) = temporary_folder();
    write_pair(&root.join("..2026_1"), &issue_pair("a.example"));
    symlink("..2026_1", root.join("..data")).unwrap();
    symlink("..data/tls.crt", root.join("tls.crt")).unwrap();
    symlink("..data/tls.key", root.join("tls.key")).unwrap();
    let reading = read_folder(&rare_rescan_settings(&root));
    assert_eq!(reading.contents.keyrings["default"].pairs.len(), 1);
    let real = fs::canonicalize(&root).unwrap();
    assert!(reading.places.concerns(&real.join("..data")));
    assert!(reading.places.concerns(&real.join("..2026_1/tls.crt")));
}

#[test]
fn what_cannot_be_read_as_a_file_is_skipped_with_a_reason() {
    let (_folder, root) = temporary_folder();
    let api = root.join("api");
    write_pair(&api, &issue_pair("a.example"));
    rustix::fs::mknodat(rustix::fs::CWD, api.join("fifo.pem"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink("round", api.join("round")).unwrap();
    symlink("..", api.join("up")).unwrap();
    symlink("nowhere", api.join("gone.crt")).unwrap();
    fs::write(api.join("large.pem"), vec![b'x'; 1 << 21]).unwrap();
    fs::write(api.join("empty.key"), "").unwrap();
    let reading = read_folder(&rare_rescan_settings(&root));
    let joined = &reading.contents.keyrings["api"];
    assert_eq!(joined.pairs.len(), 1);
    let expected = [
        ("api/empty.key", "empty"),
        ("api/fifo.pem", "not_a_file"),
        ("api/gone.crt", "dangling_link"),
        ("api/large.pem", "too_large"),
        ("api/round", "link_loop"),
        ("api/tls.key", "permissions"),
    ];
    assert_eq!(problem_reasons(&joined.problems), expected);
    assert_eq!(problem_reasons(&reading.contents.problems), [("api/up", "link_loop")]);
    assert!(!reading.parts[&FolderPart::Keyring("api".into())].complete);
    let checked = read_final(&rare_rescan_settings(&root));
    assert!(digest::is_whole(&checked.keyrings["api"].problems));
}

#[test]
fn depth_is_bounded() {
    let (_folder, root) = temporary_folder();
    let deep: PathBuf = std::iter::repeat_n("d", MAX_FOLDER_DEPTH + 2).collect();
    write_pair(&root.join(&deep), &issue_pair("a.example"));
    let reading = read_folder(&rare_rescan_settings(&root));
    assert!(reading.contents.keyrings.is_empty());
    assert_eq!(reading.contents.problems[0].reason, "too_deep");
}

#[test]
fn the_number_of_entries_is_bounded() {
    let (_folder, root) = temporary_folder();
    fs::create_dir(root.join("many")).unwrap();
    for at in 0..=MAX_FOLDER_ENTRIES {
        fs::File::create(root.join("many").join(at.to_string())).unwrap();
    }
    write_pair(&root.join("zzz"), &issue_pair("a.example"));
    let reading = read_folder(&rare_rescan_settings(&root));
    assert_eq!(reading.contents.problems.len(), 1);
    assert_eq!(reading.contents.problems[0].reason, "too_many");
}

#[test]
fn keys_readable_by_others_warn_or_are_refused() {
    let (_folder, root) = temporary_folder();
    write_pair(&root, &issue_pair("a.example"));
    let mode = |mode| fs::set_permissions(root.join("tls.key"), PermissionsExt::from_mode(mode)).unwrap();
    let with = |strict_permissions| read_folder(&FolderSettings { strict_permissions, ..rare_rescan_settings(&root) });
    mode(0o644);
    let warned = &with(false).contents.keyrings["default"];
    assert_eq!((warned.pairs.len(), warned.problems[0].severity), (1, ProblemSeverity::Warning));
    let refused = &with(true).contents.keyrings["default"];
    assert_eq!(refused.pairs.len(), 0);
    assert!(
        refused
            .problems
            .iter()
            .any(|problem| problem.reason == "permissions" && problem.severity == ProblemSeverity::Refused)
    );
    mode(0o640);
    assert_eq!(with(true).contents.keyrings["default"].problems, []);
}

#[test]
fn named_files_are_trust_and_their_folder_does_not_make_a_keyring() {
    let (_folder, root) = temporary_folder();
    fs::create_dir(root.join("trust")).unwrap();
    fs::write(root.join("trust/partners.pem"), AUTHORITY.certificate_pem()).unwrap();
    fs::write(root.join("trust/junk.pem"), "no certificate").unwrap();
    write_pair(&root.join("api"), &issue_pair("a.example"));
    fs::write(root.join("api/partner.pem"), AUTHORITY.certificate_pem()).unwrap();
    let cut_off = &AUTHORITY.certificate_pem()[..200];
    fs::write(root.join("trust/cut.pem"), format!("{}{cut_off}", AUTHORITY.certificate_pem())).unwrap();
    let names = ["trust/partners.pem", "./trust/junk.pem", "api/partner.pem", "trust/missing.pem", "trust/cut.pem"];
    let settings = FolderSettings { named: names.iter().map(PathBuf::from).collect(), ..rare_rescan_settings(&root) };
    let reading = read_folder(&settings);
    assert_eq!(reading.contents.keyrings.keys().map(|name| &**name).collect::<Vec<_>>(), ["api"]);
    let named = |path: &str| &reading.contents.named[Path::new(path)];
    for path in ["trust/partners.pem", "api/partner.pem"] {
        assert_eq!((named(path).certificates.len(), &named(path).problem), (1, &None));
    }
    for path in ["./trust/junk.pem", "trust/missing.pem", "trust/cut.pem"] {
        assert!(named(path).certificates.is_empty() && named(path).problem.is_some(), "{path}");
        assert!(!reading.parts[&FolderPart::Named(path.into())].complete);
    }
    assert!(!reading.contents.keyrings["api"].problems.iter().any(|problem| &*problem.file == "api/partner.pem"));
}

#[test]
fn a_missing_folder_is_reported_and_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("certs");
    let reading = read_folder(&rare_rescan_settings(&root));
    assert!(reading.missing.unwrap().contains("certs"));
    assert_eq!(reading.contents.problems[0].reason, "folder_missing");
    assert!(reading.places.concerns(&fs::canonicalize(folder.path()).unwrap().join("certs")));
}

#[test]
fn the_digest_tells_contents_and_not_time_stamps() {
    let (_folder, root) = temporary_folder();
    let (one, other) = (issue_pair("a.example"), issue_pair("b.example"));
    write_pair(&root.join("api"), &one);
    let digest = || read_folder(&rare_rescan_settings(&root)).contents.digest;
    let first = digest();
    write_pair(&root.join("api"), &one);
    fs::write(root.join("api/README"), "new words").unwrap();
    assert_eq!(digest(), first);
    fs::rename(root.join("api/tls.crt"), root.join("api/other.crt")).unwrap();
    let renamed = digest();
    assert_ne!(renamed, first);
    write_pair(&root.join("api"), &other);
    assert_ne!(digest(), renamed);
    fs::rename(root.join("api"), root.join("web")).unwrap();
    assert_ne!(digest(), first);
}

#[test]
fn pkcs12_passwords_lie_beside_or_are_configured() {
    let (_folder, root) = temporary_folder();
    fs::create_dir(root.join("api")).unwrap();
    let store = root.join("api/2026.p12");
    fs::write(&store, "not really").unwrap();
    let configured = root.join("secret");
    fs::write(&configured, "from configuration\r\n").unwrap();
    let with = FolderSettings { pkcs12_passwords: [("api".into(), configured)].into(), ..rare_rescan_settings(&root) };
    let password = |settings: &FolderSettings| {
        let mut walk = FolderWalk::new(settings);
        walk.read_password(&store, Path::new("api/2026.p12"), &"api".into()).map(|password| password.to_string())
    };
    assert_eq!(password(&rare_rescan_settings(&root)), None);
    assert_eq!(password(&with).as_deref(), Some("from configuration"));
    fs::write(root.join("api/2026.p12.pass"), "beside\n\n").unwrap();
    assert_eq!(password(&with).as_deref(), Some("beside\n"));
}
