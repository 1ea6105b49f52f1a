//! The sidecar that this process takes over from, as seen from here: its sockets first, then its state, then its place.
//!
//! Blocking. `take_over` is the other end, and has the steps. Dropped before [`OldProcess::commit`], it leaves the old
//! process as it was.

use std::io;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::client::{ControlClientError, connect};
use super::take_over::{OldProcessFacts, PassedSocket, TakeOverAnswer};
use super::{ControlAnswer, ControlRequest};
use crate::net::InheritedSockets;
use crate::net::pass::SocketReceiver;
use crate::pki::printable;

/// How long the old process may take for a step: it may have to save to a slow disk.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why this process did not take over; the old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The old process was not reached.
    #[error(transparent)]
    NotReached(#[from] ControlClientError),
    /// The old process says no.
    #[error("the running sidecar does not hand over: {0}")]
    Refused(String),
    /// It does not answer any more.
    #[error("the connection to the running sidecar failed: {0}")]
    Broken(#[from] io::Error),
    /// This process is not ready.
    #[error("this process is not ready to take over, the running sidecar goes on: {0}")]
    NotReady(String),
}

/// The sidecar that this process takes over from.
pub struct OldProcess {
    lines: SocketReceiver,
    /// What it says of itself.
    pub facts: OldProcessFacts,
}

/// How a take-over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOverEnd {
    /// The old process has let go.
    Released,
    /// It ended on its own.
    Vanished,
}

impl OldProcess {
    /// Asks the sidecar at this control socket for its sockets; `None`: no sidecar answers there.
    ///
    /// # Errors
    /// It says no, or does not answer.
    pub fn request_sockets(place: &Path) -> Result<Option<(Self, InheritedSockets)>, TakeOverError> {
        let stream = match connect(&[place.to_owned()]) {
            Ok(stream) => stream,
            Err(ControlClientError::NotRunning(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut lines = SocketReceiver::new(stream);
        send_step(&lines, &ControlRequest::TakeOver {})?;
        let mut sockets = InheritedSockets::default();
        loop {
            match receive_answer(&mut lines)? {
                Some(TakeOverAnswer::Socket(PassedSocket { role, address })) => {
                    let socket = lines.take_socket().ok_or_else(|| io::Error::other("a socket did not arrive"))?;
                    sockets.add_passed(role, address, socket);
                }
                Some(TakeOverAnswer::Offered(facts)) => return Ok(Some((Self { lines, facts }, sockets))),
                answer => return Err(unexpected_answer(answer)),
            }
        }
    }

    /// Makes it save its state and stand still. It serves on.
    ///
    /// # Errors
    /// It says no, or does not answer.
    pub fn hold_state(&mut self) -> Result<(), TakeOverError> {
        send_step(&self.lines, &ControlRequest::Hold {})?;
        match receive_answer(&mut self.lines)? {
            Some(TakeOverAnswer::Held {}) => Ok(()),
            answer => Err(unexpected_answer(answer)),
        }
    }

    /// Takes its place: this process accepts on its sockets. `is_supervised`: it has a supervisor of its own.
    ///
    /// # Errors
    /// It says no: it goes on, and this process must not.
    pub fn commit(&mut self, is_supervised: bool) -> Result<TakeOverEnd, TakeOverError> {
        // Where the old process is gone, this one goes on: it accepts already.
        if send_step(&self.lines, &ControlRequest::Commit { is_supervised }).is_err() {
            return Ok(TakeOverEnd::Vanished);
        }
        match receive_answer(&mut self.lines) {
            Ok(Some(TakeOverAnswer::Released {})) => Ok(TakeOverEnd::Released),
            Ok(None) => Ok(TakeOverEnd::Vanished),
            Err(TakeOverError::Broken(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                Ok(TakeOverEnd::Vanished)
            }
            Ok(answer) => Err(unexpected_answer(answer)),
            Err(error) => Err(error),
        }
    }
}

fn send_step(lines: &SocketReceiver, step: &ControlRequest) -> Result<(), TakeOverError> {
    let mut line = serde_json::to_vec(step).map_err(io::Error::from)?;
    line.push(b'\n');
    Ok(lines.stream().write_all(&line)?)
}

fn receive_answer(lines: &mut SocketReceiver) -> Result<Option<TakeOverAnswer>, TakeOverError> {
    let Some(line) = lines.receive_line()? else { return Ok(None) };
    serde_json::from_slice(&line).map(Some).map_err(|error| {
        // A sidecar refuses a caller before it knows what is asked.
        let refused = match serde_json::from_slice(&line) {
            Ok(ControlAnswer::Refused(refusal)) => refusal.why,
            _ => error.to_string(),
        };
        TakeOverError::Refused(printable(&refused))
    })
}

fn unexpected_answer(answer: Option<TakeOverAnswer>) -> TakeOverError {
    match answer {
        Some(TakeOverAnswer::Refused(refusal)) => TakeOverError::Refused(printable(&refusal.why)),
        Some(other) => TakeOverError::Refused(format!("its answer {other:?} does not fit this step")),
        None => TakeOverError::Broken(io::ErrorKind::UnexpectedEof.into()),
    }
}
