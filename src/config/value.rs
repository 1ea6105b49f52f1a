//! Texts of the configuration → values: durations, dates, sizes, addresses, names. Each error is a half sentence with what to write.
//!
//! Pure, and the same for the file, the flags and the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::net::{BackendAddress, HostPort, ListenAddress};

/// What is wrong with a text and what to write instead.
pub(super) type ValueError = String;

/// Longer durations are a typo, and could not be added to a time.
const LONGEST_DURATION: Duration = Duration::from_hours(24 * 36_500);

/// `30d`, `12h`, `90s`, `1d12h`; days are 24 hours.
pub(super) fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let wrong = || format!("invalid duration {text:?}: write for example \"30d\", \"12h\" or \"90s\"");
    let span: Span = text.trim().parse().map_err(|_| wrong())?;
    let exact = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("{text:?} contains months or years, which vary in length: write days, as in \"30d\""))?;
    let exact =
        Duration::try_from(exact).map_err(|_| format!("{text:?} is negative: a duration must be zero or longer"))?;
    if exact > LONGEST_DURATION {
        return Err(format!("{text:?} is longer than 100 years"));
    }
    Ok(exact)
}

/// RFC 3339; a date alone is the first second of that day, UTC.
pub(super) fn parse_date(text: &str) -> Result<Timestamp, ValueError> {
    let wrong = || {
        format!(
            "invalid date {text:?}: write for example \"2027-01-31\" (midnight UTC at the start of that day) or \"2027-01-31T18:00:00Z\""
        )
    };
    let day_only = text.len() == 10;
    let full = if day_only { format!("{text}T00:00:00Z") } else { text.to_owned() };
    // jiff knows more notations than RFC 3339 has, among them some in brackets.
    if !full.is_ascii() || full.contains('[') {
        return Err(wrong());
    }
    full.parse().map_err(|_| wrong())
}

/// `64KiB`, `1MiB`, `2GiB`, `512B`.
pub(super) fn parse_byte_size(text: &str) -> Result<usize, ValueError> {
    let wrong = || format!("invalid size {text:?}: write for example \"64KiB\" or \"1MiB\"");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match text[digits..].trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

/// A network in CIDR notation, or one address.
pub(super) fn parse_network(text: &str) -> Result<ipnet::IpNet, ValueError> {
    text.parse::<ipnet::IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(Into::into))
        .map_err(|_| format!("invalid network {text:?}: write for example \"203.0.113.0/24\" or \"2001:db8::/32\""))
}

/// A permission mode in octal, as `chmod` takes it.
pub(super) fn parse_mode(text: &str) -> Result<u32, ValueError> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| format!("invalid permission mode {text:?}: write for example \"0660\""))
}

/// Where to listen: `IP:PORT`, `[::]:PORT`, `unix:PATH` (relative to the working directory until the caller resolves it).
pub(super) fn parse_listen(text: &str) -> Result<ListenAddress, ValueError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(ListenAddress::Unix { path: parse_socket_path(path)?, mode: None, group: None });
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("invalid listen address {text:?}: write for example \"[::]:8443\", \"127.0.0.1:9001\" or \"unix:/run/app.sock\"")
    })?;
    let any = address.is_ipv6() && address.ip().is_unspecified();
    Ok(if any { ListenAddress::AnyTcp(address.port()) } else { ListenAddress::Tcp(address) })
}

/// The application: `http://HOST:PORT`, `h2c://HOST:PORT` or `unix:PATH`.
pub(super) fn parse_backend(text: &str) -> Result<BackendAddress, ValueError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_socket_path(path).map(BackendAddress::Unix);
    }
    if let Some(rest) = text.strip_prefix("http://") {
        return parse_url_authority(text, rest, 80).map(BackendAddress::Http);
    }
    if let Some(rest) = text.strip_prefix("h2c://") {
        return parse_url_authority(text, rest, 80).map(BackendAddress::H2c);
    }
    if text.starts_with("https://") {
        return Err(format!(
            "{text:?}: the backend is the application next to this sidecar and is reached over plain HTTP; to reach another host over TLS use [[egress]]"
        ));
    }
    Err(format!("invalid backend {text:?}: write \"http://HOST:PORT\", \"h2c://HOST:PORT\" (HTTP/2) or \"unix:PATH\""))
}

