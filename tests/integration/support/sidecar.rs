//! A sidecar in this process, on port 0, with a folder of its own and, where the test wants it, a clock moved by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use jiff::Timestamp;
use serde_json::Value;
use sidekey::app::{AppEnvironment, Application};
use sidekey::clock::{Clock, ManualClock};
use sidekey::event::{DrainRecord, Event, EventFollower, HandshakeRecord, KeyringRecord};
use sidekey::log::{LogFormat, LogQueue};
use sidekey::pki::issue::IssuedKeyPair;
use sidekey::snapshot::Side;

use super::PATIENCE;
use super::ca::Ca;

/// A running sidecar. Dropping it ends it.
pub struct Sidecar {
    pub app: Application,
    pub folder: tempfile::TempDir,
    pub clock: Option<ManualClock>,
    pub events: EventFollower,
    lines: Receiver<Vec<u8>>,
}

/// A folder that a sidecar will watch: `certs/` in a temporary folder.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("certs")).expect("certs");
    folder
}

/// Writes a file below the temporary folder's `certs/` as certbot and kubelet do not: in place.
pub fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join("certs").join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    std::fs::write(path, text).expect("a file");
}

/// Drops a pair as `NAME.crt` and `NAME.key`, each renamed into place.
pub fn drop_pair(folder: &Path, name: &str, pair: &IssuedKeyPair) {
    for (ending, text) in [("key", pair.key_pem.as_str()), ("crt", pair.chain_pem.as_str())] {
        let path = folder.join("certs").join(format!("{name}.{ending}"));
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        let aside = path.with_extension("aside~");
        std::fs::write(&aside, text).expect("a file");
        std::fs::rename(&aside, &path).expect("renamed");
    }
}

impl Sidecar {
    /// Starts with this `sidekey.toml` in the folder, on the real clock; waits until it is ready.
    pub async fn start(folder: tempfile::TempDir, toml: &str) -> Self {
        let sidecar = Self::begin(folder, toml, None);
        sidecar.app.ready(PATIENCE).await.expect("ready");
        sidecar
    }

    /// With one egress, `out`, to this port of the machine: it shows a pair of this CA and trusts it.
    pub async fn start_egress(ca: &Ca, port: u16) -> Self {
        let folder = folder();
        drop_pair(folder.path(), "out/tls", &ca.client("ours", 5));
        put(folder.path(), "out/ca.crt", ca.pem());
        let toml = format!(
            "certs = \"certs\"\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nkeyring = \"out\"\n\
             upstream = \"https://127.0.0.1:{port}\"\nserver_name = \"localhost\"\n"
        );
        Self::start(folder, &toml).await
    }

    /// Starts with a clock that stands at `now`; waits until it is ready.
    pub async fn start_at(folder: tempfile::TempDir, toml: &str, now: Timestamp) -> Self {
        let sidecar = Self::begin(folder, toml, Some(now));
        sidecar.app.ready(PATIENCE).await.expect("ready");
        sidecar
    }

    /// Starts, and does not wait.
    pub fn begin(folder: tempfile::TempDir, toml: &str, now: Option<Timestamp>) -> Self {
        let config = sidekey::config::parse(toml, folder.path()).expect("a configuration");
        Self::of(folder, config, now)
    }

    /// Starts with this `sidekey.toml` as a file in the folder, so that it can be rewritten; waits until it is ready.
    pub async fn start_from_file(folder: tempfile::TempDir, toml: &str) -> Self {
        Self::load_file(folder, toml, None).await
    }

    /// The same, with a clock that stands at `now`.
    pub async fn start_from_file_at(folder: tempfile::TempDir, toml: &str, now: Timestamp) -> Self {
        Self::load_file(folder, toml, Some(now)).await
    }

    async fn load_file(folder: tempfile::TempDir, toml: &str, now: Option<Timestamp>) -> Self {
        let file = folder.path().join("sidekey.toml");
        std::fs::write(&file, toml).expect("a file");
        let config = sidekey::config::load(&file).expect("a configuration");
        let sidecar = Self::of(folder, config, now);
        sidecar.app.ready(PATIENCE).await.expect("ready");
        sidecar
    }

    /// Replaces the file that it was started from; it notices by itself.
    pub fn rewrite(&self, toml: &str) {
        let (aside, file) = (self.folder.path().join("aside~"), self.folder.path().join("sidekey.toml"));
        std::fs::write(&aside, toml).expect("a file");
        std::fs::rename(&aside, &file).expect("renamed");
    }

    fn of(folder: tempfile::TempDir, config: sidekey::config::Config, now: Option<Timestamp>) -> Self {
        let (clock, manual) = match now {
            None => (Clock::system(), None),
            Some(now) => {
                let (clock, manual) = Clock::manual(now);
                (clock, Some(manual))
            }
        };
        let (lines, shown) = LogQueue::channel(LogFormat::Json);
        let app = Application::start(config, AppEnvironment { clock, lines }).expect("a sidecar");
        let events = app.events().subscribe();
        Self { app, folder, clock: manual, events, lines: shown }
    }

    /// The address of an ingress.
    pub fn ingress(&self, name: &str) -> SocketAddr {
        self.app.address(Side::Ingress, name).expect("an ingress")
    }

    /// The address of an egress.
    pub fn egress(&self, name: &str) -> SocketAddr {
        self.app.address(Side::Egress, name).expect("an egress")
    }

    /// Moves the manual clock and lets the sidecar notice.
    pub fn move_to(&self, now: Timestamp) {
        self.clock.as_ref().expect("a manual clock").set(now);
        self.app.tick();
    }

    /// The next event that `wanted` picks.
    pub async fn event<T>(&mut self, name: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                match self.events.next().await {
                    Some(event) => {
                        if let Some(found) = wanted(&event) {
                            return found;
                        }
                    }
                    None => panic!("the sidecar ended while waiting for {name}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {name}"))
    }

    /// Why the next connection drains.
    pub async fn drained(&mut self) -> &'static str {
        let reason = |event: &Event| match event {
            Event::Drained(DrainRecord { reason, .. }) => Some(*reason),
            _ => None,
        };
        self.event("a connection drains", reason).await
    }

    /// The next handshake.
    pub async fn handshake(&mut self) -> Arc<HandshakeRecord> {
        self.event("a handshake", |event| match event {
            Event::Handshake(handshake) => Some(Arc::clone(handshake)),
            _ => None,
        })
        .await
    }

    /// The next rotation or other move of a pair to `current` in this keyring.
    pub async fn rotation(&mut self, keyring: &str) -> sidekey::pki::Fingerprint {
        let wanted = keyring.to_owned();
        self.event("a rotation", move |event| match event {
            Event::Keyring(KeyringRecord {
                event:
                    sidekey::keyring::KeyringEvent::Moved {
                        keyring, key_pair, to: sidekey::keyring::Standing::Current, ..
                    },
                ..
            }) if **keyring == *wanted => Some(*key_pair),
            _ => None,
        })
        .await
    }

    /// Every log line so far, parsed.
    pub fn log(&self) -> Vec<Value> {
        let parse = |line: Vec<u8>| {
            serde_json::from_slice(&line)
                .unwrap_or_else(|error| panic!("a log line is not JSON ({error}): {}", String::from_utf8_lossy(&line)))
        };
        self.lines.try_iter().map(parse).collect()
    }
}
