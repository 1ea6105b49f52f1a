//! Alerts by mail to a keyring's contact, through lettre: STARTTLS or TLS with the platform's trust anchors, or plain text
//! on this host.

use std::time::Duration;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};

use super::{DeliveryError, SmtpSettings, SmtpTls, read_secret, with_tls_hint};
use crate::pki::{Fingerprint, hex, printable};
use crate::registry::{DeliveryRow, short_fingerprint};

/// Timeout of the whole exchange.
const SMTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether a text is a valid mail address, with or without a display name.
pub fn is_mailbox(text: &str) -> bool {
    text.parse::<Mailbox>().is_ok()
}

/// Sends an alert. The credentials are read each time, so that changing them needs no restart.
pub(super) async fn send(smtp: &SmtpSettings, delivery: &DeliveryRow) -> Result<(), DeliveryError> {
    let place = smtp.server.to_string();
    let message = message(smtp, delivery)?;
    let transport = transport(smtp).await?;
    let sending = tokio::time::timeout(SMTP_TIMEOUT, transport.send(message));
    let sent = sending.await.map_err(|_| DeliveryError::Late { seconds: SMTP_TIMEOUT.as_secs() })?;
    sent.map(drop).map_err(|error| DeliveryError::Refused { place, why: with_tls_hint(error_chain(&error)) })
}

fn message(smtp: &SmtpSettings, delivery: &DeliveryRow) -> Result<Message, DeliveryError> {
    let contact = delivery.recipient.clone().unwrap_or_default();
    let to: Mailbox = contact.parse().map_err(|_| DeliveryError::Contact { contact })?;
    let wrong = |why: String| DeliveryError::Refused { place: smtp.server.to_string(), why };
    let from: Mailbox = smtp.from.parse().map_err(|_| wrong(format!("invalid sender address {:?}", smtp.from)))?;
    let from_domain = from.email.domain().to_owned();
    let urgent = if delivery.urgent.is_set() { "URGENT: " } else { "" };
    let about = if delivery.keyring.is_empty() { "the folder" } else { &delivery.keyring };
    Message::builder()
        .from(from)
        .to(to)
        .subject(format!("{urgent}Sidekey: {} {about}", subject(&delivery.kind)))
        .message_id(Some(message_id(delivery, &from_domain)))
        // RFC 3834: keeps automatic replies such as absence notes from being sent.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
        .header(ContentType::TEXT_PLAIN)
        .body(format!(
            "{}.\r\n\r\nWhat to do: {}.\r\n\r\nkeyring:  {}\r\nkey pair: {}\r\nraised:   {} by {}\r\nalert:    {}\r\n{}",
            delivery.summary,
            delivery.remedy,
            delivery.keyring,
            delivery.key_pair.as_deref().unwrap_or("-"),
            delivery.raised,
            delivery.raised_by,
            delivery.alert,
            acknowledgement_hint(delivery),
        ))
        .map_err(|error| wrong(error.to_string()))
}

/// How to acknowledge the alert, where that silences it: with the certificate, as without one the own pair is meant.
fn acknowledgement_hint(delivery: &DeliveryRow) -> String {
    let is_expiry = matches!(&*delivery.kind, "expires" | "partner_expires" | "anchor_expires");
    match &delivery.key_pair {
        Some(key_pair) if is_expiry && !delivery.keyring.is_empty() => format!(
            "\r\nAlready being handled? Acknowledge it: sidekey keyring ack {} {} --why \"…\"\r\n",
            delivery.keyring,
            short_fingerprint(key_pair)
        ),
        _ => String::new(),
    }
}

/// The same ID when an alert is sent again because its arrival is unknown: mailboxes then show it once.
fn message_id(delivery: &DeliveryRow, domain: &str) -> String {
    let digest = Fingerprint::of(format!("{}\n{}", delivery.alert, delivery.sink).as_bytes());
    format!("<{}@{domain}>", hex(&digest.as_bytes()[..16]))
}

/// The words for an alert's kind in a mail's subject.
fn subject(kind: &str) -> &str {
    match kind {
        "expires" => "a key pair expires:",
        "partner_expires" => "a partner's certificate expires:",
        "anchor_expires" => "a trust anchor expires:",
        "refused_drop" => "a drop was refused:",
        "diverges" => "a newer key pair is not in use:",
        "refuses" => "a partner refuses the new key pair:",
        "overlap_ends" => "an overlap ends:",
        "crl_stale" => "a CRL is out of date:",
        "last_resort" => "an expired key pair is in use:",
        "files_gone" => "the files of the current key pair are gone:",
        "not_remembered" => "decisions cannot be saved:",
        other => other,
    }
}

async fn transport(smtp: &SmtpSettings) -> Result<AsyncSmtpTransport<Tokio1Executor>, DeliveryError> {
    let host = smtp.server.host.to_string();
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&host)
        .port(smtp.server.port)
        .timeout(Some(SMTP_TIMEOUT));
    if let Some(file) = &smtp.credentials_file {
        let text = read_secret(file)?;
        let (user, password) = text.split_once(':').ok_or_else(|| DeliveryError::Secret {
            file: printable(&file.display().to_string()),
            why: "must contain USER:PASSWORD".to_owned(),
        })?;
        builder = builder.credentials(Credentials::new(user.to_owned(), password.to_owned()));
    }
    if smtp.tls != SmtpTls::None {
        let way = |why: String| DeliveryError::Way { place: smtp.server.to_string(), why };
        // It reads the platform's trust anchors, which blocks.
        let parameters = tokio::task::spawn_blocking(move || TlsParameters::new(host)).await;
        let parameters =
            parameters.map_err(|error| way(error.to_string()))?.map_err(|error| way(error_chain(&error)))?;
        builder = builder.tls(match smtp.tls {
            SmtpTls::Tls => Tls::Wrapper(parameters),
            SmtpTls::StartTls | SmtpTls::None => Tls::Required(parameters),
        });
    }
    Ok(builder.build())
}

/// An error with its causes, on one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    printable(&text)
}
