//! Files for the tests of this room.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use super::Settings;
use crate::pki::Validity;
use crate::pki::issue::{Authority, Issued, NewKey, Request};

pub(super) static VALIDITY: LazyLock<Validity> = LazyLock::new(|| Validity {
    not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
    not_after: "2036-01-01T00:00:00Z".parse().unwrap(),
});

pub(super) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("Root", *VALIDITY).unwrap());

/// A new key pair of this authority.
pub(super) fn issue(name: &str) -> Issued {
    let request = Request {
        common_name: name.into(),
        organization: None,
        dns: vec![name.into()],
        uris: Vec::new(),
        ips: Vec::new(),
        server: true,
        client: true,
        validity: *VALIDITY,
        key: NewKey::P256,
    };
    AUTHORITY.issue(&request).unwrap()
}

/// `tls.crt` and `tls.key` in this folder, which is made.
pub(super) fn put(folder: &Path, pair: &Issued) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("tls.crt"), &pair.chain_pem).unwrap();
    fs::write(folder.join("tls.key"), pair.key_pem.as_bytes()).unwrap();
}

/// Settings that rescan too rarely to help a test.
pub(super) fn settings(root: &Path) -> Settings {
    Settings {
        root: root.to_owned(),
        rescan: Duration::from_secs(3600),
        settle: Duration::from_millis(600),
        strict_permissions: false,
        named: Default::default(),
        pkcs12_passwords: Default::default(),
    }
}
