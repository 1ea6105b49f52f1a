//! Bytes of one file → the certificates, private keys and CRLs in it: PEM, DER and PKCS#12 (RFC 7468, 5958, 8017, 5915, 7292).
//!
//! Tolerates what people really have (contract section 3) and names what it refuses together with the command that
//! converts it. It sees one file at a time; what belongs together is found by `join`.

mod base64;
mod foreign;
mod form;
mod key;
mod pem;
mod pkcs12;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls_pki_types::{CertificateRevocationListDer, PrivateKeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::certificate::{Certificate, CertificationRequest};
use super::der;
use super::pem_writer::write_pem;
use form::{DetectedFormat, UnparsedItem};
use pem::{PemSection, PemSectionEnd};

pub use foreign::recognize_foreign;
pub use key::PrivateKey;
pub(super) use refusal::PKCS12_WITHOUT_KEY;
pub use refusal::UnreadablePart;

/// The line that `sidekey keyring` writes above a certificate whose pair is to wait: beside a pair that can be kept it is
/// staged until `promote`. It stands in the certificate's own file, so that it goes wherever the pair goes, to every
/// replica alike; taking the line out ends the wait. Text around the blocks is nothing to others (RFC 7468 2).
pub const STAGED_LINE: &str = "# sidekey: staged until promote";

/// Everything that one file holds.
#[derive(Default, Debug)]
pub struct KeyMaterial {
    /// In the order of the file.
    pub certificates: Vec<Arc<Certificate>>,
    /// In the order of the file.
    pub keys: Vec<Arc<PrivateKey>>,
    /// Parsed far enough to know that they are CRLs.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Parts of the file that could not be used, the rest was.
    pub unreadable: Vec<UnreadablePart>,
    /// It has the line [`STAGED_LINE`]: the pairs of its certificates wait for `promote`.
    pub staged: bool,
}

/// Reads a whole file. A file without any key material (a README, a `.pass`) gives empty [`KeyMaterial`].
/// `password` is for PKCS#12 only.
pub fn read(bytes: &Zeroizing<Vec<u8>>, password: Option<&str>) -> KeyMaterial {
    let mut blocks = KeyMaterial::default();
    match form::detect(bytes) {
        DetectedFormat::Jks => blocks.unreadable.push(refusal::jks()),
        DetectedFormat::Pkcs12 => match pkcs12::read(bytes, password) {
            Ok(store) => {
                store.into_iter().for_each(|item| blocks.add(item));
                let is_end_entity = |certificate: &Arc<Certificate>| !certificate.is_ca();
                if blocks.keys.is_empty() && blocks.certificates.iter().any(is_end_entity) {
                    blocks.unreadable.push(refusal::pkcs12_without_key());
                }
            }
            Err(unreadable) => blocks.unreadable.push(unreadable),
        },
        DetectedFormat::Text => blocks.read_text(bytes),
        form => blocks.read_der(form, bytes),
    }
    blocks
}

/// One certificate's bytes as a PEM block, whatever is in them.
pub fn certificate_pem(der: &[u8]) -> String {
    let mut out = String::new();
    write_pem("CERTIFICATE", der, &mut out);
    out
}

impl KeyMaterial {
    /// Whether nothing was found in the file that is, or was meant to be, key material.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty() && self.crls.is_empty() && self.unreadable.is_empty()
    }

    fn add(&mut self, item: UnparsedItem) {
        let unreadable = match item {
            UnparsedItem::Certificate(der) if is_cut_off(&der) => refusal::truncated("a certificate"),
            UnparsedItem::Certificate(der) => match Certificate::parse(der) {
                Ok(certificate) => return self.certificates.push(certificate),
                Err(error) => refusal::malformed("certificate_malformed", error.to_string()),
            },
            UnparsedItem::Key(mut der) if is_cut_off(der.secret_der()) => {
                der.zeroize();
                refusal::truncated("a private key")
            }
            UnparsedItem::Key(der) => match PrivateKey::load(der) {
                Ok(key) => return self.keys.push(key),
                Err(unreadable) => unreadable,
            },
            UnparsedItem::Crl(der) if is_cut_off(&der) => refusal::truncated("a CRL"),
            UnparsedItem::Crl(der) => match check_list(&der) {
                Ok(()) => return self.crls.push(der),
                Err(error) => refusal::malformed("crl_malformed", format!("not a usable CRL: {error}")),
            },
        };
        self.unreadable.push(unreadable);
    }

