//! Three peers that are refused, so that the demonstration shows what a failed handshake reads like.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::scene::{DemoAuthority, DemoError, DemoScene, client_request, issue};
use super::stage::DemoStage;
use crate::clock::Clock;
use crate::pki::issue::{CertificateAuthority, IssuedKeyPair};
use crate::pki::{KeyMaterial, Validity, blocks, join};
use crate::tls::{EgressConnector, TlsTimeSource, connector};
use crate::trust::anchors::FoundAnchors;
use crate::trust::{AnchorSource, Anchors, PeerRole};

/// Connects to the partner's ingress with a certificate of an unknown CA, with an expired one, and in plain HTTP.
pub(super) async fn attempt_as_stranger(scene: &DemoScene, stage: &dyn DemoStage) -> Result<(), DemoError> {
    let now = scene.started;
    let hours = jiff::SignedDuration::from_hours;
    let foreign =
        CertificateAuthority::new("Unknown CA", Validity { not_before: now - hours(1), not_after: now + hours(24) })
            .map_err(|error| DemoError::new("cannot make the unknown CA", error))?;
    let stranger = issue(&foreign, &client_request(now, DemoAuthority::New))?;
    let mut request = client_request(now, DemoAuthority::New);
    request.validity = Validity { not_before: now - hours(30 * 24), not_after: now - hours(3 * 24) };
    let expired = issue(&scene.old, &request)?;

    let mut events = scene.partner.events().subscribe();
    for (who, pair) in [("a certificate from an unknown CA", &stranger), ("an expired certificate", &expired)] {
        with_pair(scene, pair).await?;
        say_next(&mut events, who, stage).await;
    }
    let plain = async {
        let mut stream = TcpStream::connect(scene.ingress_address()).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await
    };
    // Whether the sidecar answers with an alert or a reset does not matter here; its log line does.
    let _ = plain.await;
    say_next(&mut events, "plain HTTP", stage).await;
    Ok(())
}

async fn with_pair(scene: &DemoScene, issued: &IssuedKeyPair) -> Result<(), DemoError> {
    let pem = format!("{}{}", issued.chain_pem, issued.key_pem.as_str());
    let joined = join::join(vec![("stranger.pem".into(), read(&pem))]);
    let pair = joined.pairs.first().ok_or_else(|| DemoError::new("cannot make a client's key pair", "no match"))?;
    let clock = Clock::system();
    let mut anchors = Anchors::open(
        crate::trust::TrustSettings::with_anchors("demo".into(), vec![AnchorSource::System]),
        &crate::trust::anchors::PersistedAnchors::default(),
        &[],
    );
    let found = BTreeMap::from([(AnchorSource::System, FoundAnchors::Certificates(read(&scene.roots()).certificates))]);
    anchors.apply_sources(&found, &BTreeMap::new(), clock.now());
    let connector = EgressConnector::new(&connector::ConnectorParts {
        pair,
        trust: &anchors.build(clock.now()),
        expects: &PeerRole::ServerName("localhost".into()),
        host: "localhost",
        settings: &crate::tls::TlsSettings::default(),
        time: &TlsTimeSource::from_clock(&clock),
    })
    .map_err(|error| DemoError::new("cannot set up the client's TLS", error))?;
    let stream =
        TcpStream::connect(scene.ingress_address()).await.map_err(|error| DemoError::new("cannot connect", error))?;
    let deadline = Instant::now() + Duration::from_secs(5);
    if let Ok(mut established) = crate::tls::handshake::connect(stream, &connector, deadline).await {
        // In TLS 1.3 the refusal comes after the handshake: read until it is there.
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut established.stream, &mut answer).await;
    }
    Ok(())
}

fn read(pem: &str) -> KeyMaterial {
    blocks::read(&zeroize::Zeroizing::new(pem.as_bytes().to_vec()), None)
}

/// Prints how the partner's sidecar explains the next handshake that fails.
async fn say_next(events: &mut crate::event::EventFollower, who: &str, stage: &dyn DemoStage) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Ok(Some(event)) = tokio::time::timeout_at(deadline, events.next()).await {
        if let crate::event::Event::Handshake(handshake) = event
            && handshake.outcome != crate::tls::HandshakeOutcome::Accepted
        {
            stage.print_line(&format!("{who}: {} · {}", handshake.reason, handshake.explanation));
            return;
        }
    }
    stage.print_line(&format!("{who}: the sidecar logged no handshake"));
}
