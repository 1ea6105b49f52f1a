//! What is reported about a file that cannot be used: reason, sentence, and the command that converts it.
//!
//! `FILE` in a remedy is the file's name; [`UnreadablePart::remedy_for`] puts it in.

use memchr::memmem;

/// The reason of a PKCS#12 file without a private key.
pub(in crate::pki) const PKCS12_WITHOUT_KEY: &str = "pkcs12_without_key";

/// A file, or a part of one, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct UnreadablePart {
    /// Stable snake_case code: `truncated`, `key_encrypted`, `key_unsupported`, `jks`, `pkcs7`, `pkcs12_password`, `certificate_malformed`, `key_malformed`, `too_large`, …
    pub reason: &'static str,
    /// One sentence with the values, printable.
    pub why: String,
    /// What to do: the one-line command that converts it, where there is one. `FILE` in it is the file's name
    /// ([`Self::remedy_for`]).
    pub remedy: String,
    /// More bytes may still come (cut off, empty section): "not yet" rather than "refused" until the folder is quiet.
    pub incomplete: bool,
    /// A keystore (JKS, PKCS#12) that could not be opened: beside a usable pair only an info.
    pub keystore: bool,
    /// It may hold a private key: a certificate beside it is not blamed for lacking one.
    pub hides_key: bool,
}

impl UnreadablePart {
    /// The remedy for this file: its name stands where `FILE` stood, so that a command can be copied. A name that would need
    /// quoting is left out.
    pub fn remedy_for(&self, file: &str) -> String {
        let is_plain = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        if is_plain { self.remedy.replace("FILE", file) } else { self.remedy.clone() }
    }
}

/// The same of what is, or holds, a private key.
fn refuse_key(reason: &'static str, why: impl Into<String>, remedy: impl Into<String>) -> UnreadablePart {
    UnreadablePart { hides_key: true, ..refuse(reason, why, remedy) }
}

fn refuse(reason: &'static str, why: impl Into<String>, remedy: impl Into<String>) -> UnreadablePart {
    UnreadablePart {
        reason,
        why: why.into(),
        remedy: remedy.into(),
        incomplete: false,
        keystore: false,
        hides_key: false,
    }
}

/// Something ends too early.
pub(super) fn truncated(what: &str) -> UnreadablePart {
    let why = format!("{what} is cut off or empty");
    UnreadablePart {
        incomplete: true,
        hides_key: !what.contains("certificate") && !what.contains("CERTIFICATE") && !what.contains("CRL"),
        ..refuse("truncated", why, "copy the file again, preferably under another name, then rename it")
    }
}

/// A private key that is damaged.
pub(super) fn malformed_key(why: String) -> UnreadablePart {
    UnreadablePart { hides_key: true, ..malformed("key_malformed", why) }
}

/// Damaged, and no command can help.
pub(super) fn malformed(reason: &'static str, why: String) -> UnreadablePart {
    refuse(reason, why, "copy the file again from its origin, or have it created again")
}

/// A Java KeyStore.
pub(super) fn jks() -> UnreadablePart {
    let remedy = "keytool -importkeystore -srckeystore FILE -destkeystore FILE.p12 -deststoretype PKCS12, \
                  then put the password into FILE.p12.pass";
    UnreadablePart { keystore: true, ..refuse_key("jks", "it is a Java KeyStore (JKS or JCEKS)", remedy) }
}

/// A private key under a password; `inform` is an option of openssl with its blank.
pub(super) fn encrypted_key(inform: &str) -> UnreadablePart {
    let remedy = format!("openssl pkey {inform}-in FILE -out FILE.key (asks for the password; -out is not encrypted)");
    refuse_key("key_encrypted", "the private key is encrypted with a password", remedy)
}

/// Certificates in PKCS#7.
pub(super) fn pkcs7(inform: &str) -> UnreadablePart {
    let remedy = format!("openssl pkcs7 {inform}-print_certs -in FILE -out FILE.crt");
    refuse("pkcs7", "it is PKCS#7, which wraps certificates in another format", remedy)
}

