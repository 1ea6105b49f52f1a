//! The PROXY header, version 1 and 2: what a load balancer says about the connection that it passes on.
//!
//! The parser is pure, and it says how many bytes may be read next, so that never a byte of what follows the header is
//! taken. The caller decides which to believe. The specification is HAProxy's `proxy-protocol.txt`; TLV extensions
//! are skipped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its line end included.
const V1_MAX_BYTES: usize = 107;
/// The shortest possible header: `PROXY UNKNOWN` and its line end.
const MIN_HEADER_BYTES: usize = 15;
/// Version 2 without its addresses.
const V2_FIXED_BYTES: usize = 16;

/// What the parser needs or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderStep {
    /// At least so many bytes are missing; no more than these may be read.
    More(usize),
    /// The header is understood.
    Done {
        /// Where the connection comes from; `None` = the load balancer speaks for itself (`LOCAL`), or does not know
        /// (`UNKNOWN`): the socket's own address holds.
        from: Option<SocketAddr>,
        /// Bytes of the header that are still to come and mean nothing to us.
        skip: usize,
    },
}

/// Why these bytes are not a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderViolation {
    /// It does not begin like one.
    #[error("it does not begin with a PROXY header")]
    Absent,
    /// It begins like one and is malformed after that.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
}

/// Why reading a header failed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The bytes are wrong; the first of them.
    #[error("{wrong}")]
    Wrong {
        /// What is wrong with them.
        wrong: ProxyHeaderViolation,
        /// The first bytes that came.
        first: Vec<u8>,
    },
    /// The connection ended or failed.
    #[error("{source}")]
    Io {
        /// Why.
        source: io::Error,
        /// Whether not even one byte had come.
        no_byte: bool,
    },
}

/// Judges what was read so far, from the first byte on.
///
/// # Errors
/// It is not a PROXY header, whatever may follow.
pub fn parse_header(bytes: &[u8]) -> Result<ProxyHeaderStep, ProxyHeaderViolation> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, expected)| byte == expected);
    if begins(V2_SIGNATURE) {
        parse_version_2(bytes)
    } else if begins(V1_SIGNATURE) {
        parse_version_1(bytes)
    } else {
        Err(ProxyHeaderViolation::Absent)
    }
}

/// Reads a header off a stream, and not one byte more.
///
/// # Errors
/// The header is missing or malformed, or the connection failed.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut bytes = Vec::with_capacity(V1_MAX_BYTES);
    loop {
        match parse_header(&bytes) {
            Ok(ProxyHeaderStep::More(count)) => {
                let read = (&mut *stream).take(count as u64).read_buf(&mut bytes).await;
                match read {
                    Ok(0) => return Err(read_error(io::ErrorKind::UnexpectedEof.into(), &bytes)),
                    Ok(_) => {}
                    Err(source) => return Err(read_error(source, &bytes)),
                }
            }
            Ok(ProxyHeaderStep::Done { from, skip }) => {
                let mut rest = (&mut *stream).take(skip as u64);
                return match tokio::io::copy(&mut rest, &mut tokio::io::sink()).await {
                    Ok(skipped) if skipped == skip as u64 => Ok(from),
                    Ok(_) => Err(read_error(io::ErrorKind::UnexpectedEof.into(), &bytes)),
                    Err(source) => Err(read_error(source, &bytes)),
                };
            }
            Err(wrong) => return Err(ProxyHeaderError::Wrong { wrong, first: bytes }),
        }
    }
}

