//! The house keeps its plan: what ARCHITECTURE.md says of rooms, imports, words and absences is true of the sources.
//!
//! What must hold: a room imports only what its row of the table allows; every file stands in the tree, opens with why it
//! exists, and defends its length; no identifier is a word that the contract does not have; what belongs in one place
//! (the `ArcSwap`, rustls, `anyhow`) is found nowhere else. Each failure names file, line and the line of the page.
//! Names of metrics, reasons and configuration keys are compared with their pages where they are made.

mod graph;
mod handshake_reasons;
mod names;
mod plan;
mod prose;
mod reasons;
mod source;
mod threats;

use std::fmt::Write as _;

use graph::FileGraph;
use names::{NameTable, words};
use plan::Plan;
use source::{SourceFile, read_sources};

/// A file of more lines is a question about the design.
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
        &["src/cli.rs", "src/cli/", "src/demo.rs", "src/demo/"],
        "only what is printed and forgotten may be an untyped error",
    ),
];

/// What the lower part of the data plane must not see of the upper.
const UPWARDS: &[(&str, &str)] = &[
    ("dataplane/exchange", "dataplane/ingress"),
    ("dataplane/exchange", "dataplane/egress"),
    ("dataplane/exchange", "dataplane/worker"),
    ("dataplane/ingress", "dataplane/egress"),
    ("dataplane/egress", "dataplane/ingress"),
    ("dataplane/ingress", "dataplane/worker"),
    ("dataplane/egress", "dataplane/worker"),
];

#[test]
fn imports_follow_the_table() {
    let plan = Plan::read();
    let mut wrong = String::new();
    for source in &read_sources("src") {
        for import in source.room_imports(&plan.rooms()) {
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
    let found = read_sources("src");
    let rooms: Vec<&str> = found.iter().map(SourceFile::room).collect();
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
fn tree_has_the_first_line_of_every_file() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tree.md");
    let mut tree = String::from(
        "# The files\n\nWritten from the first line of each file by `make tree`; the `house` test compares it.\n",
    );
    let sources = read_sources("src");
    for room in sources.iter().filter(|source| !source.path["src/".len()..].contains('/')) {
        writeln!(tree, "\n## `{}`\n\n{}\n", room.path, room.summary()).expect("a String takes all");
        let prefix = room.path.replace(".rs", "/");
        for source in sources.iter().filter(|source| source.path.starts_with(&prefix) && !source.summary().is_empty()) {
            writeln!(tree, "- `{}`: {}", &source.path["src/".len()..], source.summary()).expect("a String takes all");
        }
    }
    if std::env::var_os("SIDEKEY_WRITE_TREE").is_some() {
        std::fs::write(&page, &tree).expect("docs is writable");
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(written == tree, "docs/tree.md is not what the files' first lines say: run `make tree`");
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
fn files_are_at_most_400_lines_long() {
    let lengths = read_sources("src").into_iter().map(|source| (source.text.lines().count(), source.path));
    let wrong: Vec<String> =
        lengths.filter(|(lines, _)| *lines > LONG).map(|(lines, path)| format!("{path}: {lines} lines")).collect();
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
    for source in &read_sources("src") {
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
    for source in read_sources("src") {
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

#[test]
fn files_import_each_other_in_no_circle() {
    let circles = FileGraph::read(&read_sources("src")).circles();
    let wrong: Vec<String> = circles.iter().map(|(file, imports)| format!("{file} imports {imports:?}")).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn data_plane_imports_only_downwards() {
    let graph = FileGraph::read(&read_sources("src"));
    let mut wrong = String::new();
    for (lower, upper) in UPWARDS {
        for (from, to) in graph.imports_below(lower, upper) {
            writeln!(wrong, "{from} imports {to}, which stands above it").expect("a String takes all");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn names_are_measured() {
    let table = NameTable::count(&read_sources("src"));
    println!("{}", table.describe());
    let wrong = table.faults();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn wording_names_its_actors() {
    let wrong = prose::find_faults();
    assert!(wrong.is_empty(), "{} places\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_reason_of_a_request_has_its_row() {
    let page = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(path).expect("the page")
    };
    let (requests, handshakes, conformance) =
        (page("docs/requests.md"), page("docs/handshakes.md"), page("docs/conformance.md"));
    let rows = reasons::code_rows(&requests);
    let mut wrong = Vec::new();
    let codes = reasons::find_codes(&read_sources("src"));
    for (code, file) in &codes {
        let elsewhere = reasons::LISTED_ELSEWHERE.iter().find(|(source, _)| source == file);
        let explained = match elsewhere {
            Some((_, other)) => page(other).contains(&format!("`{code}`")),
            None => {
                // A handshake's code reaches the data plane; those of requests are made below it.
                let by_handshake = file.starts_with("src/dataplane") && handshakes.contains(&format!("### `{code}`\n"));
                by_handshake || rows.iter().any(|(row, _)| row == code)
            }
        };
        if !explained {
            wrong.push(format!(
                "{file} makes `{code}`, which {} does not list",
                elsewhere.map_or("docs/requests.md", |(_, page)| page)
            ));
        }
    }
    for (at, (code, cells)) in rows.iter().enumerate() {
        if !codes.contains_key(*code) {
            wrong.push(format!("docs/requests.md lists `{code}`, which no source makes"));
        }
        if rows[..at].iter().any(|(earlier, _)| earlier == code) {
            wrong.push(format!("docs/requests.md lists `{code}` twice"));
        }
        if cells.len() != 3 || cells.iter().any(|cell| cell.is_empty()) {
            wrong.push(format!("docs/requests.md, `{code}`: a row has status, what happened, and what to do"));
        }
    }
    for (code, cells) in reasons::code_rows(&conformance) {
        let Some((_, here)) = rows.iter().find(|(row, _)| *row == code) else { continue };
        if cells[0].parse::<u16>().is_ok() && cells[0] != here[0] {
            wrong.push(format!("`{code}`: docs/conformance.md says {}, docs/requests.md {}", cells[0], here[0]));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Every Rust file of ours.
fn everything() -> Vec<SourceFile> {
    ["src", "tests", "fuzz/fuzz_targets"].into_iter().flat_map(read_sources).collect()
}
