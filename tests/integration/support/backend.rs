//! A plain HTTP application that records what reaches it and echoes bodies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub uri: Uri,
    pub headers: HeaderMap,
    pub version: http::Version,
}

impl Seen {
    /// A header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    }
}

pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;
type Answer = Arc<dyn Fn(&Seen, Incoming) -> Response<Body> + Send + Sync>;

/// A running backend; it ends with the test's runtime.
#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A whole body at once.
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Backend {
    /// Echoes the body, with 200.
    pub async fn echo() -> Self {
        Self::with(|_, body| Response::new(body.boxed_unsync())).await
    }

    /// Answers as `answer` says, HTTP/1.1 or HTTP/2 with prior knowledge as the client speaks.
    pub async fn with(answer: impl Fn(&Seen, Incoming) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer: Answer = Arc::new(answer);
        let records = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, records) = (Arc::clone(&answer), Arc::clone(&records));
                tokio::spawn(async move {
                    let service = service_fn(move |request: hyper::Request<Incoming>| {
                        let (parts, body) = request.into_parts();
                        let one = Seen { uri: parts.uri, headers: parts.headers, version: parts.version };
                        records.lock().expect("lock").push(one.clone());
                        let mut response = answer(&one, body);
                        response.headers_mut().insert("backend", HeaderValue::from_static("yes"));
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let mut first = [0; 3];
                    let h2 = matches!(stream.peek(&mut first).await, Ok(3) if &first == b"PRI");
                    let io = TokioIo::new(stream);
                    if h2 {
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .with_upgrades()
                            .await;
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// Everything that arrived.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }

    /// Lets go of everything that arrived.
    pub fn forget(&self) {
        self.seen.lock().expect("lock").clear();
    }

    /// The latest request.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("no request reached the backend")
    }
}