fn read_error(source: io::Error, bytes: &[u8]) -> ProxyHeaderError {
    ProxyHeaderError::Io { source, no_byte: bytes.is_empty() }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`, single blanks.
fn parse_version_1(bytes: &[u8]) -> Result<ProxyHeaderStep, ProxyHeaderViolation> {
    if bytes.len() < MIN_HEADER_BYTES {
        return Ok(ProxyHeaderStep::More(MIN_HEADER_BYTES - bytes.len()));
    }
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        if bytes.len() >= V1_MAX_BYTES {
            return Err(ProxyHeaderViolation::Malformed("a line of more than 107 bytes"));
        }
        return Ok(ProxyHeaderStep::More(if bytes.ends_with(b"\r") { 1 } else { 2.min(V1_MAX_BYTES - bytes.len()) }));
    };
    if end + 1 != bytes.len() || end + 1 > V1_MAX_BYTES {
        return Err(ProxyHeaderViolation::Malformed("a line end in the wrong place"));
    }
    let line = bytes[..end]
        .strip_suffix(b"\r")
        .ok_or(ProxyHeaderViolation::Malformed("a line feed without carriage return"))?;
    let line =
        std::str::from_utf8(&line[V1_SIGNATURE.len()..]).map_err(|_| ProxyHeaderViolation::Malformed("not ASCII"))?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(ProxyHeaderStep::Done { from: None, skip: 0 });
    }
    let mut words = line.split(' ');
    let mut next = || words.next().ok_or(ProxyHeaderViolation::Malformed("too few words"));
    let (protocol, source, destination) = (next()?, next()?, next()?);
    let (port, to_port) = (next()?, next()?);
    if words.next().is_some() {
        return Err(ProxyHeaderViolation::Malformed("too many words"));
    }
    let address = |text: &str| -> Result<IpAddr, ProxyHeaderViolation> {
        let parsed = match protocol {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6),
            _ => return Err(ProxyHeaderViolation::Malformed("a protocol other than TCP4, TCP6 and UNKNOWN")),
        };
        parsed.map_err(|_| ProxyHeaderViolation::Malformed("an address that does not parse"))
    };
    let from = address(source)?;
    address(destination)?;
    parse_port(to_port)?;
    Ok(ProxyHeaderStep::Done { from: Some(canonical_socket(from, parse_port(port)?)), skip: 0 })
}

/// A port in decimal, without sign and without zeros in front.
fn parse_port(text: &str) -> Result<u16, ProxyHeaderViolation> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let parsed = text.parse().ok().filter(|_| plain);
    parsed.ok_or(ProxyHeaderViolation::Malformed("a port that does not parse"))
}

fn parse_version_2(bytes: &[u8]) -> Result<ProxyHeaderStep, ProxyHeaderViolation> {
    if bytes.len() < V2_FIXED_BYTES {
        // Reading the rest of the fixed part takes nothing that follows: no header is shorter.
        let known = if bytes.len() < MIN_HEADER_BYTES { MIN_HEADER_BYTES } else { V2_FIXED_BYTES };
        return Ok(ProxyHeaderStep::More(known - bytes.len()));
    }
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let local = match bytes[12] {
        0x20 => true,
        0x21 => false,
        version if version >> 4 != 2 => return Err(ProxyHeaderViolation::Malformed("a version other than 2")),
        _ => return Err(ProxyHeaderViolation::Malformed("a command other than LOCAL and PROXY")),
    };
    // The length of source and destination address with their ports.
    let needed = match (local, bytes[13]) {
        // What a LOCAL header says about addresses is to be ignored; UNSPEC and Unix sockets say none that we could use.
        (true, _) | (_, 0x00 | 0x31 | 0x32) => 0,
        (_, 0x11) => 12,
        (_, 0x21) => 36,
        _ => return Err(ProxyHeaderViolation::Malformed("a connection that is not TCP")),
    };
    if length < needed {
        return Err(ProxyHeaderViolation::Malformed("a length too short for its addresses"));
    }
    let have = bytes.len() - V2_FIXED_BYTES;
    if have < needed {
        return Ok(ProxyHeaderStep::More(needed - have));
    }
    if have > length {
        return Err(ProxyHeaderViolation::Malformed("bytes beyond its length"));
    }
    let at = &bytes[V2_FIXED_BYTES..];
    let from = match needed {
        12 => Some((octets_at::<4>(at).into(), port_at(at, 8))),
        36 => Some((octets_at::<16>(at).into(), port_at(at, 32))),
        _ => None,
    };
    Ok(ProxyHeaderStep::Done { from: from.map(|(address, port)| canonical_socket(address, port)), skip: length - have })
}

fn octets_at<const N: usize>(at: &[u8]) -> [u8; N] {
    let mut octets = [0; N];
    octets.copy_from_slice(&at[..N]);
    octets
}

fn port_at(at: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([at[offset], at[offset + 1]])
}

/// In canonical form: an IPv4 address that the header has mapped into IPv6 becomes IPv4 again.
fn canonical_socket(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests;
