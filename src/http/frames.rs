//! HTTP/2 frames that cost us more than the peer: counted as they come in, within budgets that honest traffic refills.
//!
//! h2 and hyper judge what a frame may be; what they do not bound is how many of a kind there are, one at a time: paced
//! resets (CVE-2023-44487), PING, SETTINGS, PRIORITY and WINDOW_UPDATE without end, DATA without content. The [`FrameScanner`]
//! is pure and reads frame headers only; `guard` stands with it between the stream and hyper, and with [`StreamRefusals`], which
//! counts the streams that h2 refuses as too many.

pub(crate) mod guard;
mod refusals;

use std::time::Duration;

pub use refusals::StreamRefusals;

/// A budget is for so long; then it is full again.
const BUDGET_WINDOW: Duration = Duration::from_secs(60);
/// Bytes of content, either way, for which one more of the cheap frames is in order.
const BYTES_PER_CHEAP_FRAME: u64 = 64;
/// `CONTINUATION` frames of one header block, at least allowed: more where `head_size` needs more, full ones and a few.
const MIN_CONTINUATIONS: usize = 5;
/// Bytes of a frame, at most.
const MAX_FRAME_BYTES: usize = 16 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// The kind of frame that the client sent too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFlood {
    /// Requests that are reset soon after they were made.
    Resets,
    /// `CONTINUATION` frames of one header block.
    Continuations,
    /// Bytes of one header block.
    HeaderBlock,
    /// `DATA` without content that does not end its stream.
    EmptyData,
    /// `PING`.
    Pings,
    /// `SETTINGS`.
    Settings,
    /// `PRIORITY`.
    Priorities,
    /// `WINDOW_UPDATE`.
    WindowUpdates,
    /// Frames that a server does not use.
    Others,
}

impl FrameFlood {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Resets,
        Self::Continuations,
        Self::HeaderBlock,
        Self::EmptyData,
        Self::Pings,
        Self::Settings,
        Self::Priorities,
        Self::WindowUpdates,
        Self::Others,
    ];

    /// A stable code for log and metrics.
    pub const fn reason(self) -> &'static str {
        self.reason_and_explanation().0
    }

    /// A sentence for the log.
    pub const fn explanation(self) -> &'static str {
        self.reason_and_explanation().1
    }

    const fn reason_and_explanation(self) -> (&'static str, &'static str) {
        match self {
            Self::Resets => (
                "http2_reset_flood",
                "the client reset too many streams, or made errors that reset them (CVE-2023-44487)",
            ),
            Self::Continuations => {
                ("http2_continuation_flood", "the client sent too many CONTINUATION frames for one header block")
            }
            Self::HeaderBlock => ("http2_header_block", "a header block is larger than head_size"),
            Self::EmptyData => ("http2_empty_data_flood", "the client sent too many DATA frames without content"),
            Self::Pings => ("http2_ping_flood", "the client sent too many PING frames"),
            Self::Settings => ("http2_settings_flood", "the client sent too many SETTINGS frames"),
            Self::Priorities => ("http2_priority_flood", "the client sent too many PRIORITY frames"),
            Self::WindowUpdates => {
                ("http2_window_update_flood", "the client sent too many WINDOW_UPDATE frames for what it received")
            }
            Self::Others => ("http2_frame_flood", "the client sent too many frames that a server does not use"),
        }
    }
}

/// How many bytes may pass, and whether what follows them is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameStep {
    /// Bytes from the start of what was shown: whole frame headers, and content as it comes.
    pub pass: usize,
    /// If set, nothing more passes.
    pub flood: Option<FrameFlood>,
}

/// The state between two scans.
#[derive(Debug)]
pub struct FrameScanner {
    state: FrameState,
    head_size: usize,
    /// The highest stream that the peer has opened.
    last_stream: u32,
    /// The header block that is not over: its bytes and its `CONTINUATION` frames.
    block: (usize, usize),
    /// Its stream, and whether the frame that is being read is its last.
    within: Option<u32>,
    last: bool,
    /// When the budgets were full.
    since: Duration,
    spent: FrameCounts,
    /// Bytes that were sent when the budgets were full.
    sent_before: u64,
    over: Option<FrameFlood>,
    /// PING frames of the peer, since the connection's start.
    pings: u64,
}

/// Since the budgets were full.
#[derive(Debug, Default)]
struct FrameCounts {
    opened: u64,
    content: u64,
    resets: u64,
    empty: u64,
    pings: u64,
    settings: u64,
    priorities: u64,
    windows: u64,
    others: u64,
}

#[derive(Clone, Copy, Debug)]
enum FrameState {
    /// So many bytes of the preface were there.
    Preface(usize),
    Header,
    Content(usize),
    /// Not HTTP/2: h2 reports it.
    Foreign,
}

impl FrameScanner {
    /// At the start of a connection; a header block may have `head_size` bytes.
    pub fn new(head_size: usize, now: Duration) -> Self {
        Self {
            state: FrameState::Preface(0),
            head_size,
            last_stream: 0,
            block: (0, 0),
            within: None,
            last: false,
            since: now,
            spent: FrameCounts::default(),
            sent_before: 0,
            over: None,
            pings: 0,
        }
    }

    /// How many PING frames the peer has sent.
    pub fn ping_count(&self) -> u64 {
        self.pings
    }

    /// The stream with a header block that has begun and is not complete.
    pub fn open_block(&self) -> Option<u32> {
        self.within
    }

