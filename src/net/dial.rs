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

use super::{HostPort, SocketError, SocketStream, keepalive_probes};

/// The least of the remaining time that each of several addresses gets.
const MIN_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a look-up may take before the previous addresses are used. A working resolver is faster, so a name that
/// was not dialled for long is not dialled at an address that now belongs to another host.
const LOOKUP_GRACE_PERIOD: Duration = Duration::from_millis(250);

/// How a name becomes addresses.
pub type NameResolver = dyn Fn(HostPort) -> PendingLookup;
/// A look-up under way.
pub type PendingLookup = Pin<Box<dyn Future<Output = LookupResult> + Send>>;
/// The resolver's answer.
pub type LookupResult = io::Result<Vec<SocketAddr>>;

/// One worker's dialler, with the addresses it has looked up.
pub struct Dialler {
    /// By name; names come from the configuration only, so there are few.
    names: RefCell<HashMap<HostPort, NameEntry>>,
    resolver: Box<NameResolver>,
}

/// The addresses and the last look-up of a name.
struct NameEntry {
    /// What was found before the last look-up.
    before: Option<AddressList>,
    last: NameLookup,
}

/// A look-up, shared by all callers that wait for it.
#[derive(Clone)]
struct NameLookup {
    began: Instant,
    /// When it ended and with what; `None` while it is under way.
    outcome: watch::Receiver<Option<(Instant, LookupOutcome)>>,
}

type AddressList = Arc<[SocketAddr]>;
type LookupOutcome = Result<AddressList, Arc<io::Error>>;

impl NameEntry {
    /// The addresses of the last look-up that succeeded.
    fn known_addresses(&self) -> Option<AddressList> {
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
pub struct DialOptions {
    /// By when the connection must be open.
    pub deadline: Instant,
    /// TCP keep-alive.
    pub keepalive: Option<Duration>,
    /// How long a resolved address is used before it is looked up again.
    pub refresh: Duration,
    /// The address to try first, if it is one of the resolved ones.
    pub prefer: Option<IpAddr>,
}

impl Default for Dialler {
    /// With the system's resolver.
    fn default() -> Self {
        let system = |to: HostPort| -> PendingLookup {
            Box::pin(async move { Ok(tokio::net::lookup_host((&*to.host, to.port)).await?.collect()) })
        };
        Self::with_resolver(Box::new(system))
    }
}

impl Dialler {
    /// With another resolver.
    pub fn with_resolver(resolver: Box<NameResolver>) -> Self {
        Self { names: RefCell::default(), resolver }
    }

    /// Connects over TCP.
    ///
    /// # Errors
    /// [`SocketError::Resolve`], [`SocketError::Connect`] with the last address tried, or [`SocketError::Late`].
    pub async fn connect_tcp(&self, to: &HostPort, terms: DialOptions) -> Result<SocketStream, SocketError> {
        let addresses = self.resolve_addresses(to, &terms).await?;
        let mut last = SocketError::Late { address: to.to_string() };
        let is_preferred = |address: &&SocketAddr| Some(address.ip()) == terms.prefer;
        let in_order = addresses.iter().filter(is_preferred).chain(addresses.iter().filter(|one| !is_preferred(one)));
        for (index, address) in in_order.enumerate() {
            let left = terms.deadline.saturating_duration_since(Instant::now());
            let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let attempt = Instant::now() + left.min((left / others).max(MIN_ATTEMPT_TIMEOUT));
            match timeout_at(attempt, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let prepared = set_socket_options(&stream, terms.keepalive);
                    prepared.map_err(|source| SocketError::Connect { address: address.to_string(), source })?;
                    return Ok(SocketStream::Tcp(stream));
                }
                Ok(Err(source)) => last = SocketError::Connect { address: address.to_string(), source },
                Err(_) => last = SocketError::Late { address: address.to_string() },
            }
        }
        Err(last)
    }

    async fn resolve_addresses(&self, to: &HostPort, terms: &DialOptions) -> Result<AddressList, SocketError> {
        if let Ok(ip) = to.host.parse::<IpAddr>() {
            return Ok(Arc::new([SocketAddr::new(ip, to.port)]));
        }
        let (known, mut last) = self.look_up(to, terms.refresh);
        let grace = if known.is_some() { last.began + LOOKUP_GRACE_PERIOD } else { terms.deadline };
        let outcome = timeout_at(grace.min(terms.deadline), last.outcome.wait_for(Option::is_some)).await;
        let outcome = outcome.map(|outcome| outcome.ok().and_then(|outcome| outcome.clone()));
        let source = match (outcome, known) {
            (Ok(Some((_, Ok(addresses)))), _) | (_, Some(addresses)) => return Ok(addresses),
            (Err(_), None) => io::Error::new(io::ErrorKind::TimedOut, "the resolver has not answered in time"),
            (Ok(Some((_, Err(error)))), None) => io::Error::new(error.kind(), error),
            (Ok(None), None) => io::Error::other("the look-up was cancelled"),
        };
        Err(SocketError::Resolve { host: to.host.to_string(), source })
    }

    /// The current look-up, started now if one is due, and the addresses known without it.
    fn look_up(&self, to: &HostPort, refresh: Duration) -> (Option<AddressList>, NameLookup) {
        let mut names = self.names.borrow_mut();
        let known = names.get(to).and_then(NameEntry::known_addresses);
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
        let last = NameLookup { began: Instant::now(), outcome };
        names.insert(to.clone(), NameEntry { before: known.clone(), last: last.clone() });
        (known, last)
    }
}

fn set_socket_options(stream: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match keepalive {
        Some(every) => socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive_probes(every)),
        None => Ok(()),
    }
}

