//! `sidekey token`: a token signed offline by a keyring's pair, as an egress would sign it.

use serde_json::{Map, Value};

use super::{OfflineKeyringError, OfflineKeyrings};
use crate::config::Config;
use crate::jwt::{self, SignatureAlgorithm, TokenClaims};
use crate::pki::KeyPair;

/// What a token says; what is left out is as `[egress.jwt_bearer]` with this keyring says it.
#[derive(Clone, Debug, Default)]
pub struct TokenOrder {
    /// `iss`.
    pub issuer: Option<String>,
    /// `sub`; else the issuer.
    pub subject: Option<String>,
    /// `aud`.
    pub audience: Option<String>,
    /// How long it is valid.
    pub lifetime: Option<std::time::Duration>,
    /// `alg`.
    pub algorithm: Option<SignatureAlgorithm>,
    /// Other claims.
    pub more: Map<String, Value>,
}

impl OfflineKeyrings {
    /// Signs a token with this pair.
    ///
    /// # Errors
    /// A claim is neither given nor configured, or the key cannot sign.
    pub fn token(&self, config: &Config, pair: &KeyPair, token: &TokenOrder) -> Result<String, OfflineKeyringError> {
        let mut configured = config.settings.egresses.iter().filter_map(|egress| egress.bearer.as_ref());
        let configured = configured.find(|bearer| bearer.keyring == self.keyring);
        let said = |typed: &Option<String>, known: Option<&String>, flag: &str| {
            let none = || format!("no jwt_bearer in the configuration uses keyring {:?}: set {flag}", self.keyring);
            typed.clone().or_else(|| known.cloned()).ok_or_else(|| OfflineKeyringError::Wrong(none()))
        };
        let issuer = said(&token.issuer, configured.map(|bearer| &bearer.issuer), "--issuer")?;
        let audience = said(&token.audience, configured.map(|bearer| &bearer.audience), "--audience")?;
        let subject = token.subject.clone().or_else(|| configured.map(|bearer| bearer.subject.clone()));
        let lifetime = token.lifetime.or_else(|| configured.map(|bearer| bearer.lifetime));
        if let Some(taken) =
            ["iss", "sub", "aud", "exp", "iat", "jti"].iter().find(|name| token.more.contains_key(**name))
        {
            return Err(OfflineKeyringError::Wrong(format!(
                "--claim {taken} is not allowed: a flag of its own or sidekey itself sets this claim"
            )));
        }
        let id = jwt::sign::generate_id()?;
        let claims = TokenClaims {
            issuer: &issuer,
            subject: subject.as_deref().unwrap_or(&issuer),
            audience: &audience,
            lifetime: lifetime.unwrap_or(std::time::Duration::from_mins(2)),
            id: &id,
            more: &token.more,
        };
        let algorithm = token.algorithm.or_else(|| configured.and_then(|bearer| bearer.algorithm));
        Ok(jwt::sign(pair, algorithm, &claims, self.now)?)
    }
}
