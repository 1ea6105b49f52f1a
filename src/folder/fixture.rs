//! Files for the tests of this room.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use super::FolderSettings;
use crate::pki::Validity;
use crate::pki::issue::{CertificateAuthority, IssueRequest, IssuedKeyPair, NewKeyKind};

pub(super) static VALIDITY: LazyLock<Validity> = LazyLock::new(|| Validity {
    not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
    not_after: "2036-01-01T00:00:00Z".parse().unwrap(),
});

pub(super) static AUTHORITY: LazyLock<CertificateAuthority> =
    LazyLock::new(|| CertificateAuthority::new("Root", *VALIDITY).unwrap());

/// A new key pair of this authority.
pub(super) fn issue_pair(name: &str) -> IssuedKeyPair {
    let request = IssueRequest {
        common_name: name.into(),
        organization: None,
        dns: vec![name.into()],
        uris: Vec::new(),
        ips: Vec::new(),
        server: true,
        client: true,
        validity: *VALIDITY,
        key: NewKeyKind::P256,
    };
    AUTHORITY.issue(&request).unwrap()
}

/// `tls.crt` and `tls.key` in this folder, which is made.
pub(super) fn write_pair(folder: &Path, pair: &IssuedKeyPair) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("tls.crt"), &pair.chain_pem).unwrap();
    fs::write(folder.join("tls.key"), pair.key_pem.as_bytes()).unwrap();
}

/// Settings that rescan too rarely to help a test.
pub(super) fn rare_rescan_settings(root: &Path) -> FolderSettings {
    FolderSettings {
        root: root.to_owned(),
        rescan: Duration::from_secs(3600),
        settle: Duration::from_millis(600),
        strict_permissions: false,
        named: Default::default(),
        pkcs12_passwords: Default::default(),
    }
}
