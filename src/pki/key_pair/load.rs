//! Private keys as the provider loads them: what signs, and the public key that belongs to it.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;

/// The key as the provider signs with it.
pub(super) fn load_key(der: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, String> {
    any_supported_type(der).map_err(|error| error.to_string())
}

/// The SubjectPublicKeyInfo of a private key, if the provider can sign with it.
pub(in crate::pki) fn public_key(der: &PrivateKeyDer<'_>) -> Result<Vec<u8>, String> {
    let key = load_key(der)?;
    key.public_key().map(|spki| spki.to_vec()).ok_or_else(|| "it does not provide its public key".to_owned())
}
