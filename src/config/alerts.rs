//! `[alerts]`: where alerts go beside the log and the metrics. Secrets only by file.

use super::file::{Item, Section};
use super::top::is_local;
use super::value;
use crate::alerts::{Format, Settings, Smtp, SmtpTls, Webhook};
use crate::net::{HostPort, ListenAddress};

/// Reads it.
pub(super) fn read(top: &Section<'_>) -> Settings {
    let section = top.section("alerts");
    let webhooks = section.maybe("webhook", |item| item.some(webhook)).unwrap_or_default();
    let smtp = section.maybe("smtp", Item::section).and_then(|smtp| mail(&smtp));
    section.finish();
    Settings { webhooks, smtp }
}

fn webhook(item: &Item<'_>) -> Option<Webhook> {
    let section = item.section()?;
    let url_file = section.required("url_file", Item::path);
    let words = [("slack", Format::Slack), ("json", Format::Json)];
    let format = section.or("format", |item| item.one_of(&words), Format::Json);
    section.finish();
    Some(Webhook { url_file: url_file?, format })
}

fn mail(section: &Section<'_>) -> Option<Smtp> {
    let words = [("starttls", SmtpTls::StartTls), ("tls", SmtpTls::Tls), ("none", SmtpTls::None)];
    let tls = section.or("tls", |item| item.one_of(&words), SmtpTls::StartTls);
    let usual = match tls {
        SmtpTls::StartTls => 587,
        SmtpTls::Tls => 465,
        SmtpTls::None => 25,
    };
    let server = section.required("server", |item| {
        let server = item.parse(|text| value::host_port(text, usual))?;
        if tls == SmtpTls::None && !is_this_host(&server) {
            item.fault("mail without TLS is allowed to this host only: write 127.0.0.1, or tls = \"starttls\"".to_owned());
        }
        Some(server)
    });
    let from = section.required("from", |item| {
        let from = item.words()?;
        if crate::alerts::is_mailbox(&from) {
            return Some(from);
        }
        item.fault(format!("invalid mail address {from:?}: write for example \"sidekey@example.com\""));
        None
    });
    let credentials_file = section.maybe("credentials_file", Item::path);
    section.finish();
    Some(Smtp { server: server?, from: from?, credentials_file, tls })
}

fn is_this_host(server: &HostPort) -> bool {
    &*server.host == "localhost"
        || server.host.parse().is_ok_and(|ip| is_local(&ListenAddress::Tcp(std::net::SocketAddr::new(ip, server.port))))
}
