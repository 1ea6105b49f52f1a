//! The HTTP/2 cases as frames: written without an HTTP library, since none would write what is to be refused.

use super::corpus::{Case, unescape};
use super::recording::Taken;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What a case puts on the wire, and the requests that it makes.
#[derive(Default)]
pub struct Written {
    pub bytes: Vec<u8>,
    pub requests: Vec<Request>,
}

/// One stream as an honest reader understands it.
#[derive(Default)]
pub struct Request {
    pub stream: u32,
    pub fields: Vec<(String, Vec<u8>)>,
    pub content: Vec<u8>,
    pub ended: bool,
    /// What comes behind is a trailer.
    data: bool,
}

impl Request {
    fn pseudo(&self, name: &str) -> String {
        let value = self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        String::from_utf8_lossy(&value.unwrap_or_default()).into_owned()
    }

    /// As an HTTP/1.1 backend gets it: cookies in one field, the authority as Host.
    pub fn taken(&self) -> Taken {
        let mut fields: Vec<(String, Vec<u8>)> =
            self.fields.iter().filter(|(name, _)| !name.starts_with(':')).cloned().collect();
        let crumbs: Vec<Vec<u8>> =
            fields.iter().filter(|(name, _)| name == "cookie").map(|(_, value)| value.clone()).collect();
        if crumbs.len() > 1 {
            fields.retain(|(name, _)| name != "cookie");
            fields.push(("cookie".to_owned(), crumbs.join(&b"; "[..])));
        }
        if fields.iter().all(|(name, _)| name != "host") {
            fields.push(("host".to_owned(), self.pseudo(":authority").into_bytes()));
        }
        let line = format!("{} {}", self.pseudo(":method"), self.pseudo(":path"));
        Taken { line, fields, content: self.content.clone(), trailers: Vec::new() }
    }
}

/// Writes a case.
pub fn write(case: &Case) -> Written {
    let mut written = Written { bytes: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), requests: Vec::new() };
    written.bytes.extend(frame(4, 0, 0, b""));
    let mut next = 1;
    for line in &case.lines {
        let (count, line) = match line.strip_prefix('*').and_then(|rest| rest.split_once(' ')) {
            Some((count, line)) => (count.parse().expect("a count"), line),
            None => (1, line.as_str()),
        };
        for _ in 0..count {
            for one in line.split(" ;; ") {
                written.frame(one, next);
            }
            next += 2;
        }
    }
    written
}

impl Written {
    fn frame(&mut self, line: &str, next: u32) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split(' ').peekable();
        let mut number = || match words.next().expect("a number") {
            "n" => next,
            digits => digits.parse().expect("a number"),
        };
        let bytes = match kind {
            "headers" | "continuation" => {
                let stream = number();
                let end = words.next_if_eq(&"end").is_some();
                let open = words.next_if_eq(&"open").is_some();
                let mut block = Vec::new();
                for field in words.filter(|field| !field.is_empty()) {
                    let (name, value, known) = split(field);
                    literal(&mut block, &name, &value, known);
                    self.note(stream, |request| {
                        if !request.data {
                            let name = String::from_utf8_lossy(&name).into_owned();
                            request.fields.push((name, value.clone()));
                        }
                    });
                }
                if end {
                    self.note(stream, |request| request.ended = true);
                }
                let flags = if end { END_STREAM } else { 0 } | if open { 0 } else { END_HEADERS };
                frame(if kind == "headers" { 1 } else { 9 }, flags, stream, &block)
            }
            "data" => {
                let stream = number();
                let end = words.next_if_eq(&"end").is_some();
                let content = unescape(&words.collect::<Vec<_>>().join(" "));
                self.note(stream, |request| {
                    request.content.extend_from_slice(&content);
                    request.ended |= end;
                    request.data = true;
                });
                frame(0, u8::from(end), stream, &content)
            }
            "rst" => {
                let stream = number();
                frame(3, 0, stream, &number().to_be_bytes())
            }
            "priority" => frame(2, 0, number(), &[0, 0, 0, 0, 16]),
            "window" => {
                let stream = number();
                frame(8, 0, stream, &number().to_be_bytes())
            }
            "ping" => frame(6, 0, 0, b"12345678"),
            "settings" => {
                let mut content = Vec::new();
                for (id, value) in words.filter_map(|word| word.split_once('=')) {
                    content.extend(id.parse::<u16>().expect("a setting").to_be_bytes());
                    content.extend(value.parse::<u32>().expect("a value").to_be_bytes());
                }
                frame(4, 0, 0, &content)
            }
            "frame" => {
                let mut hex = || u8::from_str_radix(words.next().expect("a byte"), 16).expect("hexadecimal");
                let (kind, flags) = (hex(), hex());
                let stream = words.next().expect("a stream").parse().expect("a number");
                let content = unescape(&words.collect::<Vec<_>>().join(" "));
                if kind == 0 {
                    let padding = content.first().map_or(0, |padding| usize::from(*padding));
                    let end = content.len().saturating_sub(padding).max(1);
                    self.note(stream, |request| request.content.extend_from_slice(content.get(1..end).unwrap_or(b"")));
                }
                frame(kind, flags, stream, &content)
            }
            "bytes" => {
                self.bytes = unescape(rest);
                return;
            }
            other => panic!("{other} is not a frame"),
        };
        self.bytes.extend(bytes);
    }

    fn note(&mut self, stream: u32, what: impl FnOnce(&mut Request)) {
        let known = self.requests.iter_mut().find(|request| request.stream == stream);
        match known {
            Some(request) => what(request),
            None => {
                self.requests.push(Request { stream, ..Request::default() });
                what(self.requests.last_mut().expect("just pushed"));
            }
        }
    }
}

