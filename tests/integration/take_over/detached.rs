//! `run --take-over --detach`: one command that returns when the new process serves, or says that it does not.

use std::process::{Command, Stdio};

use super::{TakeOverScene, ended};
use crate::command::{Running, output, text};

/// The exit code of a command whose output a process in the background may keep open.
fn exit_code(command: &mut Command) -> Option<i32> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it runs").code()
}

/// The process that answers commands.
fn serving(scene: &TakeOverScene) -> u32 {
    let status = output(&mut scene.command(&["status", "--json"]));
    let status: serde_json::Value =
        serde_json::from_slice(&status.stdout).unwrap_or_else(|_| panic!("{}", text(&status.stderr)));
    u32::try_from(status["pid"].as_u64().expect("a number")).expect("a process")
}

/// Ends the process in the background, which init has adopted.
struct StopAtEnd<'a>(&'a TakeOverScene);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        exit_code(&mut self.0.command(&["stop"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_take_over_returns_when_the_new_process_serves() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "state = \"state\"");
    // Where none runs it starts by itself.
    let _stop = StopAtEnd(&scene);
    assert_eq!(exit_code(&mut scene.command(&["run", "--take-over", "--detach"])), Some(0));
    let first = serving(&scene);
    assert_eq!(exit_code(&mut scene.command(&["run", "--take-over", "--detach"])), Some(0));
    assert_ne!(serving(&scene), first);
    assert_eq!(scene.readiness(), "HTTP/1.1 200 OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_take_over_that_fails_leaves_the_old_process_and_says_its_exit_code() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "");
    let first: Running = scene.start();
    let good = scene.toml();
    let more = "[[ingress]]\nname = \"more\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"missing\"]\ntrust = \"own\"\n\
                backend = \"http://127.0.0.1:9\"\n";
    for (toml, code) in [(format!("{good}[nonsense]\n"), 2), (format!("{good}{more}"), 1)] {
        std::fs::write(scene.folder.path().join("new.toml"), toml).expect("written");
        let arguments = ["run", "--take-over", "--detach", "--config", "new.toml"];
        assert_eq!(exit_code(&mut scene.command(&arguments)), Some(code));
        assert_eq!(serving(&scene), first.child.id());
    }
    first.signal(rustix::process::Signal::TERM);
    assert_eq!(ended(first).await, Some(0));
}
