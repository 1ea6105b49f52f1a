//! The sessions of one client config: kept for one upstream and one key pair, and only while the handshakes of that config
//! show no other pair.
//!
//! A CertificateRequest may lead a handshake to another pair than its config's own (`keyring::demand`). A session that began
//! so would carry that pair's identity into every connection that resumes it, and no resolver is asked then: from that
//! handshake on nothing is stored and nothing resumed. Tickets of TLS 1.3 come after the handshake, outside its slot, so the
//! store itself must know.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

/// The store.
pub(super) struct KeyPairSessions {
    kept: ClientSessionMemoryCache,
    /// Another pair than the config's own was shown.
    mixed: AtomicBool,
    /// A CertificateRequest came: what is resumed began with our certificate.
    asked: AtomicBool,
}

impl KeyPairSessions {
    /// An empty one for so many sessions.
    pub(super) fn new(sessions: usize) -> Self {
        let kept = ClientSessionMemoryCache::new(sessions);
        Self { kept, mixed: AtomicBool::new(false), asked: AtomicBool::new(false) }
    }

    /// Stores and resumes nothing from now on.
    pub(super) fn close(&self) {
        self.mixed.store(true, Ordering::Release);
    }

    /// A CertificateRequest came in one of the handshakes.
    pub(super) fn record_request(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Whether any handshake had a CertificateRequest.
    pub(super) fn saw_request(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn is_open(&self) -> bool {
        !self.mixed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for KeyPairSessions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KeyPairSessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for KeyPairSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        if self.is_open() {
            self.kept.set_tls12_session(server_name, value);
        }
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(server_name).filter(|_| self.is_open())
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.kept.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        if self.is_open() {
            self.kept.insert_tls13_ticket(server_name, value);
        }
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(server_name).filter(|_| self.is_open())
    }
}