    /// Scans what it left the last time and what has arrived since; `sent` bytes have left on the connection, and it
    /// is `now`, counted from any moment.
    pub fn scan(&mut self, bytes: &[u8], sent: u64, now: Duration) -> FrameStep {
        if now.saturating_sub(self.since) >= BUDGET_WINDOW {
            (self.since, self.spent, self.sent_before) = (now, FrameCounts::default(), sent);
        }
        let mut at = 0;
        while self.over.is_none() {
            let rest = &bytes[at..];
            at += match self.state {
                FrameState::Foreign => rest.len(),
                FrameState::Preface(seen) => {
                    let part = rest.len().min(PREFACE.len() - seen);
                    self.state = if rest[..part] != PREFACE[seen..seen + part] {
                        FrameState::Foreign
                    } else if seen + part == PREFACE.len() {
                        FrameState::Header
                    } else {
                        FrameState::Preface(seen + part)
                    };
                    part
                }
                FrameState::Content(left) => {
                    let part = rest.len().min(left);
                    self.set_content_left(left - part);
                    part
                }
                FrameState::Header => match FrameHeader::parse(rest) {
                    None => break,
                    Some(frame) => {
                        self.over = self.count(&frame, sent).err();
                        if self.over.is_some() {
                            break;
                        }
                        self.set_content_left(frame.length);
                        FRAME_HEADER_BYTES
                    }
                },
            };
            if at == bytes.len() {
                break;
            }
        }
        FrameStep { pass: at, flood: self.over }
    }

    /// So much of the frame's content is still to come.
    fn set_content_left(&mut self, left: usize) {
        self.state = if left == 0 { FrameState::Header } else { FrameState::Content(left) };
        if left == 0 && std::mem::take(&mut self.last) {
            self.within = None;
        }
    }

    fn count(&mut self, frame: &FrameHeader, sent: u64) -> Result<(), FrameFlood> {
        fn spend(spent: &mut u64, allowed: u64, flood: FrameFlood) -> Result<(), FrameFlood> {
            *spent += 1;
            if *spent > allowed { Err(flood) } else { Ok(()) }
        }
        let spent = &mut self.spent;
        let work = (spent.content + sent.saturating_sub(self.sent_before)) / BYTES_PER_CHEAP_FRAME;
        match frame.kind {
            FrameKind::Data => {
                spent.content += frame.content as u64;
                if frame.content > 0 || frame.flags & END_STREAM != 0 {
                    return Ok(());
                }
                spend(&mut spent.empty, 500 + 2 * spent.opened, FrameFlood::EmptyData)
            }
            FrameKind::Headers => {
                if frame.stream > self.last_stream {
                    self.last_stream = frame.stream;
                    spent.opened += 1;
                }
                self.block = (0, 0);
                self.within = Some(frame.stream);
                self.add_block_part(frame)
            }
            FrameKind::Continuation => {
                self.block.1 += 1;
                let full = self.head_size / MAX_FRAME_BYTES;
                if self.block.1 > MIN_CONTINUATIONS.max(full + full / 4) {
                    return Err(FrameFlood::Continuations);
                }
                self.add_block_part(frame)
            }
            // Every second request may be given up.
            FrameKind::Reset => spend(&mut spent.resets, 500 + spent.opened / 2, FrameFlood::Resets),
            FrameKind::Ping if frame.flags & ACK != 0 => spend(&mut spent.others, 500 + work, FrameFlood::Others),
            FrameKind::Ping => {
                self.pings += 1;
                spend(&mut spent.pings, 500 + work, FrameFlood::Pings)
            }
            FrameKind::Settings => spend(&mut spent.settings, 100, FrameFlood::Settings),
            FrameKind::Priority => spend(&mut spent.priorities, 1000 + 4 * spent.opened, FrameFlood::Priorities),
            FrameKind::WindowUpdate => {
                spend(&mut spent.windows, 1000 + 2 * spent.opened + work, FrameFlood::WindowUpdates)
            }
            FrameKind::Other => spend(&mut spent.others, 500, FrameFlood::Others),
        }
    }

    /// A part of a header block.
    fn add_block_part(&mut self, frame: &FrameHeader) -> Result<(), FrameFlood> {
        self.block.0 += frame.length;
        let over = self.block.0 > self.head_size;
        self.last = frame.flags & END_HEADERS != 0;
        if self.last {
            self.block = (0, 0);
        }
        if over { Err(FrameFlood::HeaderBlock) } else { Ok(()) }
    }
}

enum FrameKind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Ping,
    WindowUpdate,
    Continuation,
    Other,
}

struct FrameHeader {
    kind: FrameKind,
    flags: u8,
    stream: u32,
    length: usize,
    /// Of `DATA`: without padding.
    content: usize,
}

impl FrameHeader {
    /// From a frame's first bytes; `None` where they are too few.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header;
        let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        let kind = match kind {
            0 => FrameKind::Data,
            1 => FrameKind::Headers,
            2 => FrameKind::Priority,
            3 => FrameKind::Reset,
            4 => FrameKind::Settings,
            6 => FrameKind::Ping,
            8 => FrameKind::WindowUpdate,
            9 => FrameKind::Continuation,
            _ => FrameKind::Other,
        };
        let padding = match kind {
            // The length of the padding, and the byte that says it.
            FrameKind::Data if flags & PADDED != 0 && length > 0 => usize::from(*rest.first()?) + 1,
            _ => 0,
        };
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Some(Self { kind, flags, stream, length, content: length.saturating_sub(padding) })
    }
}

#[cfg(test)]
mod tests;
