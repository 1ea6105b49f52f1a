//! Dials: TCP (every resolved address in turn, under one deadline) and Unix sockets.
//!
//! A name is resolved off the runtime's thread and remembered for a while; where a later look-up fails, the addresses
//! that worked before are used on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::{Error, HostPort, Stream};

/// The least that one of several addresses gets of what is left.
const LEAST_ATTEMPT: Duration = Duration::from_millis(250);

/// One worker's dialler, with the addresses it has looked up.
#[derive(Default)]
pub struct Dialler {
    known: RefCell<HashMap<HostPort, Known>>,
}

struct Known {
    addresses: Rc<[SocketAddr]>,
    looked_up: Instant,
}

/// How a TCP connection is made.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// By when it must be there.
    pub deadline: Instant,
    /// TCP keep-alive.
    pub keepalive: Option<Duration>,
    /// How long a resolved address is used before it is looked up again.
    pub refresh: Duration,
}

impl Dialler {
    /// Connects over TCP.
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Connect`] with the last address tried, or [`Error::Late`].
    pub async fn tcp(&self, to: &HostPort, terms: Terms) -> Result<Stream, Error> {
        let late = || Error::Late { address: to.to_string() };
        let addresses = timeout_at(terms.deadline, self.addresses(to, terms.refresh)).await.map_err(|_| late())??;
        let mut last = late();
        for (index, address) in addresses.iter().enumerate() {
            let left = terms.deadline.saturating_duration_since(Instant::now());
            let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let attempt = Instant::now() + left.min((left / others).max(LEAST_ATTEMPT));
            match timeout_at(attempt, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let prepared = prepare(&stream, terms.keepalive);
                    prepared.map_err(|source| Error::Connect { address: address.to_string(), source })?;
                    return Ok(Stream::Tcp(stream));
                }
                Ok(Err(source)) => last = Error::Connect { address: address.to_string(), source },
                Err(_) => last = Error::Late { address: address.to_string() },
            }
        }
        Err(last)
    }

    async fn addresses(&self, to: &HostPort, refresh: Duration) -> Result<Rc<[SocketAddr]>, Error> {
        if let Ok(ip) = to.host.parse::<IpAddr>() {
            return Ok(Rc::new([SocketAddr::new(ip, to.port)]));
        }
        let before = self.known.borrow().get(to).map(|known| (Rc::clone(&known.addresses), known.looked_up));
        if let Some((addresses, looked_up)) = &before
            && looked_up.elapsed() < refresh
        {
            return Ok(Rc::clone(addresses));
        }
        let found = tokio::net::lookup_host((&*to.host, to.port)).await.map(|all| all.collect::<Vec<_>>());
        let addresses = match (found, before) {
            (Ok(found), _) if !found.is_empty() => Rc::from(found),
            // A resolver that fails for a moment must not cost traffic to a host that has not moved.
            (_, Some((addresses, _))) => addresses,
            (Ok(_), None) => {
                let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                return Err(Error::Resolve { host: to.host.to_string(), source });
            }
            (Err(source), None) => return Err(Error::Resolve { host: to.host.to_string(), source }),
        };
        let known = Known { addresses: Rc::clone(&addresses), looked_up: Instant::now() };
        self.known.borrow_mut().insert(to.clone(), known);
        Ok(addresses)
    }
}

fn prepare(stream: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match keepalive {
        Some(every) => {
            let probes = socket2::TcpKeepalive::new().with_time(every).with_interval(every);
            socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
        }
        None => Ok(()),
    }
}

/// Connects to a Unix socket.
///
/// # Errors
/// [`Error::Connect`] or [`Error::Late`].
pub async fn unix(path: &Path, deadline: Instant) -> Result<Stream, Error> {
    let address = || format!("unix:{}", path.display());
    match timeout_at(deadline, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(Stream::Unix(stream)),
        Ok(Err(source)) => Err(Error::Connect { address: address(), source }),
        Err(_) => Err(Error::Late { address: address() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let deadline = Instant::now() + Duration::from_secs(5);
        Terms { deadline, keepalive: Some(Duration::from_secs(45)), refresh: Duration::from_secs(30) }
    }

    #[tokio::test]
    async fn a_listening_address_is_reached_without_delay_of_small_writes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = HostPort { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let Stream::Tcp(stream) = Dialler::default().tcp(&to, terms()).await.unwrap() else { panic!("not TCP") };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_is_named_in_the_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let to = HostPort { host: "127.0.0.1".into(), port };
        let error = Dialler::default().tcp(&to, terms()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }

    #[tokio::test]
    async fn a_missing_unix_socket_is_named_in_the_error() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = unix(Path::new("/nowhere/app.sock"), deadline).await.unwrap_err();
        assert!(error.to_string().contains("unix:/nowhere/app.sock"), "{error}");
    }
}
