//! Alerts to a webhook: one POST over HTTPS (plain HTTP only on this host), no redirects, the URL from a file.
//!
//! The URL is a secret: errors, log lines and rows contain only its host and port.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{DeliveryError, WebhookFormat, WebhookSettings, read_secret, with_tls_hint};
use crate::net::HostPort;
use crate::pki::{Fingerprint, hex, printable};
use crate::registry::DeliveryRow;
use crate::tls::anonymous;

/// Timeout from connecting until the response head is received.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(20);

/// A webhook's name in the registry: the host, and the first digits of a hash of the URL, which is a secret. Two sidecars
/// with the same URL share one sink; positions in the configuration could hit another team's channel.
pub(super) fn sink_name(webhook: &WebhookSettings) -> String {
    // Without its file nothing can be posted; the path then serves as the name.
    let url =
        read_secret(&webhook.url_file).map_or_else(|_| webhook.url_file.display().to_string(), |url| url.to_string());
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let digest = Fingerprint::of(format!("{:?} {url}", webhook.format).as_bytes());
    format!("webhook:{}:{}", printable(&host), hex(&digest.as_bytes()[..4]))
}

/// The port that a webhook is posted to, if its file can be read.
pub fn webhook_port(webhook: &WebhookSettings) -> Option<u16> {
    let uri: Uri = read_secret(&webhook.url_file).ok()?.parse().ok()?;
    Some(uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 }))
}

/// Posts an alert. The file is read each time, so that a new URL needs no restart.
pub(super) async fn post(webhook: &WebhookSettings, delivery: &DeliveryRow) -> Result<(), DeliveryError> {
    let url = read_secret(&webhook.url_file)?;
    let wrong = |why: &str| DeliveryError::Secret { file: webhook.url_file.display().to_string(), why: why.to_owned() };
    let uri: Uri = url.parse().map_err(|_| wrong("must contain a URL of the form https://HOST/PATH"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let encrypted = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if is_loopback_host(&host) => false,
        _ => return Err(wrong("must contain an https:// URL; http:// is allowed for this host only")),
    };
    let to = HostPort { host: host.as_str().into(), port: uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 }) };
    let body = body(webhook.format, delivery);
    let sending = async {
        let way = |why: String| DeliveryError::Way { place: to.to_string(), why };
        let stream = TcpStream::connect((host.as_str(), to.port)).await.map_err(|error| way(error.to_string()))?;
        if encrypted {
            let stream =
                anonymous::connect(stream, &host).await.map_err(|error| way(with_tls_hint(error.to_string())))?;
            send_request(stream, &uri, &to, body).await
        } else {
            send_request(stream, &uri, &to, body).await
        }
    };
    let late = |_| DeliveryError::Late { seconds: WEBHOOK_TIMEOUT.as_secs() };
    let status = timeout(WEBHOOK_TIMEOUT, sending).await.map_err(late)??;
    if (200..300).contains(&status) { Ok(()) } else { Err(DeliveryError::Status { place: to.to_string(), status }) }
}

async fn send_request<S>(stream: S, uri: &Uri, to: &HostPort, body: String) -> Result<u16, DeliveryError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let way = |why: String| DeliveryError::Way { place: to.to_string(), why };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| way(error.to_string()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // A user name in the URL is for the Authorization field, which webhooks do not have.
    let host = authority.rsplit('@').next().unwrap_or_default();
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("sidekey/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| way("the URL's path is not valid".to_owned()))?;
    let answering = sender.send_request(request);
    tokio::pin!(connection, answering);
    let answer = tokio::select! {
        answer = &mut answering => answer,
        ended = &mut connection => match ended {
            // The connection ended cleanly: the response has been received.
            Ok(()) => answering.await,
            Err(error) => Err(error),
        },
    };
    answer.map(|answer| answer.status().as_u16()).map_err(|error| way(error.to_string()))
}

fn body(format: WebhookFormat, delivery: &DeliveryRow) -> String {
    match format {
        WebhookFormat::Json => json!({
            "alert": delivery.alert,
            "kind": delivery.kind,
            "urgent": delivery.urgent,
            "keyring": delivery.keyring,
            "owner": delivery.owner,
            "contact": delivery.contact,
            "date": delivery.ends,
            "key_pair": delivery.key_pair,
            "summary": delivery.summary,
            "remedy": delivery.remedy,
            "raised": delivery.raised,
            "instance": delivery.raised_by,
        })
        .to_string(),
        WebhookFormat::Slack => {
            let urgent = if delivery.urgent.is_set() { "<!channel> urgent: " } else { "" };
            json!({ "text": format!("{urgent}{}\n{}", escape_markup(&delivery.summary), escape_markup(&delivery.remedy)) }).to_string()
        }
    }
}

/// Escapes markup and mentions: a certificate's subject may contain anything.
fn escape_markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Whether the address is this host's loopback.
fn is_loopback_host(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::UnixSeconds;

    fn delivery(summary: &str, urgent: bool) -> DeliveryRow {
        DeliveryRow {
            alert: "expires:aa:60".to_owned(),
            sink: "webhook:1".to_owned(),
            kind: "expires".to_owned(),
            keyring: "api".to_owned(),
            key_pair: None,
            urgent: urgent.into(),
            recipient: None,
            summary: summary.to_owned(),
            remedy: "order a successor".to_owned(),
            owner: Some("payments team".to_owned()),
            contact: Some("pay@example.com".to_owned()),
            ends: Some(UnixSeconds(86_400)),
            raised_by: "a".to_owned(),
            raised: UnixSeconds(0),
            state: "pending".to_owned(),
            attempts: 0,
            next_try: UnixSeconds(0),
            error: None,
        }
    }

    #[test]
    fn a_subject_cannot_mention_users_in_chat() {
        let text = body(WebhookFormat::Slack, &delivery("<!channel> & <https://evil.example|click>", false));
        assert!(!text.contains("<!channel>") && !text.contains("<https"), "{text}");
        assert!(body(WebhookFormat::Slack, &delivery("x", true)).contains("<!channel> urgent"));
    }

    #[test]
    fn the_json_shape_is_stable() {
        let value: serde_json::Value = serde_json::from_str(&body(WebhookFormat::Json, &delivery("s", true))).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "alert", "contact", "date", "instance", "key_pair", "keyring", "kind", "owner", "raised", "remedy",
                "summary", "urgent"
            ]
        );
        assert_eq!((&value["owner"], &value["contact"]), (&"payments team".into(), &"pay@example.com".into()));
        assert_eq!(value["date"], "1970-01-02T00:00:00Z");
        assert_eq!((&value["urgent"], &value["raised"]), (&true.into(), &"1970-01-01T00:00:00Z".into()));
    }
}
