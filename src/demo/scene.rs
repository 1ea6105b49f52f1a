//! The scene: a fresh folder with a PKI of two CAs, the partner's sidecar and ours, as an operator would set them up.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::backend;
use super::stage::{DemoOptions, DemoStage};
use crate::app::{AppEnvironment, Application};
use crate::clock::Clock;
use crate::log::{LogFormat, LogQueue};
use crate::pki::issue::{CertificateAuthority, IssueRequest, IssuedKeyPair, NewKeyKind};
use crate::pki::{Fingerprint, Validity, blocks};
use crate::snapshot::Side;

/// Why the demonstration failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct DemoError {
    what: String,
    why: String,
}

impl DemoError {
    pub(super) fn new(what: impl Display, why: impl Display) -> Self {
        Self { what: what.to_string(), why: why.to_string() }
    }
}

/// Which certificate authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DemoAuthority {
    /// The one that the demonstration begins with.
    Old,
    /// The one that it rotates to.
    New,
}

pub(super) struct DemoScene {
    folder: PathBuf,
    pub(super) partner: Application,
    ours: Application,
    partner_lines: Receiver<Vec<u8>>,
    our_lines: Receiver<Vec<u8>>,
    pub(super) old: CertificateAuthority,
    new: CertificateAuthority,
    backend: SocketAddr,
    server: (IssuedKeyPair, IssuedKeyPair),
    client: (IssuedKeyPair, IssuedKeyPair),
    pub(super) started: Timestamp,
}

impl DemoScene {
    /// Makes the folder and the PKI, starts the backend and both sidecars.
    pub(super) async fn set(wishes: &DemoOptions) -> Result<Self, DemoError> {
        let started = Clock::system().now();
        let folder = fresh_folder(wishes, started)?;
        let authority = |name, year| {
            CertificateAuthority::new(name, years(started, year))
                .map_err(|error| DemoError::new("cannot make a demo CA", error))
        };
        let (old, new) = (authority("Demo CA (old)", -1)?, authority("Demo CA (new)", 0)?);
        let server = (
            issue(&old, &server_request(started, DemoAuthority::Old))?,
            issue(&new, &server_request(started, DemoAuthority::New))?,
        );
        let client = (
            issue(&old, &client_request(started, DemoAuthority::Old))?,
            issue(&new, &client_request(started, DemoAuthority::New))?,
        );
        let backend = backend::start().await.map_err(|error| DemoError::new("cannot start the echo backend", error))?;

        let partner_certs = folder.join("partner/certs/orders");
        let our_certs = folder.join("ours/certs/partner");
        write_pair(&partner_certs, "tls", &server.0)?;
        write_pair(&our_certs, "tls", &client.0)?;
        for certs in [&partner_certs, &our_certs] {
            write(&certs.join("ca.crt"), old.certificate_pem())?;
        }
        let (partner, partner_lines) = start(&folder.join("partner"), &partner_config("127.0.0.1:0", backend)).await?;
        let ingress = address(&partner, Side::Ingress, "orders")?;
        write(&folder.join("partner/sidekey.toml"), &partner_config(&ingress.to_string(), backend))?;
        let (ours, our_lines) = start(&folder.join("ours"), &our_config("127.0.0.1:0", ingress)).await?;
        let egress = address(&ours, Side::Egress, "partner")?;
        write(&folder.join("ours/sidekey.toml"), &our_config(&egress.to_string(), ingress))?;
        Ok(Self { folder, partner, ours, partner_lines, our_lines, old, new, backend, server, client, started })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
    pub(super) fn ingress_address(&self) -> SocketAddr {
        address(&self.partner, Side::Ingress, "orders").unwrap_or(self.backend)
    }
    pub(super) fn ingress_url(&self) -> String {
        format!("https://localhost:{}", self.ingress_address().port())
    }
    pub(super) fn egress_url(&self) -> String {
        address(&self.ours, Side::Egress, "partner")
            .map_or_else(|_| String::new(), |address| format!("http://{address}"))
    }
    pub(super) fn backend_url(&self) -> String {
        format!("http://{}", self.backend)
    }

    /// The old and the new pair of a side: the partner's server pair is shown on ingress, our client pair on egress.
    pub(super) fn fingerprints(&self, side: Side) -> (Fingerprint, Fingerprint) {
        let (old, new) = match side {
            Side::Ingress => &self.server,
            Side::Egress => &self.client,
        };
        (fingerprint(old), fingerprint(new))
    }

    /// Both sides trust the new CA: `ca.crt` now holds old and new.
    pub(super) fn trust_both(&self) -> Result<(), DemoError> {
        write(&self.folder.join("partner/certs/orders/ca.crt"), &self.roots())?;
        write(&self.folder.join("ours/certs/partner/ca.crt"), &self.roots())
    }

    /// Drops the pairs of one CA into both folders, over the ones that are there.
    pub(super) fn drop_pairs(&self, ca: DemoAuthority) -> Result<(), DemoError> {
        let pick = |pairs: &(IssuedKeyPair, IssuedKeyPair)| {
            if ca == DemoAuthority::Old { pairs.0.clone() } else { pairs.1.clone() }
        };
        write_pair(&self.folder.join("partner/certs/orders"), "tls", &pick(&self.server))?;
        write_pair(&self.folder.join("ours/certs/partner"), "tls", &pick(&self.client))
    }

    /// Shows what both sidecars have logged, until `until`.
    pub(super) async fn show_handshakes(&mut self, stage: &dyn DemoStage, until: Instant) {
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.show_lines(stage);
        }
    }