/// Connects to a Unix socket.
///
/// # Errors
/// [`SocketError::Connect`] or [`SocketError::Late`].
pub async fn connect_unix(path: &Path, deadline: Instant) -> Result<SocketStream, SocketError> {
    let address = || format!("unix:{}", path.display());
    match timeout_at(deadline, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(SocketStream::Unix(stream)),
        Ok(Err(source)) => Err(SocketError::Connect { address: address(), source }),
        Err(_) => Err(SocketError::Late { address: address() }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;

    fn dial_options() -> DialOptions {
        let deadline = Instant::now() + Duration::from_secs(5);
        DialOptions {
            deadline,
            keepalive: Some(Duration::from_secs(45)),
            refresh: Duration::from_secs(30),
            prefer: None,
        }
    }

    #[tokio::test]
    async fn a_listening_address_is_reached_without_delay_of_small_writes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = HostPort { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let SocketStream::Tcp(stream) = Dialler::default().connect_tcp(&to, dial_options()).await.unwrap() else {
            panic!("not TCP")
        };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_is_named_in_the_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let to = HostPort { host: "127.0.0.1".into(), port };
        let error = Dialler::default().connect_tcp(&to, dial_options()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }

    /// A resolver whose look-ups end when the test says so, with what it says.
    #[derive(Clone, Default)]
    struct ManualResolver(Arc<Mutex<Vec<oneshot::Sender<LookupResult>>>>);

    impl ManualResolver {
        fn dialler(&self) -> Dialler {
            let asked = self.clone();
            Dialler::with_resolver(Box::new(move |_| {
                let (sender, outcome) = oneshot::channel();
                asked.0.lock().unwrap().push(sender);
                Box::pin(async { outcome.await.map_err(io::Error::other)? })
            }))
        }

        fn pending_lookups(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        /// Ends the look-up that began first.
        fn complete_first(&self, with: LookupResult) {
            self.0.lock().unwrap().remove(0).send(with).unwrap();
        }
    }

    /// A name, and the address of the listener behind it.
    async fn named_listener() -> (TcpListener, HostPort, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        (listener, HostPort { host: "api.example".into(), port: at.port() }, at)
    }

    #[tokio::test]
    async fn a_hanging_resolver_does_not_block_known_addresses() {
        let (resolver, (_listener, to, at)) = (ManualResolver::default(), named_listener().await);
        let dialler = resolver.dialler();
        let (first, ()) =
            tokio::join!(dialler.connect_tcp(&to, dial_options()), async { resolver.complete_first(Ok(vec![at])) });
        first.unwrap();
        // Every look-up from here on hangs, and one is all that is begun.
        for _ in 0..20 {
            dialler.connect_tcp(&to, DialOptions { refresh: Duration::ZERO, ..dial_options() }).await.unwrap();
        }
        assert_eq!(resolver.pending_lookups(), 1);
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_looked_up_once_for_all_and_a_late_answer_counts() {
        let (resolver, (_listener, to, at)) = (ManualResolver::default(), named_listener().await);
        let dialler = resolver.dialler();
        let short = || DialOptions { deadline: Instant::now() + Duration::from_millis(20), ..dial_options() };
        let (one, other) = tokio::join!(dialler.connect_tcp(&to, short()), dialler.connect_tcp(&to, short()));
        for late in [one, other] {
            let named =
                matches!(&late, Err(SocketError::Resolve { source, .. }) if source.kind() == io::ErrorKind::TimedOut);
            assert!(named, "{late:?}");
        }
        assert_eq!(resolver.pending_lookups(), 1);
        resolver.complete_first(Ok(vec![at]));
        dialler.connect_tcp(&to, dial_options()).await.unwrap();
        assert_eq!(resolver.pending_lookups(), 0, "the late answer was lost");
    }

    #[tokio::test]
    async fn a_failed_look_up_is_an_error_at_first_and_keeps_the_addresses_later() {
        let (resolver, (_listener, to, at)) = (ManualResolver::default(), named_listener().await);
        let dialler = resolver.dialler();
        for nothing in [Err(io::Error::other("no such host")), Ok(Vec::new())] {
            let (failed, ()) =
                tokio::join!(dialler.connect_tcp(&to, dial_options()), async { resolver.complete_first(nothing) });
            assert!(matches!(failed, Err(SocketError::Resolve { .. })), "{failed:?}");
        }
        let always = || DialOptions { refresh: Duration::ZERO, ..dial_options() };
        for outcome in [Ok(vec![at]), Err(io::Error::other("no such host")), Ok(Vec::new()), Ok(vec![at])] {
            let (found, ()) =
                tokio::join!(dialler.connect_tcp(&to, always()), async { resolver.complete_first(outcome) });
            found.unwrap();
        }
    }

    #[tokio::test]
    async fn a_look_up_in_time_is_used_at_once() {
        let (resolver, (_listener, to, at)) = (ManualResolver::default(), named_listener().await);
        let dialler = resolver.dialler();
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (refused, ()) = tokio::join!(dialler.connect_tcp(&to, dial_options()), async {
            resolver.complete_first(Ok(vec![nowhere]))
        });
        assert!(matches!(refused, Err(SocketError::Connect { .. })), "{refused:?}");
        let refresh = DialOptions { refresh: Duration::ZERO, ..dial_options() };
        let (moved, ()) =
            tokio::join!(dialler.connect_tcp(&to, refresh), async { resolver.complete_first(Ok(vec![at])) });
        moved.unwrap();
    }

    #[tokio::test]
    async fn a_preferred_address_is_tried_first_and_the_others_after_it() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let (one, other) = (first.local_addr().unwrap(), second.local_addr().unwrap());
        let dialler = Dialler::with_resolver(Box::new(move |_| Box::pin(async move { Ok(vec![one, other]) })));
        let to = HostPort { host: "api.example".into(), port };
        let reached = async |prefer: Option<IpAddr>| {
            let stream = dialler.connect_tcp(&to, DialOptions { prefer, ..dial_options() }).await.unwrap();
            stream.peer_addr().unwrap()
        };
        assert_eq!(reached(None).await, one);
        assert_eq!(reached(Some(other.ip())).await, other);
        assert_eq!(reached(Some([127, 0, 0, 3].into())).await, one, "it is none of the upstream's");
        drop(second);
        assert_eq!(reached(Some(other.ip())).await, one);
    }

    #[tokio::test]
    async fn a_missing_unix_socket_is_named_in_the_error() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = connect_unix(Path::new("/nowhere/app.sock"), deadline).await.unwrap_err();
        assert!(error.to_string().contains("unix:/nowhere/app.sock"), "{error}");
    }
}
