//! `[alerts]`: where alerts go beside the log and the metrics. Secrets only by file.

use super::file::{ConfigItem, ConfigSection};
use super::top::is_local_address;
use super::value;
use crate::alerts::{AlertSettings, SmtpSettings, SmtpTls, WebhookFormat, WebhookSettings};
use crate::net::{HostPort, ListenAddress};

/// Reads it.
pub(super) fn read_alerts(top: &ConfigSection<'_>) -> AlertSettings {
    let section = top.section("alerts");
    let webhooks = section.read_optional("webhook", |item| item.nonempty_list(read_webhook)).unwrap_or_default();
    let smtp = section.read_optional("smtp", ConfigItem::section).and_then(|smtp| read_smtp(&smtp));
    section.report_unknown_keys();
    AlertSettings { webhooks, smtp }
}

fn read_webhook(item: &ConfigItem<'_>) -> Option<WebhookSettings> {
    let section = item.section()?;
    let url_file = section.read_required("url_file", ConfigItem::path);
    let words = [("slack", WebhookFormat::Slack), ("json", WebhookFormat::Json)];
    let format = section.read_or("format", |item| item.read_word(&words), WebhookFormat::Json);
    section.report_unknown_keys();
    Some(WebhookSettings { url_file: url_file?, format })
}

fn read_smtp(section: &ConfigSection<'_>) -> Option<SmtpSettings> {
    let words = [("starttls", SmtpTls::StartTls), ("tls", SmtpTls::Tls), ("none", SmtpTls::None)];
    let tls = section.read_or("tls", |item| item.read_word(&words), SmtpTls::StartTls);
    let usual = match tls {
        SmtpTls::StartTls => 587,
        SmtpTls::Tls => 465,
        SmtpTls::None => 25,
    };
    let server = section.read_required("server", |item| {
        let server = item.parse_text(|text| value::parse_host_port(text, usual))?;
        if tls == SmtpTls::None && !is_this_host(&server) {
            item.add_fault(
                "mail without TLS is allowed to this host only: write 127.0.0.1, or tls = \"starttls\"".to_owned(),
            );
        }
        Some(server)
    });
    let from = section.read_required("from", |item| {
        let from = item.nonempty_text()?;
        if crate::alerts::is_mailbox(&from) {
            return Some(from);
        }
        item.add_fault(format!("invalid mail address {from:?}: write for example \"sidekey@example.com\""));
        None
    });
    let credentials_file = section.read_optional("credentials_file", ConfigItem::path);
    section.report_unknown_keys();
    Some(SmtpSettings { server: server?, from: from?, credentials_file, tls })
}

fn is_this_host(server: &HostPort) -> bool {
    &*server.host == "localhost"
        || server
            .host
            .parse()
            .is_ok_and(|ip| is_local_address(&ListenAddress::Tcp(std::net::SocketAddr::new(ip, server.port))))
}
