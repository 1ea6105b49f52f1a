//! The mark that the body of a response leaves for the task of its stream: one worker's thread polls both.

/// What the response body that was polled last had to give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BodyMark {
    /// None was polled.
    #[default]
    Untouched,
    /// It waits for the backend or upstream, under its own deadline.
    Waits,
    /// It gave a frame, which has to be sent before it is asked for another.
    Gave,
    /// The other side does not read what it gave: it is dropped for that.
    Unread,
}
