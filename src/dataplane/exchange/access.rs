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

use crate::clock::Clock;
use crate::dataplane::connection::InFlightGuard;
use crate::log::{LogFormat, LogQueue};
use crate::metrics::WorkerCounters;
use crate::pki::printable;
use crate::snapshot::Side;
use crate::trust::Peer;

/// Bytes of a path that are logged.
const LOGGED_PATH_BYTES: usize = 1024;
/// Bytes of a method that are logged.
const LOGGED_METHOD_BYTES: usize = 32;
/// The status that is logged where the client left before a response was sent; nginx introduced it.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// The status that is logged where the sidecar itself cut a request before its response began.
const CUT_REQUEST: u16 = 503;

/// Where one worker's access lines and counts go, for one listener.
pub(crate) struct RequestContext {
    pub(crate) lines: Arc<LogQueue>,
    pub(crate) cells: Arc<WorkerCounters>,
    pub(crate) clock: Clock,
    pub(crate) second: Rc<TimestampCache>,
}

/// The text of the second in which the last line was written: formatting dates is expensive, and most lines share
/// theirs.
#[derive(Default)]
pub(crate) struct TimestampCache(RefCell<(i64, String)>);

impl TimestampCache {
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
pub(crate) struct ClientFields<'a> {
    pub(crate) side: Side,
    pub(crate) listener: &'a str,
    pub(crate) connection: u64,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) peer: Option<&'a Peer>,
}

/// The part of the line that is prepared once.
pub(crate) struct AccessLineTemplate {
    desk: Rc<RequestContext>,
    /// `None` where requests are not logged.
    fixed: Option<String>,
}

impl AccessLineTemplate {
    pub(crate) fn new(desk: &Rc<RequestContext>, log: bool, asker: &ClientFields<'_>) -> Rc<Self> {
        let fixed = log.then(|| {
            let format = desk.lines.format();
            let mut out = String::with_capacity(256);
            match format {
                LogFormat::Json => out.push_str("\",\"level\":\"info\",\"target\":\"access\""),
                LogFormat::Text => out.push_str("  INFO access"),
            }
            write_text_field(&mut out, format, "side", asker.side.as_str());
            write_text_field(&mut out, format, "listener", asker.listener);
            write_number_field(&mut out, format, "connection", asker.connection);
            if let Some(from) = asker.from {
                write_text_field(&mut out, format, "peer.addr", &from.to_string());
            }
            if let Some(peer) = asker.peer {
                write_text_field(&mut out, format, "peer.identity", peer.identity());
                if let Some(partner) = peer.partner() {
                    write_text_field(&mut out, format, "partner", partner);
                }
            }
            out
        });
        Rc::new(Self { desk: Rc::clone(desk), fixed })
    }
}

/// One request, from its head to the last byte of its response. Counted and logged when it is dropped.
pub(crate) struct AccessRecord {
    prepared: Rc<AccessLineTemplate>,
    flight: InFlightGuard,
    started: Instant,
    line: Vec<u8>,
    status: u16,
    bytes: u64,
    reason: Option<&'static str>,
}

impl AccessRecord {
    pub(crate) fn start<B>(prepared: &Rc<AccessLineTemplate>, request: &Request<B>, flight: InFlightGuard) -> Self {
        let mut line = Vec::new();
        if let Some(fixed) = &prepared.fixed {
            line.reserve(fixed.len() + request.uri().path().len().min(LOGGED_PATH_BYTES) + 160);
            let json = prepared.desk.lines.format() == LogFormat::Json;
            if json {
                line.extend_from_slice(b"{\"time\":\"");
            }
            prepared.desk.second.write(prepared.desk.clock.now(), &mut line);
            line.extend_from_slice(fixed.as_bytes());
            let method = request.method().as_str();
            let method = &method[..method.len().min(LOGGED_METHOD_BYTES)];
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
            write_path(&mut line, request.uri().path(), json);
        }
        Self {
            prepared: Rc::clone(prepared),
            flight,
            started: Instant::now(),
            line,
            status: CLIENT_CLOSED_REQUEST,
            bytes: 0,
            reason: Some("client_closed"),
        }
    }

    /// Sets the status of the response, and the reason where the sidecar itself answers an error.
    pub(crate) fn set_status(&mut self, status: StatusCode, reason: Option<&'static str>) {
        self.status = status.as_u16();
        self.reason = reason;
    }

