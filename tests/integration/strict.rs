//! One request in is one request out: a corpus of honest and malformed requests through the real TLS listener.
//!
//! Must hold: no case reaches the backend that must not, and every honest one does, byte for byte but for hop-by-hop
//! fields and what Sidekey sets; the verdict is the same however the bytes arrive; a refusal has its access line, its
//! log line and its count. The cases are plain data in `tests/corpus/`.

mod corpus;
mod frames;
mod h1;
mod h2;
mod large_heads;
mod late;
mod recording;
mod rules;

use std::net::SocketAddr;

use sidekey::pki::issue::IssuedKeyPair;

use crate::support::ca::Ca;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use recording::Recording;

/// An ingress in front of a backend that records bytes.
struct Front {
    ca: Ca,
    client: IssuedKeyPair,
    backend: Recording,
    sidecar: Sidecar,
}

/// With `extra` keys below `[[ingress]]`.
async fn front(extra: &str) -> Front {
    let backend = Recording::start().await;
    let at = backend.address;
    Front { backend, ..in_front_of(at, extra).await }
}

/// In front of another backend than the one that records.
async fn in_front_of(backend: SocketAddr, extra: &str) -> Front {
    let ca = Ca::new("Test CA");
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(10));
    put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{backend}\"\n{extra}\n"
    );
    let client = ca.client("etl", 5);
    let sidecar = Sidecar::start(folder, &toml).await;
    Front { client, ca, backend: Recording::start().await, sidecar }
}

#[test]
fn the_page_explains_every_refusal() {
    use sidekey::http::frames::{BlockFault, FrameFlood};
    use sidekey::http::framing::FramingFault;
    use sidekey::http::refusal::ExplainedRefusal;

    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let page = std::fs::read_to_string(path).expect("the page");
    for fault in FramingFault::ALL {
        let row = format!("| `{}` | {} | {} |", fault.reason(), fault.status().as_u16(), fault.explanation());
        assert!(page.contains(&row), "{row}");
    }
    for flood in FrameFlood::ALL {
        let row = format!("| `{}` | {} |", flood.reason(), flood.explanation());
        assert!(page.contains(&row), "{row}");
    }
    for fault in BlockFault::ALL {
        let row = format!("| `{}` | {} |", fault.reason(), fault.explanation());
        assert!(page.contains(&row), "{row}");
    }
}
