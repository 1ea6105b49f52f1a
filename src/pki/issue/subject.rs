//! The subject that an operator types, in the form that tools show it (RFC 4514: `CN=api, O=Example, C=DE`).
//!
//! Only what a request for a certificate needs: one value an attribute, no multi-valued parts. Reading what others put into
//! their certificates is `certificate::facts`.

use std::fmt;
use std::str::FromStr;

use rcgen::{DistinguishedName, DnType, DnValue};

/// The attributes of a subject, the first typed first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectName(Vec<(SubjectAttribute, String)>);

/// The attributes that a CA looks at (RFC 5280 4.1.2.4, RFC 4519 for user id and domain component).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubjectAttribute {
    CommonName,
    Unit,
    Organization,
    Locality,
    State,
    Country,
    SerialNumber,
    Email,
    UserId,
}

impl SubjectAttribute {
    const ALL: [(&'static str, Self); 9] = [
        ("CN", Self::CommonName),
        ("OU", Self::Unit),
        ("O", Self::Organization),
        ("L", Self::Locality),
        ("ST", Self::State),
        ("C", Self::Country),
        ("serialNumber", Self::SerialNumber),
        ("emailAddress", Self::Email),
        ("UID", Self::UserId),
    ];

    fn label(self) -> &'static str {
        Self::ALL.iter().find(|(_, attribute)| *attribute == self).map_or("?", |(label, _)| label)
    }

    fn kind(self) -> DnType {
        match self {
            Self::CommonName => DnType::CommonName,
            Self::Unit => DnType::OrganizationalUnitName,
            Self::Organization => DnType::OrganizationName,
            Self::Locality => DnType::LocalityName,
            Self::State => DnType::StateOrProvinceName,
            Self::Country => DnType::CountryName,
            Self::SerialNumber => DnType::CustomDnType(vec![2, 5, 4, 5]),
            Self::Email => DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
            Self::UserId => DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]),
        }
    }
}

/// A text that is not a valid subject.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectParseError {
    /// No `=`, or nothing after it.
    #[error("{0:?} is not NAME=VALUE; write for example \"CN=api.example.com, O=Example, C=DE\"")]
    NotAnAttribute(String),
    /// An attribute that is not known here.
    #[error("unknown attribute {0:?}; supported are CN, OU, O, L, ST, C, serialNumber, emailAddress and UID")]
    Unknown(String),
    /// The library keeps one value an attribute.
    #[error("the attribute {0} appears twice; only one value is supported")]
    Twice(&'static str),
    /// Too long, or not of the characters that the attribute may have.
    #[error("{attribute} cannot be {value:?}: {why}")]
    Value {
        /// Which attribute.
        attribute: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        why: &'static str,
    },
}

impl SubjectName {
    /// A common name alone.
    pub fn common_name(name: &str) -> Self {
        Self(vec![(SubjectAttribute::CommonName, name.to_owned())])
    }

    /// Whether it has no attribute.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn with_organization(mut self, organization: Option<&str>) -> Self {
        self.0.extend(organization.map(|name| (SubjectAttribute::Organization, name.to_owned())));
        self
    }

    /// As rcgen wants it: in a certificate the last one typed comes first.
    pub(super) fn to_distinguished_name(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        for (attribute, value) in self.0.iter().rev() {
            let printable = match attribute {
                SubjectAttribute::Country | SubjectAttribute::SerialNumber => value.as_str().try_into().ok(),
                _ => None,
            };
            let email = match attribute {
                SubjectAttribute::Email => value.as_str().try_into().ok(),
                _ => None,
            };
            let value = match (printable, email) {
                (Some(text), _) => DnValue::PrintableString(text),
                (None, Some(text)) => DnValue::Ia5String(text),
                (None, None) => DnValue::Utf8String(value.clone()),
            };
            name.push(attribute.kind(), value);
        }
        name
    }
}

impl FromStr for SubjectName {
    type Err = SubjectParseError;