/// A PEM block that is none of ours.
pub(super) fn foreign_block(label: &str) -> UnreadablePart {
    match label {
        "ENCRYPTED PRIVATE KEY" => encrypted_key(""),
        "PKCS7" | "CMS" | "PKCS #7 SIGNED DATA" => pkcs7(""),
        "OPENSSH PRIVATE KEY" => refuse_key(
            "openssh",
            "the private key is in OpenSSH's own format",
            "cp FILE FILE.key && ssh-keygen -p -N '' -m PKCS8 -f FILE.key (RSA and ECDSA keys)",
        ),
        "DSA PRIVATE KEY" => key_unsupported("a DSA key"),
        "PGP MESSAGE" => refuse("pgp", "it is a PGP message", "gpg --output FILE.pem --decrypt FILE"),
        pgp if pgp.starts_with("PGP ") => {
            refuse("pgp", "it is PGP, which TLS does not use", "ask for an X.509 certificate and key in PEM")
        }
        other => refuse(
            "unknown_block",
            format!("the block {other:?} is not a certificate, a private key or a CRL"),
            "openssl x509 -in FILE -text -noout, or openssl pkey -in FILE -text -noout, shows what openssl makes of it",
        ),
    }
}

/// Text without a block that nevertheless was meant to be a key.
pub(super) fn foreign_text(text: &[u8]) -> Option<UnreadablePart> {
    if text.starts_with(b"PuTTY-User-Key-File-") {
        let remedy = "puttygen FILE -O private-openssh -o FILE.ssh && ssh-keygen -p -N '' -m PKCS8 -f FILE.ssh";
        return Some(refuse_key("putty", "the private key is in PuTTY's own format", remedy));
    }
    // Word processors and mail make other dashes, or other numbers of them.
    let mangled = text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii).any(|line| {
        let dashed = line.starts_with(b"-")
            || line.starts_with("\u{2013}".as_bytes())
            || line.starts_with("\u{2014}".as_bytes());
        dashed
            && ["BEGIN CERTIFICATE", "BEGIN RSA", "BEGIN EC ", "BEGIN PRIVATE", "BEGIN SSH2"]
                .iter()
                .any(|begin| memmem::find(line, begin.as_bytes()).is_some())
    });
    mangled.then(|| {
        let why = "a BEGIN line is not written as \"-----BEGIN …-----\" with five dashes on each side";
        malformed("pem_malformed", why.to_owned())
    })
}

/// PKCS#12 that its password does not open.
pub(super) fn pkcs12_password(given: bool) -> UnreadablePart {
    let why = if given { "the password does not open this PKCS#12 file" } else { "this PKCS#12 file needs a password" };
    let remedy = "put its password into FILE.pass, or set pkcs12_password_file in the keyring's section; \
                  to test one: openssl pkcs12 -info -noout -in FILE";
    UnreadablePart { keystore: true, ..refuse_key("pkcs12_password", why, remedy) }
}

/// PKCS#12 that was exported without the private key of its certificate.
pub(super) fn pkcs12_without_key() -> UnreadablePart {
    let remedy = "export it again with its private key, or put the private key beside it as a file of its own";
    let why = "this PKCS#12 file holds no private key, only certificates";
    UnreadablePart { keystore: true, ..refuse_key(PKCS12_WITHOUT_KEY, why, remedy) }
}

/// PKCS#12 that is well-formed for others.
pub(super) fn pkcs12_unsupported(why: &str) -> UnreadablePart {
    let remedy = "openssl pkcs12 -in FILE -nodes -out FILE.pem (add -legacy for old files)";
    UnreadablePart {
        keystore: true,
        ..refuse_key("pkcs12_unsupported", format!("this PKCS#12 file cannot be read: {why}"), remedy)
    }
}

/// PKCS#12 that is damaged, or written in BER, which openssl takes.
pub(super) fn pkcs12_malformed(why: &str) -> UnreadablePart {
    let remedy = "openssl pkcs12 -in FILE -nodes -out FILE.pem; if openssl cannot read it either, copy it again";
    UnreadablePart { keystore: true, ..refuse_key("pkcs12_malformed", format!("damaged PKCS#12 file: {why}"), remedy) }
}

/// A private key that TLS here cannot use.
pub(super) fn key_unsupported(kind: &str) -> UnreadablePart {
    let why = format!("it is {kind}, which Sidekey cannot use for TLS");
    let remedy = "make a new key and have a certificate issued for it: openssl genpkey -algorithm EC -pkeyopt \
                  ec_paramgen_curve:P-256 -out FILE (P-384, P-521, Ed25519 and RSA of 2048 to 8192 bits work too)";
    refuse_key("key_unsupported", why, remedy)
}
