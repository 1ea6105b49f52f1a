//! What a file looks like in which nothing can be used: one recogniser for the watched folder and for `sidekey inspect`.
//!
//! It never repeats what the file says: that may be a password.

use memchr::memmem;
use serde::de::IgnoredAny;

use super::base64::decode_base64;
use super::form::{self, DetectedFormat};
use super::pem;
use super::refusal::UnreadablePart;
use crate::pki::der::{self, SEQUENCE};

/// What to do where the file itself is of no use.
const REPLACE: &str = "put the certificate or private key that belongs here into FILE, or remove it";
/// Base64 shorter than this may be a word.
const MIN_BASE64: usize = 64;

const JSON: &str = "it is JSON, not PEM";
const DAMAGED_JSON: &str = "it looks like JSON that is cut off or damaged";

/// The members that tell a JSON Web Key, or a set of them. The values are passed over: one may be a private key, of which no
/// copy is made.
#[derive(serde::Deserialize)]
struct JsonMembers {
    kty: Option<IgnoredAny>,
    keys: Option<IgnoredAny>,
}

/// What a file looks like that holds neither a certificate, a private key nor a CRL; `None` where all it holds are
/// parameters, which lie beside keys and of which nothing is needed.
pub fn recognize_foreign(bytes: &[u8]) -> Option<UnreadablePart> {
    let (reason, why, remedy) = recognize_bytes(bytes)?;
    Some(UnreadablePart { reason, why, remedy, incomplete: true, keystore: false, hides_key: true })
}

/// Reason, what it is, what to do.
type ForeignContent = (&'static str, String, String);

fn replace(why: impl Into<String>) -> Option<ForeignContent> {
    Some(("not_key_material", why.into(), REPLACE.to_owned()))
}

fn instead(why: &str, remedy: &str) -> Option<ForeignContent> {
    Some(("not_key_material", why.to_owned(), remedy.to_owned()))
}

fn recognize_bytes(bytes: &[u8]) -> Option<ForeignContent> {
    if bytes.trim_ascii().is_empty() {
        let why = if bytes.is_empty() { "it is empty" } else { "it holds nothing but blanks" };
        return Some(("empty", why.to_owned(), "write the complete file or remove it".to_owned()));
    }
    if bytes.iter().all(|byte| *byte == 0) {
        let why =
            format!("it holds {} zero bytes and nothing else, as a crash or a full disk leaves a file", bytes.len());
        return Some(("not_key_material", why, "copy the file again from its origin".to_owned()));
    }
    match form::detect(bytes) {
        DetectedFormat::Csr => return certification_request(),
        DetectedFormat::PublicKey => return public_key(),
        _ => {}
    }
    if let Some(known) = recognize_archive(bytes) {
        return replace(format!("it is {known}"));
    }
    let converted = pem::from_utf16(bytes);
    let text = converted.as_ref().map_or(bytes, |text| text);
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let sections = pem::sections(text);
    if !sections.is_empty() {
        let has = |wanted: &str| sections.iter().any(|section| section.label.contains(wanted));
        return match () {
            () if has("CERTIFICATE REQUEST") => certification_request(),
            () if has("PUBLIC KEY") => public_key(),
            () => None,
        };
    }
    match std::str::from_utf8(text) {
        Ok(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => recognize_text(text.trim()),
        _ => replace(format!(
            "it holds {} bytes that are neither text nor DER: random, encrypted or damaged",
            bytes.len()
        )),
    }
}

fn certification_request() -> Option<ForeignContent> {
    instead(
        "it is a certification request (PKCS#10), not a certificate",
        "send the request to the CA, and put the certificate that it issues into FILE",
    )
}

fn public_key() -> Option<ForeignContent> {
    instead(
        "it is a public key alone, neither a certificate nor a private key",
        "put the certificate, or the private key that this public key belongs to, into FILE",
    )
}

fn recognize_archive(bytes: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "a zip archive: unpack it"),
        (b"\x1f\x8b", "a gzip file: unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
        (b"%PDF", "a PDF document"),
        (b"\x89PNG", "a picture (PNG)"),
        (b"\x7fELF", "a program (ELF)"),
        (b"SQLite format 3", "an SQLite database"),
    ];
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive: unpack it");
    }
    MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name)
}

