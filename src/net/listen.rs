//! Binds, listens, accepts: TCP and Unix sockets. A socket is bound at start, so that a port in use fails before readiness,
//! and listens once there is a key pair to show.
//!
//! Workers share one listening socket: each has a duplicate of its descriptor in its own event loop. They do not have
//! SO_REUSEPORT sockets of their own, because the kernel gives each of those its own queue, and closing one resets what
//! waits in it. With one queue a worker may end while the others go on accepting, and no connection is reset.

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

use super::{KEEPALIVE_INTERVAL, ListenAddress, SocketError, SocketStream, keepalive_probes};

/// Connections that may wait to be accepted; the kernel has the last word (`net.core.somaxconn`).
const LISTEN_BACKLOG: i32 = 4096;
/// Default permissions of a socket file: its owner only.
const DEFAULT_SOCKET_MODE: u32 = 0o600;

/// A bound socket. Peers are refused by the kernel until [`BoundSocket::listen`].
pub struct BoundSocket {
    socket: Socket,
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

/// The file of a Unix socket, removed with the last descriptor.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own socket here since.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A listening socket in this thread's event loop.
pub struct ListeningSocket {
    socket: AsyncFd<OwnedFd>,
    unix: bool,
    _file: Option<Arc<SocketFile>>,
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
                        group_id(name)
                            .ok_or_else(|| SocketError::Group { address: address.to_string(), group: name.clone() })?,
                    ),
                    None => None,
                };
                let (socket, file) = bind_unix(path, mode.unwrap_or(DEFAULT_SOCKET_MODE), group).map_err(named)?;
                (socket, Some(Arc::new(file)))
            }
        };
        Ok(Self { socket, address: address.clone(), file, opened: ListenState::default() })
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
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (address, file, opened) = (self.address.clone(), self.file.clone(), self.opened.clone());
        Ok(Self { socket: self.socket.try_clone()?, address, file, opened })
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
        Ok(ListeningSocket { socket, unix, _file: self.file.clone() })
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

fn bind_tcp(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if at.is_ipv6() {
        // Dual-stack only where every address is meant; an IPv6 address that was written out means just that.
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    // Accepted sockets inherit these two on Linux, so that they cost nothing per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive_probes(KEEPALIVE_INTERVAL))?;
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
    let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
    // No client can connect before listen(2), so there is no moment with wrong permissions.
    std::os::unix::fs::chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok((socket, file))
}

/// A group's number, by number or by name in `/etc/group`. (getgrnam(3) needs unsafe code; directory services are asked
/// by number.)
fn group_id(name: &str) -> Option<u32> {
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
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn loopback_address() -> ListenAddress {
        ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn a_bound_socket_refuses_until_it_listens() {
        let bound = BoundSocket::bind(&loopback_address()).unwrap();
        let error = std::net::TcpStream::connect(bound.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(!bound.listen_state().is_listening());
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let error = BoundSocket::bind(&ListenAddress::Tcp(at)).err().expect("the port is taken");
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&at.to_string()), "{error}");
    }

    #[tokio::test]
    async fn two_workers_share_one_queue() {
        let bound = BoundSocket::bind(&loopback_address()).unwrap();
        let (one, two) = (bound.listen().unwrap(), bound.try_clone().unwrap().listen().unwrap());
        assert!(bound.try_clone().unwrap().listen_state().is_listening());
        let address = bound.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        drop(one);
        let accepted = two.accept().await.unwrap();
        assert!(accepted.from.unwrap().ip().is_loopback());
        let SocketStream::Tcp(stream) = accepted.into_stream().unwrap() else { panic!("not TCP") };
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_INTERVAL);
    }

    #[tokio::test]
    async fn every_address_is_dual_stack_and_ipv4_keeps_its_name() {
        let bound = BoundSocket::bind(&ListenAddress::AnyTcp(0)).unwrap();
        let listening = bound.listen().unwrap();
        let port = bound.local_addr().unwrap().port();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(listening.accept().await.unwrap().from.unwrap().is_ipv4());
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let stale = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let address = ListenAddress::Unix { path: path.clone(), mode: None, group: None };
        assert!(matches!(BoundSocket::bind(&address), Err(SocketError::InUse { .. })));
        drop(stale);

        let bound = BoundSocket::bind(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let listening = bound.listen().unwrap();
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let SocketStream::Unix(stream) = listening.accept().await.unwrap().into_stream().unwrap() else {
            panic!("not Unix")
        };
        client.write_all(b"hello").unwrap();
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");

        drop((bound, listening));
        assert!(!path.exists(), "the socket file goes with its listener");
    }

    #[test]
    fn a_file_in_the_way_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        fs::write(&path, "precious").unwrap();
        let address = ListenAddress::Unix { path: path.clone(), mode: None, group: None };
        assert!(matches!(BoundSocket::bind(&address), Err(SocketError::Listen { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn groups_are_found_by_name_and_by_number() {
        assert_eq!(find_group("root:x:0:\nweb:x:33:alice,bob\n", "web"), Some(33));
        assert_eq!(find_group("root:x:0:\n", "web"), None);
        assert_eq!(group_id("12"), Some(12));
    }
}
