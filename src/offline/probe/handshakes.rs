//! The handshakes of a probe: one for each version and each key pair, and what the other side sends after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::report::{CertificateDemand, ProbeAnswer, ProbeError, ProbePair, ProbeReport, ProbeVerdict, ServerOffer};
use crate::clock::Clock;
use crate::keyring::{PeerRequirements, Standing};
use crate::net::dial;
use crate::pki::certificate::name_text;
use crate::pki::{Certificate, Fingerprint, KeyPair};
use crate::snapshot::egress;
use crate::tls::after::{PostHandshakeOutcome, wait_after_handshake};
use crate::tls::handshake::connect;
use crate::tls::{
    self, EgressConnector, FailedHandshake, FailureContext, HandshakeFacts, TlsVersion, connector, explain, scheme_name,
};
use crate::trust::Trust;

/// What every handshake of a probe has in common.
pub(super) struct ProbeBench {
    pub(super) settings: egress::EgressSettings,
    pub(super) trust: Arc<Trust>,
    pub(super) clock: Clock,
    pub(super) wait: Duration,
    pub(super) dialler: dial::Dialler,
}

/// One handshake.
struct ProbeHandshake {
    facts: HandshakeFacts,
    chain: Vec<Arc<Certificate>>,
    asked: Option<PeerRequirements>,
    verdict: ProbeVerdict,
    says: String,
}

impl ProbeBench {
    pub(super) async fn report(&self, pairs: &[ProbePair]) -> Result<ProbeReport, ProbeError> {
        let mut report = ProbeReport {
            upstream: self.settings.upstream.to_string(),
            trust: Arc::clone(self.trust.name()),
            offers: Vec::new(),
            shows: Vec::new(),
            not_trusted: None,
            asks: None,
            answers: Vec::new(),
        };
        let (_, _, first) = &pairs[0];
        for (version, name) in [(TlsVersion::Tls13, "1.3"), (TlsVersion::Tls12, "1.2")] {
            let only = tls::TlsSettings { min: version, max: version, ..self.settings.tls.clone() };
            let tried = self.attempt(first, &only, None).await?;
            report.offers.push(offer(name, &tried));
        }
        let tried = self.attempt(first, &self.settings.tls, None).await?;
        report.shows = tried.chain.iter().map(|certificate| summary(certificate)).collect();
        let is_trusted = self.verdict_on(&tried.chain);
        report.not_trusted = is_trusted.err();
        report.asks = tried.asked.as_ref().map(asks);
        report.answers.push(answer(None, &tried));
        if report.not_trusted.is_some() || tried.chain.is_empty() {
            // It would learn our identity; an egress does not allow this either.
            return Ok(report);
        }
        for shown in pairs {
            let tried = self.attempt(&shown.2, &self.settings.tls, Some(shown.1)).await?;
            report.answers.push(answer(Some(shown), &tried));
        }
        Ok(report)
    }

    /// Whether the chain is trusted, and why not.
    fn verdict_on(&self, chain: &[Arc<Certificate>]) -> Result<(), String> {
        let ders: Vec<_> = chain.iter().map(|certificate| certificate.der().clone()).collect();
        let verdict = self.trust.verify(&ders, &self.settings.expects, self.clock.now());
        verdict.map(|_| ()).map_err(|untrusted| untrusted.to_string())
    }

    /// One handshake; `standing`: with the pair, else with none.
    async fn attempt(
        &self,
        pair: &KeyPair,
        settings: &tls::TlsSettings,
        standing: Option<Standing>,
    ) -> Result<ProbeHandshake, ProbeError> {
        let parts = connector::ConnectorParts {
            pair,
            trust: &self.trust,
            expects: &self.settings.expects,
            host: &self.settings.upstream.host,
            settings,
            time: &tls::TlsTimeSource::from_clock(&self.clock),
        };
        let connector = match standing {
            Some(_) => EgressConnector::new(&parts)?,
            None => EgressConnector::without_key_pair(&parts)?,
        };
        let limits = &self.settings.limits;
        let terms = dial::DialOptions {
            deadline: Instant::now() + limits.connect,
            keepalive: None,
            refresh: self.settings.dns_refresh,
            prefer: None,
        };
        let stream = self.dialler.connect_tcp(&self.settings.upstream, terms).await?;
        let shown = standing.map(|standing| (pair.fingerprint(), standing));
        let mut tls = match connect(stream, &connector, Instant::now() + limits.handshake).await {
            Ok(tls) => tls,
            Err(failed) => return Ok(self.ended(*failed, shown)),
        };
        let (verdict, says) = self.listen(&mut tls, shown).await;
        // Asked for, and optional: rustls then says that it has none, and a server that goes on has read no certificate.
        let fits = |asked: &PeerRequirements| pair.schemes().iter().any(|scheme| asked.schemes.contains(scheme));
        let (verdict, says) = match &tls.asked {
            Some(asked) if shown.is_some() && verdict == ProbeVerdict::Taken && !fits(asked) => {
                let says =
                    "no certificate was sent: our key supports none of the requested signature schemes".to_owned();
                (ProbeVerdict::Refused, says)
            }
            _ => (verdict, says),
        };
        Ok(ProbeHandshake { facts: tls.facts, chain: parsed(&tls.chain), asked: tls.asked, verdict, says })
    }