    /// Adds to the bytes of the response's content that were sent.
    pub(crate) fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Counts an error response of the sidecar, by the side at fault.
    pub(crate) fn count_error(&self, fault: &'static str) {
        self.prepared.desk.cells.error(fault);
    }

    /// Counts a refused request, by the rule that it broke.
    pub(crate) fn count_refusal(&self, reason: &'static str) {
        self.prepared.desk.cells.count_refusal(reason);
    }

    /// Counts a limit that the request reached.
    pub(crate) fn count_limit(&self, limit: &'static str) {
        self.prepared.desk.cells.count_limit(limit);
    }

    /// The response broke off after its head.
    pub(crate) fn set_break_reason(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }

    /// Where it is counted.
    pub(crate) fn request_context(&self) -> Rc<RequestContext> {
        Rc::clone(&self.prepared.desk)
    }

    /// The request in flight.
    pub(crate) fn flight(&self) -> &InFlightGuard {
        &self.flight
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        if self.flight.state().is_cut() {
            // It was not the client that ended it.
            match self.reason {
                Some("client_closed") => {
                    self.status = CUT_REQUEST;
                    self.set_break_reason("drain_deadline");
                }
                Some("left") => self.set_break_reason("drain_deadline"),
                _ => {}
            }
        }
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
            LogFormat::Json => {
                let _ = write!(line, ",\"status\":{status},\"duration_us\":{took},\"bytes\":{bytes}");
                match self.reason {
                    Some(reason) => write!(line, ",\"reason\":\"{reason}\"}}"),
                    None => write!(line, "}}"),
                }
            }
            LogFormat::Text => {
                let _ = write!(line, " status={status} duration_us={took} bytes={bytes}");
                self.reason.map_or(Ok(()), |reason| write!(line, " reason={reason}"))
            }
        };
        desk.lines.push(line);
    }
}

/// A path, quoted where it has to be. Almost every path is plain.
fn write_path(line: &mut Vec<u8>, path: &str, json: bool) {
    let cut = &path[..path.floor_char_boundary(LOGGED_PATH_BYTES)];
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

fn write_text_field(out: &mut String, format: LogFormat, name: &str, value: &str) {
    let _ = match format {
        LogFormat::Json => write!(out, ",\"{name}\":\""),
        LogFormat::Text => write!(out, " {name}="),
    };
    let bare = format == LogFormat::Text
        && !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if bare {
        out.push_str(value);
        return;
    }
    if format == LogFormat::Text {
        out.push('"');
    }
    escape(out, &value[..value.floor_char_boundary(LOGGED_PATH_BYTES)]);
    out.push('"');
}

fn write_number_field(out: &mut String, format: LogFormat, name: &str, value: u64) {
    let _ = match format {
        LogFormat::Json => write!(out, ",\"{name}\":{value}"),
        LogFormat::Text => write!(out, " {name}={value}"),
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

    fn format_path(path_: &str, json: bool) -> String {
        let mut line = Vec::new();
        write_path(&mut line, path_, json);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_plain_path_stands_as_it_is_and_a_strange_one_is_quoted_and_escaped() {
        assert_eq!(format_path("/a/b%20c", false), "/a/b%20c");
        assert_eq!(format_path("/a", true), "\"/a\"");
        assert_eq!(format_path("/a\"b\\c", false), "\"/a\\\"b\\\\c\"");
        let json: String = serde_json::from_str(&format_path("/a\"\u{202e}b\n", true)).unwrap();
        assert!(!json.contains('\u{202e}') && !json.contains('\n'), "{json}");
        assert!(format_path(&"x".repeat(5000), false).len() < 1100);
    }

    #[test]
    fn the_second_is_written_with_its_microseconds() {
        let second = TimestampCache::default();
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
        write_text_field(&mut json, LogFormat::Json, "peer.identity", hostile);
        let parsed: serde_json::Value = serde_json::from_str(&format!("{{{}}}", &json[1..])).unwrap();
        assert_eq!(parsed, serde_json::json!({ "peer.identity": hostile }));
        let mut plain = String::new();
        write_text_field(&mut plain, LogFormat::Text, "peer.identity", hostile);
        assert_eq!(plain, r#" peer.identity="subject:CN=a\" status=200 \"""#);
    }
}
