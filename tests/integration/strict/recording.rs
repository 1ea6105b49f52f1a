//! A backend without an HTTP library: it records the very bytes of every request, whole or not, and answers 200.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One HTTP/1 request, taken apart by its own rules: `Content-Length` or exactly `chunked`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Method and target.
    pub line: String,
    /// Names in lower case, values without blanks around them, in order.
    pub fields: Vec<(String, Vec<u8>)>,
    pub content: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Taken {
    /// The only value of a field.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// Takes one request off the front of `bytes`; `None` while it is not whole.
pub fn take(bytes: &[u8]) -> Option<(Taken, usize)> {
    let mut at = 0;
    let mut taken = Taken::default();
    let first = line(bytes, &mut at)?;
    let mut words = first.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next().unwrap_or_default());
    taken.line = format!("{} {}", method.escape_ascii(), target.escape_ascii());
    taken.fields = fields(bytes, &mut at)?;
    if taken.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        loop {
            let size = line(bytes, &mut at)?;
            let digits = size.split(|byte| !byte.is_ascii_hexdigit()).next()?;
            let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            if size == 0 {
                break;
            }
            taken.content.extend_from_slice(bytes.get(at..at + size)?);
            at += size;
            line(bytes, &mut at)?;
        }
        taken.trailers = fields(bytes, &mut at)?;
    } else if let Some(length) = taken.field("content-length") {
        let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
        taken.content = bytes.get(at..at + length)?.to_vec();
        at += length;
    }
    Some((taken, at))
}

fn line<'b>(bytes: &'b [u8], at: &mut usize) -> Option<&'b [u8]> {
    let rest = &bytes[*at..];
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    *at += end + 2;
    Some(&rest[..end])
}

fn fields(bytes: &[u8], at: &mut usize) -> Option<Vec<(String, Vec<u8>)>> {
    let mut fields = Vec::new();
    loop {
        let field = line(bytes, at)?;
        if field.is_empty() {
            return Some(fields);
        }
        let colon = field.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&field[..colon]).to_ascii_lowercase();
        fields.push((name, field[colon + 1..].trim_ascii().to_vec()));
    }
}

/// The running backend.
#[derive(Clone)]
pub struct Recording {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    whole: Vec<Taken>,
    /// Bytes of requests that are not whole (yet), by connection.
    partial: Vec<Vec<u8>>,
    /// Whether a connection has ended: nothing more can arrive on it.
    ended: Vec<bool>,
}

impl Recording {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let connection = {
                    let mut state = state.lock().expect("lock");
                    state.partial.push(Vec::new());
                    state.ended.push(false);
                    state.partial.len() - 1
                };
                tokio::spawn(async move {
                    serve(stream, connection, &state).await;
                    state.lock().expect("lock").ended[connection] = true;
                });
            }
        });
        Self { address, state }
    }

    /// The requests that arrived whole.
    pub fn whole(&self) -> Vec<Taken> {
        self.state.lock().expect("lock").whole.clone()
    }

    /// Whether no connection is open on which part of a request has arrived.
    pub fn is_settled(&self) -> bool {
        let state = self.state.lock().expect("lock");
        state.partial.iter().zip(&state.ended).all(|(partial, ended)| partial.is_empty() || *ended)
    }

    /// Bytes that arrived of requests that are not whole.
    pub fn partial(&self) -> usize {
        self.state.lock().expect("lock").partial.iter().map(Vec::len).sum()
    }
}

async fn serve(mut stream: TcpStream, connection: usize, state: &Mutex<State>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let answers = {
            let mut state = state.lock().expect("lock");
            state.partial[connection].extend_from_slice(&buffer[..count]);
            let mut answers = Vec::new();
            while let Some((taken, size)) = take(&state.partial[connection]) {
                state.partial[connection].drain(..size);
                let head = taken.line.starts_with("HEAD ");
                answers.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
                answers.extend_from_slice(if head { b"" } else { b"ok" });
                state.whole.push(taken);
            }
            answers
        };
        if stream.write_all(&answers).await.is_err() {
            return;
        }
    }
}
