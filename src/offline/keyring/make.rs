//! `keyring new` and `keyring csr`: a key, and the certificate that it signs itself or the request that goes to a CA.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{OfflineKeyringError, OfflineKeyrings, OfflineOutcome, read};
use crate::folder;
use crate::pki::issue::{self, CertificateTemplate, GeneratedKey, NewKeyKind, RequestedNames, SubjectName};
use crate::pki::{Certificate, KeyPair, PrivateKey, Validity, printable};

/// How far back a certificate's validity begins: partners' clocks go wrong, too.
const BACKDATED: Duration = Duration::from_mins(5);

/// What is to be made.
#[derive(Clone, Debug)]
pub struct KeyPairCreation {
    /// What kind of key.
    pub key: NewKeyKind,
    /// The subject; `None`: that of the current pair, else a common name from the first name.
    pub subject: Option<SubjectName>,
    /// The names; none: those of the current pair.
    pub names: RequestedNames,
    /// serverAuth, clientAuth; `None`: both.
    pub usage: Option<(bool, bool)>,
    /// How long a self-signed certificate is valid.
    pub valid_for: Duration,
    /// The files' name, without ending.
    pub name: Option<String>,
    /// Current at once, and not staged beside a current pair.
    pub activate: bool,
}

/// Which key a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A new one, which waits in the folder.
    New,
    /// The current pair's: a renewal that keeps the key.
    Current,
    /// The one that waits already: the request again.
    Waiting,
}

impl OfflineKeyrings {
    /// A key and a certificate that it signs itself, in the folder.
    ///
    /// # Errors
    /// No name for it, the rules would refuse it, or the folder cannot be written.
    pub fn new_pair(&self, new: &KeyPairCreation) -> Result<OfflineOutcome, OfflineKeyringError> {
        let wanted = self.wanted(new)?;
        let key = GeneratedKey::new(new.key)?;
        let stem = self.stem(new.name.as_deref(), key.spki_hash())?;
        let certificate_pem = key.self_signed(&wanted, self.validity(new.valid_for)?)?;
        let private = key.key()?;
        let pair = KeyPair::new(read(certificate_pem.as_bytes()).certificates, Arc::clone(&private), Vec::new());
        let pair = pair.map_err(|error| OfflineKeyringError::Wrong(error.to_string()))?;
        let staged = !new.activate && self.has_valid_current();
        self.write_pair(&pair, Some(&private.pem()), &stem, staged)
    }

    /// A request for a CA. A new key is left in the folder, where it waits for its certificate.
    ///
    /// # Errors
    /// No name for it, no such key, or the folder cannot be written.
    pub fn request(&self, new: &KeyPairCreation, source: KeySource) -> Result<OfflineOutcome, OfflineKeyringError> {
        let wanted = self.wanted(new)?;
        let next = |file: &str| {
            format!(
                "send the request to your CA, then: sidekey keyring import {} CERTIFICATE.crt (the key is in {file})",
                self.keyring
            )
        };
        let done = |next, files, request| OfflineOutcome {
            keyring: Arc::clone(&self.keyring),
            key_pair: None,
            standing: "waiting",
            next,
            files,
            request: Some(request),
        };
        if source != KeySource::New {
            let (key, file) = self.key_of(source)?;
            return Ok(done(next(&file), Vec::new(), issue::request_for_key(&key, &wanted)?));
        }
        let key = GeneratedKey::new(new.key)?;
        let stem = self.stem(new.name.as_deref(), key.spki_hash())?;
        let request = key.request(&wanted)?;
        folder::put::make_folder(&self.path())?;
        let path = folder::put::write_new_file(&self.path(), &format!("{stem}.key"), key.key()?.pem().as_bytes())?;
        let file = printable(&path.to_string_lossy());
        Ok(done(next(&file), vec![file], request))
    }

    /// The key of the current pair, or the one that waits, with the file it lies in.
    fn key_of(&self, source: KeySource) -> Result<(Arc<PrivateKey>, String), OfflineKeyringError> {
        let keyring = &self.keyring;
        if source == KeySource::Current {
            let current = self.current();
            let current = current
                .ok_or_else(|| OfflineKeyringError::Wrong(format!("keyring {keyring:?} has no current key pair")))?;
            return Ok((Arc::clone(current.key()), current.sources().join(" ")));
        }
        let joined = self.state.contents().keyrings.get(&self.keyring);
        let waiting = joined.map(|joined| &joined.waiting[..]).unwrap_or_default();
        match waiting {
            [] => {
                Err(OfflineKeyringError::Wrong(format!("no key in keyring {keyring:?} is waiting for a certificate")))
            }
            [waiting] => Ok((Arc::clone(&waiting.key), waiting.file.to_string())),
            several => {
                let files: Vec<&str> = several.iter().map(|waiting| waiting.file.as_ref()).collect();
                let files = files.join(", ");
                Err(OfflineKeyringError::Wrong(format!(
                    "several keys in keyring {keyring:?} are waiting ({files}): remove all but the one to use"
                )))
            }
        }
    }

    fn validity(&self, valid_for: Duration) -> Result<Validity, OfflineKeyringError> {
        let too_long = |_| OfflineKeyringError::Wrong("the validity ends after the latest date that exists".to_owned());
        let mut not_before = self.now - BACKDATED;
        // The newest pair is current: one that is made right after another must begin after it.
        if let Some(current) = self.current().map(|pair| pair.validity().not_before) {
            not_before =
                not_before.max(current.saturating_add(Duration::from_secs(1)).map_err(too_long)?).min(self.now);
        }
        let not_before = Timestamp::from_second(not_before.as_second()).map_err(too_long)?;
        let not_after = not_before.checked_add(valid_for).map_err(too_long)?;
        Ok(Validity { not_before, not_after })
    }

    /// The command's arguments; what they leave out is as in the current pair.
    fn wanted(&self, new: &KeyPairCreation) -> Result<CertificateTemplate, OfflineKeyringError> {
        let current = self.current().map(|pair| pair.end_entity());
        let names = match current {
            Some(current) if new.names.is_empty() => names_of(current),
            _ => new.names.clone(),
        };
        let subject = match (&new.subject, current) {
            (Some(subject), _) => subject.clone(),
            (None, Some(current)) if new.names.is_empty() => current.subject().parse().map_err(|error| {
                OfflineKeyringError::Wrong(format!(
                    "the current key pair's subject {:?} cannot be used in a request ({error}): set --subject",
                    current.subject()
                ))
            })?,
            (None, _) => first_name(&names),
        };
        if subject.is_empty() && names.is_empty() {
            let why = "no name: add --dns api.example.com, --uri spiffe://example.com/api, --ip 192.0.2.1 or --subject \"CN=…\"";
            return Err(OfflineKeyringError::Wrong(why.to_owned()));
        }
        let (server, client) = new.usage.unwrap_or((true, true));
        Ok(CertificateTemplate { subject, names, server, client })
    }
}

fn names_of(certificate: &Certificate) -> RequestedNames {
    RequestedNames {
        dns: certificate.dns_names().to_vec(),
        uris: certificate.uris().to_vec(),
        ips: certificate.ips().to_vec(),
    }
}

/// A common name has at most 64 characters; without one that fits, the names alone speak.
fn first_name(names: &RequestedNames) -> SubjectName {
    let first =
        names.dns.first().or(names.uris.first()).cloned().or_else(|| names.ips.first().map(ToString::to_string));
    first.filter(|name| name.len() <= 64).map(|name| SubjectName::common_name(&name)).unwrap_or_default()
}
