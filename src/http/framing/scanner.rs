//! Follows the boundaries of requests through a stream of bytes, however the bytes arrive.
//!
//! Pure. It sees what has not passed yet and returns how much of it may. A head passes when it is whole and good; of a
//! message that is found bad while its head is still here, nothing does.

use super::chunks;
use super::head::{ContentFraming, RequestHead, count_controls, field_name};
use super::{FramingFault, FramingLimits};
use crate::http::fields::name_matches;

/// How much may pass, and what comes then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingStep {
    /// Bytes from the start of what was shown.
    pub pass: usize,
    /// What comes then.
    pub next: FramingAction,
}

/// What comes after the bytes that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingAction {
    /// More bytes are needed to judge the rest.
    More,
    /// A request with `Upgrade` is over: what follows may be another protocol. Nothing is judged until
    /// [`FramingScanner::resume`].
    Pause,
    /// The next request is refused, and none of it has passed.
    Refuse(FramingFault),
    /// A request breaks off here, and its beginning has passed.
    Cut(FramingFault),
}

/// The state between two scans.
#[derive(Debug)]
pub struct FramingScanner {
    bounds: FramingLimits,
    state: FramingState,
    head: RequestHead,
    /// Where the current line begins, in what has not passed.
    line: usize,
    /// How far a line end has been searched for, in what has not passed.
    seen: usize,
    /// Fields of the trailer section, and its bytes that have passed.
    trailers: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramingState {
    /// Before a request; the number of empty lines seen.
    Between(u8),
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Paused,
    Over(FramingAction),
}

impl FramingScanner {
    /// At the start of a connection.
    pub fn new(bounds: FramingLimits) -> Self {
        Self {
            bounds,
            state: FramingState::Between(0),
            head: RequestHead::default(),
            line: 0,
            seen: 0,
            trailers: (0, 0),
        }
    }

    /// Whether the last request had a field `Upgrade`.
    pub fn has_upgrade(&self) -> bool {
        self.head.upgrade
    }

    /// Whether a request has begun and not ended.
    pub fn is_within_request(&self) -> bool {
        !matches!(self.state, FramingState::Between(_) | FramingState::Paused)
    }

    /// Whether a request has begun to pass and not ended.
    pub fn is_within_content(&self) -> bool {
        self.is_within_request() && !matches!(self.state, FramingState::Head | FramingState::Over(_))
    }

    /// The upgrade was not granted: what follows is a request.
    pub fn resume(&mut self) {
        if self.state == FramingState::Paused {
            self.begin_request();
        }
    }

    /// Scans all bytes that have not passed: what it left of them the last time, then what has arrived since.
    pub fn scan(&mut self, bytes: &[u8]) -> FramingStep {
        if let FramingState::Over(next) = self.state {
            return FramingStep { pass: 0, next };
        }
        // Where the present message begins, if its head is among these bytes; and where what is not yet judged begins.
        let mut message = matches!(self.state, FramingState::Between(_) | FramingState::Head).then_some(0);
        let mut at = 0;
        loop {
            match self.advance(bytes, at) {
                Ok(ScanProgress::To(to)) => {
                    at = to;
                    if matches!(self.state, FramingState::Between(_)) {
                        message = Some(at);
                    }
                }
                Ok(ScanProgress::Not) => {
                    let next =
                        if self.state == FramingState::Paused { FramingAction::Pause } else { FramingAction::More };
                    return FramingStep { pass: at, next };
                }
                Err(fault) => {
                    let (pass, next) = match message {
                        Some(start) => (start, FramingAction::Refuse(fault)),
                        None => (0, FramingAction::Cut(fault)),
                    };
                    self.state = FramingState::Over(next);
                    return FramingStep { pass, next };
                }
            }
        }
    }

    fn advance(&mut self, bytes: &[u8], at: usize) -> Result<ScanProgress, FramingFault> {
        let left = (bytes.len() - at) as u64;
        match self.state {
            FramingState::Between(_) if left == 0 => Ok(ScanProgress::Not),
            FramingState::Between(empty) => self.scan_between(bytes, at, empty),
            FramingState::Head => self.scan_head(bytes, at),
            FramingState::Length(0) => Ok(self.end_request(at)),
            FramingState::Chunk(0) => {
                self.state = FramingState::ChunkEnd;
                Ok(ScanProgress::To(at))
            }
            FramingState::Length(_) | FramingState::Chunk(_) if left == 0 => Ok(ScanProgress::Not),
            FramingState::Length(length) | FramingState::Chunk(length) => {
                let part = length.min(left);
                let rest = length - part;
                let chunk = matches!(self.state, FramingState::Chunk(_));
                self.state = if chunk { FramingState::Chunk(rest) } else { FramingState::Length(rest) };
                Ok(ScanProgress::To(at + usize::try_from(part).expect("no more than there are bytes")))
            }
            FramingState::ChunkSize => self.scan_chunk_size(bytes, at),
            FramingState::ChunkEnd => match &bytes[at..] {
                [b'\r', b'\n', ..] => {
                    self.state = FramingState::ChunkSize;
                    Ok(ScanProgress::To(at + 2))
                }
                [] | [b'\r'] => Ok(ScanProgress::Not),
                _ => Err(FramingFault::ChunkEnd),
            },
            FramingState::Trailers => self.scan_trailers(bytes, at),
            FramingState::Paused | FramingState::Over(_) => Ok(ScanProgress::Not),
        }
    }

