//! The sessions with one upstream, which end with the path that its certificate was verified by: an upstream that has renewed its
//! certificate is then met by a full handshake, not by a session that is refused for the old one.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::time_provider::TimeProvider as _;
use rustls_pki_types::ServerName;

use super::TlsTimeSource;

/// Sessions remembered for one upstream and pair.
const SESSIONS_PER_PAIR: usize = 32;

/// rustls' own store, emptied at the earliest end of a path that was verified for one of its sessions.
pub(super) struct PathBoundSessions {
    sessions: Mutex<BoundSessionCache>,
    time: TlsTimeSource,
}

struct BoundSessionCache {
    cache: ClientSessionMemoryCache,
    /// Seconds since 1970.
    end: u64,
}

impl BoundSessionCache {
    fn empty() -> Self {
        Self { cache: ClientSessionMemoryCache::new(SESSIONS_PER_PAIR), end: u64::MAX }
    }
}

impl PathBoundSessions {
    pub(super) fn new(time: &TlsTimeSource) -> Self {
        Self { sessions: Mutex::new(BoundSessionCache::empty()), time: time.clone() }
    }

    /// A full handshake has verified a path that holds until then: tickets that follow end with it.
    pub(super) fn limit_to(&self, end: jiff::Timestamp) {
        let mut sessions = self.current();
        sessions.end = sessions.end.min(u64::try_from(end.as_second()).unwrap_or(0));
    }

    fn current(&self) -> MutexGuard<'_, BoundSessionCache> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if self.time.current_time().is_none_or(|now| now.as_secs() >= sessions.end) {
            *sessions = BoundSessionCache::empty();
        }
        sessions
    }
}

impl fmt::Debug for PathBoundSessions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PathBoundSessions")
    }
}

impl ClientSessionStore for PathBoundSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.current().cache.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.current().cache.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.current().cache.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.current().cache.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.current().cache.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.current().cache.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.current().cache.take_tls13_ticket(server_name)
    }
}