    fn from_str(text: &str) -> Result<Self, SubjectParseError> {
        let mut subject = Self::default();
        for part in split_parts(text) {
            let not_an_attribute = || SubjectParseError::NotAnAttribute(part.trim().to_owned());
            let (label, value) = part.split_once('=').ok_or_else(not_an_attribute)?;
            let value = unescape(value.trim_start()).filter(|value| !value.is_empty()).ok_or_else(not_an_attribute)?;
            let label = label.trim();
            let attribute = SubjectAttribute::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(label));
            let attribute = attribute.map(|(_, attribute)| *attribute);
            let attribute = attribute.ok_or_else(|| SubjectParseError::Unknown(label.to_owned()))?;
            if subject.0.iter().any(|(there, _)| *there == attribute) {
                return Err(SubjectParseError::Twice(attribute.label()));
            }
            check_value(attribute, &value)?;
            subject.0.push((attribute, value));
        }
        Ok(subject)
    }
}

/// The bounds of RFC 5280 A.1; CAs refuse what is beyond them, often without saying why.
fn check_value(attribute: SubjectAttribute, value: &str) -> Result<(), SubjectParseError> {
    let why = match attribute {
        SubjectAttribute::Country if value.len() != 2 || !value.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            "it must be two capital letters (ISO 3166), as in DE"
        }
        SubjectAttribute::SerialNumber
            if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte)) =>
        {
            "only letters, digits, blanks and '()+,-./:=? are allowed"
        }
        SubjectAttribute::Email if !value.is_ascii() || !value.contains('@') => "it is not an ASCII e-mail address",
        SubjectAttribute::Locality | SubjectAttribute::State if value.chars().count() > 128 => {
            "it is longer than 128 characters"
        }
        SubjectAttribute::Email if value.len() > 255 => "it is longer than 255 characters",
        SubjectAttribute::CommonName
        | SubjectAttribute::Unit
        | SubjectAttribute::Organization
        | SubjectAttribute::SerialNumber
            if value.chars().count() > 64 =>
        {
            "it is longer than 64 characters"
        }
        _ if crate::pki::printable(value) != value => "it has an unprintable character",
        _ => return Ok(()),
    };
    Err(SubjectParseError::Value { attribute: attribute.label(), value: value.to_owned(), why })
}

/// The parts between commas that are not escaped.
fn split_parts(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// Resolves the escapes of RFC 4514 2.4, a backslash and a character or two hex digits; blanks at the end go.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut kept = 0;
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            kept = if byte == b' ' { kept } else { bytes.len() };
            continue;
        }
        let first = rest.next()?;
        let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match hex(first) {
            Some(high) => bytes.push(high << 4 | hex(rest.next()?)?),
            None => bytes.push(first),
        }
        kept = bytes.len();
    }
    bytes.truncate(kept);
    String::from_utf8(bytes).ok()
}

impl fmt::Display for SubjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (attribute, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(out, "{comma}{}={}", attribute.label(), crate::pki::printable(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_read_as_tools_show_it() {
        let subject: SubjectName = "CN=api.example.com, O=Example\\, Inc. ,C=DE".parse().unwrap();
        assert_eq!(subject.to_string(), "CN=api.example.com, O=Example, Inc., C=DE");
        assert_eq!("cn=M\\C3\\BCller".parse::<SubjectName>().unwrap(), SubjectName::common_name("Müller"));
        assert!("".parse::<SubjectName>().unwrap().is_empty());
    }

    #[test]
    fn what_no_ca_takes_is_refused_with_what_it_must_be() {
        for (text, says) in [
            ("api", "NAME=VALUE"),
            ("CN=", "NAME=VALUE"),
            ("X=1", "unknown attribute"),
            ("CN=a,CN=b", "twice"),
            ("C=Germany", "two capital letters"),
            ("serialNumber=a_b", "only letters"),
            ("emailAddress=me", "e-mail"),
            (&format!("O={}", "a".repeat(65)), "longer than 64"),
            ("CN=a\u{7}b", "unprintable"),
            ("CN=a\\", "NAME=VALUE"),
        ] {
            let error = text.parse::<SubjectName>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_shown_is_read_again(text in ".{0,80}") {
            if let Ok(subject) = format!("CN={}", text.replace(['\\', ','], "")).parse::<SubjectName>() {
                let again: SubjectName = subject.to_string().parse().unwrap();
                proptest::prop_assert_eq!(again, subject);
            }
            let _ = text.parse::<SubjectName>();
        }
    }
}
