//! Dials: TCP (every resolved address in turn, under one deadline) and Unix sockets.
//!
//! A name is looked up off the runtime's thread, once at a time, in a task that outlives its caller: a late answer
//! still counts, and a resolver that hangs holds one thread for a name and not one for each connection. While a look-up
//! fails or takes long, the addresses of the previous one stay in use; only a name that was never resolved waits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Error, HostPort, Stream, probes};

/// The least of the remaining time that each of several addresses gets.
const LEAST_ATTEMPT: Duration = Duration::from_millis(250);
/// How long a look-up may take before the previous addresses are used. A working resolver is faster, so a name that
/// was not dialled for long is not dialled at an address that now belongs to another host.
const GRACE: Duration = Duration::from_millis(250);

/// How a name becomes addresses.
pub type Resolver = dyn Fn(HostPort) -> Looking;
/// A look-up under way.
pub type Looking = Pin<Box<dyn Future<Output = Answer> + Send>>;
/// The resolver's answer.
pub type Answer = io::Result<Vec<SocketAddr>>;

/// One worker's dialler, with the addresses it has looked up.
pub struct Dialler {
    /// By name; names come from the configuration only, so there are few.
    names: RefCell<HashMap<HostPort, Name>>,
    resolver: Box<Resolver>,
}

/// The addresses and the last look-up of a name.
struct Name {
    /// What was found before the last look-up.
    before: Option<Addresses>,
    last: LookUp,
}

/// A look-up, shared by all callers that wait for it.
#[derive(Clone)]
struct LookUp {
    began: Instant,
    /// When it ended and with what; `None` while it is under way.
    outcome: watch::Receiver<Option<(Instant, Found)>>,
}

type Addresses = Arc<[SocketAddr]>;
type Found = Result<Addresses, Arc<io::Error>>;

impl Name {
    /// The addresses of the last look-up that succeeded.
    fn known(&self) -> Option<Addresses> {
        match &*self.last.outcome.borrow() {
            Some((_, Ok(addresses))) => Some(Arc::clone(addresses)),
            _ => self.before.clone(),
        }
    }

    /// Whether it is time for another look-up: never while one is under way.
    fn is_due(&self, refresh: Duration) -> bool {
        match &*self.last.outcome.borrow() {
            // A task that was lost never brings an outcome.
            None => self.last.outcome.has_changed().is_err(),
            Some((_, Err(_))) if self.before.is_none() => true,
            Some((ended, _)) => ended.elapsed() >= refresh,
        }
    }
}

/// How a TCP connection is made.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// By when the connection must be open.
    pub deadline: Instant,
    /// TCP keep-alive.
    pub keepalive: Option<Duration>,
    /// How long a resolved address is used before it is looked up again.
    pub refresh: Duration,
}

impl Default for Dialler {
    /// With the system's resolver.
    fn default() -> Self {
        let system = |to: HostPort| -> Looking {
            Box::pin(async move { Ok(tokio::net::lookup_host((&*to.host, to.port)).await?.collect()) })
        };
        Self::with(Box::new(system))
    }
}

impl Dialler {
    /// With another resolver.
    pub fn with(resolver: Box<Resolver>) -> Self {
        Self { names: RefCell::default(), resolver }
    }

