//! What must hold: every fault has its place and its remedy, all are reported at once, and nothing unsafe is accepted.

use super::{EGRESS_SECTION, read_faults, read_single_ingress, single_fault};

#[test]
fn all_faults_are_told_at_once_each_with_its_place() {
    let text =
        "certz = \"a\"\n\n[keyring.api]\noverlp = \"30d\"\n  overlap = \"30\"\nprefer = 1\n[[ingress]]\nnmae = \"a\"\n";
    assert_eq!(
        read_faults(text),
        [
            "f.toml:1:1: certz: unknown key; did you mean \"certs\"?",
            "f.toml:4:1: keyring.api.overlp: unknown key; did you mean \"overlap\"?",
            "f.toml:5:13: keyring.api.overlap: invalid duration \"30\": write for example \"30d\", \"12h\" or \"90s\"",
            "f.toml:6:10: keyring.api.prefer: expected a string, found integer",
            "f.toml:7:1: ingress: \"listen\" is missing",
            "f.toml:7:1: ingress: \"backend\" is missing",
            "f.toml:8:1: ingress.nmae: unknown key; did you mean \"name\"?",
        ]
    );
}

#[test]
fn broken_toml_and_an_empty_file_have_a_place_too() {
    assert!(read_faults("certs = \"a\nworkers = 1").iter().all(|fault| fault.starts_with("f.toml:1:")));
    assert!(read_faults("workers = 1\nworkers = 2")[0].starts_with("f.toml:2:1: duplicate key"));
    assert_eq!(read_faults(""), ["f.toml:1:1: no listeners configured: add at least one [[ingress]] or [[egress]]"]);
}

#[test]
fn an_unset_variable_names_the_key() {
    assert_eq!(
        single_fault("certs = \"${NO_SUCH}/certs\""),
        "f.toml:1:9: certs: the environment variable NO_SUCH is not set: set it, or write ${NO_SUCH:-default}"
    );
}

#[test]
fn process_wide_faults() {
    for (extra, wanted) in [
        ("rescan = \"0s\"", "rescan: must be longer than zero"),
        ("settle = 2", "a duration with its unit"),
        ("skew = \"-1s\"", "negative"),
        ("workers = 0", "out of range: from 1 to 256"),
        ("workers = \"many\"", "write \"auto\""),
        ("state = \"certs/state\"", "outside the watched folder"),
        ("strict_permissions = \"yes\"", "expected true or false"),
        ("[keyring.\"a/b\"]", "invalid keyring name"),
        ("[keyring.a]\ncurrent = \"sha256:12\"", "invalid SHA-256"),
        ("[keyring.a]\nowner = \"\"", "is empty: leave it out"),
        ("keyring = 1", "write [keyring.NAME]"),
        ("[admin]\nlisten = \"[::]:9900\"", "would expose peer names"),
        ("[admin]\nprobes = \"127.0.0.1:9001\"", "is already used by another listener"),
        ("[log]\nlevel = \"inof\"", "invalid level"),
        ("[log]\nformat = \"xml\"", "write \"json\" or \"text\""),
        ("[shutdown]\ndrain = \"1 month\"", "months or years"),
        ("[alerts]\nmail = 1", "unknown key"),
    ] {
        let all = read_faults(&format!("{extra}\n{EGRESS_SECTION}")).join("\n");
        assert!(all.contains(wanted), "{extra}\n{all}");
    }
    let hash = format!("sha256:{}", "0".repeat(64));
    assert!(
        single_fault(&format!("[keyring.a]\ncurrent = \"{hash}\"\nrevoked = [\"{hash}\"]"))
            .contains("is also listed in revoked")
    );
}

#[test]
fn trust_and_partner_faults() {
    for (extra, wanted) in [
        ("[trust.a]", "has no anchors"),
        ("[trust.a]\npins = []\nanchors = [\"a\"]", "is empty: leave it out"),
        ("[trust.a]\npin_only = true", "pin_only needs pins"),
        ("[trust.a]\nanchors = [\"../a.pem\"]", "is not inside the watched folder"),
        ("[trust.a]\nanchors = [\"/etc/ssl/ca.pem\"]", "is not inside the watched folder"),
        ("[trust.a]\nanchors = [{ file = \"a\", until = \"soon\" }]", "invalid date"),
        ("[trust.a]\nanchors = [{ file = \"a\" }]", "\"until\" is missing"),
        ("[trust.a]\nanchors = \"a\"", "expected a list"),
        ("[trust.system]\nanchors = [\"a\"]", "\"system\" is built in"),
        ("[trust.a]\nanchors = [\"a\"]\ncrl_depth = \"all\"", "write \"leaf\" or \"chain\""),
        ("[partner.a]", "does not identify its peers"),
        ("[partner.a]\npeers = [{ partner = \"b\" }]", "leave out partner and anonymous"),
        ("[partner.a]\npeers = [{}]", "has no condition"),
        ("[partner.a]\npeers = [{ dsn = \"b\" }]", "did you mean \"dns\""),
        ("[partner.\"a b\"]\npins = []", "invalid name"),
    ] {
        let all = read_faults(&format!("{extra}\n{EGRESS_SECTION}")).join("\n");
        assert!(all.contains(wanted), "{extra}\n{all}");
    }
}

