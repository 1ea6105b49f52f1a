//! The TLS of one served connection, as bytes that come and go: rustls' unbuffered connection, what it has not used yet and what
//! it has to say. Touches no stream.

use std::io::{self, ErrorKind, IoSlice};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, ExtractedSecrets};

use super::room::SEALED_BYTES;

/// A piece of content of this size, where there is more than a record holds, is not copied together with its neighbours.
const OWN_RECORD_BYTES: usize = 4 * 1024;
/// A close_notify with what may have to go before it.
const CLOSE_BYTES: usize = 1024;

/// The TLS of a connection, apart from the stream below it.
pub(super) struct ServerSession {
    connection: UnbufferedServerConnection,
    /// The beginning of a record, or of a handshake message, that has not come whole.
    incoming: Vec<u8>,
    /// Records that wait to be sent, and how much of them is.
    outgoing: Vec<u8>,
    sent: usize,
    /// How reading ended, once it has.
    ended: Option<ReadEnd>,
    /// Our close_notify is among the records.
    closing: bool,
}

/// How reading from the peer has ended.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// With close_notify.
    Closed,
    /// Without it.
    Broken,
    /// The peer broke a rule of TLS, or sent an alert.
    Failed(rustls::Error),
}

impl ReadEnd {
    /// What a reader is told.
    pub(super) fn result(&self) -> io::Result<()> {
        match self {
            Self::Closed => Ok(()),
            Self::Broken => Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed without close_notify")),
            Self::Failed(error) => Err(io::Error::new(ErrorKind::InvalidData, error.clone())),
        }
    }
}

/// What rustls wants next.
pub(super) enum SessionStep {
    /// It has more to do.
    Continue,
    /// All that has come is used.
    Wait,
    /// Nothing further is read.
    End(ReadEnd),
}

impl ServerSession {
    pub(super) fn new(connection: UnbufferedServerConnection) -> Self {
        Self { connection, incoming: Vec::new(), outgoing: Vec::new(), sent: 0, ended: None, closing: false }
    }

    pub(super) fn state(&self) -> &CommonState {
        &self.connection
    }

    pub(super) fn into_secrets(self) -> Result<ExtractedSecrets, rustls::Error> {
        self.connection.dangerous_into_kernel_connection().map(|(secrets, _)| secrets)
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.incoming.capacity() + self.outgoing.capacity()
    }

    /// How reading ended, once it has.
    pub(super) fn ended(&self) -> Option<&ReadEnd> {
        self.ended.as_ref()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.ended, Some(ReadEnd::Failed(_)))
    }

    /// Nothing further comes.
    pub(super) fn end_reading(&mut self, end: ReadEnd) {
        self.ended.get_or_insert(end);
    }

    /// Moves what has come and is not whole to the front of `room`: how much it is.
    ///
    /// # Errors
    /// Nothing further would fit behind it.
    pub(super) fn take_held(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.incoming.len();
        if count >= room.len() {
            return Err(io::Error::new(ErrorKind::InvalidData, "a handshake message in too many records"));
        }
        room[..count].copy_from_slice(&self.incoming);
        self.incoming = Vec::new();
        Ok(count)
    }

    /// Keeps what has come and is not whole.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.incoming.extend_from_slice(bytes);
        }
    }

    /// Opens the records in `bytes`, passes their content to `take`, and keeps what is not a whole one.
    pub(super) fn open_records(&mut self, bytes: &mut [u8], mut take: impl FnMut(&[u8])) {
        let mut at = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut bytes[at..]);
            let mut used = discard;
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    let mut step = SessionStep::Continue;
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                used += record.discard;
                                take(record.payload);
                            }
                            Err(error) => step = SessionStep::End(ReadEnd::Failed(error)),
                        }
                    }
                    step
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode_record(data, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    SessionStep::Continue
                }
                Ok(ConnectionState::PeerClosed) => SessionStep::End(ReadEnd::Closed),
                // Early data is not offered, so none comes.
                Ok(_) => SessionStep::Wait,
                Err(error) => SessionStep::End(ReadEnd::Failed(error)),
            };
            at += used;
            match step {
                SessionStep::Continue => {}
                SessionStep::Wait => break,
                SessionStep::End(end) => {
                    self.end_reading(end);
                    break;
                }
            }
        }
        if self.has_failed() {
            // Its alert; what else came is of no meaning any more.
            queue_records(&mut self.connection, &mut self.outgoing);
        } else {
            self.hold(&bytes[at..]);
        }
    }

    /// Lets `seal` write what may be written now; `None` where rustls takes nothing any more.
    fn with_traffic<T>(&mut self, seal: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> T) -> Option<T> {
        let mut seal = Some(seal);
        // After an error rustls must not be shown anything.
        while !self.has_failed() {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.incoming);
            let sealed = match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => seal.take().map(|seal| seal(&mut traffic)),
                Ok(ConnectionState::EncodeTlsData(data)) => match encode_record(data, &mut self.outgoing) {
                    SessionStep::Continue => None,
                    _ => return None,
                },
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended.get_or_insert(ReadEnd::Closed);
                    None
                }
                _ => return None,
            };
            self.incoming.drain(..discard);
            if sealed.is_some() {
                return sealed;
            }
        }
        None
    }

    /// Seals the beginning of `pieces` into `sealed`: how many bytes of content and of records. `joined` is room for a record
    /// that is put together.
    ///
    /// # Errors
    /// The connection takes no content any more.
    pub(super) fn seal(
        &mut self,
        pieces: &[IoSlice<'_>],
        joined: &mut [u8],
        sealed: &mut [u8],
    ) -> io::Result<(usize, usize)> {
        if self.closing {
            return Err(ErrorKind::BrokenPipe.into());
        }
        match self.with_traffic(|traffic| seal_pieces(traffic, pieces, joined, sealed)) {
            Some(Ok(counts)) => Ok(counts),
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    /// Our close_notify joins what waits to be sent, once.
    pub(super) fn queue_close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        let mut record = [0; CLOSE_BYTES];
        if let Some(Ok(count)) = self.with_traffic(|traffic| traffic.queue_close_notify(&mut record)) {
            self.queue_records(&record[..count]);
        }
    }

    /// These records wait to be sent.
    pub(super) fn queue_records(&mut self, records: &[u8]) {
        if !records.is_empty() {
            self.outgoing.extend_from_slice(records);
        }
    }

    /// The records that wait to be sent; `None`: there are none.
    pub(super) fn outgoing(&self) -> Option<&[u8]> {
        Some(&self.outgoing[self.sent..]).filter(|records| !records.is_empty())
    }

    /// So many bytes of them are sent. Once all are, nothing is kept.
    pub(super) fn record_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }
}

