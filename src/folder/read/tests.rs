use std::os::unix::fs::{PermissionsExt, symlink};

use std::path::{Path, PathBuf};

use super::super::digest;
use super::super::fixture::{AUTHORITY, issue_pair, rare_rescan_settings, write_pair};
use super::super::reading::FolderPart;
use super::super::walk::{MAX_FOLDER_DEPTH, MAX_KEYRING_BYTES, MAX_KEYRING_ENTRIES};
use super::*;
use crate::pki::join;

fn temporary_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("certs");
    fs::create_dir(&root).unwrap();
    (folder, root)
}

/// Files and reasons, without the notes that the root of these tests is not in the folder.
fn problem_reasons(problems: &[FolderProblem]) -> Vec<(&str, &str)> {
    let told = problems.iter().filter(|problem| problem.reason != join::CHAIN_INCOMPLETE);
    told.map(|problem| (&*problem.file, problem.reason)).collect()
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

/// A mis-mounted volume below the first keyring by name, and a pair in the last.
#[test]
fn a_keyring_with_too_many_entries_costs_no_other_keyring_and_is_refused() {
    let (_folder, root) = temporary_folder();
    fs::create_dir_all(root.join("aaa/deep")).unwrap();
    for at in 0..=MAX_KEYRING_ENTRIES {
        fs::File::create(root.join("aaa/deep").join(at.to_string())).unwrap();
    }
    write_pair(&root.join("aaa"), &issue_pair("shallow.example"));
    write_pair(&root.join("zzz"), &issue_pair("a.example"));
    let reading = read_folder(&rare_rescan_settings(&root));
    assert_eq!(reading.contents.keyrings["zzz"].pairs.len(), 1);
    let full = &reading.contents.keyrings["aaa"];
    assert_eq!(full.pairs.len(), 1, "what lies near the root is read first");
    let refused: Vec<_> = full.problems.iter().filter(|problem| problem.severity == ProblemSeverity::Refused).collect();
    assert_eq!((refused.len(), refused[0].reason, &*refused[0].file), (1, "too_many", "aaa"));
}

/// Files as a mis-mounted volume has them, each below the limit of one file.
#[test]
fn a_keyring_with_too_many_bytes_is_refused_and_costs_no_other_keyring() {
    let (_folder, root) = temporary_folder();
    fs::create_dir(root.join("aaa")).unwrap();
    let each = 1024 * 1024;
    for at in 0..=MAX_KEYRING_BYTES / each {
        fs::File::create(root.join("aaa").join(at.to_string())).unwrap().set_len(each).unwrap();
    }
    write_pair(&root.join("zzz"), &issue_pair("a.example"));
    let reading = read_folder(&rare_rescan_settings(&root));
    assert_eq!(reading.contents.keyrings["zzz"].pairs.len(), 1);
    let refused: Vec<_> = reading.contents.problems.iter().filter(|problem| problem.reason == "too_many").collect();
    assert_eq!((refused.len(), &*refused[0].file), (1, "aaa"));
}

#[test]
fn key_material_is_found_in_a_folder_of_too_many_other_files() {
    let (_folder, root) = temporary_folder();
    for at in 0..=MAX_KEYRING_ENTRIES {
        fs::File::create(root.join(format!("a{at}"))).unwrap();
    }
    write_pair(&root, &issue_pair("a.example"));
    let reading = read_folder(&rare_rescan_settings(&root));
    assert_eq!(reading.contents.keyrings["default"].pairs.len(), 1);
}

#[test]
fn a_link_to_a_file_system_of_the_kernel_is_not_followed() {
    let (_folder, root) = temporary_folder();
    write_pair(&root, &issue_pair("a.example"));
    symlink("/proc", root.join("proc")).unwrap();
    let reading = read_folder(&rare_rescan_settings(&root));
    assert_eq!(problem_reasons(&reading.contents.problems), [("proc", "kernel_file_system")]);
    assert_eq!(reading.contents.keyrings.len(), 1);
}

#[test]
fn a_place_that_several_links_lead_to_and_that_is_missing_is_named_once() {
    let (_folder, root) = temporary_folder();
    fs::write(root.join("ca.crt"), AUTHORITY.certificate_pem()).unwrap();
    symlink("..2026_1", root.join("..data")).unwrap();
    symlink("..data/tls.crt", root.join("tls.crt")).unwrap();
    symlink("..data/tls.key", root.join("tls.key")).unwrap();
    let reading = read_folder(&rare_rescan_settings(&root));
    let problems = &reading.contents.keyrings["default"].problems;
    assert_eq!(problems.iter().filter(|problem| problem.reason == "dangling_link").count(), 1, "{problems:?}");
    let named = fs::canonicalize(&root).unwrap().join("..2026_1");
    assert!(problems.iter().any(|problem| problem.why.contains(&*named.to_string_lossy())), "{problems:?}");
}

/// What a single file that is mounted shows after it was replaced on the host: an inode without a name.
#[test]
fn files_whose_link_count_is_0_raise_one_warning_that_says_to_mount_the_folder() {
    let (_folder, root) = temporary_folder();
    let outside = tempfile::tempdir().unwrap();
    write_pair(outside.path(), &issue_pair("a.example"));
    let open = |name: &str| fs::File::open(outside.path().join(name)).unwrap();
    let (crt, key) = (open("tls.crt"), open("tls.key"));
    let link = |file: &fs::File, name: &str| {
        use std::os::fd::AsRawFd;
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), root.join(name)).unwrap();
    };
    link(&crt, "tls.crt");
    link(&key, "tls.key");
    let before = read_folder(&rare_rescan_settings(&root));
    assert_eq!(before.contents.problems, []);
    write_pair(outside.path(), &issue_pair("b.example"));
    fs::remove_file(outside.path().join("tls.crt")).unwrap();
    fs::remove_file(outside.path().join("tls.key")).unwrap();
    let after = read_folder(&rare_rescan_settings(&root));
    assert_eq!(problem_reasons(&after.contents.problems), [("tls.crt", "mounted_file")]);
    let warning = &after.contents.problems[0];
    assert!(warning.why.contains("tls.crt, tls.key") && warning.remedy.contains("mount the folder"), "{warning:?}");
}