#[test]
fn ingress_faults() {
    for (extra, wanted) in [
        ("trust = \"partnes\"", "[trust.partnes] does not exist; did you mean \"partners\"?"),
        ("keyrings = [\"a\", \"b\"]", "set trust"),
        ("keyrings = [\"a\", \"a\"]\ntrust = \"partners\"", "lists a keyring twice"),
        ("keyrings = []", "is empty"),
        ("allow = [{ partner = \"acmee\" }]", "[partner.acmee] does not exist; did you mean \"acme\"?"),
        ("allow = [{ anonymous = true }]", "anonymous never matches here"),
        ("client_auth = \"optional\"\nallow = [{ anonymous = true, dns = \"a\" }]", "anonymous cannot be combined"),
        ("allow = [{}]", "has no condition"),
        ("identity = [\"x\"]", "write \"xfcc\""),
        ("also_strip = [\"*\"]", "invalid field name"),
        ("tls_min = \"1.3\"\ntls_max = \"1.2\"", "is below tls_min"),
        ("tls_min = \"1.1\"", "write \"1.2\" or \"1.3\""),
        ("alpn = [\"h2\", \"h2\"]", "contains a value twice"),
        ("ca_names = \"../x\"", "is not inside"),
        ("rule = [{ paths = [\"admin\"] }]", "can never match"),
        ("rule = [{ methods = [\"post\"] }]", "write it in upper case"),
        ("rule = { paths = [\"/\"] }", "write [[ingress.rule]]"),
        ("[ingress.limits]\nhead_size = \"1KiB\"", "from 8 to 1024 KiB"),
        ("[ingress.limits]\nconnections = 0", "out of range"),
        ("[ingress.limits]\nhandshakes = 0", "out of range"),
        ("forwarded_from = [{ partner = \"acmee\" }]", "[partner.acmee] does not exist"),
        ("proxy_protocol_from = [\"10.0.0.0/33\"]", "invalid network"),
        ("[ingress.jwt]\nfoo = 1", "unknown key"),
        ("[ingress.jwt]\npartner = \"acme\"\naudience = \"a\"", "ingress.jwt: \"certificates\" is missing"),
        (
            "[ingress.jwt]\npartner = \"acm\"\naudience = \"a\"\ncertificates = [\"c.pem\"]",
            "[partner.acm] does not exist; did you mean \"acme\"?",
        ),
        ("[ingress.jwt]\npartner = \"acme\"\naudience = \"a\"\ncertificates = [\"../c.pem\"]", "is not inside"),
    ] {
        let known = "[trust.partners]\nanchors = [\"a\"]\n[partner.acme]\nanchors = [\"a\"]\n";
        let all = read_faults(&format!("{known}{}", read_single_ingress(extra))).join("\n");
        assert!(all.contains(wanted), "{extra}\n{all}");
    }
    let twice = read_faults(&format!("{}{}", read_single_ingress(""), read_single_ingress(""))).join("\n");
    assert!(
        twice.contains("ingress.name: \"in\" is already the name of another")
            && twice.contains("ingress.listen: is already used")
    );
    let socket = "[[ingress]]\nname = \"a\"\nlisten = \"unix:/a\"\nbackend = \"http://a\"\n";
    assert!(read_faults(socket)[0].contains("peers connect over TCP"));
    assert!(read_faults("[ingress]\nname = \"a\"").join("\n").contains("write [[ingress]]"));
}

#[test]
fn egress_faults() {
    let with = |extra: &str| read_faults(&format!("{EGRESS_SECTION}{extra}\n")).join("\n");
    for (extra, wanted) in [
        ("trust = \"unknown\"", "[trust.unknown] does not exist; available: system"),
        ("server_name = \"a\"\nserver_uri = \"spiffe://a\"", "verified by one name"),
        ("server_name = \"*.a\"", "invalid server name"),
        ("mode = \"0660\"", "applies to Unix sockets only"),
        ("hosts = \"a.internal\"", "expected a list"),
        ("hosts = [\"*.internal\"]", "invalid host \"*.internal\": write a DNS name without port or wildcard"),
        ("hosts = [\"a.internal:9001\"]", "invalid host"),
        ("hosts = [\"\"]", "invalid host"),
        ("host = \"drop\"", "write \"upstream\" or \"keep\""),
        ("response_timeout = \"1s\"\n[egress.limits]\nresponse = \"1s\"", "duplicates limits.response"),
        ("[egress.limits]\nhello_waiting = 1", "egress.limits.hello_waiting: limits handshakes of peers"),
        ("refusal_statuses = [1000]", "out of range"),
        ("[egress.jwt_bearer]\ntoken_url = \"http://a\"", "over https:// only"),
        ("[egress.jwt_bearer]\ntoken_url = \"https://a b/\"", "no valid host"),
        ("[egress.jwt_bearer]\ntoken_url = \"https://u@a/\"", "user name"),
        ("[egress.jwt_bearer]\nissuer = \"a\"", "egress.jwt_bearer: \"audience\" is missing"),
        ("[egress.jwt_bearer]\nissuer = \"a\"\naudience = \"a\"\nlifetime = \"2h\"", "one hour at most"),
        ("[egress.jwt_bearer]\nissuer = \"a\"\naudience = \"a\"\nscope = \"s\"", "applies to a token_url"),
        ("[egress.jwt_bearer]\nissuer = \"a\"\naudience = \"a\"\nalg = \"HS256\"", "write \"RS256\""),
        (
            "[egress.jwt_bearer]\nissuer = \"a\"\naudience = \"a\"\ntoken_url = \"https://a\"\ntoken_trust = \"x\"",
            "[trust.x] does not exist",
        ),
    ] {
        assert!(with(extra).contains(wanted), "{extra}\n{}", with(extra));
    }
    let listening = |address: &str| EGRESS_SECTION.replace("127.0.0.1:9001", address);
    assert!(read_faults(&listening("0.0.0.0:9001"))[0].contains("could use this sidecar's key pair"));
    assert!(read_faults(&format!("{}allow_remote_plaintext = true\n", listening("0.0.0.0:9001"))).is_empty());
    assert!(read_faults(&listening("[::1]:9001")).is_empty());
    assert!(read_faults(&EGRESS_SECTION.replace("https:", "http:"))[0].contains("it always uses TLS"));
    assert!(read_faults(&EGRESS_SECTION.replace("keyring = \"out\"", ""))[0].contains("\"keyring\" is missing"));
}

