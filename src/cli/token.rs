//! `sidekey token KEYRING`: a signed JWT on standard output.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::failure::CommandFailure;
use super::folder::{FolderArguments, explain_failure};
use super::print;
use crate::config;
use crate::offline::keyring::{SignatureAlgorithm, TokenOrder};

#[derive(clap::Args)]
pub(super) struct TokenArguments {
    /// The keyring that signs
    keyring: String,
    /// Beginning of the key pair's fingerprint [default: the current one]
    #[arg(long, value_name = "FINGERPRINT")]
    key_pair: Option<String>,
    /// The iss claim [default: from the egress.jwt_bearer with this keyring]
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// The sub claim [default: as there, else the issuer]
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// The aud claim [default: as there]
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// How long the token is valid [default: as there, else 2 minutes]
    #[arg(long, value_name = "DURATION")]
    lifetime: Option<String>,
    /// RS256, PS256, ES256, ES384 or EdDSA [default: depends on the key]
    #[arg(long, value_name = "ALGORITHM")]
    alg: Option<String>,
    /// Another claim, such as scope=api or level=3 (JSON, else text), repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    #[command(flatten)]
    place: FolderArguments,
}

pub(super) fn run(arguments: &TokenArguments) -> Result<(), CommandFailure> {
    let wrong = |error: String| CommandFailure::Wrong(anyhow::anyhow!(error));
    let lifetime = arguments.lifetime.as_deref().map(config::parse_duration).transpose();
    if lifetime.as_ref().is_ok_and(|lifetime| lifetime.is_some_and(|lifetime| lifetime.is_zero())) {
        return Err(wrong("--lifetime must be longer than zero".to_owned()));
    }
    let algorithm = arguments.alg.as_deref().map(SignatureAlgorithm::from_str).transpose();
    let mut more = Map::new();
    for claim in &arguments.claim {
        let (name, value) =
            claim.split_once('=').ok_or_else(|| wrong(format!("--claim {claim:?} is not NAME=VALUE")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        more.insert(name.to_owned(), value);
    }
    let token = TokenOrder {
        issuer: arguments.issuer.clone(),
        subject: arguments.subject.clone(),
        audience: arguments.audience.clone(),
        lifetime: lifetime.map_err(|error| wrong(format!("--lifetime: {error}")))?,
        algorithm: algorithm.map_err(|error| wrong(format!("--alg: {error}")))?,
        more,
    };
    let offline = arguments.place.open(&arguments.keyring)?;
    let pair = offline.pair(arguments.key_pair.as_deref()).map_err(explain_failure)?;
    let signed = offline.token(&arguments.place.config()?, pair, &token).map_err(explain_failure)?;
    print::line(&signed);
    Ok(())
}
