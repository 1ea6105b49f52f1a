//! Something between a client and a server that can be cut, opened again, and slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How it behaves now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Passes everything on.
    Open,
    /// Refuses new connections and ends those that are there.
    Cut,
    /// Holds back every answer for so long.
    Slow(Duration),
}

/// A running one; it ends with the test's runtime.
pub struct Between {
    pub address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
}

impl Between {
    pub async fn new(server: SocketAddr, way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = Arc::new(watch::Sender::new(way));
        let now = way.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *now.borrow() != Way::Cut {
                    tokio::spawn(pass(client, server, now.clone()));
                }
            }
        });
        Self { address, way }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pass(client: TcpStream, server: SocketAddr, mut way: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let answers = copy(server_reads, client_writes, Some(way.clone()));
    tokio::select! {
        () = copy(client_reads, server_writes, None) => {}
        () = answers => {}
        _ = way.wait_for(|way| *way == Way::Cut) => {}
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, way: Option<watch::Receiver<Way>>) {
    let mut bytes = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let slow = way.as_ref().map(|way| *way.borrow());
        if let Some(Way::Slow(pause)) = slow {
            tokio::time::sleep(pause).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
