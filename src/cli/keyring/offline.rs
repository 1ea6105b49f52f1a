//! `sidekey keyring new|csr|import|export`: on the watched folder itself, whether a sidecar runs on it or not.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use zeroize::Zeroizing;

use super::super::failure::CommandFailure;
use super::super::folder::{FolderArguments, explain_failure};
use super::super::inspect::read_material;
use super::super::print;
use crate::config;
use crate::offline::keyring;
use crate::offline::keyring::{ExportFormat, KeyPairCreation, KeyPairImport, OfflineOutcome};
use crate::pki::issue::{NewKeyKind, RequestedNames, SubjectName};
use crate::pki::{blocks, printable};

/// What a certificate is to contain.
#[derive(clap::Args)]
struct SubjectArguments {
    /// Name of the keyring
    keyring: String,
    /// DNS name, repeatable [default: if no name is given, those of the current key pair]
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// URI, such as spiffe://example.com/api, repeatable
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// IP address, repeatable
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// Subject, such as "CN=api, O=Example, C=DE" [default: a common name from the first name]
    #[arg(long, value_name = "NAME=VALUE,…")]
    subject: Option<String>,
    /// Extended key usage of the certificate
    #[arg(long, value_enum, default_value = "both")]
    usage: KeyUsageChoice,
    /// Key type
    #[arg(long, value_enum, default_value = "p256")]
    key_type: KeyTypeChoice,
    /// Name of the files, without ending [default: the date and the beginning of the public key's hash]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: FolderArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeyUsageChoice {
    Server,
    Client,
    Both,
    /// No extended key usage: every use is allowed
    Any,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeyTypeChoice {
    P256,
    P384,
    Ed25519,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl SubjectArguments {
    fn wanted(&self, valid_for: Duration, activate: bool) -> Result<KeyPairCreation, CommandFailure> {
        let wrong = |error: anyhow::Error| CommandFailure::Wrong(error);
        let mut names = RequestedNames { ips: self.ip.clone(), ..RequestedNames::default() };
        self.dns.iter().try_for_each(|name| names.add_dns(name)).map_err(|error| wrong(error.into()))?;
        self.uri.iter().try_for_each(|name| names.add_uri(name)).map_err(|error| wrong(error.into()))?;
        let subject: Option<SubjectName> = self
            .subject
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|e: crate::pki::issue::SubjectParseError| wrong(e.into()))?;
        Ok(KeyPairCreation {
            key: match self.key_type {
                KeyTypeChoice::P256 => NewKeyKind::P256,
                KeyTypeChoice::P384 => NewKeyKind::P384,
                KeyTypeChoice::Ed25519 => NewKeyKind::Ed25519,
                KeyTypeChoice::Rsa2048 => NewKeyKind::Rsa(2048),
                KeyTypeChoice::Rsa3072 => NewKeyKind::Rsa(3072),
                KeyTypeChoice::Rsa4096 => NewKeyKind::Rsa(4096),
            },
            subject,
            names,
            usage: Some(match self.usage {
                KeyUsageChoice::Server => (true, false),
                KeyUsageChoice::Client => (false, true),
                KeyUsageChoice::Both => (true, true),
                KeyUsageChoice::Any => (false, false),
            }),
            valid_for,
            name: self.name.clone(),
            activate,
        })
    }
}

#[derive(clap::Args)]
pub(super) struct KeyringNewArguments {
    #[command(flatten)]
    says: SubjectArguments,
    /// Lifetime of the certificate, from now
    #[arg(long, value_name = "DURATION", default_value = "365d")]
    valid_for: String,
    /// Make a request for a CA instead of a self-signed certificate: the same as `keyring csr`
    #[arg(long)]
    csr: bool,
    /// Make it current at once instead of staging it beside the current key pair
    #[arg(long)]
    activate: bool,
}

#[derive(clap::Args)]
pub(super) struct KeyringCsrArguments {
    #[command(flatten)]
    says: SubjectArguments,
    /// Key that the request is for
    #[arg(long, value_enum, default_value = "new")]
    key: KeyringTarget,
    /// Output file for the request [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeyringTarget {
    /// A new one, which waits in the folder for its certificate
    New,
    /// The current key pair's: a renewal that keeps the key
    Current,
    /// The key that is already waiting: the same request again
    Waiting,
}

#[derive(clap::Args)]
pub(super) struct KeyringImportArguments {
    /// Name of the keyring
    keyring: String,
    /// Files from the CA: certificate and chain as PEM or DER, or a PKCS#12 keystore
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// File with the password of a PKCS#12 keystore [default: FILE.pass, if there is one]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Name of the files in the folder, without ending [default: that of the key]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Make it current at once instead of staging it beside the current key pair
    #[arg(long)]
    activate: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: FolderArguments,
}

#[derive(clap::Args)]
pub(super) struct KeyringExportArguments {
    /// Name of the keyring
    keyring: String,
    /// Beginning of the key pair's fingerprint [default: the current one]
    key_pair: Option<String>,
    /// pem: certificate and chain; der: the certificate alone; p12: PKCS#12
    #[arg(long, value_enum, default_value = "pem")]
    format: ExportFormatChoice,
    /// Include the private key; never send it to a partner
    #[arg(long)]
    with_private_key: bool,
    /// File with the password for the new PKCS#12 keystore
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Output file, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: FolderArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum ExportFormatChoice {
    Pem,
    Der,
    P12,
}

impl KeyringNewArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        let valid_for = config::parse_duration(&self.valid_for)
            .map_err(|error| CommandFailure::Wrong(anyhow::anyhow!("--valid-for: {error}")))?;
        if valid_for < Duration::from_hours(1) {
            return Err(CommandFailure::Wrong(anyhow::anyhow!("--valid-for must be at least 1h")));
        }
        let new = self.says.wanted(valid_for, self.activate)?;
        let offline = self.says.place.open(&self.says.keyring)?;
        if self.csr {
            return asked(
                &offline.request(&new, keyring::KeySource::New).map_err(explain_failure)?,
                None,
                self.says.json,
            );
        }
        done(&offline.new_pair(&new).map_err(explain_failure)?, self.says.json);
        Ok(())
    }
}

