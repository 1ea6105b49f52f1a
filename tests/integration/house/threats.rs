//! The threat model of `SECURITY.md`: each of its lines names the tests that back it, and those tests exist.
//!
//! Whether a test proves what its line says is for a reader; that it was renamed or deleted is found here.

use std::collections::BTreeSet;
use std::path::Path;

use super::source::read_sources;

/// The heading above the numbered list.
const HEADING: &str = "\n## Threat model\n";

/// One line of the list: its number, and the tests that it names.
struct ThreatLine {
    number: usize,
    tests: Vec<String>,
}

/// The numbered lines below the heading, each with its continuation.
fn read_lines(page: &str) -> Vec<ThreatLine> {
    let list = page.split_once(HEADING).map_or("", |(_, rest)| rest.split("\n## ").next().unwrap_or(rest));
    let mut lines: Vec<(usize, String)> = Vec::new();
    for line in list.lines() {
        let begun = line.split_once(". ").and_then(|(number, text)| Some((number.parse().ok()?, text)));
        match (begun, lines.last_mut()) {
            (Some((number, text)), _) => lines.push((number, text.to_owned())),
            (None, Some((_, text))) => text.extend([" ", line]),
            (None, None) => {}
        }
    }
    let tests = |text: &str| {
        let named = text.split_once("Tests: ").map_or("", |(_, named)| named);
        named.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    lines.iter().map(|(number, text)| ThreatLine { number: *number, tests: tests(text) }).collect()
}

/// What is wrong with the list, where `known` are the tests that exist.
fn find_faults(page: &str, known: &BTreeSet<String>) -> Vec<String> {
    let lines = read_lines(page);
    let mut wrong = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        let number = line.number;
        if number != place + 1 {
            wrong.push(format!("line {number} stands in place {}", place + 1));
        }
        if line.tests.is_empty() {
            wrong.push(format!("line {number} names no test"));
        }
        let missing = line.tests.iter().filter(|name| !known.contains(*name));
        wrong.extend(
            missing.map(|name| format!("line {number} names `{name}`, a test that this repository does not have")),
        );
    }
    if lines.is_empty() {
        wrong.push("the page holds no numbered list of threats".to_owned());
    }
    wrong
}

/// The functions below a test attribute; by line, since syn does not look into macros of property tests.
fn names_of_tests(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut below = false;
    for line in text.lines().map(str::trim_start) {
        below |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        if let (true, Some(name)) = (below, name) {
            found.insert(name.to_owned());
            below = false;
        }
    }
    found
}

/// The lives of pods, which a script plays: what stands in its list.
fn names_of_lives(script: &str) -> BTreeSet<String> {
    let list = script.split_once("\nLIVES = [").map_or("", |(_, rest)| rest.split(']').next().unwrap_or(rest));
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_threat_is_backed_by_tests_that_exist() {
    let read = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a text");
    let mut known = names_of_lives(&read("tests/pod/lives.py"));
    assert!(!known.is_empty(), "tests/pod/lives.py holds no list of lives");
    for source in ["src", "tests"].into_iter().flat_map(read_sources) {
        known.append(&mut names_of_tests(&source.text));
    }
    let wrong = find_faults(&read("SECURITY.md"), &known);
    assert!(wrong.is_empty(), "SECURITY.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_threat_without_a_test_and_one_whose_test_is_gone_are_found() {
    let known = names_of_tests(
        "#[test]\nfn kept() {}\nproptest! {\n    #[test]\n    fn drawn(x in 0..1) {}\n}\nfn helper() {}",
    );
    assert_eq!(known, BTreeSet::from(["drawn".to_owned(), "kept".to_owned()]));
    let page = "# x\n\n## Threat model\n\nWords.\n\n1. **A.** B.\n   Tests: `kept`,\n   `drawn`.\n2. **C.** `kept`.\n\
        4. D. Tests: `helper`.\n\n## Else\n\n9. E.\n";
    let wrong = find_faults(page, &known);
    assert_eq!(
        wrong,
        [
            "line 2 names no test",
            "line 4 stands in place 3",
            "line 4 names `helper`, a test that this repository does not have"
        ]
    );
    assert_eq!(find_faults("# x", &known), ["the page holds no numbered list of threats"]);
}
