//! Rust sources as tokens: enough to see identifiers, modules and paths, blind to comments and text.
//!
//! Not a parser: macros are seen as they are written, and a path that only a macro puts together stays unseen.

use std::path::{Path, PathBuf};

/// One file.
pub(super) struct Source {
    /// From the repository's root, with `/`.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
    tokens: Vec<Token>,
}

struct Token {
    line: usize,
    is: Is,
}

#[derive(Clone, Copy, PartialEq)]
enum Is {
    /// An identifier or keyword: its place in the text.
    Word(usize, usize),
    /// `::`
    Sep,
    /// One other character.
    Mark(char),
}

/// A path that leads from one room into another.
#[derive(Debug)]
pub(super) struct Import {
    /// Where.
    pub(super) line: usize,
    /// The room that imports.
    pub(super) from: String,
    /// The room that is imported.
    pub(super) to: String,
    /// What of it; nothing where the whole room is named.
    pub(super) item: Option<String>,
}

/// Every Rust file below a folder of the repository; none where there is no such folder.
pub(super) fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("our own folder is readable").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source::read(root, &path));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

impl Source {
    fn read(root: &Path, path: &PathBuf) -> Self {
        let text = std::fs::read_to_string(path).expect("a source is readable text");
        let path = path.strip_prefix(root).expect("it was found below the root");
        let tokens = tokens(&text);
        Self { path: path.to_string_lossy().replace('\\', "/"), text, tokens }
    }

    /// The room: `trust` for `src/trust.rs` and everything in `src/trust/`.
    pub(super) fn room(&self) -> &str {
        self.module().next().unwrap_or_default()
    }

    fn module(&self) -> impl Iterator<Item = &str> {
        self.path.trim_start_matches("src/").trim_end_matches(".rs").split('/')
    }

    /// Only tests inside.
    pub(super) fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The tree lists rooms and their files; what lies deeper is that file's own business.
    pub(super) fn is_in_the_tree(&self) -> bool {
        self.module().count() <= 2 && !self.is_tests()
    }

    /// The lines before the tests at its foot.
    pub(super) fn lines_without_tests(&self) -> usize {
        self.text.lines().take_while(|line| *line != "#[cfg(test)]").count()
    }

    /// Its first lines, where a reason is looked for.
    pub(super) fn head(&self) -> String {
        self.text.lines().take(40).collect::<Vec<_>>().join("\n")
    }

    /// Every identifier and keyword, with its line.
    pub(super) fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        self.tokens.iter().filter_map(|token| self.word(token).map(|word| (token.line, word)))
    }

    /// Every module that is declared, with its line.
    pub(super) fn modules(&self) -> impl Iterator<Item = (usize, &str)> {
        let pairs = self.tokens.iter().zip(self.tokens.iter().skip(1));
        pairs
            .filter(|(first, _)| self.word(first) == Some("mod"))
            .filter_map(|(_, name)| Some((name.line, self.word(name)?)))
    }

    /// Every path into another of these rooms, whether by `crate::`, by `super::` or, from the executable, by our name.
    pub(super) fn imports(&self, rooms: &[&str]) -> Vec<Import> {
        let own = self.room();
        let mut module: Vec<String> =
            self.module().filter(|part| !["lib", "main"].contains(part)).map(str::to_owned).collect();
        let (mut depth, mut opened) = (0_usize, Vec::new());
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            match token.is {
                Is::Mark('{') => depth += 1,
                Is::Mark('}') => {
                    depth = depth.saturating_sub(1);
                    if opened.last() == Some(&depth) {
                        opened.pop();
                        module.pop();
                    }
                }
                Is::Word(..) if self.word(token) == Some("mod") && self.is(at + 2, Is::Mark('{')) => {
                    module.extend(self.tokens.get(at + 1).and_then(|name| self.word(name)).map(str::to_owned));
                    opened.push(depth);
                }
                Is::Word(..) if self.is(at + 1, Is::Sep) && !(at > 0 && self.is(at - 1, Is::Sep)) => {
                    if let Some(base) = self.base(token, own, &module) {
                        at = self.path(at, base, &mut found);
                        continue;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        let names = found
            .into_iter()
            .filter(|(_, path)| path.first().is_some_and(|to| rooms.contains(&to.as_str()) && to != own));
        names
            .map(|(line, mut path)| {
                let item = (path.len() > 1).then(|| path.swap_remove(1));
                Import { line, from: own.to_owned(), to: path.swap_remove(0), item }
            })
            .collect()
    }

    /// What the first word of a path stands for, if it can lead out of the room.
    fn base(&self, first: &Token, own: &str, module: &[String]) -> Option<Vec<String>> {
        match self.word(first)? {
            "crate" => Some(Vec::new()),
            "sidekey" if own == "main" => Some(Vec::new()),
            "super" => Some(module.split_last()?.1.to_vec()),
            _ => None,
        }
    }

    /// Follows a path, groups included, from its first word. Returns the first token after it.
    fn path(&self, first: usize, mut path: Vec<String>, found: &mut Vec<(usize, Vec<String>)>) -> usize {
        let mut at = first + 1;
        let mut line = self.tokens.get(first).map_or(0, |token| token.line);
        while self.is(at, Is::Sep) {
            at += 1;
            let Some(token) = self.tokens.get(at) else { break };
            line = token.line;
            match (token.is, self.word(token)) {
                (Is::Mark('{'), _) => return self.group(at + 1, &path, found),
                (_, Some("super")) => drop(path.pop()),
                (_, Some(word)) => path.push(word.to_owned()),
                _ => break,
            }
            at += 1;
        }
        found.push((line, path));
        at
    }

    /// The inside of `{…}` in a `use`. Returns the first token after it.
    fn group(&self, mut at: usize, path: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
        while let Some(token) = self.tokens.get(at) {
            match (token.is, self.word(token)) {
                (Is::Mark('}'), _) => return at + 1,
                (_, Some("as")) => at += 2,
                (_, Some("self")) => {
                    found.push((token.line, path.to_vec()));
                    at += 1;
                }
                (_, Some(word)) => {
                    let longer = path.iter().cloned().chain([word.to_owned()]).collect();
                    at = self.path(at, longer, found);
                }
                _ => at += 1,
            }
        }
        at
    }

    fn is(&self, at: usize, is: Is) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is == is)
    }

    fn word(&self, token: &Token) -> Option<&str> {
        match token.is {
            Is::Word(start, end) => self.text.get(start..end),
            _ => None,
        }
    }
}

