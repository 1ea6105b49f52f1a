//! Hands this process' sockets and state over to a new one: the sidecar's end of a take-over.
//!
//! One connection, one line for each step. Nothing changes here before the new process says that it serves: until then an
//! end of the connection leaves everything as it was. `old_process` is the other end.
//!
//! ```text
//! new: take_over     old: a line for each socket, the socket with it; then who it is
//! new: hold          old: its writer saves, and stands still; held
//! new: commit        old: accepts nothing more, lets go of the state; released. What runs on it goes on to its end
//! ```

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Interest, Take};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::context::{CommandContext, stopping};
use super::{CommandRefusal, ControlRequest, RefusalReason, parse};
use crate::net::SocketHandle;
use crate::net::pass::send_socket;
use crate::process::notify::{self, SupervisorAccess};
use crate::process::{ProcessSignal, ShutdownPhase};
use crate::writer::{HandOverOrder, WriterInput};

/// How long the new process may read its folder and bind its own sockets.
const PREPARE_PATIENCE: Duration = Duration::from_mins(2);
/// How long the writer stands still for it.
const HOLD_PATIENCE: Duration = Duration::from_secs(20);
/// How long a writer may save before it stands still.
const WRITER_PATIENCE: Duration = Duration::from_secs(30);
/// How long the registry may write for the last time. The probes listener waits meanwhile.
const RECORD_PATIENCE: Duration = Duration::from_secs(1);

/// A line of the old process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakeOverAnswer {
    /// A socket comes with this line.
    Socket(PassedSocket),
    /// Those were all.
    Offered(OldProcessFacts),
    /// The state is saved, and stays as it is.
    Held {},
    /// Sockets and state belong to the new process.
    Released {},
    /// It does not go on.
    Refused(CommandRefusal),
}

/// What a passed socket is for.
#[derive(Debug, Serialize, Deserialize)]
pub struct PassedSocket {
    /// As in [`SocketHandle`].
    pub role: String,
    /// As configured.
    pub address: String,
}

/// What the new process should know of the old one.
#[derive(Debug, Serialize, Deserialize)]
pub struct OldProcessFacts {
    /// Its number.
    pub process: u32,
    /// Its version of Sidekey.
    pub version: String,
    /// How the supervisor of both is notified.
    pub supervisor: SupervisorAccess,
}

/// A line from the new process at a time.
pub(super) type RequestLines = BufReader<Take<OwnedReadHalf>>;

/// One take-over, to its end or back; `process`: the new one.
pub(super) async fn hand_over(
    (reading, writing): (&mut RequestLines, &mut OwnedWriteHalf),
    desk: &CommandContext,
    process: Option<u32>,
) -> io::Result<()> {
    let Ok(_place) = desk.hand_over.place.try_acquire() else {
        let why = "another process is taking over from this one: wait until it has, or has ended";
        return write_answer(writing, &TakeOverAnswer::Refused(CommandRefusal::new(RefusalReason::NotNow, why))).await;
    };
    match conduct((reading, writing), desk, process).await {
        Ok(()) => Ok(()),
        Err(HandOverFailure::Refused(refusal)) => {
            tracing::warn!(target: "process", process, error = %refusal, "a new process did not take over; this one goes on");
            write_answer(writing, &TakeOverAnswer::Refused(refusal)).await
        }
        Err(HandOverFailure::Gone(error)) => {
            tracing::warn!(
                target: "process", process, %error,
                "a new process ended before it had taken over; this one goes on as before"
            );
            Ok(())
        }
    }
}

/// Why a take-over ended before its time.
enum HandOverFailure {
    Refused(CommandRefusal),
    Gone(io::Error),
}

impl From<io::Error> for HandOverFailure {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

impl From<CommandRefusal> for HandOverFailure {
    fn from(refusal: CommandRefusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn conduct(
    (reading, writing): (&mut RequestLines, &mut OwnedWriteHalf),
    desk: &CommandContext,
    process: Option<u32>,
) -> Result<(), HandOverFailure> {
    if desk.views.shutdown.phase() > ShutdownPhase::Running {
        return Err(stopping().into());
    }
    tracing::info!(target: "process", process, "a new process begins to take over");
    offer_sockets(writing, desk).await?;
    if read_step(reading, PREPARE_PATIENCE).await? != (ControlRequest::Hold {}) {
        return Err(wrong_step().into());
    }
    let (held, is_held) = oneshot::channel();
    let (decide, decided) = oneshot::channel();
    let (released, is_released) = oneshot::channel();
    let order = WriterInput::HandOver(HandOverOrder { held, decided, released });
    let hold = async {
        desk.inputs.send(order).await.map_err(|_| stopping())?;
        is_held.await.map_err(|_| stopping())
    };
    timeout(WRITER_PATIENCE, hold).await.map_err(|_| late("this process could not save its state in time"))??;
    write_answer(writing, &TakeOverAnswer::Held {}).await?;
    let ControlRequest::Commit { is_supervised } = read_step(reading, HOLD_PATIENCE).await? else {
        return Err(wrong_step().into());
    };
    let _unanswered = desk.hand_over.progress.track_hand_over();
    // From here on there is no way back: the new process accepts.
    // The files of sockets first: the listeners close as soon as the signal is heard.
    desk.hand_over.sockets.iter().for_each(SocketHandle::release_file);
    desk.told.send(ProcessSignal::HandOver).await.map_err(|_| stopping())?;
    let _ = decide.send(());
    is_released.await.map_err(|_| stopping())?;
    let mut recorded = desk.hand_over.recorded.clone();
    let _ = timeout(RECORD_PATIENCE, recorded.wait_for(|recorded| *recorded)).await;
    if let Some(process) = process.filter(|_| !is_supervised) {
        notify::send_main_process(process);
    }
    // Where the new process is gone by now, its supervisor starts another.
    let _ = write_answer(writing, &TakeOverAnswer::Released {}).await;
    Ok(())
}

async fn offer_sockets(writing: &mut OwnedWriteHalf, desk: &CommandContext) -> io::Result<()> {
    for handle in &desk.hand_over.sockets {
        let Some(socket) = handle.duplicate()? else { continue };
        let passed = PassedSocket { role: handle.role.clone(), address: handle.address.to_string() };
        let mut line = serde_json::to_vec(&TakeOverAnswer::Socket(passed))?;
        line.push(b'\n');
        let stream = writing.as_ref();
        let sent = loop {
            stream.writable().await?;
            match stream.try_io(Interest::WRITABLE, || send_socket(stream.as_fd(), &line, socket.as_fd())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => break sent?,
            }
        };
        writing.write_all(&line[sent..]).await?;
    }
    let facts = OldProcessFacts {
        process: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        supervisor: notify::supervisor_access(),
    };
    write_answer(writing, &TakeOverAnswer::Offered(facts)).await
}

/// Waits for the next step.
async fn read_step(reading: &mut RequestLines, patience: Duration) -> Result<ControlRequest, HandOverFailure> {
    let mut line = Vec::new();
    let read = timeout(patience, reading.read_until(b'\n', &mut line)).await;
    let read = read.map_err(|_| late("the new process was not ready in time"))??;
    if read == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(parse(&line)?)
}

fn wrong_step() -> CommandRefusal {
    CommandRefusal::new(RefusalReason::NotUnderstood, "this is not the next step of a take-over")
}

fn late(why: &str) -> CommandRefusal {
    CommandRefusal::new(RefusalReason::Failed, why)
}

async fn write_answer(writing: &mut OwnedWriteHalf, answer: &TakeOverAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writing.write_all(&line).await
}
