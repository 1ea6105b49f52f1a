//! The sidecar's end of the socket: checks the caller, one line in, lines out. Nothing here can delay the sidecar: few
//! connections at once, each with short timeouts.
//!
//! The kernel lets only the socket's owner, root and its group connect; the caller is checked once more here, and goes
//! into the history.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use super::context::CommandContext;
use super::{CommandRefusal, ControlAnswer, ControlRequest, LONGEST_REQUEST, RefusalReason, parse};
use super::{answers, take_over};
use crate::net::{BoundSocket, SocketStream};
use crate::process::ShutdownPhase;

/// Commands with one answer that run at once.
const MAX_COMMANDS: usize = 32;
/// Commands with many answers that run at once: they may follow for days, and must not keep `revoke` and `stop` out.
const MAX_FOLLOWERS: usize = 16;
/// Connections that have not asked yet; beyond it the one that has waited longest is closed.
const MAX_SILENT_CONNECTIONS: usize = 32;
/// How long a command may take to ask, and to take a line of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const REST: Duration = Duration::from_millis(100);

/// Users who may ask, beside root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    /// The owner of the socket: the user that the sidecar runs as.
    pub owner: u32,
    /// The socket's group, where one is configured.
    pub group: Option<u32>,
}

/// The user who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketCaller {
    uid: u32,
    /// Its process, where this one can see it.
    pid: Option<u32>,
    /// The main group and the others, as far as they are known.
    groups: Vec<u32>,
}

/// Answers until the process is over.
///
/// # Errors
/// The socket cannot listen.
pub async fn serve(bound: BoundSocket, allowed: SocketAccess, desk: CommandContext) -> io::Result<()> {
    let listening = bound.listen()?;
    let (mut shutdown, mut handed_over) = (desk.views.shutdown.clone(), desk.views.shutdown.clone());
    let desk = Arc::new(desk);
    let places = Arc::new(CommandPlaces::default());
    let mut silent = SilentConnections::default();
    // Commands end with the sidecar, those that follow too.
    let mut commands = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.wait_for_phase(ShutdownPhase::Over) => return Ok(()),
            () = handed_over.wait_until_handed_over() => break,
            Some(_) = commands.join_next() => continue,
            accepted = listening.accept() => accepted,
        };
        let stream = match accepted.and_then(crate::net::listen::AcceptedConnection::into_stream) {
            Ok(SocketStream::Unix(stream)) => stream,
            // It is a Unix socket: there is no other kind.
            Ok(SocketStream::Tcp(_)) => continue,
            Err(error) => {
                tracing::debug!(target: "control", %error, "cannot accept a connection");
                sleep(REST).await;
                continue;
            }
        };
        let (desk, places, evicted) = (Arc::clone(&desk), Arc::clone(&places), silent.add_connection());
        commands.spawn(async move {
            if let Err(error) = converse(stream, allowed, (&desk, &places), evicted).await {
                tracing::debug!(target: "control", %error, "command not answered");
            }
        });
    }
    // The new process answers from now on; commands that were accepted here are answered here.
    drop(listening);
    tokio::select! {
        () = shutdown.wait_for_phase(ShutdownPhase::Over) => {}
        () = async { while commands.join_next().await.is_some() {} } => {}
    }
    Ok(())
}

/// Places of commands that run.
struct CommandPlaces {
    commands: Semaphore,
    followers: Semaphore,
}

impl Default for CommandPlaces {
    fn default() -> Self {
        Self { commands: Semaphore::new(MAX_COMMANDS), followers: Semaphore::new(MAX_FOLLOWERS) }
    }
}

impl CommandPlaces {
    /// A place for as long as the command runs.
    fn take_place(&self, request: &ControlRequest) -> Result<SemaphorePermit<'_>, CommandRefusal> {
        let (places, limit, what) = match request {
            ControlRequest::Handshakes { .. } => (&self.followers, MAX_FOLLOWERS, "commands that list handshakes"),
            _ => (&self.commands, MAX_COMMANDS, "commands"),
        };
        places.try_acquire().map_err(|_| {
            let why = format!("{limit} {what} already run on this socket, which is the limit: end one of them");
            CommandRefusal::new(RefusalReason::NotNow, why)
        })
    }
}

/// Connections that have not asked yet, the oldest first. Each holds the receiver until it has.
#[derive(Default)]
struct SilentConnections(VecDeque<oneshot::Sender<()>>);

impl SilentConnections {
    /// Makes room for one more; what it returns ends when the connection has to go.
    fn add_connection(&mut self) -> oneshot::Receiver<()> {
        self.0.retain(|connection| !connection.is_closed());
        if self.0.len() >= MAX_SILENT_CONNECTIONS {
            self.0.pop_front();
        }
        let (evict, evicted) = oneshot::channel();
        self.0.push_back(evict);
        evicted
    }
}