    /// A file that is one DER value.
    fn read_der(&mut self, form: DetectedFormat, bytes: &[u8]) {
        let Some((element, rest)) = der::element(bytes) else {
            return self.unreadable.push(refusal::truncated("its DER"));
        };
        if element.missing > 0 {
            return self.unreadable.push(refusal::truncated("its DER"));
        }
        // Copies by way of a terminal or an editor gain a line end; anything else does not belong there.
        if !rest.trim_ascii().is_empty() {
            let why = format!("{} bytes follow what looks like {}", rest.len(), form.article());
            return self.unreadable.push(refusal::malformed("trailing_bytes", why));
        }
        if let Some(item) = UnparsedItem::from_der(form, element.whole) {
            return self.add(item);
        }
        match form {
            DetectedFormat::EncryptedKey => self.unreadable.push(refusal::encrypted_key("-inform DER ")),
            DetectedFormat::Pkcs7 => self.unreadable.push(refusal::pkcs7("-inform DER ")),
            DetectedFormat::CutOff => self.unreadable.push(refusal::truncated("its DER")),
            // No secrets, and nothing that is ours to use: it lies beside a key that waits for its certificate.
            _ => {}
        }
    }

    fn read_text(&mut self, bytes: &[u8]) {
        let converted = pem::from_utf16(bytes);
        let text = converted.as_ref().map_or(bytes, |text| text);
        self.staged = pem::has_line(text, STAGED_LINE.as_bytes());
        let sections = pem::sections(text);
        if sections.is_empty() {
            self.unreadable.extend(refusal::foreign_text(text));
        }
        if pem::ends_within_begin_line(text) {
            self.unreadable.push(refusal::truncated("a BEGIN line"));
        }
        for section in sections {
            if let Err(unreadable) = self.read_section(&section) {
                self.unreadable.push(unreadable);
            }
        }
    }

    fn read_section(&mut self, section: &PemSection<'_>) -> Result<(), UnreadablePart> {
        let label = section.label.as_ref();
        if section.end == PemSectionEnd::CutOff {
            return Err(refusal::truncated(&format!("the block {label}")));
        }
        if pem::is_encrypted(section.body) {
            return Err(refusal::encrypted_key(""));
        }
        // What is in a block says more than its label: tools, and people who edit files, write wrong ones.
        let decoded = pem::decode(section.body, label);
        if let Ok(bytes) = &decoded
            && section.end == PemSectionEnd::Closed
            && label != "TRUSTED CERTIFICATE"
            && let Some(item) = UnparsedItem::from_der(form::detect(bytes), bytes)
        {
            self.add(item);
            return Ok(());
        }
        match label {
            // Parameters are repeated in the key; the others hold nothing that a key pair is made of.
            "EC PARAMETERS"
            | "DH PARAMETERS"
            | "DSA PARAMETERS"
            | "PUBLIC KEY"
            | "RSA PUBLIC KEY"
            | "CERTIFICATE REQUEST"
            | "NEW CERTIFICATE REQUEST" => return Ok(()),
            "CERTIFICATE"
            | "X509 CERTIFICATE"
            | "TRUSTED CERTIFICATE"
            | "X509 CRL"
            | "PRIVATE KEY"
            | "ANY PRIVATE KEY"
            | "RSA PRIVATE KEY"
            | "EC PRIVATE KEY" => {}
            other => return Err(refusal::foreign_block(other)),
        }
        if section.end == PemSectionEnd::Other {
            let why = format!("the block {label} ends with the END line of another block type");
            return Err(refusal::malformed("pem_malformed", why));
        }
        let mut bytes = decoded?;
        let foreign = matches!(form::detect(&bytes), DetectedFormat::Csr | DetectedFormat::PublicKey);
        if foreign && let Some(part) = recognize_foreign(&bytes) {
            return Err(UnreadablePart { incomplete: false, ..part });
        }
        if form::detect(&bytes) == DetectedFormat::EncryptedKey {
            return Err(refusal::encrypted_key(""));
        }
        match label {
            "PRIVATE KEY" | "ANY PRIVATE KEY" => {
                self.add(UnparsedItem::Key(PrivateKeyDer::Pkcs8(std::mem::take(&mut *bytes).into())));
            }
            "RSA PRIVATE KEY" => self.add(UnparsedItem::Key(PrivateKeyDer::Pkcs1(std::mem::take(&mut *bytes).into()))),
            "EC PRIVATE KEY" => self.add(UnparsedItem::Key(PrivateKeyDer::Sec1(std::mem::take(&mut *bytes).into()))),
            "X509 CRL" => self.add(UnparsedItem::Crl(std::mem::take(&mut *bytes).into())),
            "TRUSTED CERTIFICATE" => {
                // OpenSSL puts its own trust settings behind the certificate.
                let certificate = der::element(&bytes).map_or(&bytes[..], |(certificate, _)| certificate.whole);
                self.add(UnparsedItem::Certificate(certificate.to_vec().into()));
            }
            _ => self.add(UnparsedItem::Certificate(std::mem::take(&mut *bytes).into())),
        }
        Ok(())
    }
}

