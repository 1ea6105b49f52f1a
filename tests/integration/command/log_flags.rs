//! Flags and variables of the log, beside a configuration file.

use super::{folder, output, sidekey, text};

#[test]
fn log_flags_and_their_variables_beat_the_file() {
    let folder = folder();
    let file = "[[ingress]]\nlisten = \"127.0.0.1:0\"\nbackend = \"http://127.0.0.1:1\"\n[log]\nlevel = \"loud\"\n";
    std::fs::write(folder.path().join("sidekey.toml"), file.replace("loud", "warn")).expect("written");
    let check = |arguments: &[&str]| {
        let all = [&["check", "--config-only"], arguments].concat();
        output(sidekey().current_dir(folder.path()).args(all))
    };
    let valid = check(&["--log-format", "json", "--log-level", "debug"]);
    assert_eq!(valid.status.code(), Some(0), "{}", text(&valid.stderr));
    for (arguments, named) in [(["--log-level", "loud"], "--log-level"), (["--log-format", "xml"], "--log-format")] {
        let wrong = check(&arguments);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(text(&wrong.stderr).contains(named), "{}", text(&wrong.stderr));
    }
    let variable =
        output(sidekey().current_dir(folder.path()).env("SIDEKEY_LOG_LEVEL", "loud").args(["check", "--config-only"]));
    assert_eq!(variable.status.code(), Some(2), "{}", text(&variable.stderr));
}
