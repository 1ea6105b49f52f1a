//! Values of the public-key infrastructure (RFC 5280): what a certificate, a key and a key pair *are*.
//!
//! Pure: bytes in, values out. No clock, no file, no log, and nothing of ours above it. Whether a pair may serve is
//! decided by `keyring::fit`; whether a chain is trusted, by `trust`.

pub mod blocks;
pub mod certificate;
pub(crate) mod crl_profile;
pub(crate) mod der;
pub mod issue;
pub mod join;
pub mod key_pair;
mod pem_writer;
pub mod pkcs12;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use blocks::{KeyMaterial, PrivateKey, UnreadablePart};
pub use certificate::{Certificate, ExtendedKeyUsage, KeyKind};
pub use join::{FolderProblem, KeyringContents, PendingKey, ProblemSeverity};
pub use key_pair::{KeyPair, PairOrigin};

/// A file's path relative to the watched folder, with `/`, printable.
pub type FileName = Arc<str>;

/// SHA-256 of a certificate's DER: how key pairs are named everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

/// SHA-256 of a certificate's SubjectPublicKeyInfo: what a pin compares (RFC 7469 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpkiHash([u8; 32]);

macro_rules! sha256_value {
    ($name:ident) => {
        impl $name {
            /// The SHA-256 of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                let mut out = [0; 32];
                out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
                Self(out)
            }

            /// From a hash that was computed elsewhere.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 lower-case hex digits, without prefix.
            pub fn hex(&self) -> String {
                hex(&self.0)
            }

            /// The first 12 hex digits: the short form of the contract.
            pub fn short(&self) -> String {
                hex(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "sha256:{}", self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.short())
            }
        }

        impl FromStr for $name {
            type Err = NotAHash;

            /// Reads `sha256:` and 64 hex digits; the prefix may be left out, colons between bytes and capitals are fine.
            fn from_str(text: &str) -> Result<Self, NotAHash> {
                let digits = text.strip_prefix("sha256:").unwrap_or(text);
                let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
                // `from_str_radix` alone would take a sign for a digit.
                if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(NotAHash);
                }
                let mut out = [0; 32];
                for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| NotAHash)?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAHash)?;
                }
                Ok(Self(out))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(input)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
sha256_value!(Fingerprint);
sha256_value!(SpkiHash);

/// A text that is not a SHA-256 in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256: expected \"sha256:\" and 64 hex digits")]
pub struct NotAHash;

/// From when to when a certificate is valid, both ends included (RFC 5280 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Validity {
    /// First valid second.
    pub not_before: Timestamp,
    /// Last valid second.
    pub not_after: Timestamp,
}

impl Validity {
    /// Whether `now` lies within.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// From its begin to its end.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unsigned_abs()
    }
}

/// Lower-case hex digits, two a byte. Every handshake writes some hashes.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
    }
    out
}

/// A time as people read it: to the minute, UTC.
pub fn format_minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A time to the second, UTC (RFC 3339).
pub fn format_second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `29 days`, `3 h`, `12 min`, `5 s`: whole units, rounded down, at least two of the smaller before the larger is used.
pub fn format_length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How far a time is from now: `in 29 days`, `3 h ago`, `now`.
pub fn format_distance(now: Timestamp, then: Timestamp) -> String {
    let seconds = then.duration_since(now).as_secs();
    let length = format_length(seconds.unsigned_abs());
    match seconds {
        0 => "now".to_owned(),
        ..0 => format!("{length} ago"),
        _ => format!("in {length}"),
    }
}

/// A day as people read it, UTC.
pub fn format_day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// The first `most` names of a list, and how many there are beside them.
pub fn first_few(names: &[String], most: usize) -> String {
    let more = names.len().saturating_sub(most);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// Makes peer text safe for a log line, a terminal and a header: everything but printable text without control,
/// bidirectional and line-separator characters becomes `\u{…}`.
pub fn printable(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
        if hidden {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}
