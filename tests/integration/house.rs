//! The house keeps its plan: what ARCHITECTURE.md says of rooms, imports, words and absences is true of the sources.
//!
//! What must hold: a room imports only what its row of the table allows; every file stands in the tree, opens with why it
//! exists, and defends its length; no identifier is a word that the contract does not have; what belongs in one place
//! (the `ArcSwap`, rustls, `anyhow`) is found nowhere else. Each failure names file, line and the line of the page.
//! Names of metrics, reasons and configuration keys are compared with their pages where they are made.

mod plan;
mod source;

use std::fmt::Write as _;

use plan::Plan;
use source::{Source, sources};

/// Beyond this many lines, tests not counted, a file says why in its head.
const LONG: usize = 400;

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc", "types"];

/// Words for things that have another name in the contract, and that name.
const FOREIGN_WORDS: &[(&str, &str)] = &[
    ("leaf", "end entity"),
    ("credential", "key pair"),
    ("generation", "epoch"),
    ("downstream", "peer or application"),
    ("bundle", "anchors or chain"),
];

/// What may be named in few places only: the identifiers, the places, and the reason.
const CONFINED: &[(&[&str], &[&str], &str)] = &[
    (&["arc_swap", "ArcSwap"], &["src/snapshot/channel.rs"], "there is one snapshot, and one pointer to it"),
    (
        &["rustls", "tokio_rustls"],
        &["src/tls.rs", "src/tls/", "src/pki/key_pair.rs", "src/pki/key_pair/"],
        "one room speaks rustls; a key that signs is the only other thing it is needed for",
    ),
    (
        &["Publisher"],
        &["src/snapshot.rs", "src/snapshot/", "src/writer.rs", "src/writer/", "src/app.rs", "src/app/"],
        "one hand publishes",
    ),
    (
        &["anyhow"],
        &["src/cli.rs", "src/cli/", "src/app/demo.rs", "src/app/demo/"],
        "only what is printed and forgotten may be an untyped error",
    ),
];

#[test]
fn imports_follow_the_table() {
    let plan = Plan::read();
    let mut wrong = String::new();
    for source in &sources("src") {
        for import in source.imports(&plan.rooms()) {
            if let Some(why) = plan.refuses(&import) {
                let item = import.item.as_deref().map(|item| format!("::{item}")).unwrap_or_default();
                let (path, line, from, to) = (&source.path, import.line, &import.from, &import.to);
                writeln!(wrong, "{path}:{line}: `{from}` imports `{to}{item}`, but {why}").expect("a String takes all");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_table_has_a_row_for_every_room_and_only_looks_up() {
    let plan = Plan::read();
    let mut wrong = plan.disorder();
    let found = sources("src");
    let rooms: Vec<&str> = found.iter().map(Source::room).collect();
    for room in rooms.iter().filter(|room| **room != "lib" && !plan.has_row(room)) {
        wrong.push(format!("src/{room}.rs: no row in the import table of ARCHITECTURE.md"));
    }
    for row in plan.rows.iter().filter(|row| !row.planned && !rooms.contains(&row.room.as_str())) {
        wrong.push(format!("ARCHITECTURE.md:{}: there is no room `{}`; is it planned?", row.line, row.room));
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_tree_lists_every_file() {
    let plan = Plan::read();
    let found = sources("src");
    let mut wrong = Vec::new();
    for source in found.iter().filter(|source| source.is_in_the_tree()) {
        match plan.tree.iter().find(|entry| entry.path == source.path) {
            None => wrong.push(format!("{}: not in the tree of ARCHITECTURE.md", source.path)),
            Some(entry) if entry.planned => {
                wrong.push(format!("ARCHITECTURE.md:{}: {} is no longer planned: it is there", entry.line, entry.path));
            }
            Some(_) => {}
        }
    }
    for entry in plan.tree.iter().filter(|entry| !entry.planned) {
        if !found.iter().any(|source| source.path == entry.path) {
            wrong.push(format!("ARCHITECTURE.md:{}: there is no {}; is it planned?", entry.line, entry.path));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_why() {
    let wrong: Vec<String> = everything()
        .iter()
        .filter(|source| !source.path.ends_with("/tests.rs") && !source.text.starts_with("//! "))
        .map(|source| format!("{}: the first line is not `//!` and why the file exists", source.path))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_file_over_400_lines_says_why() {
    let wrong: Vec<String> = sources("src")
        .iter()
        .filter(|source| !source.is_tests())
        .map(|source| (source, source.lines_without_tests()))
        .filter(|(source, lines)| *lines > LONG && !source.head().contains("// Long because "))
        .map(|(source, lines)| format!("{}: {lines} lines; split it, or say `// Long because …` on top", source.path))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn identifiers_use_the_words() {
    let mut wrong = Vec::new();
    for source in &everything() {
        for part in source.path.split(['/', '.']).filter(|part| EMPTY_NAMES.contains(part)) {
            wrong.push(format!("{}: `{part}` says nothing about what is inside", source.path));
        }
        for (line, name) in source.modules().filter(|(_, name)| EMPTY_NAMES.contains(name)) {
            wrong.push(format!("{}:{line}: module `{name}` says nothing about what is inside", source.path));
        }
        for (line, identifier) in source.identifiers() {
            for (word, ours) in FOREIGN_WORDS {
                if words(identifier).any(|part| part == *word) {
                    wrong.push(format!("{}:{line}: `{identifier}`: the contract's word is {ours}", source.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_belongs_in_one_place_is_only_there() {
    let mut wrong = Vec::new();
    for source in &sources("src") {
        for (names, places, why) in CONFINED {
            if places
                .iter()
                .any(|place| source.path == *place || place.ends_with('/') && source.path.starts_with(place))
            {
                continue;
            }
            let uses = source.identifiers().filter(|(_, identifier)| names.contains(identifier));
            wrong.extend(uses.map(|(line, name)| format!("{}:{line}: no `{name}` here: {why}", source.path)));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn main_and_lib_hold_no_logic() {
    for source in sources("src") {
        match source.room() {
            "main" => assert!(source.text.lines().count() < 60, "src/main.rs: arguments to exit code, no more"),
            "lib" => {
                let code = source.text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("//"));
                for line in code {
                    assert!(line.starts_with("pub mod "), "src/lib.rs only lists the rooms, not `{line}`");
                }
            }
            _ => {}
        }
    }
}

/// Every Rust file of ours.
fn everything() -> Vec<Source> {
    ["src", "tests", "fuzz/fuzz_targets"].into_iter().flat_map(sources).collect()
}

/// The lower-case words of an identifier: `CaBundle` and `ca_bundle` are `ca` and `bundle`.
fn words(identifier: &str) -> impl Iterator<Item = String> {
    let mut spaced = String::new();
    for letter in identifier.chars() {
        if letter.is_uppercase() {
            spaced.push('_');
        }
        spaced.extend(letter.to_lowercase());
    }
    spaced.split('_').map(str::to_owned).collect::<Vec<_>>().into_iter()
}
