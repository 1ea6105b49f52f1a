//! The state goes on: what was decided before is known after, and what is decided after is saved by the new process.

use std::sync::Arc;

use super::{TakeOverScene, ended};
use crate::command::{Running, free_port, output, text};
use crate::support::ca::fingerprint;
use crate::support::eventually;
use crate::support::sidecar::drop_pair;

fn decisions(scene: &TakeOverScene) -> String {
    std::fs::read_to_string(scene.folder.path().join("state/decisions.json")).unwrap_or_default()
}

fn asked(scene: &TakeOverScene, arguments: &[&str]) -> String {
    let done = output(&mut scene.command(arguments));
    assert!(done.status.success(), "{arguments:?}: {}", text(&done.stderr));
    text(&done.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_goes_on_and_the_new_process_alone_writes() {
    let scene = Arc::new(TakeOverScene::new(([127, 0, 0, 1], 9).into(), "state = \"state\""));
    let first = scene.start();
    let shown = |scene: &TakeOverScene| asked(scene, &["keyring", "show", "default", "--json"]);
    let new = scene.ca.server(0);
    drop_pair(scene.folder.path(), "new", &new);
    let short = fingerprint(&new).short().to_string();
    eventually("the new pair is current", || {
        let view: serde_json::Value = serde_json::from_str(&shown(&scene)).expect("JSON");
        let pairs = view["key_pairs"].as_array().cloned().unwrap_or_default();
        pairs.len() == 2 && pairs.iter().any(|pair| pair["standing"] == "current" && pair.to_string().contains(&short))
    })
    .await;
    asked(&scene, &["keyring", "rollback", "default"]);
    let before = shown(&scene);

    let second = scene.take_over();
    assert_eq!(ended(first).await, Some(0));
    let standings = |view: &str| {
        let view: serde_json::Value = serde_json::from_str(view).expect("JSON");
        let pairs = view["key_pairs"].as_array().expect("pairs").clone();
        pairs.iter().map(|pair| (pair["key_pair"].clone(), pair["standing"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(standings(&shown(&scene)), standings(&before), "a rollback is forgotten");
    // A third process with the same state is refused: the second holds it.
    let other = scene.toml().replace(&scene.port.to_string(), &free_port().to_string());
    let other = other.replace(&scene.probes.to_string(), &free_port().to_string()).replace(".sock", ".other");
    std::fs::write(scene.folder.path().join("other.toml"), other).expect("written");
    let refused = output(&mut scene.command(&["run", "--config", "other.toml"]));
    assert!(text(&refused.stderr).contains("another Sidekey process uses this state"), "{}", text(&refused.stderr));
    let saved = decisions(&scene);
    asked(&scene, &["keyring", "promote", "default", &short]);
    assert_ne!(decisions(&scene), saved, "the new process does not save");
    drop(second);
    let third = Running::start(&mut scene.command(&["run"]));
    assert_eq!(output(&mut scene.command(&["wait"])).status.code(), Some(0));
    let current = standings(&shown(&scene));
    assert!(current.iter().any(|(pair, standing)| standing == "current" && pair.to_string().contains(&short)));
    drop(third);
}
