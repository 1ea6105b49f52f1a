//! Alerts: what needs action now, and the contacts that are notified (contract section 8).
//!
//! Three steps in a line, without a way back: `observe` folds Events into conditions and peers, `rounds` evaluates them
//! ([`due_alerts`], which is pure) and reports the alerts in log and metrics, on every instance and without a database;
//! `deliver` sends them by webhook and mail, once for the whole fleet, claimed in the registry. `webhook` and `mail`
//! implement the two kinds of sink.

mod conditions;
mod connection;
mod deliver;
mod due;
mod mail;
mod observe;
mod rounds;
pub mod task;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::net::HostPort;
use crate::pki::Fingerprint;

pub use conditions::AlertConditions;
pub use due::{AlertInputs, due_alerts};
pub use mail::is_mailbox;
pub use webhook::webhook_port;

/// How often the clock is checked.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// How often the alerts are evaluated, and the registry's peers read, although nothing happened.
const ROUND_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum number of peers kept in memory.
const MAX_PEERS: usize = 20_000;

/// `[alerts]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertSettings {
    /// Webhooks.
    pub webhooks: Vec<WebhookSettings>,
    /// Mail to each keyring's contact.
    pub smtp: Option<SmtpSettings>,
}

/// One webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// The file that holds its URL, which is a secret: knowing it is enough to post there.
    pub url_file: PathBuf,
    /// What is posted.
    pub format: WebhookFormat,
}

/// The shape of what is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    /// One object with every field.
    Json,
    /// A message in the format of Slack, Mattermost and others.
    Slack,
}

/// `[alerts.smtp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpSettings {
    /// The server.
    pub server: HostPort,
    /// The sender's address.
    pub from: String,
    /// The file with `USER:PASSWORD`.
    pub credentials_file: Option<PathBuf>,
    /// How the connection is protected.
    pub tls: SmtpTls,
}

/// `tls` of `[alerts.smtp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// Starts in plain text and upgrades; nothing is sent to a server without STARTTLS.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// Plain text: this host only.
    None,
}

/// A condition that needs action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name: the same on every instance, a different one for each threshold.
    pub name: Arc<str>,
    /// Stable code.
    pub kind: AlertKind,
    /// The last threshold has passed, or there is no time left.
    pub urgent: bool,
    /// The keyring, or the trust.
    pub keyring: Arc<str>,
    /// Other keyrings or trusts that it also concerns.
    pub also: Vec<Arc<str>>,
    /// The pair or certificate it is about.
    pub key_pair: Option<Fingerprint>,
    /// The time that it is about: of an expiry, or of an overlap's end.
    pub ends: Option<Timestamp>,
    /// Contacts to notify.
    pub contacts: Vec<String>,
    /// One printable sentence.
    pub explanation: String,
    /// What to do.
    pub remedy: String,
}

impl Alert {
    /// Merges an alert for the same certificate in another keyring or trust: one alert, sent to all contacts.
    fn merge(&mut self, other: Self) {
        if other.keyring != self.keyring && !self.also.contains(&other.keyring) {
            self.explanation.push_str(&format!("; also in {}", other.keyring));
            self.also.push(other.keyring);
        }
        for contact in other.contacts {
            if !self.contacts.contains(&contact) {
                self.contacts.push(contact);
            }
        }
    }
}

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// The current pair expires, and no successor is current.
    Expires,
    /// A peer's or an upstream's own certificate expires.
    PartnerExpires,
    /// A drop was refused.
    RefusedDrop,
    /// The folder has held a newer key pair for a while that is not current.
    Diverges,
    /// A partner refuses a new pair.
    Refuses,
    /// An overlap is about to end with peers still on the old pair.
    OverlapEnds,
    /// A trust anchor expires, and with it every peer certificate that it issued.
    AnchorExpires,
    /// A CRL is out of date, or soon will be.
    CrlStale,
    /// A file of a trust cannot be used.
    TrustFileUnusable,
    /// An expired pair is in use, because there is no other.
    LastResort,
    /// The folder no longer holds the files of the current pair.
    FilesGone,
    /// Decisions cannot be saved: a restart would lose them.
    NotRemembered,
}

impl AlertKind {
    /// Whether a certificate's end is what it is about: an operator can acknowledge that.
    pub const fn is_expiry(self) -> bool {
        matches!(self, Self::Expires | Self::PartnerExpires | Self::AnchorExpires)
    }

    /// The code used in logs, labels and webhooks.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expires => "expires",
            Self::PartnerExpires => "partner_expires",
            Self::RefusedDrop => "refused_drop",
            Self::Diverges => "diverges",
            Self::Refuses => "refuses",
            Self::OverlapEnds => "overlap_ends",
            Self::AnchorExpires => "anchor_expires",
            Self::CrlStale => "crl_stale",
            Self::TrustFileUnusable => "trust_file_unusable",
            Self::LastResort => "last_resort",
            Self::FilesGone => "files_gone",
            Self::NotRemembered => "not_remembered",
        }
    }
}

/// Why an alert could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// A file with a secret cannot be used.
    #[error("{file}: {why}")]
    Secret {
        /// Which file.
        file: String,
        /// What is wrong with it; never its content.
        why: String,
    },
    /// The connection failed.
    #[error("{place}: {why}")]
    Way {
        /// Host and port.
        place: String,
        /// Why.
        why: String,
    },
    /// The server answered with an error status.
    #[error("{place} answered {status}")]
    Status {
        /// Host and port.
        place: String,
        /// The status.
        status: u16,
    },
    /// The recipient's address is not valid.
    #[error("invalid mail address {contact:?}: to receive alerts by mail, a keyring's contact must be a mail address")]
    Contact {
        /// The keyring's contact.
        contact: String,
    },
    /// The server rejected the message.
    #[error("{place}: {why}")]
    Refused {
        /// Host and port.
        place: String,
        /// Why.
        why: String,
    },
    /// The server did not answer in time.
    #[error("no answer within {seconds} s")]
    Late {
        /// The timeout.
        seconds: u64,
    },
}

/// Adds what to do to a connection error where that is known: the library's message does not name the file.
fn with_tls_hint(why: String) -> String {
    if why.contains("UnknownIssuer") {
        format!("{why}: no platform trust anchor issued the server's certificate; SSL_CERT_FILE=FILE sets others")
    } else {
        why
    }
}

/// Reads the single line of a small file that holds a secret, such as a URL.
fn read_secret(file: &std::path::Path) -> Result<zeroize::Zeroizing<String>, DeliveryError> {
    use std::io::Read as _;
    let shown = crate::pki::printable(&file.display().to_string());
    let wrong = |why: String| DeliveryError::Secret { file: shown.clone(), why };
    let mut text = zeroize::Zeroizing::new(String::with_capacity(8192));
    let opened = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    opened.take(8192).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    let line = text.trim();
    if line.is_empty() || line.contains(['\n', '\r']) {
        return Err(wrong("must contain exactly one line".to_owned()));
    }
    Ok(zeroize::Zeroizing::new(line.to_owned()))
}
