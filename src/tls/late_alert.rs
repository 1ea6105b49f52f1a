//! An alert after the handshake: rustls sends none for what it does not find itself, and a peer that is refused after a
//! resumption would see an end without a reason. RFC 8446 6.2: who ends a connection for an error sends its alert first.

use rustls::crypto::cipher::{AeadKey, Iv, OutboundChunks, OutboundPlainMessage};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::alert_name::rfc_name;
use super::explain::sent_alert;
use super::handshake::{HandshakeFailureCause, ServerStream, linger};
use super::verifier::tls_error;
use crate::trust::TrustError;

/// Ends an established connection with the alert that fits, and returns the alert's name; `None`: none could be sent.
pub async fn refuse_established<S: AsyncRead + AsyncWrite + Unpin>(
    stream: ServerStream<S>,
    untrusted: &TrustError,
) -> Option<&'static str> {
    let tls12 = stream.state().protocol_version() == Some(ProtocolVersion::TLSv1_2);
    let alert = sent_alert(&HandshakeFailureCause::Tls(tls_error(untrusted)), tls12)?;
    let suite = stream.state().negotiated_cipher_suite()?;
    let (mut below, mut records, secrets) = stream.into_secrets();
    records.extend_from_slice(&seal_alert(suite, secrets.ok()?, alert)?);
    let sent = below.write_all(&records).await.is_ok();
    linger(below).await;
    sent.then(|| rfc_name(alert))
}

/// The fatal alert as the next record of this connection.
fn seal_alert(suite: SupportedCipherSuite, secrets: ExtractedSecrets, alert: AlertDescription) -> Option<Vec<u8>> {
    let (sequence, secrets) = secrets.tx;
    let (key, iv) = key_and_iv(secrets)?;
    let mut encrypter = match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, explicit) = iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len);
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    };
    let fatal = [2, u8::from(alert)];
    let plain = OutboundPlainMessage {
        typ: ContentType::Alert,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(&fatal),
    };
    encrypter.encrypt(plain, sequence).ok().map(rustls::crypto::cipher::OutboundOpaqueMessage::encode)
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> Option<(AeadKey, Iv)> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Some((key, iv)),
        _ => None,
    }
}
