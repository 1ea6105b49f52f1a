//! Counts the streams that are refused because too many are open: h2 refuses them itself and tells only the peer.
//!
//! Pure: it is shown what goes out on the connection, however it is cut, and follows the frames by their headers.

use super::END_HEADERS;
use super::header::FRAME_HEADER_BYTES;

/// RFC 9113 6.4, and the code of a stream that was not processed (7).
const RST_STREAM: u8 = 3;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
const RESET_FRAME_BYTES: usize = FRAME_HEADER_BYTES + REFUSED_STREAM.len();

/// The state between two calls.
#[derive(Debug, Default)]
pub struct StreamRefusals {
    /// What there is of a frame that is not decided yet: its header, and a reset's code.
    frame: [u8; RESET_FRAME_BYTES],
    have: usize,
    /// Bytes of a frame's content that are of no interest.
    skip: usize,
    /// A header block has begun, and its last frame has not.
    open_block: bool,
}

impl StreamRefusals {
    /// Whether all that went out are whole frames and header blocks: here another may stand.
    pub(super) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0 && !self.open_block
    }

    /// How many streams the next bytes refuse.
    pub fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut refused = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.have < FRAME_HEADER_BYTES { FRAME_HEADER_BYTES } else { RESET_FRAME_BYTES };
            let part = bytes.len().min(wanted - self.have);
            self.frame[self.have..self.have + part].copy_from_slice(&bytes[..part]);
            self.have += part;
            bytes = &bytes[part..];
            let [l0, l1, l2, kind, flags, ..] = self.frame;
            let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
            let reset = kind == RST_STREAM && length == REFUSED_STREAM.len();
            if self.have == FRAME_HEADER_BYTES && matches!(kind, HEADERS | CONTINUATION) {
                self.open_block = flags & END_HEADERS == 0;
            }
            if self.have == RESET_FRAME_BYTES {
                refused += u64::from(self.frame[FRAME_HEADER_BYTES..] == REFUSED_STREAM);
                self.have = 0;
            } else if self.have == FRAME_HEADER_BYTES && !reset {
                (self.have, self.skip) = (0, length);
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, 1][..], content].concat()
    }

    #[test]
    fn another_frame_may_stand_only_behind_whole_frames_and_header_blocks() {
        let mut refusals = StreamRefusals::default();
        let bytes = [frame(0, b"abc"), frame(HEADERS, &[0x88]), frame(CONTINUATION, &[0x88])].concat();
        let end = bytes.len() - 1;
        let mut places = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            // The last frame says that it is the last.
            refusals.count(&[if at == end - 5 { END_HEADERS } else { *byte }]);
            places.extend(refusals.is_between_frames().then_some(at + 1));
        }
        assert_eq!(places, [12, bytes.len()]);
    }

    proptest! {
        #[test]
        fn refused_streams_are_counted_and_nothing_else_however_the_bytes_are_cut(
            kinds in prop::collection::vec(0u8..6, 0..20), sizes in prop::collection::vec(1usize..30, 1..20),
        ) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|kind| match kind {
                0 => frame(RST_STREAM, &REFUSED_STREAM),
                // Given up, or content that looks like a refusal.
                1 => frame(RST_STREAM, &[0, 0, 0, 8]),
                2 => frame(0, &frame(RST_STREAM, &REFUSED_STREAM)),
                3 => frame(4, &[]),
                4 => frame(8, &REFUSED_STREAM),
                _ => frame(1, &[0x88; 40]),
            }).collect();
            let (mut refusals, mut counted, mut rest) = (StreamRefusals::default(), 0, &bytes[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                counted += refusals.count(piece);
                rest = after;
            }
            prop_assert_eq!(counted, kinds.iter().filter(|kind| **kind == 0).count() as u64);
        }
    }
}
