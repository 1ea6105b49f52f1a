//! What a header block may break so that its stream ends, and how the frame that ends it is changed for h2.

use super::header::{FRAME_HEADER_BYTES, FrameHeader};
use crate::http::refusal::ExplainedRefusal;

/// Two fields `:path`, as literals with the name from the static table: h2 takes any block that ends so for malformed, resets
/// its stream, and keeps the state of HPACK.
const MALFORMED_END: &[u8] = &[0x04, 1, b'/', 0x04, 1, b'/'];

/// A rule of a stream that its header block breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFault {
    /// Its list of fields is larger than the limit.
    TooLarge,
    /// `:path` has a fragment.
    PathFragment,
    /// A trailer section has pseudo-fields.
    PseudoTrailer,
}

impl BlockFault {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::TooLarge, Self::PathFragment, Self::PseudoTrailer];
}

impl ExplainedRefusal for BlockFault {
    fn reason_and_explanation(self) -> (&'static str, &'static str) {
        match self {
            Self::TooLarge => ("head_too_large", "the list of fields is larger than head_size"),
            Self::PathFragment => ("http2_path_fragment", "the :path of the request has a fragment (RFC 9113 8.3.1)"),
            Self::PseudoTrailer => ("http2_pseudo_trailer", "the trailer section has pseudo-fields (RFC 9113 8.1)"),
        }
    }
}

/// The last frame of a header block, changed so that h2 resets the stream.
pub(super) fn spoil_frame(frame: &[u8]) -> Vec<u8> {
    let Some(header) = FrameHeader::parse(frame) else { return frame.to_vec() };
    let content = &frame[FRAME_HEADER_BYTES..];
    let block = header.field_block(content).unwrap_or_default();
    // Behind the block only its padding is left.
    let padding = content.len() - header.prefix_length() - block.len();
    let end = frame.len() - padding;
    let length = u32::try_from(header.length + MALFORMED_END.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut spoiled = Vec::with_capacity(frame.len() + MALFORMED_END.len());
    spoiled.extend_from_slice(&length[1..]);
    spoiled.extend_from_slice(&frame[3..end]);
    spoiled.extend_from_slice(MALFORMED_END);
    spoiled.extend_from_slice(&frame[end..]);
    spoiled
}
