//! Binds, listens, accepts: TCP and Unix sockets. A socket is bound at start, so that a port in use fails before readiness,
//! and listens once there is a key pair to show.
//!
//! Workers share one listening socket: each has a duplicate of its descriptor in its own event loop. They do not have
//! SO_REUSEPORT sockets of their own, because the kernel gives each of those its own queue, and closing one resets what
//! waits in it. With one queue a worker may end while the others go on accepting, and no connection is reset.

mod inherited;

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

pub use inherited::{InheritedSockets, SocketHandle};

use super::{KEEPALIVE_INTERVAL, ListenAddress, SocketError, SocketStream, keepalive_probes};

/// Connections that may wait to be accepted; the kernel has the last word (`net.core.somaxconn`).
const LISTEN_BACKLOG: i32 = 4096;
/// Default permissions of a socket file: its owner only.
const DEFAULT_SOCKET_MODE: u32 = 0o600;

/// A bound socket. Peers are refused by the kernel until [`BoundSocket::listen`].
pub struct BoundSocket {
    /// The same for all workers: it is closed when the last of them has closed its listener.
    socket: Arc<Socket>,
    address: ListenAddress,
    file: Option<Arc<SocketFile>>,
    opened: ListenState,
}

/// Whether a socket listens: the same for all its duplicates.
#[derive(Clone, Debug, Default)]
pub struct ListenState(Arc<AtomicBool>);

impl ListenState {
    /// Whether the socket listens.
    pub fn is_listening(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The file of a Unix socket, removed with the last descriptor, if it is ours.
struct SocketFile {
    path: PathBuf,
    inode: u64,
    /// A process that has passed its sockets on, or has not taken them over yet, leaves the file alone.
    is_ours: AtomicBool,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own socket here since.
        if self.is_ours.load(Ordering::Acquire)
            && fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A listening socket in this thread's event loop.
pub struct ListeningSocket {
    socket: AsyncFd<OwnedFd>,
    unix: bool,
    _bound: (Arc<Socket>, Option<Arc<SocketFile>>),
}

/// A connection that was accepted and belongs to no event loop yet, so that it can go to another worker.
pub struct AcceptedConnection {
    socket: OwnedFd,
    unix: bool,
    /// Where it comes from; `None` on a Unix socket.
    pub from: Option<SocketAddr>,
}

impl BoundSocket {
    /// Binds.
    ///
    /// # Errors
    /// [`SocketError::InUse`], [`SocketError::Listen`] or [`SocketError::Group`], all with the address.
    pub fn bind(address: &ListenAddress) -> Result<Self, SocketError> {
        let named = |source: io::Error| match source.kind() {
            ErrorKind::AddrInUse => SocketError::InUse { address: address.to_string() },
            _ => SocketError::Listen { address: address.to_string(), source },
        };
        let (socket, file) = match address {
            ListenAddress::Tcp(at) => (bind_tcp(*at).map_err(named)?, None),
            ListenAddress::AnyTcp(port) => {
                let socket = match bind_tcp((Ipv6Addr::UNSPECIFIED, *port).into()) {
                    Err(error) if is_ipv6_unavailable(&error) => bind_tcp((Ipv4Addr::UNSPECIFIED, *port).into()),
                    bound => bound,
                };
                (socket.map_err(named)?, None)
            }
            ListenAddress::Unix { path, mode, group } => {
                let group = match group {
                    Some(name) => Some(
                        find_group_id(name)
                            .ok_or_else(|| SocketError::Group { address: address.to_string(), group: name.clone() })?,
                    ),
                    None => None,
                };
                let (socket, file) = bind_unix(path, mode.unwrap_or(DEFAULT_SOCKET_MODE), group).map_err(named)?;
                (socket, Some(Arc::new(file)))
            }
        };
        Ok(Self::new(socket, address, file))
    }

    fn new(socket: Socket, address: &ListenAddress, file: Option<Arc<SocketFile>>) -> Self {
        Self { socket: Arc::new(socket), address: address.clone(), file, opened: ListenState::default() }
    }

    /// The configured address.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Whether it listens yet, for callers that wait for that.
    pub fn listen_state(&self) -> ListenState {
        self.opened.clone()
    }

    /// The TCP address that was bound, with the real port where port 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// The same socket for another worker.
    pub fn share(&self) -> Self {
        let (address, file, opened) = (self.address.clone(), self.file.clone(), self.opened.clone());
        Self { socket: Arc::clone(&self.socket), address, file, opened }
    }

    /// Listens, in this thread's event loop. Listening twice, by several workers, is listening once.
    ///
    /// # Errors
    /// The kernel refuses to listen, or no descriptor is left.
    pub fn listen(&self) -> io::Result<ListeningSocket> {
        let socket = self.socket.try_clone()?;
        socket.listen(LISTEN_BACKLOG)?;
        let unix = matches!(self.address, ListenAddress::Unix { .. });
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor stays valid as long as it is registered"
        )]
        let socket = AsyncFd::new(OwnedFd::from(socket))?;
        self.opened.0.store(true, Ordering::Release);
        Ok(ListeningSocket { socket, unix, _bound: (Arc::clone(&self.socket), self.file.clone()) })
    }
}

impl ListeningSocket {
    /// Waits for a connection.
    ///
    /// # Errors
    /// The error of accept(2); `ConnectionAborted` concerns one connection only.
    pub async fn accept(&self) -> io::Result<AcceptedConnection> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(accepted) = ready.try_io(|socket| accept_connection(socket.get_ref(), self.unix)) {
                return accepted;
            }
        }
    }

    /// A connection that waits in the queue, if any: a listener accepts these before it closes.
    pub fn try_accept(&self) -> Option<AcceptedConnection> {
        accept_connection(self.socket.get_ref(), self.unix).ok()
    }
}

