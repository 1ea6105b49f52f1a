//! The partner's application: an HTTP/1.1 echo that reports which client key pair the sidecar saw.

use std::convert::Infallible;
use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The response field with the SHA-256 of the client's certificate, from `X-Forwarded-Client-Cert`.
pub(super) const KEY_PAIR: &str = "demo-client-key-pair";

/// Starts it on a free loopback port; it ends with the runtime.
pub(super) async fn start() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Without it the last part of an echo waits for the other side's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)),
            );
        }
    });
    Ok(address)
}

async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    let seen = request.headers().get("x-forwarded-client-cert").and_then(|value| value.to_str().ok());
    let hash = seen.and_then(|text| text.split(';').find_map(|part| part.strip_prefix("Hash="))).unwrap_or("none");
    let hash = http::HeaderValue::from_str(hash).unwrap_or(http::HeaderValue::from_static("none"));
    let mut response = Response::new(request.into_body());
    response.headers_mut().insert(KEY_PAIR, hash);
    Ok(response)
}
