//! The token that an egress adds to what it forwards: its settings and, for one epoch, who signs and how its endpoint is
//! reached.

use std::sync::Arc;
use std::time::Duration;

use crate::jwt::{GrantType, SignatureAlgorithm};
use crate::keyring::KeyringName;
use crate::net::HostPort;
use crate::pki::KeyPair;
use crate::tls::EgressConnector;
use crate::trust::{PeerRole, Trust, TrustName};

/// `[egress.jwt_bearer]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerSettings {
    /// The keyring that signs; the egress' own by default.
    pub keyring: KeyringName,
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audience: String,
    /// How long an assertion is valid.
    pub lifetime: Duration,
    /// `alg`, where it is set.
    pub algorithm: Option<SignatureAlgorithm>,
    /// Where assertions are exchanged for tokens; `None`: the assertion itself is the token.
    pub endpoint: Option<TokenEndpoint>,
}

/// `token_url` and what goes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// The server.
    pub to: HostPort,
    /// Path and query.
    pub path: String,
    /// What is asked for.
    pub grant: GrantType,
    /// `token_types`: the types of token that are sent as Bearer tokens.
    pub token_types: Vec<String>,
    /// `scope`.
    pub scope: Option<String>,
    /// `token_trust`; `None`: the egress'.
    pub trust: Option<TrustName>,
}

/// One epoch of it.
pub struct EgressBearer {
    /// Its settings.
    pub settings: Arc<BearerSettings>,
    /// Who may sign, the preferred pair first; not empty, and each can sign with the algorithm.
    pub signers: Vec<Arc<KeyPair>>,
    /// The way to the endpoint, if there is one.
    pub way: Option<TokenRoute>,
}

/// The way to a token endpoint. `connectors[i]` shows the egress' `candidates.0[i]`.
pub struct TokenRoute {
    /// HTTP/1.1 only: one small request.
    pub connectors: Vec<EgressConnector>,
    /// The trust that verifies it.
    pub trust: Arc<Trust>,
    /// Who it must be.
    pub expects: PeerRole,
}
