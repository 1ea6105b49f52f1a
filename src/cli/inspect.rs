//! `sidekey inspect FILE…`: what a file is, what is in it, and what to do where it cannot be used.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::failure::CommandFailure;
use super::folder::FolderArguments;
use super::print;
use crate::clock::Clock;
use crate::offline::keyring::KeyringForecast;
use crate::pki::blocks::{self, KeyMaterial, KeyMaterialKind};
use crate::pki::certificate::{CertificationRequest, CrlSummary};
use crate::pki::{Certificate, printable};
use crate::views::certificates::{CertificateView, describe_certificate};

/// The largest file that is read: the limit of the watched folder for CRLs.
const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(clap::Args)]
pub(super) struct InspectArguments {
    /// Files with certificates, keys, CRLs or keystores
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// File with the password of a PKCS#12 keystore [default: FILE.pass, if there is one]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Also show whether this keyring would accept the files
    #[arg(long, value_name = "KEYRING")]
    keyring: Option<String>,
    #[command(flatten)]
    place: FolderArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a file holds.
#[derive(Serialize)]
struct FileInspection {
    file: String,
    kind: KeyMaterialKind,
    certificates: Vec<CertificateInspection>,
    keys: Vec<KeyInspection>,
    requests: Vec<RequestInspection>,
    crls: Vec<CrlInspection>,
    problems: Vec<ProblemInspection>,
    /// With `--keyring`: what that keyring would do with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    prospect: Option<KeyringForecast>,
}

#[derive(Serialize)]
struct RequestInspection {
    subject: String,
    names: Vec<String>,
    key: String,
    pin: String,
    /// What is wrong with its signature.
    signature: Option<String>,
}

#[derive(Serialize)]
struct CrlInspection {
    issuer: String,
    this_update: Timestamp,
    next_update: Option<Timestamp>,
    is_late: bool,
    revoked: usize,
}

#[derive(Serialize)]
struct CertificateInspection {
    #[serde(flatten)]
    fields: CertificateView,
    key_in_file: bool,
}

#[derive(Serialize)]
struct KeyInspection {
    pin: String,
    certificate_in_file: bool,
}

#[derive(Serialize)]
struct ProblemInspection {
    reason: &'static str,
    why: String,
    remedy: String,
}

pub(super) fn run(arguments: &InspectArguments) -> Result<(), CommandFailure> {
    let now = Clock::system().now();
    let (mut inspected, mut failed) = (Vec::new(), None);
    for file in &arguments.files {
        match inspect(file, arguments, now) {
            Ok(one) => inspected.push(one),
            // The others are explained all the same.
            Err(CommandFailure::Wrong(error)) => {
                print::error(&error);
                failed = Some(CommandFailure::Said(2));
            }
            Err(other) => return Err(other),
        }
    }
    if arguments.json {
        print::json(&inspected);
    } else {
        inspected.iter().for_each(print_inspection);
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    let useless = |file: &FileInspection| {
        !file.problems.is_empty()
            || file.kind == KeyMaterialKind::Unknown
            || file.prospect.as_ref().is_some_and(|prospect| !prospect.accepted)
    };
    if inspected.iter().any(useless) { Err(CommandFailure::Said(1)) } else { Ok(()) }
}

/// A file's bytes and what they hold.
pub(super) fn read_material(
    file: &Path,
    password_file: Option<&Path>,
) -> anyhow::Result<(Zeroizing<Vec<u8>>, KeyMaterial)> {
    let shown = printable(&file.display().to_string());
    let meta = std::fs::metadata(file).with_context(|| format!("cannot read {shown}"))?;
    anyhow::ensure!(meta.is_file(), "{shown} is not a regular file: name each file in it");
    anyhow::ensure!(meta.len() <= LARGEST, "{shown} has {} bytes: the limit is {LARGEST} bytes", meta.len());
    let bytes = Zeroizing::new(std::fs::read(file).with_context(|| format!("cannot read {shown}"))?);
    let password = password(file, password_file)?;
    let blocks = blocks::read(&bytes, password.as_ref().map(|text| text.as_str()));
    Ok((bytes, blocks))
}

fn inspect(file: &Path, arguments: &InspectArguments, now: Timestamp) -> Result<FileInspection, CommandFailure> {
    let shown = printable(&file.display().to_string());
    let (bytes, blocks) = read_material(file, arguments.password_file.as_deref()).map_err(CommandFailure::Wrong)?;
    let has_key = |certificate: &Certificate| blocks.keys.iter().any(|key| key.spki() == certificate.spki());
    let mut inspected = FileInspection {
        kind: blocks::detect_kind(&bytes),
        certificates: blocks
            .certificates
            .iter()
            .map(|c| CertificateInspection { fields: describe_certificate(c, now), key_in_file: has_key(c) })
            .collect(),
        keys: blocks
            .keys
            .iter()
            .map(|key| KeyInspection {
                pin: key.spki_hash().to_string(),
                certificate_in_file: blocks.certificates.iter().any(|certificate| certificate.spki() == key.spki()),
            })
            .collect(),
        requests: Vec::new(),
        crls: blocks.crls.iter().filter_map(|crl| CrlSummary::parse(crl).ok()).map(|crl| crl_view(crl, now)).collect(),
        problems: blocks
            .unreadable
            .iter()
            .map(|part| ProblemInspection {
                reason: part.reason,
                why: part.why.clone(),
                remedy: part.remedy_for(&shown),
            })
            .collect(),
        prospect: None,
        file: shown,
    };
    let mut requested = Vec::new();
    for request in blocks::read_requests(&bytes) {
        match request {
            Ok(request) => {
                requested.push(request.spki_hash);
                inspected.requests.push(request_view(request));
            }
            Err(why) => inspected.problems.push(ProblemInspection {
                reason: "request_malformed",
                why,
                remedy: "ask for a new request".to_owned(),
            }),
        }
    }
    // What the watched folder says of such a file.
    if blocks.is_empty() && inspected.requests.is_empty() && inspected.problems.is_empty() {
        let foreign = blocks::recognize_foreign(&bytes).into_iter();
        inspected.problems.extend(foreign.map(|part| ProblemInspection {
            reason: part.reason,
            remedy: part.remedy_for(&inspected.file),
            why: part.why,
        }));
    }
    if let Some(keyring) = &arguments.keyring {
        let name = file.file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default();
        inspected.prospect = Some(arguments.place.open(keyring)?.prospect(&name, blocks, &requested));
    }
    Ok(inspected)
}

fn request_view(request: CertificationRequest) -> RequestInspection {
    RequestInspection {
        subject: request.subject,
        names: request.names,
        key: request.key.to_string(),
        pin: request.spki_hash.to_string(),
        signature: request.signature.err(),
    }
}

fn crl_view(crl: CrlSummary, now: Timestamp) -> CrlInspection {
    let is_late = crl.next_update.is_some_and(|next| next < now);
    CrlInspection {
        issuer: crl.issuer,
        this_update: crl.this_update,
        next_update: crl.next_update,
        is_late,
        revoked: crl.revoked,
    }
}

/// The password, one trailing line end stripped, as in the watched folder.
fn password(file: &Path, password_file: Option<&Path>) -> anyhow::Result<Option<Zeroizing<String>>> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".pass");
    let beside = PathBuf::from(beside);
    let from = match password_file {
        Some(named) => named,
        None if beside.is_file() => &beside,
        None => return Ok(None),
    };
    let cannot_read = || format!("cannot read {}", from.display());
    let bytes = Zeroizing::new(std::fs::read(from).with_context(cannot_read)?);
    Ok(Some(blocks::read_password(&bytes).with_context(cannot_read)?))
}