    /// Waits a little, then shows what both sidecars have logged.
    pub(super) async fn show_changes(&mut self, stage: &dyn DemoStage, wait: Duration) {
        self.show_handshakes(stage, Instant::now() + wait).await;
        self.show_lines(stage);
    }

    fn show_lines(&mut self, stage: &dyn DemoStage) {
        for (who, lines) in [("partner", &self.partner_lines), ("ours   ", &self.our_lines)] {
            for line in lines.try_iter() {
                stage.print_line(&format!("{who} │ {}", String::from_utf8_lossy(&line).trim_end()));
            }
        }
    }

    /// What to try with curl while it runs.
    pub(super) fn try_next(&self, stage: &dyn DemoStage) {
        let certs = self.folder.join("ours/certs/partner");
        let (certs, folder) = (certs.display(), self.folder.display());
        stage.print_line("through our sidecar, plain HTTP in, mutual TLS out:");
        stage.print_line(&format!("  curl -i {}/orders/1 -d hello", self.egress_url()));
        stage.print_line("straight to the partner's sidecar, with our key pair:");
        stage.print_line(&format!(
            "  curl -i --cacert {certs}/ca.crt --cert {certs}/tls.crt --key {certs}/tls.key {}/orders/1",
            self.ingress_url()
        ));
        stage.print_line("without a client certificate (the log above shows the refused handshake):");
        stage.print_line(&format!("  curl -i --cacert {certs}/ca.crt {}/orders/1", self.ingress_url()));
        stage.print_line("put the partner's old key pair back, and watch it rotate again:");
        stage.print_line(&format!("  cp {folder}/old/partner/* {folder}/partner/certs/orders/"));
        stage.print_line("Press Ctrl-C to stop.");
    }

    /// The roots of both CAs, PEM.
    pub(super) fn roots(&self) -> String {
        format!("{}{}", self.old.certificate_pem(), self.new.certificate_pem())
    }

    /// Keeps copies of the old pairs beside the watched folders, so that they can be put back.
    pub(super) fn keep_old_pairs(&self) -> Result<(), DemoError> {
        write_pair(&self.folder.join("old/partner"), "tls", &self.server.0)?;
        write_pair(&self.folder.join("old/ours"), "tls", &self.client.0)
    }

    /// Shows both logs until the process is interrupted.
    pub(super) async fn until_told(&mut self, stage: &dyn DemoStage) {
        let told = tokio::signal::ctrl_c();
        tokio::pin!(told);
        loop {
            tokio::select! {
                _ = &mut told => return,
                () = tokio::time::sleep(Duration::from_millis(100)) => self.show_lines(stage),
            }
        }
    }

    /// Stops both sidecars; removes the folder unless it is to be kept.
    pub(super) async fn shut_down(self, wishes: &DemoOptions) -> Option<PathBuf> {
        self.ours.stop_now().await;
        self.partner.stop_now().await;
        if wishes.keep {
            return Some(self.folder);
        }
        // Only ever a folder that `fresh_folder` has just made.
        let _ = std::fs::remove_dir_all(&self.folder);
        None
    }
}

async fn start(folder: &Path, config: &str) -> Result<(Application, Receiver<Vec<u8>>), DemoError> {
    let config =
        crate::config::parse(config, folder).map_err(|error| DemoError::new("invalid demo configuration", error))?;
    let (lines, shown) = LogQueue::channel(LogFormat::Text);
    let surroundings = AppEnvironment { clock: Clock::system(), lines };
    let app =
        Application::start(config, surroundings).map_err(|error| DemoError::new("cannot start a sidecar", error))?;
    app.ready(Duration::from_secs(10))
        .await
        .map_err(|error| DemoError::new("a sidecar did not become ready", error))?;
    Ok((app, shown))
}

