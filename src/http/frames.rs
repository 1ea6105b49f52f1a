//! HTTP/2 frames that cost us more than the peer: counted as they come in, within budgets that honest traffic refills.
//!
//! h2 and hyper judge what a frame may be; what they do not bound is how many of a kind there are, one at a time: paced
//! resets (CVE-2023-44487), PING, SETTINGS, PRIORITY and WINDOW_UPDATE without end, DATA without content; and what h2 does not
//! show of header blocks is read by `blocks`. The [`FrameScanner`] is pure; `guard` stands with it between the stream and
//! hyper, and with [`StreamRefusals`], which counts the streams that h2 refuses as too many.

mod blocks;
mod fault;
mod flood;
pub(crate) mod guard;
mod header;
mod huffman;
mod number;
mod refusals;

use std::time::Duration;

use blocks::BlockReader;
use header::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use number::RequestBlock;

pub use fault::BlockFault;
pub use flood::FrameFlood;
pub(crate) use number::take_stream_number;
pub use refusals::StreamRefusals;

/// A budget is for so long; then it is full again.
const BUDGET_WINDOW: Duration = Duration::from_secs(60);
/// Bytes of content, either way, for which one more of the cheap frames is in order.
const BYTES_PER_CHEAP_FRAME: u64 = 64;
/// A header block of up to this size is read to its end, whatever the limit of a head is, so that only its stream
/// is refused.
const MIN_BLOCK_LIMIT: usize = 256 * 1024;
/// Streams that are watched for their trailer sections.
const MAX_UNFINISHED_STREAMS: usize = 1024;
/// By how much h2 lets a list of fields exceed what it answers, before it ends the connection.
const ABUSE_FACTOR: usize = 4;
/// `CONTINUATION` frames of one header block, at least allowed: more where its limit needs more, full ones and a few.
const MIN_CONTINUATIONS: usize = 5;
/// Bytes of a frame, at most.
const MAX_FRAME_BYTES: usize = 16 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// How large a header block may be, and the list of fields in it, where a head may have `head_size` bytes: what is larger
/// than a head is answered 431, and only beyond this the connection has to end.
pub const fn block_limit(head_size: usize) -> usize {
    if head_size > MIN_BLOCK_LIMIT / 2 { 2 * head_size } else { MIN_BLOCK_LIMIT }
}

/// How many bytes may pass, and whether what follows them is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameStep {
    /// Bytes from the start of what was shown: whole frame headers, and content as it comes.
    pub pass: usize,
    /// If set, nothing more passes.
    pub flood: Option<FrameFlood>,
    /// If set, the last frame of a header block comes behind what may pass, and breaks a rule; the scanner has judged it.
    pub fault: Option<BlockFinding>,
}

/// A header block that breaks a rule of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFinding {
    /// The rule.
    pub fault: BlockFault,
    /// Bytes of the block's last frame, which is whole.
    pub frame: usize,
    /// Whether h2 refuses the stream by itself, so that the frame goes on as it is.
    pub by_h2: bool,
}