    /// One empty line before a request is forgiven, as RFC 9112 2.2 asks.
    fn scan_between(&mut self, bytes: &[u8], at: usize, empty: u8) -> Result<ScanProgress, FramingFault> {
        match &bytes[at..] {
            [b'\r', b'\n', ..] if empty == 0 => {
                self.state = FramingState::Between(1);
                Ok(ScanProgress::To(at + 2))
            }
            [b'\r'] => Ok(ScanProgress::Not),
            _ => {
                self.state = FramingState::Head;
                // Not `Moved::To`: the head begins here and passes as a whole.
                self.scan_head(bytes, at)
            }
        }
    }

    fn scan_head(&mut self, bytes: &[u8], at: usize) -> Result<ScanProgress, FramingFault> {
        let bytes = &bytes[at..];
        let within = &bytes[..bytes.len().min(self.bounds.head_size)];
        while let Some(found) = memchr::memchr(b'\n', &within[self.seen..]) {
            let end = self.seen + found;
            let line = within[self.line..end].strip_suffix(b"\r").ok_or(FramingFault::BareLineFeed)?;
            (self.line, self.seen) = (end + 1, end + 1);
            if !line.is_empty() {
                self.head.judge_line(line, self.bounds.fields)?;
                continue;
            }
            if self.head.lines == 0 {
                return Err(FramingFault::RequestLine);
            }
            // Two for each line end, the empty line's too: any other is one too many.
            if count_controls(&within[..self.seen]) != 2 * (self.head.lines + 1) {
                return Err(FramingFault::Control);
            }
            self.state = match self.head.content_framing() {
                ContentFraming::Chunked => FramingState::ChunkSize,
                ContentFraming::Length(length) => FramingState::Length(length),
            };
            let size = std::mem::take(&mut self.seen);
            self.line = 0;
            return Ok(ScanProgress::To(at + size));
        }
        self.seen = within.len();
        if within.len() < self.bounds.head_size {
            Ok(ScanProgress::Not)
        } else if self.head.lines == 0 {
            Err(FramingFault::TargetTooLong)
        } else {
            Err(FramingFault::HeadTooLarge)
        }
    }

    /// A line that is not whole, or too long, or the line and where it ends.
    fn take_line<'b>(
        &mut self,
        bytes: &'b [u8],
        limit: usize,
        long: FramingFault,
    ) -> Result<Option<(&'b [u8], usize)>, FramingFault> {
        let within = &bytes[..bytes.len().min(limit)];
        match memchr::memchr(b'\n', &within[self.seen.min(within.len())..]) {
            Some(found) => {
                let end = std::mem::take(&mut self.seen) + found;
                let line = within[..end].strip_suffix(b"\r").ok_or(FramingFault::BareLineFeed)?;
                Ok(Some((line, end + 1)))
            }
            None if within.len() == limit => Err(long),
            None => {
                self.seen = within.len();
                Ok(None)
            }
        }
    }

    fn scan_chunk_size(&mut self, bytes: &[u8], at: usize) -> Result<ScanProgress, FramingFault> {
        let Some((line, size)) =
            self.take_line(&bytes[at..], chunks::MAX_CHUNK_LINE_BYTES, FramingFault::ChunkExtension)?
        else {
            return Ok(ScanProgress::Not);
        };
        self.state = match chunks::parse_size(line)? {
            0 => {
                self.trailers = (0, 0);
                FramingState::Trailers
            }
            length => FramingState::Chunk(length),
        };
        Ok(ScanProgress::To(at + size))
    }

    fn scan_trailers(&mut self, bytes: &[u8], at: usize) -> Result<ScanProgress, FramingFault> {
        let limit = self.bounds.head_size - self.trailers.1;
        let Some((line, size)) = self.take_line(&bytes[at..], limit, FramingFault::HeadTooLarge)? else {
            return Ok(ScanProgress::Not);
        };
        if line.is_empty() {
            return Ok(self.end_request(at + size));
        }
        self.trailers = (self.trailers.0 + 1, self.trailers.1 + size);
        if self.trailers.0 > self.bounds.fields {
            return Err(FramingFault::TooManyFields);
        }
        let name = field_name(line)?;
        if NEVER_IN_TRAILERS.iter().any(|never| name_matches(name, never)) {
            return Err(FramingFault::Trailer);
        }
        if count_controls(line) > 0 { Err(FramingFault::Control) } else { Ok(ScanProgress::To(at + size)) }
    }

    fn end_request(&mut self, at: usize) -> ScanProgress {
        if self.head.upgrade {
            self.state = FramingState::Paused;
        } else {
            self.begin_request();
        }
        ScanProgress::To(at)
    }

    fn begin_request(&mut self) {
        self.state = FramingState::Between(0);
        self.head = RequestHead::default();
        (self.line, self.seen) = (0, 0);
    }
}

/// What frames or routes a message, and what looks like it (RFC 9110 6.5.1).
const NEVER_IN_TRAILERS: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];

enum ScanProgress {
    /// Judged up to there; more can be judged.
    To(usize),
    /// Nothing more of these bytes can be judged.
    Not,
}