fn address(app: &Application, side: Side, name: &str) -> Result<SocketAddr, DemoError> {
    app.address(side, name).ok_or_else(|| DemoError::new("no TCP address for listener", name))
}

fn partner_config(listen: &str, backend: SocketAddr) -> String {
    format!(
        "# The partner's sidecar: terminates mutual TLS in front of the application.\ncerts = \"certs\"\nworkers = 1\n\n\
         [keyring.orders]\nowner = \"partner\"\noverlap = \"1d\"\n\n\
         [[ingress]]\nname = \"orders\"\nlisten = \"{listen}\"\nkeyrings = [\"orders\"]\nbackend = \"http://{backend}\"\n\n\
         [log]\naccess = false\n"
    )
}

fn our_config(listen: &str, upstream: SocketAddr) -> String {
    format!(
        "# Our sidecar: plain HTTP from the application, mutual TLS to the partner.\ncerts = \"certs\"\nworkers = 1\n\n\
         [keyring.partner]\nowner = \"ours\"\noverlap = \"1d\"\n\n\
         [[egress]]\nname = \"partner\"\nlisten = \"{listen}\"\nupstream = \"https://127.0.0.1:{}\"\nkeyring = \"partner\"\n\
         server_name = \"localhost\"\n\n[log]\naccess = false\n",
        upstream.port()
    )
}

fn years(now: Timestamp, from: i64) -> Validity {
    let year = jiff::SignedDuration::from_hours(365 * 24);
    let not_before = now + year * i32::try_from(from).unwrap_or(0) - jiff::SignedDuration::from_hours(1);
    Validity { not_before, not_after: not_before + year * 3 }
}

/// The new pairs begin later than the old ones: the rule chooses the latest `not_before`.
fn pair_validity(now: Timestamp, ca: DemoAuthority) -> Validity {
    let hours = jiff::SignedDuration::from_hours;
    match ca {
        DemoAuthority::Old => Validity { not_before: now - hours(335 * 24), not_after: now + hours(30 * 24) },
        DemoAuthority::New => Validity { not_before: now - hours(1), not_after: now + hours(365 * 24) },
    }
}

fn server_request(now: Timestamp, ca: DemoAuthority) -> IssueRequest {
    IssueRequest {
        common_name: "orders.partner.example".to_owned(),
        organization: Some("Partner".to_owned()),
        dns: vec!["localhost".to_owned(), "orders.partner.example".to_owned()],
        uris: vec![],
        ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        server: true,
        client: false,
        validity: pair_validity(now, ca),
        key: NewKeyKind::P256,
    }
}

pub(super) fn client_request(now: Timestamp, ca: DemoAuthority) -> IssueRequest {
    IssueRequest {
        common_name: "etl.ours.example".to_owned(),
        organization: Some("Ours".to_owned()),
        dns: vec!["etl.ours.example".to_owned()],
        uris: vec!["spiffe://ours.example/etl".to_owned()],
        ips: vec![],
        server: false,
        client: true,
        validity: pair_validity(now, ca),
        key: NewKeyKind::P256,
    }
}

pub(super) fn issue(authority: &CertificateAuthority, request: &IssueRequest) -> Result<IssuedKeyPair, DemoError> {
    authority.issue(request).map_err(|error| DemoError::new("cannot make a demo key pair", error))
}

fn fingerprint(issued: &IssuedKeyPair) -> Fingerprint {
    let bytes = zeroize::Zeroizing::new(issued.chain_pem.clone().into_bytes());
    let first = blocks::read(&bytes, None).certificates.first().map(|certificate| certificate.fingerprint());
    first.unwrap_or(Fingerprint::from_bytes([0; 32]))
}

fn fresh_folder(wishes: &DemoOptions, now: Timestamp) -> Result<PathBuf, DemoError> {
    let base = if wishes.keep { PathBuf::from(".") } else { std::env::temp_dir() };
    let folder = base.join(format!("sidekey-demo-{}-{}", now.as_second(), std::process::id()));
    let made = std::fs::create_dir(&folder).and_then(|()| folder.canonicalize());
    made.map_err(|error| DemoError::new(format!("cannot make {}", folder.display()), error))
}

fn write_pair(folder: &Path, name: &str, issued: &IssuedKeyPair) -> Result<(), DemoError> {
    // The order does not matter: until both are there and match, the folder is "not yet" and the pair in use stays.
    write(&folder.join(format!("{name}.key")), &issued.key_pem)?;
    write(&folder.join(format!("{name}.crt")), &issued.chain_pem)
}

/// Writes aside and renames, with a mode that keeps keys private.
fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let aside = path.with_extension("writing~");
    let done = (|| {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&aside, path)
    })();
    done.map_err(|error: std::io::Error| DemoError::new(format!("cannot write {}", path.display()), error))
}
