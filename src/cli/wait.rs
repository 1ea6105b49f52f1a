//! `sidekey wait`: asks a running sidecar's `/readyz` until it is ready. For start ordering and container health checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::failure::CommandFailure;
use super::print;
use super::source::{FlagSource, load_file};
use crate::net::ListenAddress;

/// How often it asks.
const EVERY: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(super) struct WaitArguments {
    /// Configuration file of the sidecar [default: ./sidekey.toml, then /etc/sidekey/sidekey.toml, if there is one]
    #[arg(long, env = "SIDEKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The probes listener to ask
    #[arg(long, env = "SIDEKEY_PROBES", value_name = "ADDRESS")]
    probes: Option<String>,
    /// The admin listener to ask, where there are no probes
    #[arg(long, env = "SIDEKEY_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    /// How long to wait, in seconds; 0 checks once
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

impl FlagSource for WaitArguments {
    fn named_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn forget_flag(&mut self, id: &str) {
        match id {
            "probes" => self.probes = None,
            _ => self.admin = None,
        }
    }
}

pub(super) fn run(arguments: &WaitArguments) -> Result<(), CommandFailure> {
    let address = address(arguments).map_err(CommandFailure::Wrong)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    runtime.block_on(async {
        loop {
            // One answer may take as long as the whole wait, but never less than a second: `--timeout 0` asks once.
            let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
            let answer = tokio::time::timeout(patience, request_readiness(&address)).await;
            let said = match answer {
                Ok(Ok((true, _))) => return Ok(()),
                Ok(Ok((false, text))) => format!("not ready: {}", text.trim()),
                Ok(Err(error)) => format!("no answer from {address}: {}", print::causes(&error)),
                Err(_) => format!("no answer from {address} within the timeout"),
            };
            if Instant::now() + EVERY >= deadline {
                print::talk(&format!("sidekey: {said}"));
                return Err(CommandFailure::Said(1));
            }
            tokio::time::sleep(EVERY).await;
        }
    })
}

/// Where `/readyz` answers: the probes listener, else the admin listener.
fn address(arguments: &WaitArguments) -> anyhow::Result<ListenAddress> {
    let text = arguments.probes.as_ref().or(arguments.admin.as_ref());
    if let Some(text) = text {
        return crate::config::parse_listen_address(text).map_err(|why| anyhow::anyhow!("{text}: {why}"));
    }
    let config = load_file(arguments.config.as_deref())?;
    let config = config.context("no listener to ask: set --probes ADDRESS, or add a configuration file")?;
    config.admin.probes.or(config.admin.listen).context("the configuration sets neither probes nor listen in [admin]")
}

async fn request_readiness(address: &ListenAddress) -> anyhow::Result<(bool, String)> {
    match address {
        ListenAddress::Unix { path, .. } => get(tokio::net::UnixStream::connect(path).await?).await,
        ListenAddress::Tcp(address) => get(tokio::net::TcpStream::connect(dialable(*address)).await?).await,
        ListenAddress::AnyTcp(port) => {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), *port);
            get(tokio::net::TcpStream::connect(address).await?).await
        }
    }
}

/// A wildcard address is listened on, not dialled.
fn dialable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn get(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> anyhow::Result<(bool, String)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get("/readyz").header(http::header::HOST, "localhost").body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let ready = response.status().is_success();
        let text = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((ready, crate::pki::printable(&String::from_utf8_lossy(&text))))
    };
    tokio::pin!(connection);
    tokio::select! {
        answer = answer => answer,
        ended = &mut connection => {
            ended?;
            anyhow::bail!("the connection was closed")
        }
    }
}
