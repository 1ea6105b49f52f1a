//! What a client can send too much of on HTTP/2: each with its code and its sentence.

use crate::http::refusal::ExplainedRefusal;

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
}

impl ExplainedRefusal for FrameFlood {
    fn reason_and_explanation(self) -> (&'static str, &'static str) {
        match self {
            Self::Resets => (
                "http2_reset_flood",
                "the client reset too many streams, or made errors that reset them (CVE-2023-44487)",
            ),
            Self::Continuations => {
                ("http2_continuation_flood", "the client sent too many CONTINUATION frames for one header block")
            }
            Self::HeaderBlock => (
                "http2_header_block",
                "a header block is larger than 256 KiB and twice head_size: HPACK's state cannot be kept, the connection ends",
            ),
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
