//! `allow` and `rule`: may this peer send this request? And the path normalisation that rules are matched on (contract section 11).
//!
//! Pure: peer, method and path in, yes or why not out.

use std::sync::Arc;

use super::Peer;
use crate::pki::{Fingerprint, SpkiHash};

/// One table of `allow` (its fields are ANDed). Patterns: `*` matches within one DNS label or URI segment, `**` the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    /// A URI SAN.
    pub uri: Option<String>,
    /// A DNS SAN.
    pub dns: Option<String>,
    /// The subject's common name.
    pub cn: Option<String>,
    /// An organizational unit of the subject.
    pub ou: Option<String>,
    /// An organization of the subject.
    pub o: Option<String>,
    /// An e-mail SAN.
    pub email: Option<String>,
    /// The end entity's fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// The end entity's key.
    pub spki: Option<SpkiHash>,
    /// The end entity's issuer, as printed.
    pub issuer: Option<String>,
    /// The partner it is.
    pub partner: Option<Arc<str>>,
    /// Nobody in particular: serves without a certificate too (`client_auth = "optional"`).
    pub anonymous: bool,
}

impl Matcher {
    /// Whether the peer fits every field that is set. `None` = no certificate was shown.
    pub fn matches(&self, peer: Option<&Peer>) -> bool {
        let _ = peer;
        todo!()
    }
}

/// `allow`: any of these. Left out = any peer that the trust verifies (not an anonymous one).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow(pub Option<Vec<Matcher>>);

/// One `[[ingress.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Patterns on the normalised path; empty = every path.
    pub paths: Vec<String>,
    /// Methods, upper case; empty = every method.
    pub methods: Vec<String>,
    /// Who may.
    pub allow: Allow,
}

/// An ingress' rules (first match decides) and then its `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// In order.
    pub rules: Vec<Rule>,
    /// Where no rule matches.
    pub allow: Allow,
}

/// Why a request is not allowed; for the log, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The first rule that matched does not allow this peer.
    #[error("rule {index} ({paths}) does not allow {identity}")]
    Rule {
        /// Its place, 1 is the first.
        index: usize,
        /// Its paths, for people.
        paths: String,
        /// Who asked.
        identity: String,
    },
    /// The ingress' `allow` does not.
    #[error("allow does not hold {identity}")]
    Allow {
        /// Who asked.
        identity: String,
    },
    /// The path cannot be normalised without ambiguity: 400, not 403.
    #[error("ambiguous path: {0}")]
    Path(&'static str),
}

impl Rules {
    /// Whether rules name paths (only then is the path normalised, and exactly what matched is forwarded).
    pub fn name_paths(&self) -> bool {
        self.rules.iter().any(|rule| !rule.paths.is_empty())
    }
    /// Decides. On success the path to forward: normalised if rules name paths, else as it came.
    pub fn decide<'p>(
        &self,
        peer: Option<&Peer>,
        method: &str,
        path: &'p str,
    ) -> Result<std::borrow::Cow<'p, str>, Denied> {
        let _ = (peer, method, path);
        todo!()
    }
}

/// The normal form of a path (without query): unreserved escapes decoded, dot segments removed, slashes merged (RFC 3986 6.2.2).
/// Encoded `/`, `\`, NUL, a raw `\` or `;`, and bad escapes are errors that name what it was.
pub fn normalise(path: &str) -> Result<String, &'static str> {
    let _ = path;
    todo!()
}
