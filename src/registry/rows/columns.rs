//! Columns that both databases store alike: times, flags, lists, fingerprints.

use jiff::Timestamp;
use serde::Serialize;

/// Seconds since 1970 as both databases store them; shown as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// As a [`Timestamp`], saturating.
    pub fn time(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or(Timestamp::MAX)
    }
}

impl From<Timestamp> for UnixSeconds {
    fn from(time: Timestamp) -> Self {
        Self(time.as_second())
    }
}

impl std::fmt::Display for UnixSeconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.time().fmt(out)
    }
}

impl Serialize for UnixSeconds {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// A flag as both databases store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct SqlFlag(i64);

impl SqlFlag {
    /// Whether it is set.
    pub const fn is_set(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for SqlFlag {
    fn from(set: bool) -> Self {
        Self(i64::from(set))
    }
}

impl Serialize for SqlFlag {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_bool(self.is_set())
    }
}

/// A list of texts in one column, one per line; none of ours contains a line break.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct TextList(pub(in crate::registry) String);

impl TextList {
    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split('\n').filter(|text| !text.is_empty())
    }
}

impl<T: AsRef<str>> FromIterator<T> for TextList {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        Self(texts.into_iter().map(|text| text.as_ref().replace('\n', " ")).collect::<Vec<_>>().join("\n"))
    }
}

impl Serialize for TextList {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.iter())
    }
}

/// The first 12 hex digits of a fingerprint as the registry stores it.
pub fn short_fingerprint(fingerprint: &str) -> &str {
    let hex = fingerprint.strip_prefix("sha256:").unwrap_or(fingerprint);
    hex.get(..12).unwrap_or(hex)
}
