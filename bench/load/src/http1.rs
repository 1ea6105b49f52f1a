//! As much of HTTP/1.1 (RFC 9112) as the benchmark needs on both sides: heads with a Content-Length. Whatever else comes is an error.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::LoadError;

const BUFFER: usize = 64 * 1024;

/// What has been read, and not been used yet.
pub(crate) struct MessageBuffer {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

/// The head of a request or response.
pub(crate) struct MessageHead {
    /// The second word of the first line: a response's status, a request's target.
    pub(crate) second: String,
    /// Content-Length.
    pub(crate) length: usize,
    /// `Connection: close`.
    pub(crate) closing: bool,
}

impl MessageBuffer {
    /// Room for a head: requests of thousands of connections are small, a download is read faster with more room.
    pub(crate) fn new(large: bool) -> Self {
        Self { bytes: vec![0; if large { BUFFER } else { 4096 }].into(), from: 0, to: 0 }
    }

    /// Reads until a head is whole, and gives it to `see`. `None`: the other side has ended before its first byte.
    pub(crate) async fn read_head<S: AsyncRead + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        see: impl FnOnce(&[u8]),
    ) -> Result<Option<MessageHead>, LoadError> {
        self.bytes.copy_within(self.from..self.to, 0);
        (self.to, self.from) = (self.to - self.from, 0);
        let mut searched = 0;
        loop {
            let end = self.bytes[searched..self.to].windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end.map(|end| searched + end + 4) {
                self.from = end;
                see(&self.bytes[..end]);
                return read_lines(&self.bytes[..end]).map(Some);
            }
            searched = self.to.saturating_sub(3);
            if self.to == self.bytes.len() {
                return Err("the head is too long".into());
            }
            match stream.read(&mut self.bytes[self.to..]).await? {
                0 if self.to == 0 => return Ok(None),
                0 => return Err("the connection has ended within a head".into()),
                count => self.to += count,
            }
        }
    }

    /// Reads so many bytes of a body, and drops them.
    pub(crate) async fn skip_body<S: AsyncRead + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        length: usize,
    ) -> Result<(), LoadError> {
        let mut left = length;
        loop {
            let taken = left.min(self.to - self.from);
            (left, self.from) = (left - taken, self.from + taken);
            if left == 0 {
                return Ok(());
            }
            self.from = 0;
            self.to = stream.read(&mut self.bytes).await?;
            if self.to == 0 {
                return Err(format!("the connection has ended {left} bytes before the end of a body").into());
            }
        }
    }

    /// The start of a body that has been read already: for what is small.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }
}

fn read_lines(head: &[u8]) -> Result<MessageHead, LoadError> {
    let text = std::str::from_utf8(head)?;
    let mut lines = text.split("\r\n");
    let second = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("the first line is cut off")?;
    let mut found = MessageHead { second: second.to_owned(), length: 0, closing: false };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            found.length = value.parse()?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("a body came in chunks, and the benchmark reads none".into());
        } else if name.eq_ignore_ascii_case("connection") {
            found.closing = value.eq_ignore_ascii_case("close");
        }
    }
    Ok(found)
}