/// The upstream: `https://HOST:PORT`, nothing else; plain text never leaves this host.
pub(super) fn parse_upstream(text: &str) -> Result<HostPort, ValueError> {
    let Some(rest) = text.strip_prefix("https://") else {
        return Err(format!(
            "invalid upstream {text:?}: write \"https://HOST\" or \"https://HOST:PORT\"; it always uses TLS"
        ));
    };
    parse_url_authority(text, rest, 443)
}

/// `https://HOST[:PORT]/PATH`: the server, and the path to request.
pub(super) fn parse_https_url(text: &str) -> Result<(HostPort, String), ValueError> {
    let Some(rest) = text.strip_prefix("https://") else {
        return Err(format!("{text:?} is not allowed: tokens are requested over https:// only"));
    };
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let path =
        parse_target(path).map_err(|_| format!("{text:?} has no valid path: write it as in \"https://HOST/token\""))?;
    Ok((parse_url_authority(text, host, 443)?, path))
}

/// The target of a request: an absolute path, a query too.
pub(super) fn parse_target(text: &str) -> Result<String, ValueError> {
    let target = text.parse::<http::uri::PathAndQuery>();
    if text.starts_with('/') && target.is_ok_and(|target| target.as_str() == text) {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid path {text:?}: write it as in \"/healthz\""))
    }
}

/// `HOST` or `HOST:PORT`.
pub(super) fn parse_host_port(text: &str, default_port: u16) -> Result<HostPort, ValueError> {
    parse_url_authority(text, text, default_port)
}

/// A Postgres' URL, without a password.
pub(super) fn check_postgres_url(text: &str) -> Result<(), ValueError> {
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    // What is wrong may be a password: the text itself is not repeated.
    let rest = rest.ok_or("unsupported database URL: write \"postgres://USER@HOST/DATABASE\" or the path of a file")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = place.rsplit_once('@').map_or("", |(user, _)| user);
    if user.contains(':') || query.split('&').any(|part| part.starts_with("password=")) {
        return Err("contains a password: put the whole URL into a file, and set registry_file to its path".to_owned());
    }
    Ok(())
}

fn parse_url_authority(whole: &str, rest: &str, default_port: u16) -> Result<HostPort, ValueError> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(format!("{whole:?} has a path: requests supply their own, so leave it out"));
    }
    let wrong = || format!("{whole:?} has no valid host and port: write HOST:PORT");
    let authority: http::uri::Authority = rest.parse().map_err(|_| wrong())?;
    if rest.contains('@') {
        return Err(format!("{whole:?} contains a user name, which Sidekey does not send: leave it out"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = match rest.strip_prefix(authority.host()) {
        Some("") => default_port,
        Some(port) => {
            port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0).ok_or_else(wrong)?
        }
        None => return Err(wrong()),
    };
    rustls_pki_types::ServerName::try_from(host).map_err(|_| wrong())?;
    Ok(HostPort { host: Arc::from(host.to_ascii_lowercase()), port })
}

fn parse_socket_path(path: &str) -> Result<PathBuf, ValueError> {
    // sockaddr_un holds 108 bytes, the closing NUL included.
    match path.len() {
        0 => Err("\"unix:\" must be followed by the path of a socket".to_owned()),
        1..=107 if !path.contains('\0') => Ok(PathBuf::from(path)),
        _ => Err(format!("{path:?} is too long for a socket path: at most 107 bytes")),
    }
}

/// A configured name: it becomes a metric's label and part of a log line.
pub(super) fn parse_name(text: &str) -> Result<Arc<str>, ValueError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        Ok(Arc::from(text))
    } else {
        Err(format!("invalid name {text:?}: use 1 to 64 letters, digits, \"-\", \"_\" and \".\""))
    }
}