fn recognize_text(text: &str) -> Option<ForeignContent> {
    let lower: String = text.chars().take(64).collect::<String>().to_ascii_lowercase();
    let begins = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    if begins(&["<!doctype html", "<html", "<head", "<body"]) {
        return instead(
            "it is an HTML page, as a log-in or error page that was saved in place of the file",
            "download the file again, with whatever authentication its origin asks for",
        );
    }
    if begins(&["<?xml", "<"]) {
        return replace("it is an XML document");
    }
    if begins(&["["]) {
        let is_whole = serde_json::from_str::<IgnoredAny>(text).is_ok();
        return replace(if is_whole { JSON } else { DAMAGED_JSON });
    }
    if begins(&["{"]) {
        return match serde_json::from_str::<JsonMembers>(text) {
            Ok(JsonMembers { kty, keys }) if kty.is_some() || keys.is_some() => instead(
                "it is a JSON Web Key",
                "convert it to PEM, or ask for the X.509 certificate and its private key in PEM",
            ),
            Ok(_) => replace(JSON),
            Err(_) => replace(DAMAGED_JSON),
        };
    }
    if begins(&["apiversion:"]) {
        return instead(
            "it is a Kubernetes manifest (YAML)",
            "apply it with kubectl and mount the Secret, or decode its fields (base64 -d) into files",
        );
    }
    if begins(&["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"]) {
        return instead(
            "it is an OpenSSH public key, which TLS does not use",
            "put the private key in PEM into FILE, or ask for an X.509 certificate for it",
        );
    }
    if begins(&["#!"]) {
        return replace("it is a script");
    }
    if memmem::find(text.as_bytes(), b"-----END ").is_some() {
        let why = "the beginning of its block is cut off: there is an END line, but no BEGIN line";
        return Some(("truncated", why.to_owned(), "copy the file again, from the BEGIN line on".to_owned()));
    }
    recognize_base64(text).or_else(|| {
        let lines = text.lines().count();
        replace(format!("it is a text file ({lines} line{}) without a PEM block", if lines == 1 { "" } else { "s" }))
    })
}

/// PEM that lost its BEGIN and END lines, or that was encoded once more.
fn recognize_base64(text: &str) -> Option<ForeignContent> {
    if text.bytes().filter(|byte| !byte.is_ascii_whitespace()).count() < MIN_BASE64 {
        return None;
    }
    let decoded = decode_base64(text.as_bytes()).ok()?;
    if memmem::find(&decoded, b"-----BEGIN ").is_some() {
        return instead(
            "it is base64 of a PEM file, as a Kubernetes Secret shows it",
            "base64 -d < FILE > FILE.pem, and remove FILE",
        );
    }
    let is_der = der::element(&decoded).is_some_and(|(outer, _)| outer.tag == SEQUENCE);
    let what =
        if is_der { "it is base64 of DER without its BEGIN and END lines" } else { "it is base64 of something else" };
    instead(what, "copy it again with the lines -----BEGIN …----- and -----END …-----, or: base64 -d < FILE > FILE.der")
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    #[track_caller]
    fn assert_named(bytes: &[u8], reason: &str, part: &str) {
        let foreign = recognize_foreign(bytes).unwrap_or_else(|| panic!("not recognised: {part}"));
        assert_eq!(foreign.reason, reason, "{foreign:?}");
        assert!(foreign.why.contains(part) && !foreign.remedy.is_empty(), "{part}: {foreign:?}");
        assert!(foreign.incomplete && foreign.hides_key);
    }

    #[test]
    fn a_file_in_which_nothing_can_be_used_is_named_as_what_it_is() {
        let random: Vec<u8> = (0..200u16).map(|at| u8::try_from(at * 37 % 251).unwrap() | 0x80).collect();
        for (bytes, reason, part) in [
            (&b""[..], "empty", "it is empty"),
            (b" \n\r\n", "empty", "blanks"),
            (&[0; 512], "not_key_material", "512 zero bytes"),
            (b"<!DOCTYPE html><title>Sign in</title>", "not_key_material", "HTML page"),
            (b"\xef\xbb\xbf\n<html>", "not_key_material", "HTML page"),
            (b"<?xml version=\"1.0\"?><a/>", "not_key_material", "XML"),
            (b"{\"error\": 404}", "not_key_material", "it is JSON"),
            (b"{\"error\": 40", "not_key_material", "cut off or damaged"),
            (b"[1, 2]", "not_key_material", "it is JSON"),
            (b"[1, 2", "not_key_material", "cut off or damaged"),
            (b"{\"kty\": \"EC\", \"d\": [\"x\"]}", "not_key_material", "JSON Web Key"),
            (b"{\"keys\": []}", "not_key_material", "JSON Web Key"),
            (b"apiVersion: v1\nkind: Secret\n", "not_key_material", "Kubernetes manifest"),
            (b"ssh-ed25519 AAAA me@here\n", "not_key_material", "OpenSSH public key"),
            (b"#!/bin/sh\nexit 1\n", "not_key_material", "a script"),
            (b"PK\x03\x04rest", "not_key_material", "zip archive"),
            (b"MIIB\n-----END CERTIFICATE-----\n", "truncated", "beginning of its block is cut off"),
            (b"see the wiki\nfor the key\n", "not_key_material", "a text file (2 lines)"),
            (&random, "not_key_material", "200 bytes that are neither text nor DER"),
            (
                b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
                "not_key_material",
                "certification request",
            ),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not_key_material", "public key alone"),
        ] {
            assert_named(bytes, reason, part);
        }
        let twice = BASE64_STANDARD.encode(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert_named(twice.as_bytes(), "not_key_material", "base64 of a PEM file");
        let bare = BASE64_STANDARD.encode([&[0x30, 0x82, 1, 0][..], &[7; 256]].concat());
        assert_named(bare.as_bytes(), "not_key_material", "without its BEGIN and END lines");
    }

    #[test]
    fn parameters_alone_are_nothing_to_complain_of_and_the_content_of_a_file_is_never_repeated() {
        assert_eq!(recognize_foreign(b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n"), None);
        let foreign = recognize_foreign(b"correct horse battery staple").unwrap();
        assert!(!format!("{foreign:?}").contains("horse"));
    }
}
