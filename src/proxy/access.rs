//! The access line: one per request, assembled from bytes that are prepared once per connection.
//!
//! Tracing would cost more than the request itself. Whatever a peer sends can neither break the line nor forge a field:
//! methods are tokens, a path is quoted, and what is not plain ASCII in it is escaped.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, StatusCode, Version};
use jiff::Timestamp;

use super::open::Flight;
use crate::clock::Clock;
use crate::log::{Format, Lines};
use crate::metrics::Cells;
use crate::pki::printable;
use crate::snapshot::Side;
use crate::trust::Peer;

/// Bytes of a path that are logged.
const PATH: usize = 1024;
/// Bytes of a method that are logged.
const METHOD: usize = 32;
/// The status that is logged where the client left before a response was sent; nginx introduced it.
const LEFT: u16 = 499;

/// Where one worker's access lines and counts go, for one listener.
pub(super) struct Desk {
    pub(super) lines: Arc<Lines>,
    pub(super) cells: Arc<Cells>,
    pub(super) clock: Clock,
    pub(super) second: Rc<Second>,
}

/// The text of the second in which the last line was written: formatting dates is expensive, and most lines share
/// theirs.
#[derive(Default)]
pub(super) struct Second(RefCell<(i64, String)>);

impl Second {
    fn write(&self, now: Timestamp, out: &mut Vec<u8>) {
        let mut known = self.0.borrow_mut();
        if known.0 != now.as_second() || known.1.is_empty() {
            let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
            *known = (now.as_second(), whole.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        }
        out.extend_from_slice(known.1.as_bytes());
        let _ = write!(out, ".{:06}Z", now.subsec_microsecond().unsigned_abs());
    }
}

/// The client: the part of the line that is the same for every request of a connection.
pub(super) struct Asker<'a> {
    pub(super) side: Side,
    pub(super) listener: &'a str,
    pub(super) connection: u64,
    pub(super) from: Option<SocketAddr>,
    pub(super) peer: Option<&'a Peer>,
}

/// The part of the line that is prepared once.
pub(super) struct Prepared {
    desk: Rc<Desk>,
    /// `None` where requests are not logged.
    fixed: Option<String>,
}

impl Prepared {
    pub(super) fn new(desk: &Rc<Desk>, log: bool, asker: &Asker<'_>) -> Rc<Self> {
        let fixed = log.then(|| {
            let format = desk.lines.format();
            let mut out = String::with_capacity(256);
            match format {
                Format::Json => out.push_str("\",\"level\":\"info\",\"target\":\"access\""),
                Format::Text => out.push_str("  INFO access"),
            }
            text(&mut out, format, "side", asker.side.as_str());
            text(&mut out, format, "listener", asker.listener);
            number(&mut out, format, "connection", asker.connection);
            if let Some(from) = asker.from {
                text(&mut out, format, "peer.addr", &from.to_string());
            }
            if let Some(peer) = asker.peer {
                text(&mut out, format, "peer.identity", peer.identity());
                if let Some(partner) = peer.partner() {
                    text(&mut out, format, "partner", partner);
                }
            }
            out
        });
        Rc::new(Self { desk: Rc::clone(desk), fixed })
    }
}

/// One request, from its head to the last byte of its response. Counted and logged when it is dropped.
pub(super) struct Record {
    prepared: Rc<Prepared>,
    flight: Flight,
    started: Instant,
    line: Vec<u8>,
    status: u16,
    bytes: u64,
    reason: Option<&'static str>,
}

impl Record {
    pub(super) fn begin<B>(prepared: &Rc<Prepared>, request: &Request<B>, flight: Flight) -> Self {
        let mut line = Vec::new();
        if let Some(fixed) = &prepared.fixed {
            line.reserve(fixed.len() + request.uri().path().len().min(PATH) + 160);
            let json = prepared.desk.lines.format() == Format::Json;
            if json {
                line.extend_from_slice(b"{\"time\":\"");
            }
            prepared.desk.second.write(prepared.desk.clock.now(), &mut line);
            line.extend_from_slice(fixed.as_bytes());
            let method = request.method().as_str();
            let method = &method[..method.len().min(METHOD)];
            let protocol: &[u8] = match request.version() {
                Version::HTTP_2 => b"2",
                Version::HTTP_10 => b"1.0",
                _ => b"1.1",
            };
            let parts: [&[u8]; 3] = if json {
                [b",\"method\":\"", b"\",\"protocol\":\"", b"\",\"path\":"]
            } else {
                [b" method=", b" protocol=", b" path="]
            };
            line.extend_from_slice(parts[0]);
            line.extend_from_slice(method.as_bytes());
            line.extend_from_slice(parts[1]);
            line.extend_from_slice(protocol);
            line.extend_from_slice(parts[2]);
            path(&mut line, request.uri().path(), json);
        }
        Self {
            prepared: Rc::clone(prepared),
            flight,
            started: Instant::now(),
            line,
            status: LEFT,
            bytes: 0,
            reason: None,
        }
    }

    /// Sets the status of the response, and the reason where the sidecar itself answers an error.
    pub(super) fn answered(&mut self, status: StatusCode, reason: Option<&'static str>) {
        self.status = status.as_u16();
        self.reason = reason;
    }