    /// What comes after the handshake.
    async fn listen<S>(
        &self,
        tls: &mut tls::CompletedHandshake<tls::handshake::ClientStream<S>>,
        shown: Option<(Fingerprint, Standing)>,
    ) -> (ProbeVerdict, String)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let is_asked = tls.asked.is_some();
        if tls.facts.version == Some("1.2") {
            // Here the handshake itself is the answer.
            let says = match (shown, is_asked) {
                (_, false) => "the handshake succeeded; no certificate was requested",
                (Some(_), true) => "the handshake succeeded with our certificate",
                (None, true) => {
                    "the handshake succeeded without a certificate: the server requests one but does not require it"
                }
            };
            return (ProbeVerdict::Taken, says.to_owned());
        }
        match wait_after_handshake(tls, Instant::now() + self.wait).await {
            PostHandshakeOutcome::Tickets if is_asked && shown.is_none() => {
                let says = "the server continues without a certificate: it may refuse by an HTTP status, as nginx does";
                (ProbeVerdict::Taken, says.to_owned())
            }
            PostHandshakeOutcome::Tickets if is_asked => {
                let says =
                    "the server read our certificate and continues; it may refuse by an HTTP status, as nginx does";
                (ProbeVerdict::Taken, says.to_owned())
            }
            PostHandshakeOutcome::Tickets => {
                (ProbeVerdict::Taken, "the handshake succeeded; no certificate was requested".to_owned())
            }
            PostHandshakeOutcome::Spoke => {
                let says = "the server sent data, perhaps before it read our certificate: only a request would show";
                (ProbeVerdict::Silent, says.to_owned())
            }
            PostHandshakeOutcome::Silent => {
                let says = format!(
                    "the server sent neither a ticket nor an alert within {} s: only a request would show",
                    self.wait.as_secs()
                );
                (ProbeVerdict::Silent, says)
            }
            PostHandshakeOutcome::Closed => {
                let says = "the server closed the connection without an alert: see its log for the reason";
                (ProbeVerdict::Refused, says.to_owned())
            }
            PostHandshakeOutcome::Failed(failed) => {
                let ended = self.ended(*failed, shown);
                (ended.verdict, ended.says)
            }
        }
    }

    fn ended(&self, failed: FailedHandshake, shown: Option<(Fingerprint, Standing)>) -> ProbeHandshake {
        let context = FailureContext {
            ingress: false,
            listener: &self.settings.name,
            trust: &self.trust,
            shown,
            shown_next: None,
            now: self.clock.now(),
        };
        let explained = explain(&failed, &context);
        let is_refusal = explained.alert_received.is_some();
        let verdict = if is_refusal { ProbeVerdict::Refused } else { ProbeVerdict::Failed };
        let says = match (shown, explained.reason) {
            // An egress always shows a pair, and the explanation is made for it.
            (None, "refused_certificate_required") => {
                "the server requires a client certificate (certificate_required)".to_owned()
            }
            _ => explained.explanation,
        };
        ProbeHandshake {
            facts: failed.facts,
            chain: parsed(&failed.seen.chain),
            asked: failed.seen.asked,
            verdict,
            says,
        }
    }
}

fn offer(version: &'static str, tried: &ProbeHandshake) -> ServerOffer {
    // A certificate that came means that the version is spoken, whatever became of the handshake.
    let spoken = tried.facts.cipher.is_some() || !tried.chain.is_empty();
    let parts = [
        tried.facts.cipher,
        tried.facts.group,
        tried.facts.alpn.map(|alpn| std::str::from_utf8(alpn.name()).unwrap_or("?")),
    ];
    let parts: Vec<&str> = parts.into_iter().flatten().collect();
    let says = match (parts.is_empty(), spoken) {
        (false, _) => parts.join(", "),
        (true, true) => "supported; the rest is negotiated only with a trusted certificate".to_owned(),
        (true, false) => tried.says.clone(),
    };
    ServerOffer { version, spoken, says }
}

fn asks(asked: &PeerRequirements) -> CertificateDemand {
    CertificateDemand {
        authorities: asked.authorities.iter().map(|name| name_text(name)).collect(),
        schemes: asked.schemes.iter().map(|code| scheme_name(*code)).collect(),
    }
}

fn answer(shown: Option<&ProbePair>, tried: &ProbeHandshake) -> ProbeAnswer {
    let mut says = tried.says.clone();
    if let (Some((_, _, pair)), Some(asked)) = (shown, &tried.asked) {
        let names = pair.issuer_names();
        if !asked.authorities.is_empty() && !asked.authorities.iter().any(|authority| names.contains(authority)) {
            says.push_str("; its issuer is not among the authorities that the server named");
        }
    }
    ProbeAnswer {
        keyring: shown.map_or_else(|| "".into(), |(keyring, _, _)| Arc::clone(keyring)),
        key_pair: shown.map(|(_, _, pair)| pair.fingerprint()),
        standing: shown.map(|(_, standing, _)| *standing),
        subject: shown.map(|(_, _, pair)| pair.end_entity().subject().to_owned()).unwrap_or_default(),
        verdict: tried.verdict,
        says,
    }
}

fn parsed(chain: &[rustls_pki_types::CertificateDer<'static>]) -> Vec<Arc<Certificate>> {
    chain.iter().filter_map(|der| Certificate::parse(der.clone()).ok()).collect()
}

fn summary(certificate: &Certificate) -> String {
    format!(
        "{} issued by {}, valid until {}, {}",
        certificate.subject(),
        certificate.issuer(),
        certificate.validity().not_after,
        certificate.fingerprint()
    )
}