async fn converse(
    stream: UnixStream,
    allowed: SocketAccess,
    (desk, places): (&Arc<CommandContext>, &CommandPlaces),
    evicted: oneshot::Receiver<()>,
) -> io::Result<()> {
    let caller = caller(&stream);
    let (reading, mut writing) = stream.into_split();
    let (uid, pid) = match caller.filter(|caller| may(caller, allowed)) {
        Some(caller) => (caller.uid, caller.pid),
        None => {
            let why = "only the user that sidekey runs as, root and members of control_group may send commands";
            return write_answer(
                &mut writing,
                &ControlAnswer::Refused(CommandRefusal::new(RefusalReason::NotAllowed, why)),
            )
            .await;
        }
    };
    let (line, mut reading) = tokio::select! {
        read = timeout(PATIENCE, line(reading)) => read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
        _ = evicted => return Err(io::Error::other("newer connections need its place")),
    };
    let request = match parse(&line) {
        Ok(request) => request,
        Err(refused) => {
            let answer = ControlAnswer::Refused(refused).in_epoch(desk.snapshot().epoch);
            return write_answer(&mut writing, &answer).await;
        }
    };
    let _place = match places.take_place(&request) {
        Ok(place) => place,
        Err(refused) => {
            let answer = ControlAnswer::Refused(refused).in_epoch(desk.snapshot().epoch);
            return write_answer(&mut writing, &answer).await;
        }
    };
    if request == (ControlRequest::TakeOver {}) {
        if uid != 0 && uid != allowed.owner {
            let why = "only the user that sidekey runs as, and root, may start a process that takes over";
            let refused = ControlAnswer::Refused(CommandRefusal::new(RefusalReason::NotAllowed, why));
            return write_answer(&mut writing, &refused).await;
        }
        return take_over::hand_over((&mut reading, &mut writing), desk, pid).await;
    }
    let by: Arc<str> = format!("uid {uid}").into();
    tracing::debug!(target: "control", %by, ?request, "received a command");
    let mut answers = answers::answer_request(request, by, desk);
    let mut byte = [0];
    loop {
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            // A command sends only one line: more bytes or the end both mean that it is over.
            _ = reading.read(&mut byte) => return Ok(()),
        };
        match answer {
            Some(answer) => write_answer(&mut writing, &answer).await?,
            None => return writing.shutdown().await,
        }
    }
}

/// One line; a longer one is cut off, and then is not a valid request.
async fn line(reading: OwnedReadHalf) -> io::Result<(Vec<u8>, BufReader<tokio::io::Take<OwnedReadHalf>>)> {
    let mut reading = BufReader::new(reading.take(LONGEST_REQUEST as u64));
    let mut line = Vec::new();
    reading.read_until(b'\n', &mut line).await?;
    reading.get_mut().set_limit(u64::MAX);
    Ok((line, reading))
}

async fn write_answer(writing: &mut OwnedWriteHalf, answer: &ControlAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(PATIENCE, writing.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// What the kernel knows about the other end.
fn caller(stream: &UnixStream) -> Option<SocketCaller> {
    let credentials = stream.peer_cred().ok()?;
    let mut groups = vec![credentials.gid()];
    // The kernel's answer has the main group only. A process that is gone meanwhile has no more to ask.
    if let Some(pid) = credentials.pid().filter(|pid| *pid > 0) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        groups.extend(groups_in(&status));
    }
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    Some(SocketCaller { uid: credentials.uid(), pid, groups })
}

/// The `Groups:` of a `/proc/PID/status`.
fn groups_in(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn may(caller: &SocketCaller, allowed: SocketAccess) -> bool {
    caller.uid == 0 || caller.uid == allowed.owner || allowed.group.is_some_and(|group| caller.groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_owner_root_and_group_may_ask() {
        let allowed = |group| SocketAccess { owner: 1000, group };
        let caller = |uid, groups: &[u32]| SocketCaller { uid, pid: None, groups: groups.to_vec() };
        assert!(may(&caller(0, &[]), allowed(None)) && may(&caller(1000, &[]), allowed(None)));
        assert!(!may(&caller(1001, &[1000, 0]), allowed(None)));
        assert!(may(&caller(1001, &[100, 50]), allowed(Some(50))));
        assert!(!may(&caller(1001, &[100]), allowed(Some(50))));
    }

    #[test]
    fn groups_are_read_as_the_kernel_writes_them() {
        assert_eq!(groups_in("Name:\tsh\nUid:\t1\nGroups:\t4 24 1000 \nNStgid:\t1\n"), [4, 24, 1000]);
        assert_eq!(groups_in("Groups:\t \n"), [0; 0]);
        assert_eq!(groups_in(""), [0; 0]);
    }
}