    /// Adds to the bytes of the response's content that were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Counts an error response of the sidecar, by the side at fault.
    pub(super) fn failed(&self, fault: &'static str) {
        self.prepared.desk.cells.error(fault);
    }

    /// Counts a refused request, by the rule that it broke.
    pub(super) fn refused(&self, reason: &'static str) {
        self.prepared.desk.cells.refused(reason);
    }

    /// Counts a limit that the request reached.
    pub(super) fn limited(&self, limit: &'static str) {
        self.prepared.desk.cells.limit(limit);
    }

    /// The response broke off after its head.
    pub(super) fn broke(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }

    /// The request in flight.
    pub(super) fn flight(&self) -> &Flight {
        &self.flight
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let desk = &self.prepared.desk;
        desk.cells.request(self.status, took);
        if self.line.is_empty() {
            return;
        }
        let mut line = std::mem::take(&mut self.line);
        let (status, took, bytes) = (self.status, took.as_micros(), self.bytes);
        // Writing to a `Vec` cannot fail.
        let _ = match desk.lines.format() {
            Format::Json => {
                let _ = write!(line, ",\"status\":{status},\"duration_us\":{took},\"bytes\":{bytes}");
                match self.reason {
                    Some(reason) => write!(line, ",\"reason\":\"{reason}\"}}"),
                    None => write!(line, "}}"),
                }
            }
            Format::Text => {
                let _ = write!(line, " status={status} duration_us={took} bytes={bytes}");
                self.reason.map_or(Ok(()), |reason| write!(line, " reason={reason}"))
            }
        };
        desk.lines.push(line);
    }
}

/// A path, quoted where it has to be. Almost every path is plain.
fn path(line: &mut Vec<u8>, path: &str, json: bool) {
    let cut = &path[..path.floor_char_boundary(PATH)];
    let plain = cut.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if json || !plain || cut.is_empty() {
        line.push(b'"');
    }
    if plain {
        line.extend_from_slice(cut.as_bytes());
    } else {
        let mut out = String::with_capacity(cut.len() + 16);
        escape(&mut out, cut);
        line.extend_from_slice(out.as_bytes());
    }
    if cut.len() < path.len() {
        line.extend_from_slice("…".as_bytes());
    }
    if json || !plain || cut.is_empty() {
        line.push(b'"');
    }
}

fn text(out: &mut String, format: Format, name: &str, value: &str) {
    let _ = match format {
        Format::Json => write!(out, ",\"{name}\":\""),
        Format::Text => write!(out, " {name}="),
    };
    let bare = format == Format::Text
        && !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if bare {
        out.push_str(value);
        return;
    }
    if format == Format::Text {
        out.push('"');
    }
    escape(out, &value[..value.floor_char_boundary(PATH)]);
    out.push('"');
}

fn number(out: &mut String, format: Format, name: &str, value: u64) {
    let _ = match format {
        Format::Json => write!(out, ",\"{name}\":{value}"),
        Format::Text => write!(out, " {name}={value}"),
    };
}

/// Printable, then quotes and backslashes escaped, the same way in JSON and in text.
fn escape(out: &mut String, value: &str) {
    for c in printable(value).chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(path_: &str, json: bool) -> String {
        let mut line = Vec::new();
        path(&mut line, path_, json);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_plain_path_stands_as_it_is_and_a_strange_one_is_quoted_and_escaped() {
        assert_eq!(logged("/a/b%20c", false), "/a/b%20c");
        assert_eq!(logged("/a", true), "\"/a\"");
        assert_eq!(logged("/a\"b\\c", false), "\"/a\\\"b\\\\c\"");
        let json: String = serde_json::from_str(&logged("/a\"\u{202e}b\n", true)).unwrap();
        assert!(!json.contains('\u{202e}') && !json.contains('\n'), "{json}");
        assert!(logged(&"x".repeat(5000), false).len() < 1100);
    }

    #[test]
    fn the_second_is_written_with_its_microseconds() {
        let second = Second::default();
        let mut out = Vec::new();
        second.write("2026-11-25T10:00:00.000042Z".parse().unwrap(), &mut out);
        assert_eq!(out, b"2026-11-25T10:00:00.000042Z");
        out.clear();
        second.write("2026-11-25T10:00:01.5Z".parse().unwrap(), &mut out);
        assert_eq!(out, b"2026-11-25T10:00:01.500000Z");
    }

    #[test]
    fn an_identity_cannot_forge_a_field() {
        let hostile = "subject:CN=a\" status=200 \"";
        let mut json = String::new();
        text(&mut json, Format::Json, "peer.identity", hostile);
        let parsed: serde_json::Value = serde_json::from_str(&format!("{{{}}}", &json[1..])).unwrap();
        assert_eq!(parsed, serde_json::json!({ "peer.identity": hostile }));
        let mut plain = String::new();
        text(&mut plain, Format::Text, "peer.identity", hostile);
        assert_eq!(plain, r#" peer.identity="subject:CN=a\" status=200 \"""#);
    }
}