// ---- what is dangerous

#[test]
fn name_rules_over_several_unbound_anchors_are_refused() {
    let judged = |anchors: &str, rule: &str| {
        let known = format!("[trust.t]\nanchors = {anchors}\n[partner.bound]\nanchors = [\"a\"]\n");
        let all = read_faults(&format!("{known}{}", read_single_ingress(&format!("trust = \"t\"\nallow = [{rule}]"))));
        all.into_iter().next().unwrap_or_default()
    };
    let two = "[\"a.pem\", \"b.pem\"]";
    for rule in ["{ dns = \"a\" }", "{ cn = \"a\", issuer = \"CN=A\" }"] {
        assert!(judged(two, rule).contains("each of the 2 anchor sources of trust \"t\" could issue"), "{rule}");
    }
    let exact = format!("{{ dns = \"a\", spki = \"{}\" }}", "0".repeat(64));
    for rule in ["{ partner = \"bound\" }", "{ partner = \"bound\", dns = \"a\" }", &exact] {
        assert_eq!(judged(two, rule), "", "{rule}");
    }
    assert_eq!(judged("[\"a.pem\", { file = \"old.pem\", until = \"2027-01-31\" }]", "{ dns = \"a\" }"), "");
    assert_eq!(judged("[\"a.pem\"]", "{ cn = \"a\" }"), "");
    assert!(judged("[\"system\"]", "{ cn = \"a\" }").contains("public authorities do not check"));
}

#[test]
fn a_partner_is_bound_to_what_no_other_party_can_issue_and_exceptions_end_soon() {
    let said = |extra: &str| read_faults(&format!("[partner.acme]\n{extra}\n{EGRESS_SECTION}")).join("\n");
    assert!(said("peers = [{ dns = \"a\" }]").contains("is identified by names alone"));
    assert!(said("contact = \"a@b\"").contains("does not identify its peers"));
    assert!(said("anchors = [\"a\"]\nshow = \"new_only\"").contains("set sources to the addresses it connects from"));
    assert!(said("anchors = [\"a\"]\naccept_expired_until = 2126-12-01").contains("more than 14 days ahead"));
    let exact = format!("peers = [{{ spki = \"{}\" }}]", "0".repeat(64));
    for fine in [
        exact.as_str(),
        "anchors = [\"a\"]\npeers = [{ dns = \"a\" }]",
        "anchors = [\"a\"]\naccept_expired_until = 2026-01-01",
        "anchors = [\"a\"]\nsources = [\"192.0.2.1\"]\nshow = \"new_only\"",
    ] {
        assert_eq!(said(fine), "", "{fine}");
    }
}

#[test]
fn the_platforms_anchors_on_ingress_need_allow() {
    let open = "without allow every peer with a certificate from a public authority is accepted";
    assert!(read_faults(&read_single_ingress("trust = \"system\""))[0].contains(open));
    let rule = "trust = \"system\"\nallow = [{ dns = \"a.example\" }]\n[[ingress.rule]]\npaths = [\"/\"]";
    assert!(read_faults(&read_single_ingress(rule))[0].contains(open));
    let hidden = format!("[trust.t]\nanchors = [\"system\"]\n{}", read_single_ingress("trust = \"t\""));
    assert!(read_faults(&hidden)[0].contains(open));
    assert_eq!(
        read_faults(&read_single_ingress("trust = \"system\"\nallow = [{ dns = \"a.example\" }]")),
        Vec::<String>::new()
    );
    assert_eq!(read_faults(&read_single_ingress("trust = \"system\"\nallow = []")), Vec::<String>::new());
}
