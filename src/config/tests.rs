//! What must hold: every key of the contract is known, what a later issue brings is refused, and values and defaults are
//! the contract's.

mod faults;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use toml::de::DeValue;

use super::*;
use crate::evidence::ProbeMode;
use crate::keyring::{ActivationPolicy, PreferPolicy};
use crate::net::BackendAddress;
use crate::tls::{AlpnProtocol, AuthorityNames, ClientAuth, KeyExchangeGroup, TlsVersion};
use crate::trust::partner::KeyPairPreference;
use crate::trust::{AllowList, PeerRole, Pin};

const EXAMPLE_CONFIG: &str = include_str!("../../deploy/sidekey.toml");

fn test_environment(name: &str) -> Option<String> {
    (name == "PORT").then(|| "8080".to_owned())
}

fn try_read_config(content: &str) -> Result<Config, ConfigErrors> {
    read_config(place::SourceText { file: "f.toml", content }, Path::new("/etc/sidekey"), &test_environment)
}

fn read_config_text(content: &str) -> Config {
    try_read_config(content).unwrap_or_else(|error| panic!("{error}\n{content}"))
}

fn read_faults(content: &str) -> Vec<String> {
    match try_read_config(content) {
        Ok(_) => Vec::new(),
        Err(ConfigErrors::Invalid(faults)) => faults.iter().map(ToString::to_string).collect(),
        Err(error) => panic!("{error}"),
    }
}

/// The one fault of a file that is fine but for `extra`.
fn single_fault(extra: &str) -> String {
    let all = read_faults(&format!("{extra}\n{EGRESS_SECTION}"));
    assert_eq!(all.len(), 1, "{extra}\n{all:#?}");
    all.into_iter().next().unwrap_or_default()
}

const EGRESS_SECTION: &str =
    "[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:9001\"\nupstream = \"https://a.example\"\nkeyring = \"out\"\n";

fn read_single_ingress(extra: &str) -> String {
    format!("[[ingress]]\nname = \"in\"\nlisten = \"[::]:8443\"\nbackend = \"http://127.0.0.1:8080\"\n{extra}\n")
}

// ---- the example, the parser and the contract's list

/// The example with every commented-out key uncommented: `#key`, or `#` and an indented continuation.
fn uncomment() -> String {
    let comment = |line: &str| line.starts_with("# ") && !line.starts_with("#  ");
    EXAMPLE_CONFIG
        .lines()
        .map(|line| if comment(line) { "" } else { line.strip_prefix('#').unwrap_or(line) }.to_owned() + "\n")
        .collect()
}

fn key_paths(table: &DeTable<'_>, path: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let named = matches!(path, "keyring" | "trust" | "partner");
        // The tables of `allow` and `peers` have the same keys wherever they are.
        let parent = if path.ends_with(".allow") || path.ends_with(".peers") { "allow" } else { path };
        let key = if named { "*" } else { key.get_ref().as_ref() };
        let path = if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
        match value.get_ref() {
            DeValue::Table(table) => key_paths(table, &path, into),
            DeValue::Array(array) => {
                for table in array.iter().filter_map(|element| element.get_ref().as_table()) {
                    key_paths(table, &path, into);
                }
            }
            _ => {}
        }
        if !path.ends_with('*') {
            into.insert(path);
        }
    }
}

#[test]
fn the_example_is_accepted_as_it_is() {
    let config = read_config_text(EXAMPLE_CONFIG);
    assert_eq!(config.settings.ingresses.len(), 1);
    assert_eq!(config.instance.as_deref(), Some("sidekey"));
}

#[test]
fn the_example_has_every_key_that_the_parser_knows_and_no_other() {
    let content = uncomment();
    let document = DeTable::parse(&content).unwrap();
    let mut shown = BTreeSet::new();
    key_paths(document.get_ref(), "", &mut shown);
    let text = place::SourceText { file: "f.toml", content: &content };
    let reading = file::ConfigReader::new(text, Path::new("/"), &test_environment);
    read_sections(&reading.top_level(document.get_ref()), Path::new("/"));
    let known = reading.known_keys();
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "known, but not shown");
    assert_eq!(shown.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "shown, but not known");
    assert!(!reading.into_faults().iter().any(|fault| fault.message.contains("unknown key")));
}