    /// Connects over TCP.
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Connect`] with the last address tried, or [`Error::Late`].
    pub async fn tcp(&self, to: &HostPort, terms: Terms) -> Result<Stream, Error> {
        let addresses = self.addresses(to, &terms).await?;
        let mut last = Error::Late { address: to.to_string() };
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

    async fn addresses(&self, to: &HostPort, terms: &Terms) -> Result<Addresses, Error> {
        if let Ok(ip) = to.host.parse::<IpAddr>() {
            return Ok(Arc::new([SocketAddr::new(ip, to.port)]));
        }
        let (known, mut last) = self.look_up(to, terms.refresh);
        let grace = if known.is_some() { last.began + GRACE } else { terms.deadline };
        let outcome = timeout_at(grace.min(terms.deadline), last.outcome.wait_for(Option::is_some)).await;
        let outcome = outcome.map(|outcome| outcome.ok().and_then(|outcome| outcome.clone()));
        let source = match (outcome, known) {
            (Ok(Some((_, Ok(addresses)))), _) | (_, Some(addresses)) => return Ok(addresses),
            (Err(_), None) => return Err(Error::Late { address: to.to_string() }),
            (Ok(Some((_, Err(error)))), None) => io::Error::new(error.kind(), error),
            (Ok(None), None) => io::Error::other("the look-up was cancelled"),
        };
        Err(Error::Resolve { host: to.host.to_string(), source })
    }

    /// The current look-up, started now if one is due, and the addresses known without it.
    fn look_up(&self, to: &HostPort, refresh: Duration) -> (Option<Addresses>, LookUp) {
        let mut names = self.names.borrow_mut();
        let known = names.get(to).and_then(Name::known);
        if let Some(name) = names.get(to).filter(|name| !name.is_due(refresh)) {
            return (known, name.last.clone());
        }
        let (sender, outcome) = watch::channel(None);
        let looking = (self.resolver)(to.clone());
        tokio::spawn(async move {
            let found = match looking.await {
                Ok(found) if found.is_empty() => {
                    Err(Arc::new(io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
                }
                found => found.map(Arc::from).map_err(Arc::new),
            };
            sender.send_replace(Some((Instant::now(), found)));
        });
        let last = LookUp { began: Instant::now(), outcome };
        names.insert(to.clone(), Name { before: known.clone(), last: last.clone() });
        (known, last)
    }
}

fn prepare(stream: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match keepalive {
        Some(every) => socket2::SockRef::from(stream).set_tcp_keepalive(&probes(every)),
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
    use std::sync::Mutex;

    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;

    fn terms() -> Terms {
        let deadline = Instant::now() + Duration::from_secs(5);
        Terms { deadline, keepalive: Some(Duration::from_secs(45)), refresh: Duration::from_secs(30) }
    }

    #[tokio::test]
    async fn a_listening_address_is_reached_without_delay_of_small_writes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = HostPort { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let Stream::Tcp(stream) = Dialler::default().tcp(&to, terms()).await.unwrap() else { panic!("not TCP") };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_is_named_in_the_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let to = HostPort { host: "127.0.0.1".into(), port };
        let error = Dialler::default().tcp(&to, terms()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }

    /// A resolver whose look-ups end when the test says so, with what it says.
    #[derive(Clone, Default)]
    struct ByHand(Arc<Mutex<Vec<oneshot::Sender<Answer>>>>);

    impl ByHand {
        fn dialler(&self) -> Dialler {
            let asked = self.clone();
            Dialler::with(Box::new(move |_| {
                let (sender, outcome) = oneshot::channel();
                asked.0.lock().unwrap().push(sender);
                Box::pin(async { outcome.await.map_err(io::Error::other)? })
            }))
        }

        fn under_way(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        /// Ends the look-up that began first.
        fn ends(&self, with: Answer) {
            self.0.lock().unwrap().remove(0).send(with).unwrap();
        }
    }

    /// A name, and the address of the listener behind it.
    async fn named() -> (TcpListener, HostPort, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        (listener, HostPort { host: "api.example".into(), port: at.port() }, at)
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_keeps_nobody_from_addresses_that_are_known() {
        let (resolver, (_listener, to, at)) = (ByHand::default(), named().await);
        let dialler = resolver.dialler();
        let (first, ()) = tokio::join!(dialler.tcp(&to, terms()), async { resolver.ends(Ok(vec![at])) });
        first.unwrap();
        // Every look-up from here on hangs, and one is all that is begun.
        for _ in 0..20 {
            dialler.tcp(&to, Terms { refresh: Duration::ZERO, ..terms() }).await.unwrap();
        }
        assert_eq!(resolver.under_way(), 1);
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_looked_up_once_for_all_and_a_late_answer_counts() {
        let (resolver, (_listener, to, at)) = (ByHand::default(), named().await);
        let dialler = resolver.dialler();
        let short = || Terms { deadline: Instant::now() + Duration::from_millis(20), ..terms() };
        let (one, other) = tokio::join!(dialler.tcp(&to, short()), dialler.tcp(&to, short()));
        for late in [one, other] {
            assert!(matches!(late, Err(Error::Late { .. })), "{late:?}");
        }
        assert_eq!(resolver.under_way(), 1);
        resolver.ends(Ok(vec![at]));
        dialler.tcp(&to, terms()).await.unwrap();
        assert_eq!(resolver.under_way(), 0, "the late answer was lost");
    }

    #[tokio::test]
    async fn a_failed_look_up_is_an_error_at_first_and_keeps_the_addresses_later() {
        let (resolver, (_listener, to, at)) = (ByHand::default(), named().await);
        let dialler = resolver.dialler();
        for nothing in [Err(io::Error::other("no such host")), Ok(Vec::new())] {
            let (failed, ()) = tokio::join!(dialler.tcp(&to, terms()), async { resolver.ends(nothing) });
            assert!(matches!(failed, Err(Error::Resolve { .. })), "{failed:?}");
        }
        let always = || Terms { refresh: Duration::ZERO, ..terms() };
        for outcome in [Ok(vec![at]), Err(io::Error::other("no such host")), Ok(Vec::new()), Ok(vec![at])] {
            let (found, ()) = tokio::join!(dialler.tcp(&to, always()), async { resolver.ends(outcome) });
            found.unwrap();
        }
    }

    #[tokio::test]
    async fn a_look_up_in_time_is_used_at_once() {
        let (resolver, (_listener, to, at)) = (ByHand::default(), named().await);
        let dialler = resolver.dialler();
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (refused, ()) = tokio::join!(dialler.tcp(&to, terms()), async { resolver.ends(Ok(vec![nowhere])) });
        assert!(matches!(refused, Err(Error::Connect { .. })), "{refused:?}");
        let refresh = Terms { refresh: Duration::ZERO, ..terms() };
        let (moved, ()) = tokio::join!(dialler.tcp(&to, refresh), async { resolver.ends(Ok(vec![at])) });
        moved.unwrap();
    }

    #[tokio::test]
    async fn a_missing_unix_socket_is_named_in_the_error() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = unix(Path::new("/nowhere/app.sock"), deadline).await.unwrap_err();
        assert!(error.to_string().contains("unix:/nowhere/app.sock"), "{error}");
    }
}
