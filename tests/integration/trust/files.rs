//! Files of a trust that cannot be used: named CRLs that were never read, and what operators are told of broken ones.
//!
//! Must hold: revocation is not switched off by a file that is missing or broken at start; alert, `status`, metric and `check`
//! tell of it; and a file that reads again ends all of them.

use std::process::Command;

use super::*;

/// The metric of unusable files has this value.
async fn counted(stand: &Stand, value: u32) {
    let line = format!("sidekey_trust_files_unusable{{trust=\"partners\"}} {value}");
    eventually("the files are counted", || stand.sidecar.app.metrics_text().contains(&line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_crl_that_was_never_read_refuses_what_it_should_cover() {
    let ca = RawCa::new("Partner CA");
    let [revoked, fine] = [7, 9].map(|number| ca.issue("a.example", &serial(number)));
    for broken in [None, Some("garbage"), Some(""), Some("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")] {
        let mut stand = trusting("anchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]", "", |folder| {
            put(folder, "trust/p.pem", &ca.pem);
            if let Some(broken) = broken {
                put(folder, "trust/p.crl", broken);
            }
        })
        .await;
        for client in [&revoked, &fine] {
            assert_eq!(ask(&mut stand, client).await, Err("revocation_unknown"), "{broken:?}");
        }
        let toml = crate::handshake::config(
            "[trust.partners]\nanchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]",
            "trust = \"partners\"",
            stand.backend.address,
        );
        std::fs::write(stand.sidecar.folder.path().join("sidekey.toml"), toml).expect("written");
        let mut check = Command::new(env!("CARGO_BIN_EXE_sidekey"));
        let output = check.current_dir(stand.sidecar.folder.path()).arg("check").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("refused: trust/p.crl (trust_file_unusable)"), "{said}");
        assert!(broken.is_some() || said.contains("/trust/p.crl does not exist"), "the whole path: {said}");
        // Read once, it is used, and its fault is over.
        put(stand.sidecar.folder.path(), "trust/p.crl", &ca.crl(&[7], 30));
        told(&mut stand, "the list is read", |event| matches!(event, trust::TrustEvent::CrlsChanged { .. })).await;
        assert_eq!(ask(&mut stand, &fine).await, Ok(200), "{broken:?}");
        assert_eq!(ask(&mut stand, &revoked).await, Err("revoked"), "{broken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_file_that_breaks_raises_an_alert_until_it_is_whole_again() {
    let ca = RawCa::new("Partner CA");
    let mut stand = trusting("anchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]", "", |folder| {
        put(folder, "trust/p.pem", &ca.pem);
        put(folder, "trust/p.crl", &ca.crl(&[7], 30));
    })
    .await;
    for (file, whole) in [("trust/p.pem", ca.pem.clone()), ("trust/p.crl", ca.crl(&[7], 30))] {
        put(stand.sidecar.folder.path(), file, "garbage");
        let alert = |event: &Event| match event {
            Event::Alert(alert) if alert.kind == "trust_file_unusable" => Some(alert.explanation.clone()),
            _ => None,
        };
        let said = stand.sidecar.event("an alert", alert).await;
        assert!(said.contains(file) && said.contains("what it held last stays in use"), "{said}");
        counted(&stand, 1).await;
        put(stand.sidecar.folder.path(), file, &whole);
        told(&mut stand, "it is whole", |event| matches!(event, trust::TrustEvent::FileUsable { .. })).await;
        counted(&stand, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_of_version_1_without_a_number_is_used() {
    // As `openssl ca -gencrl` makes it without crl_extensions.
    let key = crate::support::raw_ca::key();
    let key_pem = key.serialize_pem();
    let ca = RawCa::keyed("Partner CA", key, &|_| ());
    let [revoked, fine] = [7, 9].map(|number| ca.issue("a.example", &serial(number)));
    let work = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(work.path().join(name), text).expect("written");
    write("ca.pem", &ca.pem);
    write("ca.key", &key_pem);
    write("index.txt", "R\t991231235959Z\t261101000000Z\t07\tunknown\t/CN=a.example\n");
    write("ca.cnf", "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=30\n");
    let arguments = ["ca", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.pem", "-gencrl"];
    let made = Command::new("openssl").args(arguments).current_dir(work.path()).output().expect("openssl");
    let list = String::from_utf8(made.stdout).expect("PEM");
    assert!(list.starts_with("-----BEGIN X509 CRL-----"), "{}", String::from_utf8_lossy(&made.stderr));
    let mut stand = trusting("anchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]", "", |folder| {
        put(folder, "trust/p.pem", &ca.pem);
        put(folder, "trust/p.crl", &list);
    })
    .await;
    assert_eq!(ask(&mut stand, &fine).await, Ok(200));
    assert_eq!(ask(&mut stand, &revoked).await, Err("revoked"));
}
