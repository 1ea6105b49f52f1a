//! Sockets that another process has bound: systemd (socket activation), or the sidecar that this one takes over from.
//!
//! A listener that the configuration names uses such a socket where one is meant for it, by name or by address; the queue of
//! connections that wait in it goes on, so that no connection is refused or reset. How sockets come here, by
//! environment or over the control socket, is for others to know.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::{fs, io};

use socket2::{SockAddr, Socket};

use super::{BoundSocket, SocketFile, find_group_id, set_tcp_options};
use crate::net::{ListenAddress, SocketError};

/// Where systemd's descriptors begin (sd_listen_fds(3)).
const FIRST_DESCRIPTOR: usize = 3;

/// Sockets of another process that no listener has taken yet.
#[derive(Default)]
pub struct InheritedSockets(Vec<InheritedSocket>);

struct InheritedSocket {
    /// What it is for: systemd's name of the descriptor, or the role that the old process used it in.
    name: String,
    /// The address in the old process' configuration; `None`: systemd bound it.
    configured: Option<String>,
    socket: Socket,
}

/// A bound socket as the process that passes it on knows it. It keeps nothing open.
#[derive(Clone)]
pub struct SocketHandle {
    /// What it is for: `ingress-NAME`, `egress-NAME`, `admin`, `probes` or `control`.
    pub role: String,
    /// The configured address.
    pub address: ListenAddress,
    socket: Weak<Socket>,
    file: Option<Weak<SocketFile>>,
}

impl InheritedSockets {
    /// The sockets that systemd has passed to this process. What cannot be listened on is left out, with a sentence.
    pub fn from_service_manager() -> (Self, Vec<String>) {
        // The variables are gone once the descriptors are taken.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let (mut passed, mut sockets, mut problems) = (listenfd::ListenFd::from_env(), Vec::new(), Vec::new());
        for index in 0..passed.len() {
            let name = names.get(index).copied().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
            let tcp = passed.take_tcp_listener(index).ok().flatten().map(Socket::from);
            match tcp.or_else(|| passed.take_unix_listener(index).ok().flatten().map(Socket::from)) {
                // With `Accept=yes` systemd passes connections.
                Some(socket) if socket.is_listener().unwrap_or(false) => {
                    sockets.push(InheritedSocket { name, configured: None, socket });
                }
                _ => problems.push(format!(
                    "descriptor {} ({}) is not a listening stream socket: correct the socket unit (Accept=no, ListenStream=)",
                    index + FIRST_DESCRIPTOR,
                    crate::pki::printable(&name)
                )),
            }
        }
        (Self(sockets), problems)
    }

    /// Adds a socket of the process that this one takes over from.
    pub fn add_passed(&mut self, role: String, address: String, socket: OwnedFd) {
        self.0.push(InheritedSocket { name: role, configured: Some(address), socket: socket.into() });
    }

    /// Adds those of another process.
    pub fn add_all(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Binds what a listener needs: the inherited socket that is meant for it, else a new one. `role`: as in
    /// [`SocketHandle`]; `name`: the listener's own, which a descriptor of systemd may bear.
    ///
    /// # Errors
    /// As of [`BoundSocket::bind`].
    pub fn bind(&mut self, role: &str, name: &str, address: &ListenAddress) -> Result<BoundSocket, SocketError> {
        let Some(found) = self.find_socket(role, name, address) else { return BoundSocket::bind(address) };
        let InheritedSocket { name, configured, socket } = self.0.swap_remove(found);
        let is_activated = configured.is_none();
        if is_activated {
            let at = socket.local_addr().map(|at| address_text(&at)).unwrap_or_default();
            tracing::info!(target: "process", listener = role, descriptor = name, address = at, "uses systemd's socket");
        }
        adopt(socket, address, is_activated)
            .map_err(|source| SocketError::Listen { address: address.to_string(), source })
    }

    /// By role and configured address, by systemd's name, or by the address that it is bound to; in this order.
    fn find_socket(&self, role: &str, name: &str, address: &ListenAddress) -> Option<usize> {
        let text = address.to_string();
        let by_role = |one: &InheritedSocket| one.name == role && one.configured.as_ref() == Some(&text);
        let by_name = |one: &InheritedSocket| one.configured.is_none() && (one.name == role || one.name == name);
        let by_address = |one: &InheritedSocket| is_bound_to(&one.socket, address);
        let all = || self.0.iter();
        all().position(by_role).or_else(|| all().position(by_name)).or_else(|| all().position(by_address))
    }

    /// What no listener has taken: systemd's, with name and address. They are closed.
    pub fn into_unused(self) -> Vec<String> {
        let unused = self.0.into_iter().filter(|one| one.configured.is_none());
        let text = |one: InheritedSocket| {
            let at = one.socket.local_addr().map(|at| address_text(&at)).unwrap_or_default();
            format!("{} ({at})", crate::pki::printable(&one.name))
        };
        unused.map(text).collect()
    }
}

impl BoundSocket {
    /// What passes the socket on, later.
    pub fn handle(&self, role: String) -> SocketHandle {
        let file = self.file.as_ref().map(Arc::downgrade);
        SocketHandle { role, address: self.address.clone(), socket: Arc::downgrade(&self.socket), file }
    }
}

impl SocketHandle {
    /// The same socket for another process; `None`: it is closed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.upgrade().map(|socket| socket.try_clone().map(OwnedFd::from)).transpose()
    }

