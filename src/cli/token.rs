//! `sidekey token KEYRING`: a signed JWT on standard output.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::keyring::offline::{Place, failure};
use super::{Failure, print};
use crate::app::keyring::{Algorithm, Token};
use crate::config;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Whose key pair signs
    keyring: String,
    /// Which key pair, by the beginning of its fingerprint [default: the current one]
    #[arg(long, value_name = "FINGERPRINT")]
    key_pair: Option<String>,
    /// iss [default: as the egress.jwt_bearer with this keyring says]
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// sub [default: as there, else the issuer]
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// aud [default: as there]
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// How long it is valid [default: as there, else 2 minutes]
    #[arg(long, value_name = "DURATION")]
    lifetime: Option<String>,
    /// RS256, PS256, ES256, ES384 or EdDSA [default: by the key]
    #[arg(long, value_name = "ALGORITHM")]
    alg: Option<String>,
    /// Another claim, as in scope=api or level=3 (JSON, or else text); several times if need be
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wrong = |error: String| Failure::Wrong(anyhow::anyhow!(error));
    let lifetime = arguments.lifetime.as_deref().map(config::duration).transpose();
    if lifetime.as_ref().is_ok_and(|lifetime| lifetime.is_some_and(|lifetime| lifetime.is_zero())) {
        return Err(wrong("--lifetime: a token that is valid for no time is of no use".to_owned()));
    }
    let algorithm = arguments.alg.as_deref().map(Algorithm::from_str).transpose();
    let mut more = Map::new();
    for claim in &arguments.claim {
        let (name, value) =
            claim.split_once('=').ok_or_else(|| wrong(format!("--claim {claim:?} is not NAME=VALUE")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        more.insert(name.to_owned(), value);
    }
    let token = Token {
        issuer: arguments.issuer.clone(),
        subject: arguments.subject.clone(),
        audience: arguments.audience.clone(),
        lifetime: lifetime.map_err(|error| wrong(format!("--lifetime: {error}")))?,
        algorithm: algorithm.map_err(|error| wrong(format!("--alg: {error}")))?,
        more,
    };
    let offline = arguments.place.open(&arguments.keyring)?;
    let pair = offline.pair(arguments.key_pair.as_deref()).map_err(failure)?;
    let signed = offline.token(&arguments.place.config()?, pair, &token).map_err(failure)?;
    print::line(&signed);
    Ok(())
}
