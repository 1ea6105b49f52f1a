//! Follows the boundaries of requests through a stream of bytes, however the bytes arrive.
//!
//! Pure. It sees what has not passed yet and returns how much of it may. A head passes when it is whole and good; of a
//! message that is found bad while its head is still here, nothing does.

use super::chunks;
use super::head::{Content, Head, controls, name};
use super::{Bounds, Fault};
use crate::proxy::fields::is;

/// How much may pass, and what comes then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes from the start of what was shown.
    pub pass: usize,
    /// What comes then.
    pub next: Next,
}

/// What comes after the bytes that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More bytes are needed to judge the rest.
    More,
    /// A request with `Upgrade` is over: what follows may be another protocol. Nothing is judged until
    /// [`Scanner::go_on`].
    Pause,
    /// The next request is refused, and none of it has passed.
    Refuse(Fault),
    /// A request breaks off here, and its beginning has passed.
    Cut(Fault),
}

/// The state between two scans.
#[derive(Debug)]
pub struct Scanner {
    bounds: Bounds,
    state: State,
    head: Head,
    /// Where the current line begins, in what has not passed.
    line: usize,
    /// How far a line end has been searched for, in what has not passed.
    seen: usize,
    /// Fields of the trailer section, and its bytes that have passed.
    trailers: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request; the number of empty lines seen.
    Between(u8),
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Paused,
    Over(Next),
}

