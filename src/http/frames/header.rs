//! The header of a frame (RFC 9113 4.1), and where in the content of `HEADERS` the header block stands (6.2).

pub(super) const FRAME_HEADER_BYTES: usize = 9;

const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

/// What a frame is (RFC 9113 6).
pub(super) enum FrameKind {
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

/// The first bytes of a frame.
pub(super) struct FrameHeader {
    pub(super) kind: FrameKind,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Bytes of its content.
    pub(super) length: usize,
    /// Of `DATA`: without padding.
    pub(super) content: usize,
}

impl FrameHeader {
    /// From a frame's first bytes; `None` where they are too few.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
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

    /// Whether it is `SETTINGS` with a smaller table than HPACK begins with (RFC 9113 6.5.2), or where that cannot be seen, as
    /// not all of the content is there.
    pub(super) fn shrinks_table(&self, content: &[u8]) -> bool {
        const TABLE_SIZE: [u8; 2] = [0, 1];
        const USUAL_BYTES: u32 = 4096;
        if !matches!(self.kind, FrameKind::Settings) {
            return false;
        }
        let Some(content) = content.get(..self.length) else { return true };
        content.chunks_exact(6).any(|setting| {
            setting[..2] == TABLE_SIZE
                && setting[2..].iter().fold(0, |value, byte| value << 8 | u32::from(*byte)) < USUAL_BYTES
        })
    }

    /// Whether it is a part of a header block.
    pub(super) fn is_block_part(&self) -> bool {
        matches!(self.kind, FrameKind::Headers | FrameKind::Continuation)
    }

    /// The part of a header block in the content of such a frame (RFC 9113 6.2); `None` where its padding is broken.
    pub(super) fn field_block<'c>(&self, content: &'c [u8]) -> Option<&'c [u8]> {
        if !matches!(self.kind, FrameKind::Headers) {
            return Some(content);
        }
        let padding = if self.flags & PADDED != 0 { usize::from(*content.first()?) } else { 0 };
        content.get(self.prefix_length()..content.len().checked_sub(padding)?)
    }

    /// Bytes of the content of `HEADERS` before the block: the length of the padding, and a priority.
    pub(super) fn prefix_length(&self) -> usize {
        match self.kind {
            FrameKind::Headers => {
                usize::from(self.flags & PADDED != 0) + if self.flags & WITH_PRIORITY != 0 { 5 } else { 0 }
            }
            _ => 0,
        }
    }
}
