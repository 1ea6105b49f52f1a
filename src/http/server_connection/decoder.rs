//! How the content of a response over HTTP/1.1 is told apart from what follows it (RFC 9112 6 and 7): by a length, by chunks, or not
//! at all until the end of the connection. Pure.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;

use super::fault::{MAX_FIELDS, MAX_HEAD_BYTES, ResponseFault, describe_fault};

/// Bytes of extensions that the chunks of one response may have together. They are skipped.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;
/// Bytes of a chunk's line without its extensions, at most: more digits than 64 bits have, and blanks.
const MAX_SIZE_BYTES: usize = 64;

/// How far the content of a response has been told apart.
#[derive(Debug, PartialEq, Eq)]
pub enum ContentDecoder {
    /// So many bytes are to come.
    Length(u64),
    /// Chunks.
    Chunked(ChunkDecoder),
    /// All until the end of the connection.
    UntilClose,
    /// It is over.
    Over,
}

/// How far chunks have been told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChunkDecoder {
    place: ChunkPlace,
    /// Bytes of extensions so far.
    extensions: usize,
    /// How far the end of the line, or of the trailer section, has been searched for.
    searched: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkPlace {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

/// What the next bytes of chunks are.
#[derive(Debug, PartialEq, Eq)]
pub enum ChunkStep {
    /// More bytes are needed.
    More,
    /// So many bytes of content follow.
    Data(u64),
    /// The content is over, with these trailers.
    End(Option<HeaderMap>),
}

impl ContentDecoder {
    /// Content of a known length.
    pub(super) fn with_length(length: u64) -> Self {
        Self::Length(length)
    }

    /// Content in chunks.
    pub(super) fn chunked() -> Self {
        Self::Chunked(ChunkDecoder::default())
    }

    /// Content that ends with the connection.
    pub(super) fn until_close() -> Self {
        Self::UntilClose
    }
}

impl ChunkDecoder {
    /// So many bytes of the present chunk have been passed on.
    pub fn record_data(&mut self, count: u64) {
        if let ChunkPlace::Data(left) = self.place {
            let left = left.saturating_sub(count);
            self.place = if left == 0 { ChunkPlace::DataEnd } else { ChunkPlace::Data(left) };
        }
    }

    /// Removes everything that is not content from the beginning of what was received.
    pub fn decode(&mut self, received: &mut BytesMut) -> Result<ChunkStep, ResponseFault> {
        loop {
            match self.place {
                ChunkPlace::Data(left) => return Ok(ChunkStep::Data(left)),
                ChunkPlace::DataEnd => match &received[..] {
                    [b'\r', b'\n', ..] => {
                        let _ = received.split_to(2);
                        self.place = ChunkPlace::Size;
                    }
                    [] | [b'\r'] => return Ok(ChunkStep::More),
                    _ => return Err(ResponseFault::Malformed("a chunk is longer than its size")),
                },
                ChunkPlace::Size => {
                    let Some(size) = self.decode_size(received)? else { return Ok(ChunkStep::More) };
                    self.place = if size == 0 { ChunkPlace::Trailers } else { ChunkPlace::Data(size) };
                }
                ChunkPlace::Trailers => return self.decode_trailers(received),
            }
        }
    }

    fn decode_size(&mut self, received: &mut BytesMut) -> Result<Option<u64>, ResponseFault> {
        let Some(end) = memchr::memchr(b'\n', &received[self.searched..]).map(|at| self.searched + at) else {
            self.searched = received.len();
            let most = MAX_SIZE_BYTES + MAX_EXTENSION_BYTES - self.extensions;
            return if self.searched > most {
                Err(ResponseFault::Malformed("the line of a chunk is too long"))
            } else {
                Ok(None)
            };
        };
        self.searched = 0;
        let line = received.split_to(end + 1);
        let line = line
            .strip_suffix(b"\r\n")
            .ok_or(ResponseFault::Malformed("the line of a chunk does not end with CR LF"))?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&line[..digits]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or(ResponseFault::Malformed("the size of a chunk is not a number of 64 bits"))?;
        let rest = line[digits..].trim_ascii_start();
        self.extensions += rest.len();
        let is_extension = rest.is_empty() || (rest.starts_with(b";") && !rest.contains(&b'\r'));
        if !is_extension || self.extensions > MAX_EXTENSION_BYTES {
            return Err(ResponseFault::Malformed("the extensions of a chunk are malformed or too long"));
        }
        Ok(Some(size))
    }

    /// The trailer section, once it is whole.
    fn decode_trailers(&mut self, received: &mut BytesMut) -> Result<ChunkStep, ResponseFault> {
        if received.starts_with(b"\r\n") {
            let _ = received.split_to(2);
            return Ok(ChunkStep::End(None));
        }
        let from = self.searched.saturating_sub(3);
        if memchr::memmem::find(&received[from..], b"\r\n\r\n").is_none() {
            self.searched = received.len();
            let long = self.searched > MAX_HEAD_BYTES;
            return if long {
                Err(ResponseFault::Malformed("its trailer section is too large"))
            } else {
                Ok(ChunkStep::More)
            };
        }
        let mut fields = vec![httparse::EMPTY_HEADER; MAX_FIELDS];
        let (size, trailers) = match httparse::parse_headers(received, &mut fields) {
            Ok(Status::Complete((size, fields))) if size <= MAX_HEAD_BYTES => (size, collect_trailers(fields)),
            Ok(_) => return Err(ResponseFault::Malformed("its trailer section is too large")),
            Err(error) => return Err(ResponseFault::Malformed(describe_fault(error))),
        };
        let _ = received.split_to(size);
        trailers.map(|trailers| ChunkStep::End(Some(trailers))).ok_or(ResponseFault::Malformed("a trailer is invalid"))
    }
}

fn collect_trailers(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let pair = |field: &httparse::Header<'_>| {
        Some((HeaderName::from_bytes(field.name.as_bytes()).ok()?, HeaderValue::from_bytes(field.value).ok()?))
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let (name, value) = pair(field)?;
        trailers.append(name, value);
    }
    Some(trailers)
}