impl KeyringCsrArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        let new = self.says.wanted(Duration::ZERO, false)?;
        let source = match self.key {
            KeyringTarget::New => keyring::KeySource::New,
            KeyringTarget::Current => keyring::KeySource::Current,
            KeyringTarget::Waiting => keyring::KeySource::Waiting,
        };
        let offline = self.says.place.open(&self.says.keyring)?;
        asked(&offline.request(&new, source).map_err(explain_failure)?, self.out.as_deref(), self.says.json)
    }
}

impl KeyringImportArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        let offline = self.place.open(&self.keyring)?;
        let mut files = Vec::new();
        for file in &self.files {
            let (_, blocks) = read_material(file, self.password_file.as_deref()).map_err(CommandFailure::Wrong)?;
            let name = file.file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default();
            files.push((name, blocks));
        }
        let import = KeyPairImport { files, name: self.name.clone(), activate: self.activate };
        done(&offline.import(import).map_err(explain_failure)?, self.json);
        Ok(())
    }
}

impl KeyringExportArguments {
    pub(super) fn run(&self) -> Result<(), CommandFailure> {
        let form = match self.format {
            ExportFormatChoice::Pem => ExportFormat::Pem,
            ExportFormatChoice::Der => ExportFormat::Der,
            ExportFormatChoice::P12 => ExportFormat::Pkcs12,
        };
        if form != ExportFormat::Pem && self.out.is_none() && print::is_out_a_terminal() {
            return Err(CommandFailure::Wrong(anyhow::anyhow!(
                "this format is binary and not for a terminal: name a file with --out"
            )));
        }
        let password = match &self.password_file {
            Some(file) => {
                let cannot_read = || format!("cannot read {}", file.display());
                let bytes =
                    Zeroizing::new(std::fs::read(file).with_context(cannot_read).map_err(CommandFailure::Wrong)?);
                Some(blocks::read_password(&bytes).with_context(cannot_read).map_err(CommandFailure::Wrong)?)
            }
            None => None,
        };
        let password = password.as_ref().map(|text| text.as_str());
        let offline = self.place.open(&self.keyring)?;
        let pair = offline.pair(self.key_pair.as_deref()).map_err(explain_failure)?;
        let bytes = offline.export(pair, form, self.with_private_key, password).map_err(explain_failure)?;
        let what = if self.with_private_key { "with its PRIVATE KEY" } else { "without its private key" };
        print::talk(&format!("sidekey: key pair {} of {}, {what}", pair.fingerprint(), self.keyring));
        out(self.out.as_deref(), &bytes)
    }
}

/// To standard output, or into a new file that only its owner may read.
fn out(file: Option<&Path>, bytes: &[u8]) -> Result<(), CommandFailure> {
    let Some(file) = file else {
        print::bytes(bytes);
        return Ok(());
    };
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let written = opened.and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("cannot write {}", file.display())).map_err(CommandFailure::Failed)
}

/// The request goes to standard output; what became of its key to standard error.
fn asked(done: &OfflineOutcome, file: Option<&Path>, json: bool) -> Result<(), CommandFailure> {
    if json {
        print::json(done);
    } else {
        out(file, done.request.as_deref().unwrap_or_default().as_bytes())?;
        done.files.iter().for_each(|file| print::talk(&format!("sidekey: wrote {file}")));
        print::talk(&format!("sidekey: {}", done.next));
    }
    Ok(())
}

fn done(done: &OfflineOutcome, json: bool) {
    if json {
        return print::json(done);
    }
    let key_pair = done.key_pair.map(|key_pair| key_pair.to_string()).unwrap_or_default();
    print::line(&format!("{} {} ({key_pair})", done.keyring, done.standing));
    done.files.iter().for_each(|file| print::field("wrote", file));
    print::field("next", &done.next);
}
