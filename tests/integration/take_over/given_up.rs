//! A take-over that comes to nothing: the old process goes on as if it had never begun, and may be taken over later.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::{SteadyLoad, TakeOverScene, ended, streaming_backend};
use crate::command::{Running, free_port, output, text};

/// A process that is to take over and ends by itself: its exit code, and what it says.
fn refused(scene: &TakeOverScene) -> (Option<i32>, String) {
    let done = output(&mut scene.command(&["run", "--take-over"]));
    (done.status.code(), text(&done.stderr) + &text(&done.stdout))
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_that_cannot_serve_leaves_the_old_one_as_it_was() {
    let (backend, _release) = streaming_backend().await;
    let scene = Arc::new(TakeOverScene::new(backend.address, "state = \"state\""));
    let first = scene.start();
    let load = SteadyLoad::start(&scene).await;
    let good = scene.toml();
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = other.local_addr().expect("bound").port();
    let listener = |listen: u16, keyring: &str| {
        format!(
            "{good}[[ingress]]\nname = \"more\"\nlisten = \"127.0.0.1:{listen}\"\nkeyrings = [\"{keyring}\"]\n\
             trust = \"own\"\nbackend = \"http://127.0.0.1:9\"\n"
        )
    };
    for (toml, code, said) in [
        (format!("{good}[nonsense]\n"), 2, "nonsense"),
        (listener(taken, "default"), 1, "in use"),
        (listener(free_port(), "missing"), 1, "missing"),
        (good.replace("[admin]", "[admin]\nlisten = \"unix:sidekey.toml\""), 1, "not a socket"),
    ] {
        std::fs::write(scene.folder.path().join("new.toml"), toml).expect("written");
        let asked = Arc::clone(&scene);
        let done = move || output(&mut asked.command(&["run", "--take-over", "--config", "new.toml"]));
        let done = tokio::task::spawn_blocking(done).await.expect("it ends");
        let all = text(&done.stderr) + &text(&done.stdout);
        assert!(done.status.code() == Some(code) && all.contains(said), "{said}: {all}");
        load.go_on().await;
    }
    // It changes what it is told to, and answers; and the next one takes over.
    assert!(output(&mut scene.command(&["reload"])).status.success());
    let one_more = Arc::clone(&scene);
    let second = tokio::task::spawn_blocking(move || one_more.take_over()).await.expect("it took over");
    load.end().await;
    assert_eq!(ended(first).await, Some(0));
    drop(second);
}

#[test]
fn new_process_that_ends_midway_leaves_the_old_one_as_it_was() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "state = \"state\"");
    let first = scene.start();
    let steps = |count: usize| {
        let stream = UnixStream::connect(scene.folder.path().join("control.sock")).expect("connected");
        let mut answers = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
        for (step, last) in [("take_over", "offered"), ("hold", "held")].into_iter().take(count) {
            writeln!(&stream, r#"{{"ask":"{step}"}}"#).expect("sent");
            loop {
                let answer = answers.next().expect("an answer").expect("read");
                assert!(!answer.contains("refused"), "{answer}");
                if answer.contains(last) {
                    break;
                }
            }
        }
        stream
    };
    for count in [1, 2] {
        let held = steps(count);
        // A second one is told to wait.
        let (code, said) = refused(&scene);
        assert!(code == Some(1) && said.contains("another process is taking over"), "{said}");
        drop(held);
        first.line(&["ended before it had taken over"]);
        assert!(output(&mut scene.command(&["reload"])).status.success(), "its writer stands still");
        assert_eq!(scene.readiness(), "HTTP/1.1 200 OK");
    }
    let wrong = UnixStream::connect(scene.folder.path().join("control.sock")).expect("connected");
    writeln!(&wrong, r#"{{"ask":"commit","is_supervised":false}}"#).expect("sent");
    let mut answer = String::new();
    BufReader::new(&wrong).read_line(&mut answer).expect("read");
    assert!(answer.contains("refused"), "{answer}");
}

#[test]
fn stopping_sidecar_is_not_taken_over() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "[shutdown]\ndelay = \"10m\"");
    let first = scene.start();
    first.signal(rustix::process::Signal::TERM);
    first.line(&["\"message\":\"stopping\""]);
    let (code, said) = refused(&scene);
    assert!(code == Some(1) && said.contains("sidekey is stopping"), "{said}");
    let _first: Running = first;
}