/// `name=value`, `:name=value`, `+name=value`.
fn split(field: &str) -> (Vec<u8>, Vec<u8>, bool) {
    let (field, known) = field.strip_prefix('+').map_or((field, false), |rest| (rest, true));
    let (name, value) = field.split_once('=').expect("NAME=VALUE");
    (unescape(name), unescape(value), known)
}

/// RFC 7541 6.2: a literal with a literal name, with or without an entry in the dynamic table.
fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8], known: bool) {
    block.push(if known { 0x40 } else { 0 });
    for text in [name, value] {
        // RFC 7541 5.1, with a prefix of seven bits.
        let mut left = text.len();
        if left < 127 {
            block.push(u8::try_from(left).expect("below 127"));
        } else {
            block.push(127);
            left -= 127;
            while left >= 128 {
                block.push(u8::try_from(left % 128).expect("below 128") | 128);
                left /= 128;
            }
            block.push(u8::try_from(left).expect("below 128"));
        }
        block.extend_from_slice(text);
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("a length").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// What the frames that came back say, by stream; `goaway` last.
pub fn outcomes(mut bytes: &[u8]) -> Vec<String> {
    let mut by_stream: Vec<(u32, String)> = Vec::new();
    let mut gone = false;
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let Some(content) = rest.get(..length) else { break };
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        match header[3] {
            1 if by_stream.iter().all(|(known, _)| *known != stream) => by_stream.push((stream, status(content))),
            3 if content != [0; 4] => match by_stream.iter_mut().find(|(known, _)| *known == stream) {
                Some((_, outcome)) => "reset".clone_into(outcome),
                None => by_stream.push((stream, "reset".to_owned())),
            },
            7 => gone |= content[4..8] != [0; 4],
            _ => {}
        }
        bytes = &rest[length..];
    }
    by_stream.sort();
    by_stream.into_iter().map(|(_, outcome)| outcome).chain(gone.then(|| "goaway".to_owned())).collect()
}

/// The status at the front of a header block, as h2 writes it: from the static table, or as a literal.
fn status(mut block: &[u8]) -> String {
    while let [0x20..=0x3f, rest @ ..] = block {
        block = rest;
    }
    match block {
        [0x88, ..] => "200".to_owned(),
        [0x8c, ..] => "400".to_owned(),
        [0x48 | 0x08, length, text @ ..] if length & 0x80 == 0 => {
            String::from_utf8_lossy(&text[..usize::from(*length)]).into_owned()
        }
        [0x48 | 0x08, length, text @ ..] => digits(&text[..usize::from(length & 0x7f)]),
        other => format!("unread {other:?}"),
    }
}

/// Three digits in the Huffman code of RFC 7541: five bits for 0 to 2, six for the others.
fn digits(bytes: &[u8]) -> String {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut text = String::new();
    while text.len() < 3 {
        let five = (0..5).fold(0, |code, _| code << 1 | bits.next().unwrap_or(1));
        let digit = if five < 3 { five } else { (five << 1 | bits.next().unwrap_or(1)) - 0b01_1001 + 3 };
        text.push(char::from(b'0' + digit));
    }
    text
}
