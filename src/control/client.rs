//! What the commands use: one question over the socket, answers line by line.
//!
//! Blocking, since a command has nothing else to do. Each command formats its own answers.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::{ControlAnswer, ControlRequest};
use crate::pki::printable;

/// How long an answer may take; a change waits for a disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlClientError {
    /// No sidecar listens at any of these places.
    #[error("no sidekey answers at {}: is it running? Use --control PATH to name its socket", list(.0))]
    NotRunning(Vec<PathBuf>),
    /// The kernel or the sidecar keeps us out.
    #[error(
        "permission denied for {}: run the command as the socket's owner, as root, or as a member of control_group",
        printable(&.0.display().to_string())
    )]
    NotAllowed(PathBuf),
    /// The connection broke.
    #[error("the connection to the sidecar failed: {0}")]
    Broken(#[from] std::io::Error),
    /// The answer is not valid.
    #[error("cannot parse the sidecar's answer ({0}): use the same version of sidekey on both sides")]
    NotUnderstood(String),
}

/// An answer on its way.
pub struct AnswerStream {
    lines: BufReader<UnixStream>,
}

/// Asks at the first of these places where a sidecar listens. `patient`: the answer may go on forever.
///
/// # Errors
/// No sidecar listens, or this user may not ask.
pub fn send_request(
    places: &[PathBuf],
    request: &ControlRequest,
    patient: bool,
) -> Result<AnswerStream, ControlClientError> {
    let mut stream = connect(places)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout((!patient).then_some(PATIENCE))?;
    let mut line = serde_json::to_vec(request).map_err(|error| ControlClientError::NotUnderstood(error.to_string()))?;
    line.push(b'\n');
    // A sidecar that refuses us may have answered and closed before it read: its answer says more than this error.
    match stream.write_all(&line) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(AnswerStream { lines: BufReader::new(stream) }),
    }
}

pub(super) fn connect(places: &[PathBuf]) -> Result<UnixStream, ControlClientError> {
    let mut forbidden = None;
    for place in places {
        match UnixStream::connect(place) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => forbidden = forbidden.or(Some(place)),
            // Absent, without a listener, or not a socket: the next place.
            Err(_) => {}
        }
    }
    Err(forbidden.map_or_else(
        || ControlClientError::NotRunning(places.to_vec()),
        |place| ControlClientError::NotAllowed(place.clone()),
    ))
}

impl Iterator for AnswerStream {
    type Item = Result<ControlAnswer, ControlClientError>;

    /// The next line; `None` at the end.
    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                let not_understood =
                    |error: serde_json::Error| ControlClientError::NotUnderstood(printable(&error.to_string()));
                Some(serde_json::from_str(&line).map_err(not_understood))
            }
            Err(error) => Some(Err(error.into())),
        }
    }
}

fn list(places: &[PathBuf]) -> String {
    let all: Vec<String> = places.iter().map(|place| printable(&place.display().to_string())).collect();
    all.join(", ")
}