/// Splits a source; comments, text, characters, lifetimes and numbers are left out.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => at + find(&bytes[at..], b"\n"),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment(bytes, at),
            b'"' => quoted(bytes, at),
            b'\'' => quote(text, at),
            b'r' | b'b' | b'c' if raw(bytes, at).is_some() => raw(bytes, at).expect("just seen"),
            byte if byte == b'_' || byte.is_ascii_alphabetic() => {
                let end = at + run(&bytes[at..]);
                tokens.push(Token { line, is: Is::Word(at, end) });
                end
            }
            byte if byte.is_ascii_digit() => at + run(&bytes[at..]),
            b':' if bytes[at..].starts_with(b"::") => {
                tokens.push(Token { line, is: Is::Sep });
                at + 2
            }
            byte => {
                if byte.is_ascii_punctuation() {
                    tokens.push(Token { line, is: Is::Mark(char::from(byte)) });
                }
                at + 1
            }
        };
        let end = end.min(bytes.len());
        line += bytes[at..end].iter().filter(|byte| **byte == b'\n').count();
        at = end;
    }
    tokens
}

/// How many bytes of a word or number begin here.
fn run(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == b'_' || byte.is_ascii_alphanumeric()).count()
}

/// Where `what` begins, or the end.
fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap_or(bytes.len())
}

fn block_comment(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The end of a string that begins here.
fn quoted(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of a character or of a lifetime that begins here.
fn quote(text: &str, start: usize) -> usize {
    let mut letters = text[start + 1..].char_indices();
    match (letters.next(), letters.next()) {
        (Some((_, '\\')), _) => start + 3 + find(&text.as_bytes()[start + 3..], b"'") + 1,
        (Some(_), Some((width, '\''))) => start + 1 + width + 1,
        _ => start + 1 + run(&text.as_bytes()[start + 1..]),
    }
}

/// The end of a string with a prefix (`b""`, `r#""#`, `br""`, `b''`) that begins here; nothing for a mere word.
fn raw(bytes: &[u8], start: usize) -> Option<usize> {
    let prefix = bytes[start..].iter().take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let at = start + prefix;
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    let is_raw = bytes[start..at].contains(&b'r');
    match bytes.get(at + hashes)? {
        b'"' if is_raw => {
            let closing: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
            let body = at + hashes + 1;
            Some(body + find(&bytes[body..], &closing) + closing.len())
        }
        b'"' if hashes == 0 => Some(quoted(bytes, at)),
        b'\'' if hashes == 0 && &bytes[start..at] == b"b" => {
            let skip = if bytes.get(at + 1) == Some(&b'\\') { 3 } else { 2 };
            Some(at + skip + find(&bytes[at + skip..], b"'") + 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, tokens};

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), tokens: tokens(text) }
    }

    fn edges(path: &str, text: &str) -> Vec<String> {
        let source = source(path, text);
        let found = source.imports(&["pki", "keyring", "trust"]);
        found
            .into_iter()
            .map(|import| format!("{}:{}:{}", import.line, import.to, import.item.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn groups_nesting_and_names_are_followed() {
        let text =
            "use crate::{pki::{self, KeyPair as Pair, blocks::{A, B}}, keyring};\nfn f(_: crate::trust::Peer<'_>) {}";
        assert_eq!(
            edges("src/tls.rs", text),
            ["1:pki:", "1:pki:KeyPair", "1:pki:blocks", "1:pki:blocks", "1:keyring:", "2:trust:Peer"]
        );
    }

    #[test]
    fn super_is_counted_through_inline_modules() {
        let text = "mod tests { use super::super::pki::X; }\nuse super::keyring::Y;\nuse self::trust::Z;";
        assert_eq!(edges("src/tls.rs", text), ["1:pki:X", "2:keyring:Y"]);
        assert_eq!(edges("src/tls/seen.rs", "use super::pki::X;\nuse super::super::pki::Y;"), ["2:pki:Y"]);
    }

    #[test]
    fn comments_and_text_are_not_read() {
        let text = "/* crate::pki /* x */ crate::pki */ // crate::pki\nconst A: &str = \"crate::pki \\\" crate::pki\";\n\
                    const B: &[u8] = br#\"crate::pki::\"#; const C: char = '\"'; const D: u8 = b'\\''; type E = crate::pki::F;";
        assert_eq!(edges("src/tls.rs", text), ["3:pki:F"]);
    }

    #[test]
    fn ones_own_room_is_no_import() {
        assert!(edges("src/pki/join.rs", "use crate::pki::KeyPair; use super::Blocks;").is_empty());
    }
}
