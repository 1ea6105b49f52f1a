//! `sidekey inspect FILE…`: what a file is, what is in it, and what to do where it cannot be used.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Failure, print};
use crate::clock::Clock;
use crate::pki::blocks::{self, Kind};
use crate::pki::{Certificate, printable};

/// The largest file that is read: the limit of the watched folder for CRLs.
const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Files with certificates, keys, CRLs or keystores
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// File with the password of a PKCS#12 keystore [default: FILE.pass, if there is one]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What a file holds.
#[derive(Serialize)]
struct Inspected {
    file: String,
    kind: Kind,
    certificates: Vec<CertificateView>,
    keys: Vec<KeyView>,
    crls: usize,
    problems: Vec<ProblemView>,
}

#[derive(Serialize)]
struct CertificateView {
    subject: String,
    issuer: String,
    serial: String,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    validity: String,
    key: String,
    usage: String,
    authority: bool,
    fingerprint: String,
    pin: String,
    weakness: Option<String>,
    key_in_file: bool,
}

#[derive(Serialize)]
struct KeyView {
    pin: String,
    certificate_in_file: bool,
}

#[derive(Serialize)]
struct ProblemView {
    reason: &'static str,
    why: String,
    remedy: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let now = Clock::system().now();
    let mut inspected = Vec::new();
    for file in &arguments.files {
        inspected.push(inspect(file, arguments.password_file.as_deref(), now).map_err(Failure::Wrong)?);
    }
    if arguments.json {
        print::json(&inspected);
    } else {
        inspected.iter().for_each(say);
    }
    let useless = |file: &Inspected| !file.problems.is_empty() || file.kind == Kind::Unknown;
    if inspected.iter().any(useless) { Err(Failure::Said(1)) } else { Ok(()) }
}

fn inspect(file: &Path, password_file: Option<&Path>, now: Timestamp) -> anyhow::Result<Inspected> {
    let shown = printable(&file.display().to_string());
    let meta = std::fs::metadata(file).with_context(|| format!("cannot read {shown}"))?;
    anyhow::ensure!(meta.is_file(), "{shown} is not a file; name the files in it");
    anyhow::ensure!(meta.len() <= LARGEST, "{shown} has {} bytes; at most {LARGEST} are read", meta.len());
    let bytes = Zeroizing::new(std::fs::read(file).with_context(|| format!("cannot read {shown}"))?);
    let password = password(file, password_file)?;
    let blocks = blocks::read(&bytes, password.as_ref().map(|text| text.as_str()));
    let has_key = |certificate: &Certificate| blocks.keys.iter().any(|key| key.spki() == certificate.spki());
    Ok(Inspected {
        kind: blocks::kind(&bytes),
        certificates: blocks.certificates.iter().map(|c| certificate_view(c, has_key(c), now)).collect(),
        keys: blocks
            .keys
            .iter()
            .map(|key| KeyView {
                pin: key.spki_hash().to_string(),
                certificate_in_file: blocks.certificates.iter().any(|certificate| certificate.spki() == key.spki()),
            })
            .collect(),
        crls: blocks.crls.len(),
        problems: blocks
            .unreadable
            .iter()
            .map(|part| ProblemView { reason: part.reason, why: part.why.clone(), remedy: part.remedy_for(&shown) })
            .collect(),
        file: shown,
    })
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
    let text = std::fs::read_to_string(from).with_context(|| format!("cannot read {}", from.display()))?;
    let text = Zeroizing::new(text);
    Ok(Some(Zeroizing::new(blocks::password(&text).to_owned())))
}

fn certificate_view(certificate: &Certificate, key_in_file: bool, now: Timestamp) -> CertificateView {
    let validity = certificate.validity();
    let typed = |kind: &str, names: &[String]| names.iter().map(|name| format!("{kind}:{name}")).collect::<Vec<_>>();
    let mut names = typed("uri", certificate.uris());
    names.extend(typed("dns", certificate.dns_names()));
    names.extend(certificate.ips().iter().map(|ip| format!("ip:{ip}")));
    names.extend(typed("email", certificate.emails()));
    let usage = certificate.usage();
    CertificateView {
        subject: certificate.subject().to_owned(),
        issuer: certificate.issuer().to_owned(),
        serial: certificate.serial().to_owned(),
        names,
        not_before: validity.not_before,
        not_after: validity.not_after,
        validity: validity_text(validity, now),
        key: format!("{:?}", certificate.key()),
        usage: match (usage.limited, usage.server, usage.client) {
            (false, ..) => "any (no extended key usage)",
            (true, true, true) => "server and client",
            (true, true, false) => "server only",
            (true, false, true) => "client only",
            (true, false, false) => "neither server nor client",
        }
        .to_owned(),
        authority: certificate.is_ca(),
        fingerprint: certificate.fingerprint().to_string(),
        pin: certificate.spki_hash().to_string(),
        weakness: certificate.weakness().map(str::to_owned),
        key_in_file,
    }
}

fn validity_text(validity: crate::pki::Validity, now: Timestamp) -> String {
    let days = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs() / 86_400;
    if now < validity.not_before {
        format!("not valid yet, from {} on (in {} days)", validity.not_before, days(now, validity.not_before))
    } else if now > validity.not_after {
        format!("expired on {} ({} days ago)", validity.not_after, days(validity.not_after, now))
    } else {
        format!("valid until {} ({} days left)", validity.not_after, days(now, validity.not_after))
    }
}

fn say(file: &Inspected) {
    let kind = serde_json::to_value(file.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    print::line(&format!("{}: {}", file.file, kind.unwrap_or_default()));
    for certificate in &file.certificates {
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
        if certificate.key_in_file {
            print::line("    its private key is in this file");
        }
    }
    for key in file.keys.iter().filter(|key| !key.certificate_in_file) {
        print::line(&format!("  private key without its certificate, public key {}", key.pin));
    }
    if file.crls > 0 {
        print::line(&format!("  {} certificate revocation list(s)", file.crls));
    }
    for problem in &file.problems {
        print::line(&format!("  cannot be used ({}): {}", problem.reason, problem.why));
        if !problem.remedy.is_empty() {
            print::line(&format!("    what to do: {}", problem.remedy));
        }
    }
    if file.certificates.is_empty() && file.keys.is_empty() && file.crls == 0 && file.problems.is_empty() {
        print::line("  no certificate, key or CRL in it");
    }
}