/// A keyring's name: that of a folder directly under the watched one.
pub(super) fn parse_keyring_name(text: &str) -> Result<Arc<str>, ValueError> {
    let plain = (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && !text.ends_with('~')
        && text != "lost+found"
        && !text.contains(['/', '\\', ':'])
        && crate::pki::printable(text) == text;
    if plain {
        Ok(Arc::from(text))
    } else {
        Err(format!(
            "invalid keyring name {text:?}: write the plain name of a folder directly under certs, or \"default\" for the files at its top"
        ))
    }
}

/// A field name in `also_strip`; `*` at the end stands for anything.
pub(super) fn parse_field_pattern(text: &str) -> Result<String, ValueError> {
    const REQUIRED_FIELDS: [&str; 6] = ["host", "content-length", "transfer-encoding", "content-type", "te", "trailer"];
    let (name, any) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
    let wrong = || format!("invalid field name {text:?}: write for example \"X-SSL-*\" or \"Remote-User\"");
    if name.contains('*') {
        return Err(wrong());
    }
    let pattern = http::HeaderName::try_from(name).map_err(|_| wrong())?;
    let name = pattern.as_str();
    let hit = REQUIRED_FIELDS.iter().find(|needed| if any { needed.starts_with(name) } else { **needed == name });
    match hit {
        Some(needed) => Err(format!("{text:?} would strip {needed}, which every forwarded request needs")),
        None if any => Ok(format!("{name}*")),
        None => Ok(name.to_owned()),
    }
}

/// A pattern on a normalised path, as in `/admin/**`.
pub(super) fn parse_path_pattern(text: &str) -> Result<String, ValueError> {
    let problem = match text.contains(['?', '#']) {
        true => Err("rules match the path only, without query and fragment"),
        false => crate::trust::allow::pattern::check_path_pattern(text),
    };
    problem.map_err(|why| format!("{text:?} can never match a normalised path: {why}"))?;
    Ok(text.to_owned())
}

/// A method, upper case.
pub(super) fn parse_method(text: &str) -> Result<String, ValueError> {
    if !text.is_empty() && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid method {text:?}: write it in upper case, as in \"POST\""))
    }
}

/// The URI that an upstream must have in its certificate.
pub(super) fn parse_server_uri(text: &str) -> Result<Arc<str>, ValueError> {
    match text.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() && !text.contains('*') => Ok(Arc::from(text)),
        _ => Err(format!("invalid server URI {text:?}: write for example \"spiffe://partner.example/api\"")),
    }
}

/// The name that an upstream must have in its certificate (RFC 9525): a DNS name without wildcard, or an address.
pub(super) fn parse_server_name(text: &str) -> Result<Arc<str>, ValueError> {
    match rustls_pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(Arc::from(text.to_ascii_lowercase())),
        Err(_) => Err(format!("invalid server name {text:?}: write a DNS name or an IP address, without port")),
    }
}

/// The error for a text that is not a fingerprint or pin.
pub(super) fn hash_error(text: &str) -> ValueError {
    format!("invalid SHA-256 {text:?}: write \"sha256:\" and 64 hex digits, as \"sidekey inspect FILE\" prints them")
}

