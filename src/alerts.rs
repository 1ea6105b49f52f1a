//! Alerts: what somebody should be told of now, and to whom (contract section 8).
//!
//! [`due()`] is pure: what there is (a snapshot's views, peers, what happened) and the time make the alerts. Telling them is
//! `task`'s: the log and the metrics at once, on every instance and without a database; webhooks and mail once for the whole
//! fleet, claimed in the registry. `webhook` and `mail` know the two ways out.

mod deliver;
pub mod due;
pub mod happened;
mod mail;
pub mod task;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use crate::net::HostPort;
use crate::pki::Fingerprint;

pub use due::{Records, due};
pub use happened::Happened;
pub use mail::is_mailbox;

/// `[alerts]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Webhooks.
    pub webhooks: Vec<Webhook>,
    /// Mail to each keyring's contact.
    pub smtp: Option<Smtp>,
}

/// One webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The file that holds its URL: whoever knows it can post there.
    pub url_file: PathBuf,
    /// What is posted.
    pub format: Format,
}

/// The shape of what is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object with every field.
    Json,
    /// A message as Slack, Mattermost and others take it.
    Slack,
}

/// `[alerts.smtp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// The server.
    pub server: HostPort,
    /// The sender.
    pub from: String,
    /// The file with `USER:PASSWORD`.
    pub credentials_file: Option<PathBuf>,
    /// How it is protected.
    pub tls: SmtpTls,
}

/// `tls` of `[alerts.smtp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// Begins in plain text; a server without STARTTLS gets nothing.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// Plain text: this host only.
    None,
}

/// Something that somebody should act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name: the same on every instance, and another one for each threshold.
    pub name: Arc<str>,
    /// Stable code.
    pub kind: Kind,
    /// The last threshold has passed, or there is no time left.
    pub urgent: bool,
    /// The keyring, or the trust.
    pub keyring: Arc<str>,
    /// Other keyrings or trusts that it concerns as well.
    pub also: Vec<Arc<str>>,
    /// The pair or certificate it is about.
    pub key_pair: Option<Fingerprint>,
    /// For an expiry: when.
    pub ends: Option<Timestamp>,
    /// Whom to tell.
    pub contacts: Vec<String>,
    /// One printable sentence.
    pub explanation: String,
    /// What to do.
    pub remedy: String,
}

impl Alert {
    /// The same certificate in another keyring or trust: told of once, to everybody whom it concerns.
    fn join(&mut self, other: Self) {
        if other.keyring != self.keyring && !self.also.contains(&other.keyring) {
            self.explanation.push_str(&format!("; {} has it too", other.keyring));
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
pub enum Kind {
    /// The current pair expires, and no successor is current.
    Expires,
    /// A peer's or an upstream's own certificate expires.
    PartnerExpires,
    /// A drop was refused.
    RefusedDrop,
    /// The folder has held something newer for a while that is not current.
    Diverges,
    /// A partner refuses a new pair.
    Refuses,
    /// An overlap is about to end with peers still on the old pair.
    OverlapEnds,
    /// A trust anchor expires, and with it everybody whom it vouches for.
    AnchorExpires,
    /// A CRL is out of date.
    CrlStale,
    /// An expired pair is in use, because there is no other.
    LastResort,
}

impl Kind {
    /// As in logs, labels and webhooks.
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
            Self::LastResort => "last_resort",
        }
    }
}

/// Why an alert could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file with a secret.
    #[error("{file}: {why}")]
    Secret {
        /// Which file.
        file: String,
        /// What is wrong with it; never what is in it.
        why: String,
    },
    /// The way there.
    #[error("{place}: {why}")]
    Way {
        /// Host and port.
        place: String,
        /// Why.
        why: String,
    },
    /// The answer.
    #[error("{place} answered {status}")]
    Status {
        /// Host and port.
        place: String,
        /// The status.
        status: u16,
    },
    /// The address it should go to.
    #[error("{contact:?} is no mail address: the keyring's contact must be one for alerts to be mailed")]
    Contact {
        /// The keyring's contact.
        contact: String,
    },
    /// The server does not take it.
    #[error("{place}: {why}")]
    Refused {
        /// Host and port.
        place: String,
        /// Why.
        why: String,
    },
    /// It took too long.
    #[error("no answer within {seconds} s")]
    Late {
        /// How long it was given.
        seconds: u64,
    },
}

/// What went wrong on the way to a server, and what to do where that is known: the library's words name no file.
fn explained(why: String) -> String {
    if why.contains("UnknownIssuer") {
        format!("{why}: no trust anchor of the platform vouches for its certificate; SSL_CERT_FILE=FILE names others")
    } else {
        why
    }
}

/// The one line of a small file that holds a secret, such as a URL.
fn secret(file: &std::path::Path) -> Result<zeroize::Zeroizing<String>, Error> {
    use std::io::Read as _;
    let shown = crate::pki::printable(&file.display().to_string());
    let wrong = |why: String| Error::Secret { file: shown.clone(), why };
    let mut text = zeroize::Zeroizing::new(String::with_capacity(8192));
    let opened = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    opened.take(8192).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    let line = text.trim();
    if line.is_empty() || line.contains(['\n', '\r']) {
        return Err(wrong("must hold one line".to_owned()));
    }
    Ok(zeroize::Zeroizing::new(line.to_owned()))
}