    /// Another process uses the socket from now on: its file stays when this one ends.
    pub fn release_file(&self) {
        if let Some(file) = self.file.as_ref().and_then(Weak::upgrade) {
            file.is_ours.store(false, Ordering::Release);
        }
    }

    /// The socket was taken over: its file goes with this process, and has the configured mode and group.
    ///
    /// # Errors
    /// Mode or group cannot be set.
    pub fn claim_file(&self) -> io::Result<()> {
        let Some(file) = self.file.as_ref().and_then(Weak::upgrade) else { return Ok(()) };
        file.is_ours.store(true, Ordering::Release);
        if let ListenAddress::Unix { path, mode, group } = &self.address {
            if let Some(group) = group.as_ref().and_then(|name| find_group_id(name)) {
                std::os::unix::fs::chown(path, None, Some(group))?;
            }
            if let Some(mode) = mode {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
            }
        }
        Ok(())
    }
}

/// Makes it ours. The file of a Unix socket is the old process' until it lets go of it, and systemd's for ever.
fn adopt(socket: Socket, address: &ListenAddress, is_activated: bool) -> io::Result<BoundSocket> {
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    let at = socket.local_addr()?;
    if at.as_socket().is_some() {
        set_tcp_options(&socket)?;
    }
    let file = match at.as_pathname() {
        Some(path) if !is_activated => {
            let inode = fs::symlink_metadata(path)?.ino();
            Some(Arc::new(SocketFile { path: path.to_owned(), inode, is_ours: false.into() }))
        }
        _ => None,
    };
    Ok(BoundSocket::new(socket, address, file))
}

fn is_bound_to(socket: &Socket, address: &ListenAddress) -> bool {
    let Ok(at) = socket.local_addr() else { return false };
    match address {
        ListenAddress::Tcp(wanted) => wanted.port() != 0 && at.as_socket() == Some(*wanted),
        ListenAddress::AnyTcp(port) => {
            let is_meant = |at: std::net::SocketAddr| at.ip().is_unspecified() && at.port() == *port && *port != 0;
            at.as_socket().is_some_and(is_meant)
        }
        ListenAddress::Unix { path, .. } => at.as_pathname() == Some(path),
    }
}

fn address_text(at: &SockAddr) -> String {
    let path = || at.as_pathname().map(|path| format!("unix:{}", path.display()));
    at.as_socket().map(|at| at.to_string()).or_else(path).unwrap_or_else(|| "an unnamed address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> ListenAddress {
        ListenAddress::Tcp(text.parse().unwrap())
    }

    fn port_of(bound: &BoundSocket) -> u16 {
        bound.local_addr().unwrap().port()
    }

    /// A socket that listens on a port of the kernel's choice, and the port.
    fn listening() -> (OwnedFd, u16) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener.into(), port)
    }

    #[test]
    fn a_passed_socket_is_found_by_role_and_by_address() {
        let ((one, first), (two, second)) = (listening(), listening());
        let mut sockets = InheritedSockets::default();
        sockets.add_passed("ingress-a".to_owned(), "127.0.0.1:0".to_owned(), one);
        sockets.add_passed("ingress-b".to_owned(), format!("127.0.0.1:{second}"), two);
        let other = sockets.bind("ingress-b", "b", &tcp("127.0.0.1:0")).unwrap();
        assert!(![first, second].contains(&port_of(&other)), "a socket of another address was taken");
        assert_eq!(port_of(&sockets.bind("ingress-a", "a", &tcp("127.0.0.1:0")).unwrap()), first);
        let renamed = sockets.bind("ingress-c", "c", &tcp(&format!("127.0.0.1:{second}"))).unwrap();
        assert_eq!(port_of(&renamed), second);
        assert!(sockets.into_unused().is_empty());
    }

    #[test]
    fn a_socket_of_systemd_is_found_by_its_name_whatever_its_address() {
        let ((one, first), (two, second)) = (listening(), listening());
        let named = |name: &str, socket: OwnedFd| InheritedSocket {
            name: name.to_owned(),
            configured: None,
            socket: socket.into(),
        };
        let mut sockets = InheritedSockets(vec![named("api", one), named("sidekey.socket", two)]);
        assert_eq!(port_of(&sockets.bind("ingress-api", "api", &tcp("127.0.0.1:8443")).unwrap()), first);
        let unused = sockets.into_unused();
        assert!(unused.len() == 1 && unused[0].contains(&second.to_string()), "{unused:?}");
    }

    #[tokio::test]
    async fn the_file_of_a_socket_goes_with_the_process_that_it_belongs_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.sock");
        let address = ListenAddress::Unix { path: path.clone(), mode: Some(0o660), group: None };
        let old = BoundSocket::bind(&address).unwrap();
        let handle = old.handle("egress-out".to_owned());
        let pass = || {
            let mut sockets = InheritedSockets::default();
            let socket = handle.duplicate().unwrap().expect("it is open");
            sockets.add_passed("egress-out".to_owned(), address.to_string(), socket);
            sockets.bind("egress-out", "out", &address).unwrap()
        };
        drop(pass());
        assert!(path.exists(), "a process that has not taken over removed the file of the other");
        let new = pass();
        handle.release_file();
        new.handle("egress-out".to_owned()).claim_file().unwrap();
        drop(old);
        assert!(path.exists() && handle.duplicate().unwrap().is_none());
        drop(new);
        assert!(!path.exists(), "the socket file goes with its listener");
    }
}
