//! Any bytes as the response of a server over HTTP/1.1: the parser never panics, reads the same however they arrive, never takes
//! a byte twice, and lets no content through whose end it does not know.
#![no_main]

use bytes::BytesMut;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use sidekey::http::server_connection::decoder::{ChunkStep, ContentDecoder};
use sidekey::http::server_connection::head::parse_response_head;

/// What was made of the bytes: statuses, content, whether it is over, whether a fault ended it, and what is left.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReadResponse {
    statuses: Vec<u16>,
    content: Vec<u8>,
    over: bool,
    fault: bool,
    left: Vec<u8>,
}

fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, of_head: bool) -> ReadResponse {
    let (mut read, mut received, mut decoder) = (ReadResponse::default(), BytesMut::new(), None);
    for piece in pieces {
        received.extend_from_slice(piece);
        if !read.fault && step(&mut read, &mut received, &mut decoder, of_head).is_none() {
            read.fault = true;
        }
    }
    // What a fault leaves depends on how much had come; what follows a whole response does not.
    read.left = if read.over { received.to_vec() } else { Vec::new() };
    read
}

/// Reads as far as the bytes go; `None`: a fault.
fn step(
    read: &mut ReadResponse,
    received: &mut BytesMut,
    decoder: &mut Option<ContentDecoder>,
    of_head: bool,
) -> Option<()> {
    while decoder.is_none() {
        let Some(head) = parse_response_head(received, of_head, &mut HeaderMap::new()).ok()? else { return Some(()) };
        read.statuses.push(head.response.status().as_u16());
        *decoder = head.content;
    }
    loop {
        match decoder.as_mut()? {
            _ if read.over => return Some(()),
            ContentDecoder::Over | ContentDecoder::Length(0) => read.over = true,
            ContentDecoder::Length(left) => {
                let count = received.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                read.content.extend_from_slice(&received.split_to(count));
                *left -= count as u64;
                if *left > 0 {
                    return Some(());
                }
            }
            ContentDecoder::UntilClose => {
                read.content.extend_from_slice(&received.split());
                return Some(());
            }
            ContentDecoder::Chunked(chunks) => match chunks.decode(received).ok()? {
                ChunkStep::More => return Some(()),
                ChunkStep::End(_) => read.over = true,
                ChunkStep::Data(left) => {
                    let count = received.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if count == 0 {
                        return Some(());
                    }
                    read.content.extend_from_slice(&received.split_to(count));
                    chunks.record_data(count as u64);
                }
            },
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [flags, cut, bytes @ ..] = data else { return };
    let of_head = flags & 1 == 1;
    let whole = read([bytes], of_head);
    assert!(whole.content.len() + whole.left.len() <= bytes.len());
    assert!(!whole.over || bytes.ends_with(&whole.left));
    let cut = usize::from(*cut).min(bytes.len());
    for split in [read([&bytes[..cut], &bytes[cut..]], of_head), read(bytes.chunks(1), of_head)] {
        assert_eq!(whole, split);
    }
});
