//! Passes sockets to another process over a Unix socket (SCM_RIGHTS, unix(7)): one with a line, so that the line says what
//! the socket is for.
//!
//! What the lines mean is for `control` to say.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// The longest line that is read.
const LONGEST_LINE: usize = 64 * 1024;
/// The most sockets that wait for their line.
const MOST_SOCKETS: usize = 256;

/// Sends the beginning of a line together with a socket; what it returns of the line was sent.
///
/// # Errors
/// As of sendmsg(2); `WouldBlock` where the stream does not block.
pub fn send_socket(stream: BorrowedFd<'_>, line: &[u8], socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket];
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("one socket does not fit into a message"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads lines, and the sockets that came with them, in order.
pub struct SocketReceiver {
    stream: UnixStream,
    bytes: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

impl SocketReceiver {
    /// Over a stream that blocks.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new(), sockets: VecDeque::new() }
    }

    /// The stream, for what is sent the other way.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next line, without its end; `None` at the end of the stream.
    ///
    /// # Errors
    /// As of recvmsg(2); a line that is too long.
    pub fn receive_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.bytes) {
                let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.bytes.len() > LONGEST_LINE || self.sockets.len() > MOST_SOCKETS {
                return Err(io::Error::other("a line of the other process has no end"));
            }
            if self.receive_more()? == 0 {
                return Ok(None);
            }
        }
    }

    /// The socket that came with the last line.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.sockets.pop_front()
    }

    fn receive_more(&mut self) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 4096];
        let received =
            recvmsg(self.stream.as_fd(), &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                self.sockets.extend(sockets);
            }
        }
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn each_socket_arrives_with_its_line_and_is_the_same() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for (number, listener) in listeners.iter().enumerate() {
            let line = format!("socket {number}\n");
            assert_eq!(send_socket(here.as_fd(), line.as_bytes(), listener.as_fd()).unwrap(), line.len());
        }
        here.write_all(b"done\n").unwrap();
        drop(here);
        let mut receiver = SocketReceiver::new(there);
        for (number, listener) in listeners.iter().enumerate() {
            assert_eq!(receiver.receive_line().unwrap(), Some(format!("socket {number}").into_bytes()));
            let passed = TcpListener::from(receiver.take_socket().expect("a socket"));
            assert_eq!(passed.local_addr().unwrap(), listener.local_addr().unwrap());
        }
        assert_eq!(receiver.receive_line().unwrap(), Some(b"done".to_vec()));
        assert!(receiver.take_socket().is_none() && receiver.receive_line().unwrap().is_none());
    }
}