/// What rustls has to say by itself, an alert after an error, joins `outgoing`. It gives that before it looks at what came, of which
/// it is shown nothing.
pub(super) fn queue_records(connection: &mut UnbufferedServerConnection, outgoing: &mut Vec<u8>) {
    while connection.wants_write() {
        let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
        match state {
            Ok(ConnectionState::EncodeTlsData(data)) => drop(encode_record(data, outgoing)),
            _ => return,
        }
    }
}

/// Adds a record that rustls has ready to `outgoing`.
pub(super) fn encode_record<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> SessionStep {
    let before = outgoing.len();
    match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(needed)) => outgoing.resize(before + needed.required_size, 0),
        Ok(_) => return SessionStep::Continue,
        Err(EncodeError::AlreadyEncoded) => return SessionStep::Wait,
    }
    match data.encode(&mut outgoing[before..]) {
        Ok(count) => {
            outgoing.truncate(before + count);
            SessionStep::Continue
        }
        Err(_) => SessionStep::Wait,
    }
}

/// Seals as much of `pieces` as is sealed at once. What fits into one record is one; else a large piece is sealed where it lies,
/// and small ones are put together.
fn seal_pieces(
    traffic: &mut WriteTraffic<'_, ServerConnectionData>,
    pieces: &[IoSlice<'_>],
    joined: &mut [u8],
    sealed: &mut [u8],
) -> Result<(usize, usize), EncryptError> {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    let is_lone = pieces.iter().filter(|piece| !piece.is_empty()).count() == 1;
    let most_joined = if total <= joined.len() { joined.len() } else { OWN_RECORD_BYTES };
    let mut sealing = RecordSealing { traffic, sealed, content: 0, records: 0 };
    let mut waiting = 0;
    for piece in pieces {
        let plain = &piece[..piece.len().min(SEALED_BYTES - sealing.content - waiting)];
        if !is_lone && plain.len() <= most_joined - waiting {
            joined[waiting..waiting + plain.len()].copy_from_slice(plain);
            waiting += plain.len();
            continue;
        }
        if !sealing.seal(&joined[..std::mem::take(&mut waiting)])? || !sealing.seal(plain)? {
            return Ok((sealing.content, sealing.records));
        }
    }
    sealing.seal(&joined[..waiting])?;
    Ok((sealing.content, sealing.records))
}

/// Content that is being sealed, piece by piece.
struct RecordSealing<'a, 'c> {
    traffic: &'a mut WriteTraffic<'c, ServerConnectionData>,
    sealed: &'a mut [u8],
    /// Bytes of content that are sealed, and of their records.
    content: usize,
    records: usize,
}

impl RecordSealing<'_, '_> {
    /// Seals `plain`; false where that has to wait until what is sealed is sent.
    fn seal(&mut self, plain: &[u8]) -> Result<bool, EncryptError> {
        if plain.is_empty() {
            return Ok(true);
        }
        match self.traffic.encrypt(plain, &mut self.sealed[self.records..]) {
            Ok(count) => {
                self.records += count;
                self.content += plain.len();
                Ok(true)
            }
            Err(_) if self.content > 0 => Ok(false),
            Err(error) => Err(error),
        }
    }
}
