//! A lane: what sends one request after the other, a connection of HTTP/1.1 or a stream of HTTP/2.

use std::rc::Rc;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use crate::LoadError;
use crate::dial::{ByteStream, DialledConnection, Dialler};
use crate::http1::{MessageBuffer, MessageHead};
use crate::options::Options;

/// How many bytes a response of `/` has.
pub(crate) const SMALL: usize = 128;

/// What each request is, and what its response has to be.
pub(crate) struct RequestPlan {
    /// Head and body, ready to be sent by HTTP/1.1.
    plain: Vec<u8>,
    /// The target of HTTP/2.
    target: String,
    upload: Bytes,
    /// Bytes of each response; `None`: any number.
    download: Option<usize>,
}

impl RequestPlan {
    /// As the options say.
    pub(crate) fn read(options: &Options) -> Result<Rc<Self>, LoadError> {
        Self::for_host(options, "localhost")
    }

    /// As the options say, for this host.
    pub(crate) fn for_host(options: &Options, host: &str) -> Result<Rc<Self>, LoadError> {
        let (download, upload) = (options.number_or("download", SMALL)?, options.number_or("upload", 0)?);
        let path = match options.text("path") {
            Some(path) => path.to_owned(),
            None if download == SMALL => "/".to_owned(),
            None => format!("/{download}"),
        };
        let (upload, head) = (Bytes::from(vec![b'y'; upload]), format!("Host: {host}\r\nUser-Agent: sidekey-load\r\n"));
        let mut plain = match upload.len() {
            0 => format!("GET {path} HTTP/1.1\r\n{head}\r\n").into_bytes(),
            length => format!("POST {path} HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n").into_bytes(),
        };
        plain.extend_from_slice(&upload);
        let download = options.text("path").is_none().then_some(download);
        Ok(Rc::new(Self { plain, target: format!("https://{host}{path}"), upload, download }))
    }

    fn is_large(&self) -> bool {
        self.download.is_some_and(|bytes| bytes > SMALL)
    }

    fn check_length(&self, length: usize) -> Result<(), LoadError> {
        match self.download {
            Some(wanted) if wanted != length => Err(format!("{length} bytes came instead of {wanted}").into()),
            _ => Ok(()),
        }
    }
}

/// Sends a request of HTTP/1.1 and reads the head of its response.
async fn send_plain(
    stream: &mut Box<dyn ByteStream>,
    buffer: &mut MessageBuffer,
    plan: &RequestPlan,
) -> Result<MessageHead, LoadError> {
    stream.write_all(&plan.plain).await?;
    stream.flush().await?;
    let head = buffer.read_head(stream, |_| ()).await?;
    head.ok_or_else(|| "the connection has ended without a response".into())
}

/// One request after the other.
pub(crate) enum RequestLane {
    Http1 { stream: Box<dyn ByteStream>, buffer: MessageBuffer },
    Http2(h2::client::SendRequest<Bytes>),
}

impl RequestLane {
    /// A connection, and what was negotiated for it.
    pub(crate) async fn open(dialler: &Dialler, plan: &RequestPlan) -> Result<(Self, DialledFacts), LoadError> {
        let DialledConnection { stream, resumed, negotiated } = dialler.dial().await?;
        let facts = DialledFacts { resumed, negotiated };
        if !dialler.http2 {
            return Ok((Self::Http1 { stream, buffer: MessageBuffer::new(plan.is_large()) }, facts));
        }
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(stream)
            .await?;
        spawn_local(connection);
        Ok((Self::Http2(sender), facts))
    }

    /// So many lanes of this connection: streams, where it is of HTTP/2.
    pub(crate) fn split(self, streams: usize) -> Vec<Self> {
        match self {
            Self::Http1 { .. } => vec![self],
            Self::Http2(sender) => (0..streams).map(|_| Self::Http2(sender.clone())).collect(),
        }
    }

    /// One request and its response; whether the connection closes after it.
    pub(crate) async fn exchange(&mut self, plan: &RequestPlan) -> Result<bool, LoadError> {
        match self {
            Self::Http1 { stream, buffer } => {
                let head = send_plain(stream, buffer, plan).await?;
                if head.second != "200" {
                    return Err(format!("status {}", head.second).into());
                }
                plan.check_length(head.length)?;
                buffer.skip_body(stream, head.length).await?;
                Ok(head.closing)
            }
            Self::Http2(sender) => exchange_stream(sender, plan).await.map(|()| false),
        }
    }

    /// One request whose small response is wanted: its status and its body.
    pub(crate) async fn ask(&mut self, plan: &RequestPlan) -> Result<(String, String), LoadError> {
        match self {
            Self::Http1 { stream, buffer } => {
                let head = send_plain(stream, buffer, plan).await?;
                let mut body = buffer.unread().to_vec();
                let already = body.len();
                body.resize(head.length.max(already), 0);
                stream.read_exact(&mut body[already..]).await?;
                Ok((head.second, String::from_utf8_lossy(&body).into_owned()))
            }
            Self::Http2(sender) => {
                *sender = sender.clone().ready().await?;
                let (response, _) = sender.send_request(request_of(plan)?, true)?;
                let (head, mut body) = response.await?.into_parts();
                let mut text = Vec::new();
                while let Some(part) = body.data().await {
                    text.extend_from_slice(&part?);
                }
                Ok((head.status.as_str().to_owned(), String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }

    /// Ends the connection as a client does: close_notify, then the end of the stream.
    pub(crate) async fn close(self) {
        if let Self::Http1 { mut stream, .. } = self {
            // The other side may have closed already.
            drop(stream.shutdown().await);
        }
    }
}

/// What the handshake of a connection came to.
pub(crate) struct DialledFacts {
    pub(crate) resumed: bool,
    pub(crate) negotiated: String,
}

fn request_of(plan: &RequestPlan) -> Result<Request<()>, LoadError> {
    let method = if plan.upload.is_empty() { "GET" } else { "POST" };
    let request = Request::builder().method(method).uri(&plan.target);
    let request = request.header("user-agent", "sidekey-load");
    let request = if plan.upload.is_empty() { request } else { request.header("content-length", plan.upload.len()) };
    Ok(request.body(())?)
}

async fn exchange_stream(sender: &mut h2::client::SendRequest<Bytes>, plan: &RequestPlan) -> Result<(), LoadError> {
    *sender = sender.clone().ready().await?;
    let (response, mut upload) = sender.send_request(request_of(plan)?, plan.upload.is_empty())?;
    if !plan.upload.is_empty() {
        upload.send_data(plan.upload.clone(), true)?;
    }
    let (head, mut body) = response.await?.into_parts();
    let mut length = 0;
    while let Some(part) = body.data().await {
        let part = part?;
        length += part.len();
        body.flow_control().release_capacity(part.len())?;
    }
    if head.status != 200 {
        return Err(format!("status {}", head.status).into());
    }
    plan.check_length(length)
}