fn print_inspection(file: &FileInspection) {
    let kind = serde_json::to_value(file.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    print::line(&format!("{}: {}", file.file, kind.unwrap_or_default()));
    for CertificateInspection { fields: certificate, key_in_file } in &file.certificates {
        let what = if certificate.authority { "CA certificate" } else { "certificate" };
        print::line(&format!("  {what} {}", certificate.subject));
        print::line(&format!("    issuer       {}", certificate.issuer));
        print::line(&format!("    validity     {}", certificate.validity));
        if !certificate.names.is_empty() {
            print::line(&format!("    names        {}", certificate.names.join(" ")));
        }
        print::line(&format!("    key          {}, usage: {}", certificate.key, certificate.usage));
        print::line(&format!("    serial       {}", certificate.serial));
        print::line(&format!("    fingerprint  {}", certificate.fingerprint));
        print::line(&format!("    pin          {}", certificate.pin));
        if let Some(weakness) = &certificate.weakness {
            print::line(&format!("    too weak     {weakness}"));
        }
        if *key_in_file {
            print::line("    private key  in this file");
        }
    }
    for key in file.keys.iter().filter(|key| !key.certificate_in_file) {
        print::line(&format!("  private key without its certificate, public key {}", key.pin));
    }
    for request in &file.requests {
        print::line(&format!("  certification request for {}", request.subject));
        if !request.names.is_empty() {
            print::line(&format!("    names        {}", request.names.join(" ")));
        }
        print::line(&format!("    key          {}, public key {}", request.key, request.pin));
        match &request.signature {
            None => print::line("    signature    valid: made by its own key; a CA issues the certificate from it"),
            Some(why) => print::line(&format!("    signature    {why}")),
        }
    }
    for crl in &file.crls {
        print::line(&format!("  certificate revocation list of {}", crl.issuer));
        print::line(&format!("    revokes      {} certificate(s), as of {}", crl.revoked, crl.this_update));
        match crl.next_update {
            Some(next) if crl.is_late => print::line(&format!("    out of date  the next CRL was due on {next}")),
            Some(next) => print::line(&format!("    next update  {next}")),
            None => {}
        }
    }
    for problem in &file.problems {
        print::line(&format!("  cannot be used ({}): {}", problem.reason, problem.why));
        if !problem.remedy.is_empty() {
            print::line(&format!("    what to do: {}", problem.remedy));
        }
    }
    let is_empty =
        file.certificates.is_empty() && file.keys.is_empty() && file.requests.is_empty() && file.crls.is_empty();
    if is_empty && file.problems.is_empty() {
        print::line("  no certificate, key, request or CRL found");
    }
    if let Some(prospect) = &file.prospect {
        let verdict = if prospect.accepted { "would be accepted" } else { "would not be accepted" };
        print::line(&format!("  keyring {}: {verdict}:", prospect.keyring));
        prospect.says.iter().for_each(|says| print::line(&format!("    {says}")));
    }
}
