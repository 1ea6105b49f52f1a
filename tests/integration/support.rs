//! What the tests are made with: certificates good and broken, a sidecar on port 0, peers, upstreams and backends.

pub mod backend;
pub mod between;
pub mod ca;
pub mod database;
pub mod foreign;
pub mod mailbox;
pub mod odd;
pub mod partner;
pub mod peer;
pub mod raw;
pub mod raw_ca;
pub mod sidecar;
pub mod upstream;

use std::time::Duration;

/// How long a test waits for something that must happen. Generous: it is only ever reached by a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `what` to become true, asking again and again; fails with `what`'s name.
pub async fn eventually(name: &str, mut what: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !what() {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {name}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