/// A filter for log events: a level, or levels by target as in `info,sidekey::folder=debug`. A release build has nothing
/// finer than `debug`; `trace` is for development, of libraries too.
pub(super) fn parse_level(text: &str) -> Result<String, ValueError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A lone word that is not a level would count as a target, and a typo would then silence everything else.
    let legal = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.is_empty() && LEVELS.contains(&level),
        None => LEVELS.contains(&part),
    };
    if text.split(',').all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid level {text:?}: write error, warn, info, debug or trace"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact_and_never_negative() {
        assert_eq!(parse_duration("30d"), Ok(Duration::from_hours(720)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1d12h"), Ok(Duration::from_hours(36)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "30", "-30d", "1 month", "1y", "100000d", "soon", "999999999999999999999d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert!(parse_duration("-1d").unwrap_err().contains("negative"));
    }

    #[test]
    fn a_date_alone_is_when_that_day_begins() {
        let day: Timestamp = "2027-01-31T00:00:00Z".parse().unwrap();
        assert_eq!(parse_date("2027-01-31"), Ok(day));
        assert_eq!(parse_date("2027-01-31T02:00:00+02:00"), Ok(day));
        for wrong in [
            "2027-01-31T00:00:00",
            "31.1.2027",
            "2027-13-01",
            "2027-01-31T00:00:00+00:00[UTC]",
            "20270131",
            "ä027-01-3",
        ] {
            assert!(parse_date(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_networks_and_modes() {
        assert_eq!(parse_byte_size("64KiB"), Ok(65_536));
        assert_eq!(parse_byte_size("512B"), Ok(512));
        for wrong in ["64", "64KB", "KiB", "-1KiB", "99999999999999999999GiB", "18446744073709551615GiB"] {
            assert!(parse_byte_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_network("203.0.113.7").unwrap().to_string(), "203.0.113.7/32");
        assert!(parse_network("203.0.113.0/33").is_err());
        assert_eq!(parse_mode("0660"), Ok(0o660));
        assert!(parse_mode("1777").is_err() && parse_mode("rw").is_err() && parse_mode("+660").is_err());
    }

    #[test]
    fn addresses_say_what_they_are() {
        assert_eq!(parse_listen("[::]:8443"), Ok(ListenAddress::AnyTcp(8443)));
        assert_eq!(parse_listen("127.0.0.1:1"), Ok(ListenAddress::Tcp(([127, 0, 0, 1], 1).into())));
        for wrong in ["8443", ":8443", "localhost:1", "unix:", "[::]"] {
            assert!(parse_listen(wrong).is_err(), "{wrong}");
        }
        let host = |host: &str, port| HostPort { host: Arc::from(host), port };
        assert_eq!(parse_backend("http://[::1]:8080/"), Ok(BackendAddress::Http(host("::1", 8080))));
        assert_eq!(parse_backend("h2c://App_1"), Ok(BackendAddress::H2c(host("app_1", 80))));
        assert_eq!(parse_backend("unix:/run/a"), Ok(BackendAddress::Unix(PathBuf::from("/run/a"))));
        for wrong in [
            "https://a",
            "http://",
            "http://a:b",
            "http://a:0",
            "http://a/b",
            "http://u@a",
            "127.0.0.1:80",
            "http://a:99999",
        ] {
            assert!(parse_backend(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_upstream("https://A.example:8443"), Ok(host("a.example", 8443)));
        assert_eq!(parse_upstream("https://a.example"), Ok(host("a.example", 443)));
        assert!(parse_upstream("http://a.example").unwrap_err().contains("always uses TLS"));
    }

    #[test]
    fn names_fit_folders_and_labels() {
        assert!(parse_keyring_name("api").is_ok() && parse_keyring_name("Ünser Ring").is_ok());
        for wrong in ["", ".", "..", "a/b", ".hidden", "a~", "own:a", "a\nb", "lost+found"] {
            assert!(parse_keyring_name(wrong).is_err(), "{wrong}");
        }
        assert!(parse_name("acme-1.2_x").is_ok());
        assert!(parse_level("info").is_ok() && parse_level("warn,access=debug").is_ok());
        assert!(parse_level("inof").is_err() && parse_level("").is_err() && parse_level("a=b").is_err());
        assert!(parse_name("ä").is_err() && parse_name("").is_err() && parse_name("a b").is_err());
    }

    #[test]
    fn patterns_that_never_match_or_strip_too_much_are_refused() {
        assert_eq!(parse_field_pattern("X-SSL-*"), Ok("x-ssl-*".to_owned()));
        for wrong in ["*", "", "Host", "h*", "a b", "X-*-Y"] {
            assert!(parse_field_pattern(wrong).is_err(), "{wrong}");
        }
        assert!(parse_path_pattern("/admin/**").is_ok());
        for wrong in ["admin", "/a//b", "/a/../b", "/a?b", "/a;b"] {
            assert!(parse_path_pattern(wrong).is_err(), "{wrong}");
        }
        assert!(parse_method("POST").is_ok() && parse_method("post").is_err());
        assert!(
            parse_server_name("a.example").is_ok()
                && parse_server_name("*.a.example").is_err()
                && parse_server_name("a:1").is_err()
        );
        assert!(parse_server_uri("spiffe://a/b").is_ok() && parse_server_uri("a.example").is_err());
    }
}