fn accept_connection(socket: &OwnedFd, unix: bool) -> io::Result<AcceptedConnection> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, from) = rustix::net::acceptfrom_with(socket.as_fd(), flags)?;
    let from = if unix { None } else { from.and_then(|from| SocketAddr::try_from(from).ok()).map(canonical_address) };
    Ok(AcceptedConnection { socket, unix, from })
}

/// On a dual-stack socket IPv4 arrives as `::ffff:192.0.2.1`; everywhere else it is `192.0.2.1`.
fn canonical_address(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

impl AcceptedConnection {
    /// Registers it with this thread's event loop.
    ///
    /// # Errors
    /// The event loop has no room.
    pub fn into_stream(self) -> io::Result<SocketStream> {
        if self.unix {
            Ok(SocketStream::Unix(UnixStream::from_std(self.socket.into())?))
        } else {
            Ok(SocketStream::Tcp(TcpStream::from_std(self.socket.into())?))
        }
    }
}

/// What each accepted connection inherits on Linux, so that it costs nothing per connection.
fn set_tcp_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive_probes(KEEPALIVE_INTERVAL))
}

fn bind_tcp(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if at.is_ipv6() {
        // Dual-stack only where every address is meant; an IPv6 address that was written out means just that.
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    set_tcp_options(&socket)?;
    // For a restart while old connections are in TIME_WAIT. Linux still refuses to bind if one listens; of two that
    // have only bound, the second fails to listen.
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

fn is_ipv6_unavailable(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}

fn bind_unix(path: &Path, mode: u32, group: Option<u32>) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is not a socket is in the way"));
        }
        // A socket file outlives a process that was killed; it is stale if no process accepts connections on it.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    socket.bind(&address)?;
    let inode = fs::symlink_metadata(path)?.ino();
    let file = SocketFile { path: path.to_owned(), inode, is_ours: true.into() };
    // No client can connect before listen(2), so there is no moment with wrong permissions.
    if group.is_some() {
        // Only then: a filter of system calls may refuse it even where nothing would change, as that of systemd's @privileged does.
        std::os::unix::fs::chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok((socket, file))
}

/// A group's number, by number or by name in `/etc/group`. (getgrnam(3) needs unsafe code; directory services are asked
/// by number.)
pub fn find_group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = fs::read_to_string("/etc/group").ok()?;
    find_group(&groups, name)
}

fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next() == Some(name)).then(|| parts.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests;
