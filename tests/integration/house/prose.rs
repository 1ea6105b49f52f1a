//! Wording that sources and documents do without: each has a plainer way to say it, with its actor named.

use super::source::files_below;

/// Words that name a person and no actor.
const WORDS: &[&str] = &["whom", "whoever", "somebody", "nobody", "anybody"];

/// May follow "is no": those are common English.
const AFTER_IS_NO: &[&str] = &["longer", "more", "less", "different"];

/// Where prose stands: folders with the ending of their files, and single files.
const FOLDERS: &[(&str, &str)] =
    &[("src", "rs"), ("tests", "rs"), ("docs", "md"), ("deploy", "toml"), ("certs", "md"), ("bench", "md")];
const FILES: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// Each place that uses such a wording.
pub(super) fn find_faults() -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let below = FOLDERS.iter().flat_map(|(folder, ending)| files_below(&root.join(folder), ending));
    let mut found = Vec::new();
    for path in below.chain(FILES.iter().map(|file| root.join(file))) {
        // This page has to name what it looks for.
        if path.ends_with("house/prose.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("our own files are readable text");
        let name = path.strip_prefix(root).expect("it was found below the root").display().to_string();
        found.extend(faults_in(&text).into_iter().map(|(line, what)| format!("{name}:{line}: \"{what}\"")));
    }
    found.sort();
    found
}

fn faults_in(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<String> = line
            .split(|letter: char| !letter.is_alphanumeric() && letter != '-' && letter != '\'')
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        for (at, word) in words.iter().enumerate() {
            if WORDS.contains(&word.as_str()) {
                found.push((index + 1, word.clone()));
            }
            let before = at.checked_sub(1).map(|at| words[at].as_str());
            let after = (words.get(at + 1).map(String::as_str), words.get(at + 2).map(String::as_str));
            if ["is", "are"].contains(&word.as_str())
                && let (Some("no"), Some(noun)) = after
                && before != Some("there")
                && !AFTER_IS_NO.contains(&noun)
            {
                found.push((index + 1, format!("{word} no {noun}")));
            }
        }
    }
    found
}

#[test]
fn unclear_wording_is_found_and_common_english_is_not() {
    let found = |text| faults_in(text).into_iter().map(|(_, what)| what).collect::<Vec<_>>();
    assert_eq!(found("\"x\" is no duration, whoever wrote it"), ["is no duration", "whoever"]);
    assert!(found("there is no file; it is no longer used; somebodys_name").is_empty());
}