impl Scanner {
    /// At the start of a connection.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: State::Between(0), head: Head::default(), line: 0, seen: 0, trailers: (0, 0) }
    }

    /// Whether the last request had a field `Upgrade`.
    pub fn upgrade(&self) -> bool {
        self.head.upgrade
    }

    /// Whether a request has begun and not ended.
    pub fn is_within(&self) -> bool {
        !matches!(self.state, State::Between(_) | State::Paused)
    }

    /// Whether a request has begun to pass and not ended.
    pub fn is_within_content(&self) -> bool {
        self.is_within() && !matches!(self.state, State::Head | State::Over(_))
    }

    /// The upgrade was not granted: what follows is a request.
    pub fn go_on(&mut self) {
        if self.state == State::Paused {
            self.begin();
        }
    }

    /// Scans all bytes that have not passed: what it left of them the last time, then what has arrived since.
    pub fn scan(&mut self, bytes: &[u8]) -> Step {
        if let State::Over(next) = self.state {
            return Step { pass: 0, next };
        }
        // Where the present message begins, if its head is among these bytes; and where what is not yet judged begins.
        let mut message = matches!(self.state, State::Between(_) | State::Head).then_some(0);
        let mut at = 0;
        loop {
            match self.advance(bytes, at) {
                Ok(Moved::To(to)) => {
                    at = to;
                    if matches!(self.state, State::Between(_)) {
                        message = Some(at);
                    }
                }
                Ok(Moved::Not) => {
                    let next = if self.state == State::Paused { Next::Pause } else { Next::More };
                    return Step { pass: at, next };
                }
                Err(fault) => {
                    let (pass, next) = match message {
                        Some(start) => (start, Next::Refuse(fault)),
                        None => (0, Next::Cut(fault)),
                    };
                    self.state = State::Over(next);
                    return Step { pass, next };
                }
            }
        }
    }

    fn advance(&mut self, bytes: &[u8], at: usize) -> Result<Moved, Fault> {
        let left = (bytes.len() - at) as u64;
        match self.state {
            State::Between(_) if left == 0 => Ok(Moved::Not),
            State::Between(empty) => self.between(bytes, at, empty),
            State::Head => self.scan_head(bytes, at),
            State::Length(0) => Ok(self.end(at)),
            State::Chunk(0) => {
                self.state = State::ChunkEnd;
                Ok(Moved::To(at))
            }
            State::Length(_) | State::Chunk(_) if left == 0 => Ok(Moved::Not),
            State::Length(length) | State::Chunk(length) => {
                let part = length.min(left);
                let rest = length - part;
                let chunk = matches!(self.state, State::Chunk(_));
                self.state = if chunk { State::Chunk(rest) } else { State::Length(rest) };
                Ok(Moved::To(at + usize::try_from(part).expect("no more than there are bytes")))
            }
            State::ChunkSize => self.chunk_size(bytes, at),
            State::ChunkEnd => match &bytes[at..] {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Moved::To(at + 2))
                }
                [] | [b'\r'] => Ok(Moved::Not),
                _ => Err(Fault::ChunkEnd),
            },
            State::Trailers => self.scan_trailers(bytes, at),
            State::Paused | State::Over(_) => Ok(Moved::Not),
        }
    }

    /// One empty line before a request is forgiven, as RFC 9112 2.2 asks.
    fn between(&mut self, bytes: &[u8], at: usize, empty: u8) -> Result<Moved, Fault> {
        match &bytes[at..] {
            [b'\r', b'\n', ..] if empty == 0 => {
                self.state = State::Between(1);
                Ok(Moved::To(at + 2))
            }
            [b'\r'] => Ok(Moved::Not),
            _ => {
                self.state = State::Head;
                // Not `Moved::To`: the head begins here and passes as a whole.
                self.scan_head(bytes, at)
            }
        }
    }

    fn scan_head(&mut self, bytes: &[u8], at: usize) -> Result<Moved, Fault> {
        let bytes = &bytes[at..];
        let within = &bytes[..bytes.len().min(self.bounds.head_size)];
        while let Some(found) = memchr::memchr(b'\n', &within[self.seen..]) {
            let end = self.seen + found;
            let line = within[self.line..end].strip_suffix(b"\r").ok_or(Fault::BareLineFeed)?;
            (self.line, self.seen) = (end + 1, end + 1);
            if !line.is_empty() {
                self.head.line(line, self.bounds.fields)?;
                continue;
            }
            if self.head.lines == 0 {
                return Err(Fault::RequestLine);
            }
            // Two for each line end, the empty line's too: any other is one too many.
            if controls(&within[..self.seen]) != 2 * (self.head.lines + 1) {
                return Err(Fault::Control);
            }
            self.state = match self.head.content() {
                Content::Chunked => State::ChunkSize,
                Content::Length(length) => State::Length(length),
            };
            let size = std::mem::take(&mut self.seen);
            self.line = 0;
            return Ok(Moved::To(at + size));
        }
        self.seen = within.len();
        if within.len() < self.bounds.head_size {
            Ok(Moved::Not)
        } else if self.head.lines == 0 {
            Err(Fault::TargetTooLong)
        } else {
            Err(Fault::HeadTooLarge)
        }
    }

    /// A line that is not whole, or too long, or the line and where it ends.
    fn whole<'b>(&mut self, bytes: &'b [u8], limit: usize, long: Fault) -> Result<Option<(&'b [u8], usize)>, Fault> {
        let within = &bytes[..bytes.len().min(limit)];
        match memchr::memchr(b'\n', &within[self.seen.min(within.len())..]) {
            Some(found) => {
                let end = std::mem::take(&mut self.seen) + found;
                let line = within[..end].strip_suffix(b"\r").ok_or(Fault::BareLineFeed)?;
                Ok(Some((line, end + 1)))
            }
            None if within.len() == limit => Err(long),
            None => {
                self.seen = within.len();
                Ok(None)
            }
        }
    }

    fn chunk_size(&mut self, bytes: &[u8], at: usize) -> Result<Moved, Fault> {
        let Some((line, size)) = self.whole(&bytes[at..], chunks::LINE, Fault::ChunkExtension)? else {
            return Ok(Moved::Not);
        };
        self.state = match chunks::size(line)? {
            0 => {
                self.trailers = (0, 0);
                State::Trailers
            }
            length => State::Chunk(length),
        };
        Ok(Moved::To(at + size))
    }

    fn scan_trailers(&mut self, bytes: &[u8], at: usize) -> Result<Moved, Fault> {
        let limit = self.bounds.head_size - self.trailers.1;
        let Some((line, size)) = self.whole(&bytes[at..], limit, Fault::HeadTooLarge)? else {
            return Ok(Moved::Not);
        };
        if line.is_empty() {
            return Ok(self.end(at + size));
        }
        self.trailers = (self.trailers.0 + 1, self.trailers.1 + size);
        if self.trailers.0 > self.bounds.fields {
            return Err(Fault::TooManyFields);
        }
        let name = name(line)?;
        if NEVER_IN_TRAILERS.iter().any(|never| is(name, never)) {
            return Err(Fault::Trailer);
        }
        if controls(line) > 0 { Err(Fault::Control) } else { Ok(Moved::To(at + size)) }
    }

    fn end(&mut self, at: usize) -> Moved {
        if self.head.upgrade {
            self.state = State::Paused;
        } else {
            self.begin();
        }
        Moved::To(at)
    }

    fn begin(&mut self) {
        self.state = State::Between(0);
        self.head = Head::default();
        (self.line, self.seen) = (0, 0);
    }
}

/// What frames or routes a message, and what looks like it (RFC 9110 6.5.1).
const NEVER_IN_TRAILERS: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];

enum Moved {
    /// Judged up to there; more can be judged.
    To(usize),
    /// Nothing more of these bytes can be judged.
    Not,
}
