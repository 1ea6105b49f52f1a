//! Reads the corpus: cases with a name, what is expected, and bytes in a notation that a person can edit.

use std::iter::Peekable;
use std::str::Chars;

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub expected: String,
    pub reaches: String,
    /// The lines below the title, as they are.
    pub lines: Vec<String>,
}

impl Case {
    /// The lines as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        unescape(&self.lines.concat())
    }
}

/// All cases of a file in `tests/corpus`.
pub fn read(file: &str) -> Vec<Case> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(file);
    let text = std::fs::read_to_string(path).expect("the corpus");
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("## ") && *line != "##" && !line.is_empty()) {
        if let Some(title) = line.strip_prefix("== ") {
            let parts: Vec<&str> = title.split(" | ").collect();
            let [name, expected, reaches] = parts[..] else { panic!("{line:?} is not a title") };
            assert!(cases.iter().all(|case| case.name != name), "{name} is there twice");
            let [name, expected, reaches] = [name, expected, reaches].map(str::to_owned);
            cases.push(Case { name, expected, reaches, lines: Vec::new() });
        } else {
            cases.last_mut().expect("a title first").lines.push(line.to_owned());
        }
    }
    cases
}

/// The notation of a case as bytes.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    part(&mut text.chars().peekable(), false, &mut bytes);
    bytes
}

fn part(chars: &mut Peekable<Chars<'_>>, nested: bool, bytes: &mut Vec<u8>) {
    while let Some(c) = chars.next() {
        match c {
            '}' if nested => return,
            '\\' => match chars.next().expect("something behind a backslash") {
                'r' => bytes.push(b'\r'),
                'n' => bytes.push(b'\n'),
                't' => bytes.push(b'\t'),
                '0' => bytes.push(0),
                '\\' => bytes.push(b'\\'),
                'x' => {
                    let digits: String = chars.by_ref().take(2).collect();
                    bytes.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
                }
                '{' => {
                    let count: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).collect();
                    assert_eq!(chars.next(), Some('*'), "a repetition is COUNT*TEXT");
                    let mut text = Vec::new();
                    part(chars, true, &mut text);
                    bytes.extend(text.repeat(count.parse().expect("a count")));
                }
                other => panic!("\\{other} is not an escape"),
            },
            _ => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}
