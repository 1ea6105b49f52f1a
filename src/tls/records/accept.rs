//! The rest of a handshake as a server, after the ClientHello: rustls' unbuffered connection is given what came, and what it says
//! is sent. Always under a deadline of the caller's.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::RecordStream;
use super::session::{encode_record, queue_records};

/// Bytes that are read at once.
const READ_BYTES: usize = 4 * 1024;
/// A client's messages that are not whole: as much as rustls takes into a handshake message, and its records.
const MAX_HELD_BYTES: usize = 80 * 1024;

/// Finishes the handshake that `received`, all that has come from the client, begins. With an error comes the stream, after the
/// alert.
pub(in crate::tls) async fn finish_handshake<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    config: Arc<ServerConfig>,
    mut received: Vec<u8>,
) -> Result<Box<RecordStream<S>>, (io::Error, S)> {
    let mut connection = match UnbufferedServerConnection::new(config) {
        Ok(connection) => Box::new(connection),
        Err(error) => return Err((io::Error::other(error), stream)),
    };
    match exchange_flights(&mut stream, &mut connection, &mut received).await {
        Ok((closed, tickets)) => Ok(Box::new(RecordStream::new(stream, *connection, (received, closed), &tickets))),
        Err(error) => Err((error, stream)),
    }
}

/// What a handshake waits for.
enum HandshakeStep {
    /// rustls has more to say, or to read of what came.
    Continue,
    /// What rustls has said is sent.
    Send,
    /// The client's next bytes.
    Receive,
    /// Nothing: it is over.
    Over,
    /// Nothing: the client has said that it sends nothing further.
    Closed,
}

/// Exchanges messages until the handshake is over: whether the client has closed its half as well, and the tickets that are not
/// sent yet.
async fn exchange_flights<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut UnbufferedServerConnection,
    received: &mut Vec<u8>,
) -> io::Result<(bool, Vec<u8>)> {
    let (mut outgoing, mut closed) = (Vec::new(), false);
    // What came behind the last message is not looked at here.
    while connection.is_handshaking() || connection.wants_write() {
        match step_handshake(connection, received, &mut outgoing) {
            Ok(HandshakeStep::Continue) => {}
            // What is left are tickets.
            Ok(HandshakeStep::Send) if is_over_in_tls13(connection) => break,
            Ok(HandshakeStep::Send) => {
                stream.write_all(&outgoing).await?;
                stream.flush().await?;
                outgoing.clear();
            }
            Ok(HandshakeStep::Receive) => {
                if received.len() > MAX_HELD_BYTES {
                    return Err(io::Error::new(ErrorKind::InvalidData, "message buffer full"));
                }
                received.reserve(READ_BYTES);
                if stream.read_buf(received).await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(HandshakeStep::Over) => break,
            Ok(HandshakeStep::Closed) if connection.is_handshaking() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(HandshakeStep::Closed) => {
                closed = true;
                break;
            }
            Err(error) => {
                queue_records(connection, &mut outgoing);
                // The alert is sent as far as it can be; what counts is the error before it.
                if stream.write_all(&outgoing).await.is_ok() {
                    let _ = stream.flush().await;
                }
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }
    // In TLS 1.2 the last message is ours.
    if !outgoing.is_empty() && !is_over_in_tls13(connection) {
        stream.write_all(&outgoing).await?;
        stream.flush().await?;
        outgoing.clear();
    }
    Ok((closed, outgoing))
}

/// Whether the client's last message has come, which in TLS 1.3 is the last of the handshake: only tickets come after it.
fn is_over_in_tls13(connection: &UnbufferedServerConnection) -> bool {
    !connection.is_handshaking() && connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
}

/// Has rustls go on with what came.
fn step_handshake(
    connection: &mut UnbufferedServerConnection,
    received: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
) -> Result<HandshakeStep, rustls::Error> {
    let UnbufferedStatus { discard, state } = connection.process_tls_records(received);
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(data)) => {
            encode_record(data, outgoing);
            Ok(HandshakeStep::Continue)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(HandshakeStep::Send)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(HandshakeStep::Receive),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(HandshakeStep::Closed),
        // Content that came with the last flight stays with rustls until it is read.
        Ok(_) => Ok(HandshakeStep::Over),
        Err(error) => Err(error),
    };
    received.drain(..discard);
    match step {
        Ok(HandshakeStep::Over) if connection.is_handshaking() => Ok(HandshakeStep::Receive),
        step => step,
    }
}
