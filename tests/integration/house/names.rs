//! What the names of types and functions are measured by: `cargo test … names_are_measured -- --nocapture` prints the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::source::{Definition, DefinitionKind, SourceFile};

/// Shares of the types, in per cent, and counts that the names may not exceed.
const MOST_BARE_WORDS: usize = 40;
const MOST_SHARED_NAMES: usize = 5;
const MOST_PARTICIPLES: usize = 5;
const MOST_VAGUE_FUNCTIONS: usize = 10;

/// Each area may have its own.
const MAY_BE_SHARED: &[&str] = &["Error", "Settings", "Event"];

/// Participles that do not end in `ed`.
const IRREGULAR_PARTICIPLES: &[&str] = &[
    "told", "said", "heard", "kept", "made", "built", "sent", "held", "shown", "known", "seen", "found", "left",
    "lost", "given", "taken", "gone", "done", "broken", "chosen", "hidden", "written", "drawn", "read", "met", "won",
    "paid", "taught", "bound", "split", "spent", "begun", "driven", "frozen", "spoken", "stolen", "sworn", "torn",
    "worn", "put",
];

/// End in `ed` without being participles.
const NOT_PARTICIPLES: &[&str] = &["feed", "seed", "speed", "need", "shed", "bed"];

/// Function names that say nothing of what is done, or to what.
const VAGUE_FUNCTIONS: &[&str] = &[
    "of", "at", "is", "on", "by", "to", "in", "as", "with", "after", "before", "about", "take", "put", "say", "tell",
    "told", "ask", "note", "name_it", "do_it", "go", "go_on", "be", "begin", "end", "keep", "let_go", "give", "hold",
    "one", "all", "who", "whose", "what", "look", "see", "hear", "knock", "stranger", "teaches", "taught", "goes",
    "comes", "makes", "gets", "says",
];

/// The figures.
pub(super) struct NameTable {
    types: usize,
    bare_words: Vec<String>,
    shared: BTreeMap<String, Vec<String>>,
    participles: Vec<String>,
    vague_functions: Vec<String>,
}

impl NameTable {
    /// Counts.
    pub(super) fn count(sources: &[SourceFile]) -> Self {
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let (mut bare_words, mut participles, mut vague_functions) = (Vec::new(), Vec::new(), Vec::new());
        for source in sources {
            for Definition { kind, name, line } in &source.definitions {
                let place = format!("{}:{line}: {name}", source.path);
                match kind {
                    DefinitionKind::Type => {
                        if words(name).count() <= 1 {
                            bare_words.push(place.clone());
                        }
                        if words(name).last().is_some_and(|word| is_participle(&word)) {
                            participles.push(place.clone());
                        }
                        places.entry(name.clone()).or_default().push(place);
                    }
                    DefinitionKind::Function if VAGUE_FUNCTIONS.contains(&name.as_str()) => vague_functions.push(place),
                    DefinitionKind::Function => {}
                }
            }
        }
        let types = places.values().map(Vec::len).sum();
        let shared = places
            .into_iter()
            .filter(|(name, found)| found.len() > 1 && !MAY_BE_SHARED.contains(&name.as_str()))
            .collect();
        Self { types, bare_words, shared, participles, vague_functions }
    }

    /// As a table, in the figures of the page that sets them.
    pub(super) fn describe(&self) -> String {
        let mut out = String::new();
        let shared = self.shared.values().map(Vec::len).sum();
        let rows = [
            ("types", self.types, String::new()),
            ("named by one bare word", self.bare_words.len(), format!("at most {MOST_BARE_WORDS} %")),
            ("sharing their name", shared, format!("at most {MOST_SHARED_NAMES} %")),
            ("named by a participle", self.participles.len(), format!("at most {MOST_PARTICIPLES}")),
            ("functions with a vague name", self.vague_functions.len(), format!("at most {MOST_VAGUE_FUNCTIONS}")),
        ];
        for (what, count, limit) in rows {
            let share = count * 100 / self.types.max(1);
            writeln!(out, "{what:<32}{count:>6}{share:>5} %  {limit}").expect("a String takes all");
        }
        out
    }

    /// What exceeds a limit, with every place.
    pub(super) fn faults(&self) -> Vec<String> {
        let shared: Vec<String> = self.shared.values().flatten().cloned().collect();
        let share = |limit: usize| limit * self.types / 100;
        let checks = [
            ("types named by one bare word", &self.bare_words, share(MOST_BARE_WORDS)),
            ("types that share their name", &shared, share(MOST_SHARED_NAMES)),
            ("types named by a participle", &self.participles, MOST_PARTICIPLES),
            ("functions with a vague name", &self.vague_functions, MOST_VAGUE_FUNCTIONS),
        ];
        let over = checks.into_iter().filter(|(_, found, most)| found.len() > *most);
        over.map(|(what, found, most)| format!("{} {what}, at most {most}:\n{}", found.len(), found.join("\n")))
            .collect()
    }
}

fn is_participle(word: &str) -> bool {
    IRREGULAR_PARTICIPLES.contains(&word) || word.ends_with("ed") && !NOT_PARTICIPLES.contains(&word)
}

/// The lower-case words of an identifier: `CaBundle` and `ca_bundle` are `ca` and `bundle`.
pub(super) fn words(identifier: &str) -> impl Iterator<Item = String> {
    let mut spaced = String::new();
    for letter in identifier.chars() {
        if letter.is_uppercase() {
            spaced.push('_');
        }
        spaced.extend(letter.to_lowercase());
    }
    let words: Vec<String> = spaced.split('_').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    words.into_iter()
}