#[test]
fn nothing_readable_under_the_name_of_key_material_is_refused_and_named() {
    let (_folder, root) = temporary_folder();
    write_pair(&root.join("api"), &issue_pair("a.example"));
    fs::write(root.join("api/tls.crt"), "<html><body>404</body></html>").unwrap();
    fs::write(root.join("api/tls.key"), [0; 300]).unwrap();
    fs::write(root.join("api/notes"), "see the wiki").unwrap();
    fs::write(root.join("api/dhparam.pem"), "-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n")
        .unwrap();
    let reading = read_folder(&rare_rescan_settings(&root));
    let joined = &reading.contents.keyrings["api"];
    let expected = [("api/tls.crt", "not_key_material"), ("api/tls.key", "not_key_material")];
    assert_eq!(problem_reasons(&joined.problems), expected);
    assert!(joined.problems[0].why.contains("HTML") && joined.problems[1].why.contains("300 zero bytes"));
    assert!(!reading.parts[&FolderPart::Keyring("api".into())].complete, "more may come, until it is quiet");
    let checked = read_final(&rare_rescan_settings(&root));
    let refused = checked.keyrings["api"].problems.iter().all(|problem| problem.severity == ProblemSeverity::Refused);
    assert!(refused);
}

#[test]
fn a_file_that_was_part_of_a_pair_is_refused_whatever_its_name() {
    let (_folder, root) = temporary_folder();
    fs::write(root.join("identity"), "see the wiki").unwrap();
    assert!(read_folder(&rare_rescan_settings(&root)).contents.keyrings.is_empty());
    let reading = reread_folder(&rare_rescan_settings(&root), &BTreeSet::from(["identity".into()]));
    let expected = [("identity", "not_key_material")];
    assert_eq!(problem_reasons(&reading.contents.keyrings["default"].problems), expected);
}

#[test]
fn keys_readable_by_others_warn_or_are_refused() {
    let (_folder, root) = temporary_folder();
    write_pair(&root, &issue_pair("a.example"));
    let mode = |mode| fs::set_permissions(root.join("tls.key"), PermissionsExt::from_mode(mode)).unwrap();
    let with = |strict_permissions| read_folder(&FolderSettings { strict_permissions, ..rare_rescan_settings(&root) });
    mode(0o644);
    fs::write(root.join("ca.crt"), AUTHORITY.certificate_pem()).unwrap();
    let warned = &with(false).contents.keyrings["default"];
    assert_eq!((warned.pairs.len(), warned.problems[0].severity), (1, ProblemSeverity::Warning));
    let refused = &with(true).contents.keyrings["default"];
    assert_eq!(refused.pairs.len(), 0);
    assert_eq!(problem_reasons(&refused.problems), [("tls.crt", "key_unreadable"), ("tls.key", "permissions")]);
    assert_eq!(refused.problems[0].severity, ProblemSeverity::Info, "its key is blamed, and it is not");
    assert_eq!(refused.problems[1].severity, ProblemSeverity::Refused);
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
        let former = BTreeSet::new();
        let mut walk = FolderWalk::new(settings, &former);
        walk.read_password(&store, Path::new("api/2026.p12"), &"api".into()).map(|password| password.to_string())
    };
    assert_eq!(password(&rare_rescan_settings(&root)), None);
    assert_eq!(password(&with).as_deref(), Some("from configuration"));
    fs::write(root.join("api/2026.p12.pass"), "beside\n\n").unwrap();
    assert_eq!(password(&with).as_deref(), Some("beside\n"));
    fs::write(root.join("api/2026.p12.pass"), "\u{feff}marked\r\n").unwrap();
    assert_eq!(password(&with).as_deref(), Some("marked"));
    let wide: Vec<u8> = "\u{feff}wide ü\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(root.join("api/2026.p12.pass"), wide).unwrap();
    assert_eq!(password(&with).as_deref(), Some("wide ü"));
}