fn is_cut_off(bytes: &[u8]) -> bool {
    der::element(bytes).is_some_and(|(element, _)| element.tag == der::SEQUENCE && element.missing > 0)
}

/// The certification requests in a file, PEM or DER, and why one cannot be read. The folder never asks: a request is nothing
/// to it.
pub fn read_requests(bytes: &[u8]) -> Vec<Result<CertificationRequest, String>> {
    if form::detect(bytes) == DetectedFormat::Csr {
        let whole = der::element(bytes).map_or(bytes, |(request, _)| request.whole);
        return vec![CertificationRequest::parse(whole)];
    }
    let converted = pem::from_utf16(bytes);
    let sections = pem::sections(converted.as_ref().map_or(bytes, |text| text));
    let requests = sections.iter().filter(|section| section.label.ends_with("CERTIFICATE REQUEST"));
    let read = |section: &PemSection<'_>| {
        let der = pem::decode(section.body, &section.label).map_err(|unreadable| unreadable.why)?;
        CertificationRequest::parse(&der)
    };
    requests.map(read).collect()
}

/// The password in a password file: its text, without a byte order mark before it and one line end at its end.
///
/// # Errors
/// It is neither UTF-8 nor UTF-16 with its mark.
pub fn read_password(bytes: &[u8]) -> Result<Zeroizing<String>, std::str::Utf8Error> {
    let wide = match bytes {
        [0xff, 0xfe, rest @ ..] => Some((rest, u16::from_le_bytes as fn([u8; 2]) -> u16)),
        [0xfe, 0xff, rest @ ..] => Some((rest, u16::from_be_bytes as fn([u8; 2]) -> u16)),
        _ => None,
    };
    let converted = wide.map(|(rest, to_unit)| {
        let units = Zeroizing::new(rest.chunks_exact(2).map(|pair| to_unit([pair[0], pair[1]])).collect::<Vec<_>>());
        Zeroizing::new(String::from_utf16_lossy(&units))
    });
    let text = match &converted {
        Some(text) => text.as_str(),
        None => std::str::from_utf8(bytes)?,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(Zeroizing::new(text.to_owned()))
}

/// Every kind of thing that a person may be sent, told apart for `sidekey inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyMaterialKind {
    /// PEM text with at least one block.
    Pem,
    /// One DER certificate.
    DerCertificate,
    /// One DER private key.
    DerKey,
    /// One DER CRL.
    DerCrl,
    /// PKCS#12.
    Pkcs12,
    /// Java KeyStore (JKS or JCEKS).
    Jks,
    /// PKCS#7, DER.
    Pkcs7,
    /// A certification request (PKCS#10), DER.
    Csr,
    /// No key material.
    Unknown,
}

/// What kind of file these bytes are.
pub fn detect_kind(bytes: &[u8]) -> KeyMaterialKind {
    match form::detect(bytes) {
        DetectedFormat::Certificate => KeyMaterialKind::DerCertificate,
        DetectedFormat::Pkcs8 | DetectedFormat::Pkcs1 | DetectedFormat::Sec1 | DetectedFormat::EncryptedKey => {
            KeyMaterialKind::DerKey
        }
        DetectedFormat::Crl => KeyMaterialKind::DerCrl,
        DetectedFormat::Pkcs12 => KeyMaterialKind::Pkcs12,
        DetectedFormat::Jks => KeyMaterialKind::Jks,
        DetectedFormat::Pkcs7 => KeyMaterialKind::Pkcs7,
        DetectedFormat::Csr => KeyMaterialKind::Csr,
        DetectedFormat::Text
            if !pem::sections(pem::from_utf16(bytes).as_ref().map_or(bytes, |text| text)).is_empty() =>
        {
            KeyMaterialKind::Pem
        }
        DetectedFormat::Text | DetectedFormat::PublicKey | DetectedFormat::CutOff => KeyMaterialKind::Unknown,
    }
}

/// Whether this is a CRL that can be used, completed where it lacks what only its issuer is bound to.
fn check_list(der: &[u8]) -> Result<(), webpki::Error> {
    let completed = super::crl_profile::complete_list(der);
    webpki::BorrowedCertRevocationList::from_der(completed.as_deref().unwrap_or(der)).map(|_| ())
}
