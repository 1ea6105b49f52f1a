//! Programs that are not ours: Python with its libraries, pinned in `tests/tools`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The interpreter that `tests/tools` installs, with `cryptography` and `PyJWT`.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let mut command = Command::new("bash");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", ". tests/tools && venv_keys"]);
    let output = command.stdin(Stdio::null()).output().expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a path").trim().to_owned()
});

/// Runs a Python script in a folder, which must succeed; what it printed.
pub fn python(folder: &Path, script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(&*PYTHON);
    command.current_dir(folder).args(["-c", script]).args(arguments);
    let output = command.stdin(Stdio::null()).output().expect("python");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}\n{said}");
    String::from_utf8(output.stdout).expect("text")
}