/// The state between two scans.
#[derive(Debug)]
pub struct FrameScanner {
    state: FrameState,
    block_limit: usize,
    /// The highest stream that the peer has opened.
    last_stream: u32,
    /// The header block that is not over: its bytes and its `CONTINUATION` frames.
    block: (usize, usize),
    /// Its stream, what has come of it, and what it is.
    within: Option<u32>,
    parts: Vec<u8>,
    section: FieldSection,
    /// Streams whose content has not ended: what comes on them is a trailer section.
    unfinished: Vec<u32>,
    /// Reads the blocks; `None` behind one that is not HPACK.
    blocks: Option<BlockReader>,
    /// Requests among what was scanned last, to be numbered.
    requests: Vec<RequestBlock>,
    /// The peer wants a smaller table for what it receives than HPACK begins with.
    small_table: bool,
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

/// What a header block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldSection {
    Request,
    Trailers,
    /// Neither: h2 ends the connection for it.
    Other,
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
    /// At the start of a connection; a header block may have `block_limit` bytes.
    pub fn new(block_limit: usize, now: Duration) -> Self {
        Self {
            state: FrameState::Preface(0),
            block_limit,
            last_stream: 0,
            block: (0, 0),
            within: None,
            parts: Vec::new(),
            section: FieldSection::Other,
            unfinished: Vec::new(),
            blocks: Some(BlockReader::default()),
            requests: Vec::new(),
            small_table: false,
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
        self.requests.clear();
        let (mut at, mut fault) = (0, None);
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
                    Some(frame) if frame.is_block_part() && frame.length <= MAX_FRAME_BYTES => {
                        let Some(content) = rest.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + frame.length) else {
                            // Held back until it is whole.
                            self.within = Some(frame.stream);
                            break;
                        };
                        let judged = self.count(&frame, sent).and_then(|()| self.read_block_part(&frame, content, at));
                        match judged {
                            Ok(None) => FRAME_HEADER_BYTES + frame.length,
                            Ok(found) => {
                                fault = found;
                                break;
                            }
                            Err(flood) => {
                                self.over = Some(flood);
                                break;
                            }
                        }
                    }
                    Some(frame) => {
                        self.over = self.count(&frame, sent).err();
                        if self.over.is_some() {
                            break;
                        }
                        self.small_table |= frame.shrinks_table(&rest[FRAME_HEADER_BYTES..]);
                        self.set_content_left(frame.length);
                        FRAME_HEADER_BYTES
                    }
                },
            };
            if at == bytes.len() {
                break;
            }
        }
        FrameStep { pass: at, flood: self.over, fault }
    }

    /// The requests among what may pass of the last scan that can be numbered.
    fn request_blocks(&self) -> &[RequestBlock] {
        &self.requests
    }

    /// So much of the frame's content is still to come.
    fn set_content_left(&mut self, left: usize) {
        self.state = if left == 0 { FrameState::Header } else { FrameState::Content(left) };
    }

    /// Reads a frame of a header block, which begins `at`; where it is the last one, the whole block is judged.
    fn read_block_part(
        &mut self,
        frame: &FrameHeader,
        content: &[u8],
        at: usize,
    ) -> Result<Option<BlockFinding>, FrameFlood> {
        let last = frame.flags & END_HEADERS != 0;
        if last {
            self.within = None;
        }
        let Some(blocks) = &mut self.blocks else { return Ok(None) };
        let part = frame.field_block(content);
        let end = at + FRAME_HEADER_BYTES + frame.prefix_length() + part.map_or(0, <[u8]>::len);
        let read = match part {
            None => None,
            Some(part) if last && self.parts.is_empty() => blocks.read(part),
            Some(part) => {
                self.parts.extend_from_slice(part);
                if !last {
                    return Ok(None);
                }
                blocks.read(&std::mem::take(&mut self.parts))
            }
        };
        let Some(facts) = read else {
            // h2 ends the connection for it.
            self.blocks = None;
            return Ok(None);
        };
        if facts.size > ABUSE_FACTOR * self.block_limit {
            return Err(FrameFlood::HeaderBlock);
        }
        let fault = if facts.size >= self.block_limit {
            BlockFault::TooLarge
        } else if self.section == FieldSection::Trailers && facts.pseudo {
            BlockFault::PseudoTrailer
        } else if self.section == FieldSection::Request && facts.fragment {
            BlockFault::PathFragment
        } else {
            let fits = facts.size + number::FIELD_SIZE < self.block_limit
                && frame.length + number::FIELD_BYTES <= MAX_FRAME_BYTES;
            if fits && self.section == FieldSection::Request {
                self.requests.push(RequestBlock { at, end, stream: frame.stream });
            }
            return Ok(None);
        };
        let by_h2 = fault == BlockFault::TooLarge && self.section != FieldSection::Trailers;
        Ok(Some(BlockFinding { fault, frame: FRAME_HEADER_BYTES + frame.length, by_h2 }))
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
                if frame.flags & END_STREAM != 0 {
                    self.record_unfinished(frame.stream, false);
                }
                let spent = &mut self.spent;
                if frame.content > 0 || frame.flags & END_STREAM != 0 {
                    return Ok(());
                }
                spend(&mut spent.empty, 500 + 2 * spent.opened, FrameFlood::EmptyData)
            }
            FrameKind::Headers => {
                self.section = if frame.stream > self.last_stream {
                    self.last_stream = frame.stream;
                    spent.opened += 1;
                    FieldSection::Request
                } else if self.unfinished.contains(&frame.stream) {
                    FieldSection::Trailers
                } else {
                    FieldSection::Other
                };
                self.record_unfinished(frame.stream, frame.flags & END_STREAM == 0);
                self.block = (0, 0);
                self.within = Some(frame.stream);
                self.add_block_part(frame)
            }
            FrameKind::Continuation => {
                self.block.1 += 1;
                let full = self.block_limit / MAX_FRAME_BYTES;
                if self.block.1 > MIN_CONTINUATIONS.max(full + full / 4) {
                    return Err(FrameFlood::Continuations);
                }
                self.add_block_part(frame)
            }
            // Every second request may be given up.
            FrameKind::Reset => {
                self.record_unfinished(frame.stream, false);
                let spent = &mut self.spent;
                spend(&mut spent.resets, 500 + spent.opened / 2, FrameFlood::Resets)
            }
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

    /// Whether a stream's content is still to come. Of very many streams the oldest are forgotten: then h2 drops what it does
    /// not take in their trailer sections.
    fn record_unfinished(&mut self, stream: u32, unfinished: bool) {
        let known = self.unfinished.iter().position(|one| *one == stream);
        match known {
            Some(place) if !unfinished => drop(self.unfinished.remove(place)),
            None if unfinished => {
                if self.unfinished.len() == MAX_UNFINISHED_STREAMS {
                    self.unfinished.remove(0);
                }
                self.unfinished.push(stream);
            }
            _ => {}
        }
    }

    /// A part of a header block.
    fn add_block_part(&mut self, frame: &FrameHeader) -> Result<(), FrameFlood> {
        self.block.0 += frame.length;
        let over = self.block.0 > self.block_limit;
        if frame.flags & END_HEADERS != 0 {
            self.block = (0, 0);
        }
        if over { Err(FrameFlood::HeaderBlock) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