/// The keys that contract section 5 has and a later issue brings: present, they are refused and never ignored.
#[test]
fn keys_of_later_issues_are_refused_by_name() {
    let refused: BTreeSet<String> = read_faults(&uncomment())
        .into_iter()
        .filter(|fault| fault.ends_with("not yet supported: leave it out"))
        .map(|fault| fault.split(": ").nth(1).unwrap_or_default().to_owned())
        .collect();
    let expected = ["admin.allow", "admin.keyring", "admin.trust", "egress.via", "egress.via_credentials_file"];
    assert_eq!(refused.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_true_today_may_be_said_and_anything_else_not() {
    assert!(read_config_text(&format!("landlock = \"auto\"\n{EGRESS_SECTION}")).landlock);
    assert!(!read_config_text(&format!("landlock = \"off\"\n{EGRESS_SECTION}")).landlock);
    // The type is checked first: a wrong value is reported as such.
    assert!(single_fault("landlock = 1").contains("expected a string"));
    assert!(read_faults(&read_single_ingress("quiet_from = [\"x\"]"))[0].contains("invalid network"));
}

// ---- values

#[test]
fn defaults_are_the_contracts() {
    let config = read_config_text(&format!("{}{EGRESS_SECTION}", read_single_ingress("")));
    let (ingress, egress) = (&config.settings.ingresses[0], &config.settings.egresses[0]);
    assert_eq!((ingress.keyrings[0].as_ref(), ingress.learn), ("default", true));
    assert_eq!(
        (ingress.client_auth, &ingress.trust, &ingress.rules),
        (ClientAuth::Required, &None, &crate::trust::AccessRules::default())
    );
    assert_eq!(egress.expects, PeerRole::ServerName("a.example".into()));
    assert_eq!((egress.upstream.port, egress.keep_host, egress.hosts.len()), (443, false, 0));
    assert_eq!((egress.tcp_keepalive, egress.dns_refresh), (Duration::from_secs(45), Duration::from_secs(30)));
    assert_eq!((&egress.probe, egress.prove_within), (&ProbeMode::Handshake, Duration::from_hours(1)));
    assert_eq!((&egress.refusal_statuses[..], egress.replay_limit), (&[400, 401, 403, 495, 496][..], 65_536));
    assert_eq!(config.folder, top::default_folder_settings("/etc/sidekey/certs".into()));
    assert_eq!((config.state, config.settings.remembers), (None, false));
    assert_eq!(config.settings.skew, Duration::from_mins(1));
    assert!(config.workers >= 1);
    let roles = |name: &str| config.settings.keyrings[name].roles;
    assert_eq!(roles("default"), keyring::KeyringRoles { server: true, client: false });
    assert_eq!(roles("out"), keyring::KeyringRoles { server: false, client: true });
}

#[test]
fn every_kind_of_value_is_read() {
    let config = read_config_text(
        r#"
        certs = "../certs"
        state = "state"
        workers = 3
        instance = "a-${PORT}"
        skew = "10s"
        [keyring.api]
        overlap = "1d12h"
        seen_within = "9d"
        prefer = "old"
        activate = "manual"
        pkcs12_password_file = "p12"
        revoked = ["sha256:00:00:000000000000000000000000000000000000000000000000000000000000"]
        [trust.b]
        pin_only = true
        pins = [{ pin = "1111111111111111111111111111111111111111111111111111111111111111", until = 2027-01-31 }]
        [trust.a]
        anchors = ["./trust/a.pem", "/etc/sidekey/../certs/trust/b.pem", "system"]
        crls = ["trust/a.crl"]
        [partner.z]
        anchors = ["trust/z.pem"]
        sources = ["203.0.113.0/24", "2001:db8::1"]
        show = { old_until = 2027-01-31 }
        max_connections = 7
        [partner.y]
        anchors = ["trust/z.pem"]
        peers = [{ dns = "*.Y.example" }]
        accept_expired_until = 2026-11-20
        [[ingress]]
        name = "in"
        listen = "127.0.0.1:0"
        keyrings = ["api", "default"]
        trust = "a"
        client_auth = "optional"
        backend = "unix:app.sock"
        identity = ["client-cert"]
        also_strip = ["X-SSL-*"]
        proxy_protocol_from = ["10.0.0.0/8", "2001:db8::1"]
        quiet_from = ["192.0.2.1"]
        forwarded_from = [{ partner = "z" }]
        allow = [{ anonymous = true }, { partner = "z" }]
        ca_names = "trust/hints.pem"
        learn = false
        tls_min = "1.3"
        groups = ["X25519"]
        alpn = ["http/1.1"]
        [[ingress.rule]]
        paths = ["/admin/**"]
        methods = ["POST"]
        allow = []
        [ingress.limits]
        head_size = "16KiB"
        streams = 1_0
        hello_waiting = 1
        handshakes = 2
        handshakes_per_source = 3
        connection_age = "1h"
        [[egress]]
        name = "out"
        listen = "unix:out.sock"
        mode = "0660"
        group = "app"
        upstream = "https://[::1]:8443"
        keyring = "api"
        trust = "system"
        server_uri = "spiffe://a/b"
        response_timeout = "2m"
        host = "keep"
        hosts = ["API.internal.", "app"]
        probe = { path = "/health?deep=1" }
        prove_within = "10m"
        refusal_statuses = [421, 403]
        replay_limit = "0B"
        [admin]
        probes = "[::]:${PORT}"
        [log]
        access = false
        format = "text"
        [shutdown]
        delay = "0s"
        "#,
    );
    let api = &config.settings.keyrings["api"];
    assert_eq!(
        (api.overlap, api.prefer, api.activate),
        (Duration::from_hours(36), PreferPolicy::Old, ActivationPolicy::Manual)
    );
    assert_eq!(api.seen_within, Duration::from_hours(9 * 24));
    assert_eq!((api.skew, api.revoked.len()), (Duration::from_secs(10), 1));
    assert_eq!(api.roles, keyring::KeyringRoles { server: true, client: true });
    assert_eq!(config.folder.pkcs12_passwords["api"], Path::new("/etc/sidekey/p12"));
    assert_eq!(config.state.as_deref(), Some(Path::new("/etc/sidekey/state")));
    assert_eq!((config.workers, config.instance.as_deref()), (3, Some("a-8080")));

    let Pin { until: Some(until), .. } = config.settings.trusts["b"].pins[0] else { panic!("no date") };
    assert_eq!(until.to_string(), "2027-01-31T00:00:00Z");
    let file = |path: &str| AnchorSource::File { path: path.into(), until: None };
    assert_eq!(config.settings.trusts["a"].anchors, [file("trust/a.pem"), file("trust/b.pem"), AnchorSource::System]);
    assert_eq!(config.settings.trusts["system"].anchors, [AnchorSource::System]);
    // Partners keep the order of the file: the first that matches is it.
    assert_eq!(config.settings.partners.iter().map(|partner| partner.name.as_ref()).collect::<Vec<_>>(), ["z", "y"]);
    assert_eq!(config.settings.partners[1].peers[0].dns.as_deref(), Some("*.y.example"));
    let named: Vec<_> = config.folder.named.iter().map(|path| path.display().to_string()).collect();
    assert_eq!(named, ["trust/a.crl", "trust/a.pem", "trust/b.pem", "trust/hints.pem", "trust/z.pem"]);

    let partner = &config.settings.partners[0];
    assert_eq!(
        partner.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["203.0.113.0/24", "2001:db8::1/128"]
    );
    assert_eq!(partner.show, Some(KeyPairPreference::OldUntil(until)));

    let ingress = &config.settings.ingresses[0];
    assert!(!ingress.learn);
    assert_eq!(ingress.backend, BackendAddress::Unix("/etc/sidekey/app.sock".into()));
    assert_eq!((ingress.identity.xfcc, ingress.identity.client_cert), (false, true));
    assert_eq!(
        (ingress.authorities.clone(), ingress.authorities_file.as_deref()),
        (AuthorityNames::Auto, Some(Path::new("trust/hints.pem")))
    );
    assert_eq!(
        (ingress.tls.min, &ingress.tls.groups[..], &ingress.tls.alpn[..]),
        (TlsVersion::Tls13, &[KeyExchangeGroup::X25519][..], &[AlpnProtocol::Http11][..])
    );
    assert_eq!((ingress.limits.head_size, ingress.limits.streams, ingress.log_access), (16_384, 10, false));
    assert_eq!(ingress.rules.rules[0].allow, AllowList(Some(Vec::new())));
    let limits = &ingress.limits;
    assert_eq!((limits.hello_waiting, limits.handshakes, limits.handshakes_per_source), (1, 2, 3));
    assert_eq!(limits.connection_age, Some(Duration::from_hours(1)));
    let networks = |networks: &[ipnet::IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(networks(&ingress.proxy_protocol_from), "10.0.0.0/8 2001:db8::1/128");
    assert_eq!(networks(&ingress.quiet_from), "192.0.2.1/32");
    assert_eq!(ingress.forwarded_from[0].partner.as_deref(), Some("z"));
    assert_eq!(config.settings.partners[0].max_connections, Some(7));

    let egress = &config.settings.egresses[0];
    assert_eq!(
        egress.listen,
        ListenAddress::Unix { path: "/etc/sidekey/out.sock".into(), mode: Some(0o660), group: Some("app".to_owned()) }
    );
    assert_eq!(
        (egress.expects.clone(), egress.upstream.host.as_ref()),
        (PeerRole::ServerUri("spiffe://a/b".into()), "::1")
    );
    assert_eq!((egress.limits.response, egress.keep_host), (Duration::from_mins(2), true));
    assert_eq!(egress.own_hosts().map(AsRef::as_ref).collect::<Vec<&str>>(), ["::1", "api.internal", "app"]);
    assert_eq!(egress.probe, ProbeMode::Head("/health?deep=1".to_owned()));
    assert_eq!((egress.prove_within, egress.replay_limit), (Duration::from_mins(10), 0));
    assert!(egress.is_refusal_status(403) && egress.is_refusal_status(421) && !egress.is_refusal_status(400));
    assert_eq!(config.admin.probes, Some(ListenAddress::AnyTcp(8080)));
    assert_eq!((config.log.format, config.shutdown.delay), (Some(log::LogFormat::Text), Duration::ZERO));
}

// ---- files

#[test]
fn the_only_listener_of_a_side_needs_no_name() {
    let ingress = "[[ingress]]\nlisten = \"[::]:8443\"\nbackend = \"http://127.0.0.1:1\"\n";
    let egress = "[[egress]]\nlisten = \"127.0.0.1:9001\"\nupstream = \"https://a.example\"\nkeyring = \"a\"\ntrust = \"system\"\n";
    let config = read_config_text(&format!("{ingress}{egress}"));
    assert_eq!((&*config.settings.ingresses[0].name, &*config.settings.egresses[0].name), ("default", "default"));
    let two = read_faults(&format!("{ingress}{}name = \"b\"\n", ingress.replace("8443", "8444")));
    assert_eq!(two.len(), 1, "{two:?}");
    assert!(two[0].contains("\"name\" is missing"), "{two:?}");
}

#[test]
fn a_file_is_read_from_its_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidekey.toml");
    std::fs::write(&file, EGRESS_SECTION).unwrap();
    let config = load(&file).unwrap();
    assert_eq!(config.folder.root, folder.path().join("certs"));
    assert_eq!(config.source.as_deref(), Some(file.as_path()));
    let missing = load(&folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read ") && missing.contains("none.toml"), "{missing}");
    std::fs::write(&file, vec![b'#'; (MAX_CONFIG_BYTES + 1) as usize]).unwrap();
    assert!(load(&file).unwrap_err().to_string().contains("larger than 1 MiB"));
}

proptest! {
    #[test]
    fn any_damage_to_the_example_is_a_fault_within_it_or_harmless(
        at in 0..EXAMPLE_CONFIG.len(),
        length in 0usize..40,
        put in "[ -~\n]{0,8}",
    ) {
        let mut bytes = EXAMPLE_CONFIG.as_bytes().to_vec();
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, put.bytes());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Err(error) = try_read_config(&text) {
            let ConfigErrors::Invalid(faults) = error else { panic!("{error}") };
            let lines = text.matches('\n').count() + 1;
            prop_assert!(!faults.is_empty());
            prop_assert!(faults.iter().all(|fault| (1..=lines).contains(&fault.line) && !fault.message.is_empty()));
        }
    }
}

#[test]
fn tokens_are_read_with_their_defaults() {
    use crate::jwt::GrantType;
    let known = "[trust.partners]\nanchors = [\"a\"]\n[partner.acme]\nanchors = [\"a\"]\n";
    let jwt = "jwks = true\n[ingress.jwt]\npartner = \"acme\"\ncertificates = [\"trust/jwt.pem\"]\naudience = \"https://orders\"";
    let config = parse(&format!("{known}{}", read_single_ingress(jwt)), Path::new("/etc/sidekey")).unwrap();
    let ingress = &config.settings.ingresses[0];
    let settings = ingress.jwt.as_ref().unwrap();
    assert!(ingress.jwks && settings.issuer.is_none() && settings.max_lifetime == Duration::from_hours(1));
    assert!(config.folder.named.contains(Path::new("trust/jwt.pem")), "its folder would be taken for a keyring");
    let bearer = "[egress.jwt_bearer]\nissuer = \"me\"\naudience = \"https://login\"\n";
    let read = |extra: &str| {
        let config = parse(&format!("{EGRESS_SECTION}{bearer}{extra}"), Path::new("/etc/sidekey")).unwrap();
        let settings = config.settings;
        (settings.egresses[0].bearer.clone().unwrap(), settings.egresses[0].keyring.clone(), settings.trusts)
    };
    let (plain, own, _) = read("");
    assert_eq!((&plain.keyring, plain.subject.as_str(), plain.lifetime), (&own, "me", Duration::from_mins(2)));
    assert!(plain.endpoint.is_none() && plain.algorithm.is_none());
    let (full, _, trusts) = read(
        "keyring = \"jwt\"\nalg = \"PS256\"\ntoken_url = \"https://Login:8443/a/token?x=1\"\ntoken_trust = \"system\"\ngrant = \"client_credentials\"",
    );
    let endpoint = full.endpoint.unwrap();
    assert_eq!((endpoint.to.to_string().as_str(), endpoint.path.as_str()), ("login:8443", "/a/token?x=1"));
    assert_eq!((endpoint.grant, &*full.keyring), (GrantType::ClientCredentials, "jwt"));
    assert!(trusts.contains_key("system"), "token_trust alone brings the platform's anchors");
}
