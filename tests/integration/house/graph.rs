//! Which file imports which, and the circles among them.
//!
//! A name that an area shows of its parts by `pub use` leads to the part: showing it is not an import. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use super::source::SourceFile;

/// Imports between files, by module.
pub(super) struct FileGraph {
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl FileGraph {
    /// Reads it from the sources.
    pub(super) fn read(sources: &[SourceFile]) -> Self {
        let sources: Vec<&SourceFile> =
            sources.iter().filter(|source| !source.is_tests() && !source.module().is_empty()).collect();
        let files: BTreeSet<Vec<String>> = sources.iter().map(|source| source.module()).collect();
        let mut shown: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        for source in &sources {
            for (path, name) in source.re_exports() {
                let here = source.module().into_iter().chain([name.clone()]).collect();
                shown.insert(here, path.segments.clone());
            }
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for source in &sources {
            let own = source.module();
            let cut = source.lines_without_tests();
            for path in source.paths().iter().filter(|path| path.line <= cut) {
                let Some(to) = file_of(follow(path.segments.clone(), &shown, &files), &files) else { continue };
                if to != own {
                    edges.entry(own.join("/")).or_default().insert(to.join("/"));
                }
            }
        }
        Self { edges }
    }

    /// Whether this module imports one that begins so, and which.
    pub(super) fn imports_below<'a>(&'a self, from: &'a str, to: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.edges
            .iter()
            .filter(move |(module, _)| is_below(module, from))
            .flat_map(|(module, targets)| targets.iter().map(move |target| (module.as_str(), target.as_str())))
            .filter(move |(_, target)| is_below(target, to))
    }

    /// The files that are part of a circle, each with what it imports of the circle; none if there is no circle.
    pub(super) fn circles(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut left = self.edges.clone();
        loop {
            let before: usize = left.values().map(BTreeSet::len).sum();
            // What imports nothing that is left is in no circle, and neither is what nothing that is left imports.
            let importing: BTreeSet<String> = left.keys().cloned().collect();
            for targets in left.values_mut() {
                targets.retain(|target| importing.contains(target));
            }
            let imported: BTreeSet<String> = left.values().flatten().cloned().collect();
            left.retain(|module, targets| !targets.is_empty() && imported.contains(module));
            if left.values().map(BTreeSet::len).sum::<usize>() == before {
                return left;
            }
        }
    }
}

fn is_below(module: &str, room: &str) -> bool {
    module.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where a name really is, `pub use` followed.
fn follow(
    mut path: Vec<String>,
    shown: &BTreeMap<Vec<String>, Vec<String>>,
    files: &BTreeSet<Vec<String>>,
) -> Vec<String> {
    // More often than any name of ours is shown on.
    for _ in 0..8 {
        let prefix = (1..=path.len()).find(|length| {
            let part = &path[..*length];
            shown.contains_key(part) && !files.contains(part)
        });
        let Some(length) = prefix else { break };
        let rest = path.split_off(length);
        path = shown[&path].iter().cloned().chain(rest).collect();
    }
    path
}

/// The file that holds what a path names.
fn file_of(mut path: Vec<String>, files: &BTreeSet<Vec<String>>) -> Option<Vec<String>> {
    while !path.is_empty() {
        if files.contains(&path) {
            return Some(path);
        }
        path.pop();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::source::SourceFile;
    use super::FileGraph;

    fn graph(files: &[(&str, &str)]) -> FileGraph {
        let sources: Vec<_> = files.iter().map(|(path, text)| SourceFile::parse(path, (*text).to_owned())).collect();
        FileGraph::read(&sources)
    }

    #[test]
    fn circle_is_found_through_what_an_area_shows() {
        let area = ("src/a.rs", "mod b;\nmod c;\npub use b::B;");
        let found = graph(&[area, ("src/a/b.rs", "use super::c::C;"), ("src/a/c.rs", "use crate::a::B;")]);
        assert_eq!(found.circles().into_keys().collect::<Vec<_>>(), ["a/b", "a/c"]);
        let line = graph(&[area, ("src/a/b.rs", "use super::c::C;"), ("src/a/c.rs", "")]);
        assert!(line.circles().is_empty());
    }

    #[test]
    fn tests_at_the_foot_of_a_file_are_left_out() {
        let test = "#[cfg(test)]\nmod tests { use crate::b::B; }";
        let found = graph(&[("src/a.rs", test), ("src/b.rs", "use crate::a::A;")]);
        assert!(found.circles().is_empty());
    }
}
