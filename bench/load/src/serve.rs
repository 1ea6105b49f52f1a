//! The server behind a proxy: HTTP/1.1 in plain text, or over mutual TLS for the way out.

use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::LoadError;
use crate::dial::server_config;
use crate::http1::MessageBuffer;
use crate::lane::SMALL;
use crate::options::Options;

/// The largest response, in bytes.
const LARGEST: usize = 1 << 20;

/// Serves until the process is ended.
pub(crate) async fn serve(options: &Options) -> Result<(), LoadError> {
    let port = options.number("port")?.ok_or("--port is needed")?;
    serve_listener(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?, options).await
}

pub(crate) async fn serve_listener(listener: TcpListener, options: &Options) -> Result<(), LoadError> {
    let acceptor = match options.text("certs") {
        None => None,
        Some(certs) => Some(TlsAcceptor::from(Arc::new(server_config(Path::new(certs), options.has("admit-all"))?))),
    };
    let content = Rc::new(vec![b'x'; LARGEST]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, content) = (acceptor.clone(), Rc::clone(&content));
        spawn_local(async move {
            // A proxy may close as it likes; what it owes is counted by the client.
            drop(match acceptor {
                None => answer_requests(stream, &content).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => answer_requests(stream, &content).await,
                    Err(error) => Err(error.into()),
                },
            });
        });
    }
}

async fn answer_requests(mut stream: impl AsyncRead + AsyncWrite + Unpin, content: &[u8]) -> Result<(), LoadError> {
    let (mut buffer, small) = (MessageBuffer::new(true), response(&content[..SMALL]));
    let mut seen = Vec::new();
    loop {
        let head = buffer.read_head(&mut stream, |bytes| {
            if bytes.starts_with(b"GET /head ") {
                seen = bytes.to_vec();
            }
        });
        let Some(head) = head.await? else { return Ok(()) };
        buffer.skip_body(&mut stream, head.length).await?;
        match head.second.as_str() {
            "/" => stream.write_all(&small).await?,
            "/head" => stream.write_all(&response(&seen)).await?,
            path => {
                let size = path.trim_start_matches('/').parse::<usize>()?.min(LARGEST);
                stream.write_all(head_of(size).as_bytes()).await?;
                stream.write_all(&content[..size]).await?;
            }
        }
        stream.flush().await?;
    }
}

fn head_of(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n")
}

fn response(content: &[u8]) -> Vec<u8> {
    [head_of(content.len()).as_bytes(), content].concat()
}
