//! `allow` and `rule`: may this peer send this request (contract section 11)?
//!
//! Pure: peer, method and path in, yes or why not out. What a pattern matches is in [`pattern`], on which form of a path
//! in [`normalise`].

mod normal;
pub mod pattern;

use std::borrow::Cow;

use super::matcher::PeerMatcher;
use super::peer::Peer;
pub use normal::normalise;

impl PeerMatcher {
    /// Whether the peer fits every field that is set. `None` = no certificate was shown: then only `anonymous` on its
    /// own fits, since every other field asks for a certificate.
    pub fn matches(&self, peer: Option<&Peer>) -> bool {
        let names_certificate = self.names_certificate();
        let Some(peer) = peer else {
            return self.anonymous && !names_certificate && self.partner.is_none();
        };
        (names_certificate || self.partner.is_some() || self.anonymous)
            && self.partner.as_ref().is_none_or(|partner| peer.partner() == Some(partner))
            && (!names_certificate || self.fits_certificate(peer.certificate()))
    }
}

/// `allow`: any of these. Left out = any peer that the trust verifies (not an anonymous one).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(pub Option<Vec<PeerMatcher>>);

impl AllowList {
    /// Whether this peer is allowed. `None` = no certificate was shown.
    pub fn permits(&self, peer: Option<&Peer>) -> bool {
        match &self.0 {
            None => peer.is_some(),
            Some(matchers) => matchers.iter().any(|matcher| matcher.matches(peer)),
        }
    }
}

/// One `[[ingress.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// Patterns on the normalised path; empty = every path.
    pub paths: Vec<String>,
    /// Methods, upper case; empty = every method.
    pub methods: Vec<String>,
    /// The peers that may send them.
    pub allow: AllowList,
}

impl AccessRule {
    /// `path` is normalised; a slash at its end does not count, as most backends route `/admin/` like `/admin`. Methods
    /// are compared without regard to case: a backend that reads `post` as POST must not be reached around a rule for
    /// POST.
    fn matches(&self, method: &str, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|named| named.eq_ignore_ascii_case(method)))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| fits_path(pattern, path)))
    }

    /// The same without regard to the case of the path.
    fn matches_in_any_case(&self, method: &str, path: &str) -> bool {
        self.matches(method, path) || {
            let folded = path.to_ascii_lowercase();
            let paths = self.paths.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
            Self { paths, methods: self.methods.clone(), allow: AllowList(None) }.matches(method, &folded)
        }
    }
}

fn fits_path(pattern: &str, path: &str) -> bool {
    fn strip_slash(text: &str) -> &str {
        text.strip_suffix('/').unwrap_or(text)
    }
    pattern::matches_path(pattern, path) || pattern::matches_path(strip_slash(pattern), strip_slash(path))
}

/// An ingress' rules (first match decides) and then its `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// In order.
    pub rules: Vec<AccessRule>,
    /// Where no rule matches.
    pub allow: AllowList,
}

/// Why a request is not allowed; for the log, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// The first rule that matched does not allow this peer.
    #[error("rule {index} ({paths}) does not allow {identity}")]
    Rule {
        /// Its place, 1 is the first.
        index: usize,
        /// Its paths, printable.
        paths: String,
        /// The client's identity.
        identity: String,
    },
    /// The ingress' `allow` does not include this peer.
    #[error("allow does not include {identity}")]
    Allow {
        /// The client's identity.
        identity: String,
    },
    /// The path cannot be normalised without ambiguity: 400, not 403.
    #[error("ambiguous path: {0}")]
    Path(&'static str),
}

impl AccessRules {
    /// Whether rules name paths (only then is the path normalised, and exactly what matched is forwarded).
    pub fn name_paths(&self) -> bool {
        self.rules.iter().any(|rule| !rule.paths.is_empty())
    }

    /// Whether another rule decided if case did not count: many backends route `/Admin` like `/admin`, and others do not,
    /// so neither answer is safe.
    fn depends_on_case(&self, method: &str, path: &str, first: Option<usize>) -> bool {
        let capital = |text: &str| text.bytes().any(|byte| byte.is_ascii_uppercase());
        let matters = capital(path) || self.rules.iter().flat_map(|rule| &rule.paths).any(|pattern| capital(pattern));
        matters && self.rules.iter().position(|rule| rule.matches_in_any_case(method, path)) != first
    }

    /// Decides. On success the path to forward: normalised if rules name paths, else as it came. `path` is without query.
    pub fn decide<'p>(&self, peer: Option<&Peer>, method: &str, path: &'p str) -> Result<Cow<'p, str>, AccessDenied> {
        let path = if self.name_paths() {
            let normal = normalise(path).map_err(AccessDenied::Path)?;
            if normal == path { Cow::Borrowed(path) } else { Cow::Owned(normal) }
        } else {
            Cow::Borrowed(path)
        };
        let first = self.rules.iter().enumerate().find(|(_, rule)| rule.matches(method, &path));
        if self.name_paths() && self.depends_on_case(method, &path, first.map(|(index, _)| index)) {
            return Err(AccessDenied::Path("it differs from the path of a rule only in case"));
        }
        let allow = first.map_or(&self.allow, |(_, rule)| &rule.allow);
        if allow.permits(peer) {
            return Ok(path);
        }
        let identity = peer.map_or("a client without a certificate", Peer::identity).to_owned();
        Err(match first {
            Some((index, rule)) => {
                let paths = if rule.paths.is_empty() { "every path".to_owned() } else { rule.paths.join(", ") };
                AccessDenied::Rule { index: index + 1, paths, identity }
            }
            None => AccessDenied::Allow { identity },
        })
    }
}

#[cfg(test)]
mod tests;
