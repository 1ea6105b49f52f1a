use proptest::prelude::*;

use super::*;

fn allow_everyone() -> AllowList {
    AllowList(Some(vec![PeerMatcher { anonymous: true, ..PeerMatcher::default() }]))
}

fn allow_none() -> AllowList {
    AllowList(Some(Vec::new()))
}

fn access_rule(paths: &[&str], methods: &[&str], allow: AllowList) -> AccessRule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    AccessRule { paths: owned(paths), methods: owned(methods), allow }
}

#[test]
fn a_dns_name_with_a_blank_or_a_control_character_fits_no_pattern() {
    for name in
        ["a\\u{0}.acme.example", "a b.acme.example", "\\u{1b}.acme.example", "a\0.acme.example", "\u{e4}.acme.example"]
    {
        for wanted in ["*.acme.example", "**", "*", name] {
            assert!(!pattern::matches_dns(wanted, name), "{wanted:?} {name:?}");
        }
    }
}

#[test]
fn dns_patterns_stay_within_labels() {
    assert!(pattern::matches_dns("*.acme.example", "etl.acme.example"));
    assert!(pattern::matches_dns("*.ACME.example", "etl.acme.example"));
    assert!(pattern::matches_dns("etl-*.acme.example", "etl-7.acme.example"));
    assert!(!pattern::matches_dns("*.acme.example", "a.b.acme.example"));
    assert!(!pattern::matches_dns("*.acme.example", "acme.example"));
    assert!(!pattern::matches_dns("*.acme.example", ".acme.example"));
    assert!(!pattern::matches_dns("*.acme.example", "etl.acme.example.evil.example"));
    assert!(pattern::matches_dns("**.acme.example", "a.b.acme.example"));
    assert!(!pattern::matches_dns("**.acme.example", "evilacme.example"));
    assert!(!pattern::matches_dns("etl.acme.example", "etlxacme.example"));
}

#[test]
fn a_certificate_with_a_wildcard_name_fits_only_the_same_text() {
    assert!(pattern::matches_dns("*.acme.example", "*.acme.example"));
    assert!(!pattern::matches_dns("**.example", "*.acme.example"));
    assert!(!pattern::matches_dns("etl.acme.example", "*.acme.example"));
    assert!(!pattern::matches_dns("*.example", "*.example.evil"));
}

#[test]
fn uri_patterns_stay_within_segments() {
    assert!(pattern::matches_uri("spiffe://acme.example/**", "spiffe://acme.example/ns/a/sa/b"));
    assert!(pattern::matches_uri("spiffe://acme.example/ns/*/sa/b", "spiffe://acme.example/ns/a/sa/b"));
    assert!(!pattern::matches_uri("spiffe://acme.example/ns/*", "spiffe://acme.example/ns/a/sa/b"));
    assert!(!pattern::matches_uri("spiffe://acme.example/**", "spiffe://acme.example"));
    assert!(!pattern::matches_uri("spiffe://acme.example/**", "spiffe://acme.example/"));
    assert!(!pattern::matches_uri("spiffe://acme.example/**", "spiffe://acme.example.evil/a"));
    assert!(!pattern::matches_uri("spiffe://acme.example/**", "spiffe://ACME.example/a"));
    assert!(!pattern::matches_uri("https://*.acme.example/x", "https://evil.example#.acme.example/x"));
    assert!(!pattern::matches_uri("spiffe://acme.example/billing/**", "spiffe://acme.example/billing/../admin"));
}

#[test]
fn email_hosts_ignore_case_and_the_rest_does_not() {
    assert!(pattern::matches_email("ops@acme.example", "ops@ACME.example"));
    assert!(!pattern::matches_email("ops@acme.example", "Ops@acme.example"));
    assert!(!pattern::matches_email("ops", "ops"));
}

#[test]
fn path_patterns() {
    for (text, fits, misses) in [
        ("/admin/**", &["/admin", "/admin/", "/admin/a/b"][..], &["/administrator", "/x/admin", "/Admin"][..]),
        ("/admin", &["/admin"], &["/admin/", "/admin/a"]),
        ("/a/*", &["/a/", "/a/b"], &["/a", "/a/b/c"]),
        ("/a/**/z", &["/a/z", "/a/b/z", "/a/b/c/z"], &["/a/bz", "/az"]),
        ("/**", &["/", "/a", "/a/b"], &[]),
        ("/v1/*.json", &["/v1/a.json"], &["/v1/a/b.json", "/v1/a.jsonx"]),
        ("/v1/items:delete", &["/v1/items:delete", "/v1/items%3Adelete"], &["/v1/items"]),
        ("/caf%c3%a9", &["/caf%C3%A9"], &["/cafe"]),
        ("/caf\u{e9}", &["/caf%C3%A9"], &[]),
        ("/a%2Ab", &["/a*b", "/a%2Ab"], &["/axb"]),
    ] {
        for path in fits {
            assert!(pattern::matches_path(text, path), "{text} should match {path}");
        }
        for path in misses {
            assert!(!pattern::matches_path(text, path), "{text} should not match {path}");
        }
    }
}

#[test]
fn a_path_pattern_that_can_never_match_is_named() {
    assert_eq!(pattern::check_path_pattern("/admin/**"), Ok(()));
    assert_eq!(pattern::check_path_pattern("/caf%c3%a9/*"), Ok(()));
    assert!(pattern::check_path_pattern("admin/**").is_err());
    assert!(pattern::check_path_pattern("/a//b").is_err());
    assert!(pattern::check_path_pattern("/a/../b").is_err());
    assert!(pattern::check_path_pattern("/a/.").is_err());
    assert!(pattern::check_path_pattern("/a;b").is_err());
    assert!(pattern::check_path_pattern("/a%2fb").is_err());
    assert!(pattern::check_path_pattern("/a\0b").is_err());
}

#[test]
fn normal_forms() {
    for (path, normal) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//a///b", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/a//../b", "/b"),
        ("/../../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/%61dmin", "/admin"),
        ("/a/%2e%2E/b", "/b"),
        ("/a%3ab", "/a%3Ab"),
        ("/a%252fb", "/a%252fb"),
        ("/caf\u{e9} x", "/caf%C3%A9%20x"),
        ("/a...b/...", "/a...b/..."),
    ] {
        assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
    }
}

#[test]
fn ambiguous_paths_are_errors_that_say_why() {
    for (path, why) in [
        ("/a%2fb", "an encoded slash"),
        ("/a%5Cb", "an encoded backslash"),
        ("/a%00", "an encoded NUL"),
        ("/a\0b", "a NUL"),
        ("/a%0a", "an encoded control character"),
        ("/a%0D%0A", "an encoded control character"),
        ("/a%09", "an encoded control character"),
        ("/a%7f", "an encoded control character"),
        ("/a\n", "a control character"),
        ("/%c0%ae%c0%ae/a", "overlong UTF-8"),
        ("/a%C0%AFb", "overlong UTF-8"),
        ("/a%e0%80%afb", "overlong UTF-8"),
        ("/a%f0%80%80%afb", "overlong UTF-8"),
        ("/a\\b", "a backslash"),
        ("/a;x=1", "a semicolon"),
        ("/a%", "a bad percent escape"),
        ("/a%4", "a bad percent escape"),
        ("/a%+1", "a bad percent escape"),
        ("/a%zz", "a bad percent escape"),
        ("/a?b", "a query or fragment within the path"),
        ("", "it does not begin with /"),
        ("a", "it does not begin with /"),
    ] {
        assert_eq!(normalise(path), Err(why), "{path}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = AccessRules {
        rules: vec![
            access_rule(&["/admin/public/**"], &[], allow_everyone()),
            access_rule(&["/admin/**"], &["POST"], allow_none()),
            access_rule(&["/other"], &[], allow_none()),
        ],
        allow: allow_everyone(),
    };
    assert_eq!(rules.decide(None, "POST", "/admin/public/x").as_deref(), Ok("/admin/public/x"));
    let denied = rules.decide(None, "POST", "/admin/x").unwrap_err();
    assert_eq!(denied.to_string(), "rule 2 (/admin/**) does not allow a client without a certificate");
    assert!(rules.decide(None, "post", "/admin").is_err());
    assert!(rules.decide(None, "GET", "/admin/x").is_ok());
    assert!(rules.decide(None, "GET", "/elsewhere").is_ok());
    assert_eq!(rules.decide(None, "GET", "/a%2f"), Err(AccessDenied::Path("an encoded slash")));
}

#[test]
fn exactly_what_matched_is_forwarded_where_rules_name_paths() {
    let by_path = AccessRules { rules: vec![access_rule(&["/admin/**"], &[], allow_none())], allow: allow_everyone() };
    assert_eq!(by_path.decide(None, "GET", "/x/../%61").as_deref(), Ok("/a"));
    assert!(by_path.decide(None, "GET", "/x/..//%61dmin/").is_err());
    let by_method = AccessRules { rules: vec![access_rule(&[], &["DELETE"], allow_none())], allow: allow_everyone() };
    assert_eq!(by_method.decide(None, "GET", "/x/../%2f").as_deref(), Ok("/x/../%2f"));
    assert!(by_method.decide(None, "DELETE", "/").is_err());
}

#[test]
fn a_slash_at_the_end_does_not_walk_around_a_rule() {
    let rules =
        AccessRules { rules: vec![access_rule(&["/admin", "/ops/"], &[], allow_none())], allow: allow_everyone() };
    for path in ["/admin", "/admin/", "/admin/.", "/admin//", "/admin/x/..", "/ops", "/ops/"] {
        assert!(matches!(rules.decide(None, "GET", path), Err(AccessDenied::Rule { .. })), "{path}");
    }
    assert!(rules.decide(None, "GET", "/administrator").is_ok());
    assert!(rules.decide(None, "GET", "/admin/x").is_ok());
}

#[test]
fn a_path_that_meets_another_rule_where_case_does_not_count_is_ambiguous() {
    let rules = AccessRules {
        rules: vec![
            access_rule(&["/admin/**"], &[], allow_none()),
            access_rule(&["/Reports"], &["POST"], allow_none()),
        ],
        allow: allow_everyone(),
    };
    for path in ["/ADMIN", "/Admin/x", "/%41dmin/x", "/admiN"] {
        assert!(matches!(rules.decide(None, "GET", path), Err(AccessDenied::Path(_))), "{path}");
    }
    assert!(matches!(rules.decide(None, "POST", "/reports"), Err(AccessDenied::Path(_))));
    assert!(matches!(rules.decide(None, "POST", "/Reports"), Err(AccessDenied::Rule { .. })));
    for (method, path) in [("GET", "/reports"), ("GET", "/Other"), ("GET", "/caf%c3%a9"), ("GET", "/open")] {
        assert!(rules.decide(None, method, path).is_ok(), "{path}");
    }
    // The same rule either way, so nothing depends on it.
    assert!(matches!(rules.decide(None, "GET", "/admin/X"), Err(AccessDenied::Rule { .. })));
}

#[test]
fn without_certificate_only_anonymous_serves() {
    assert!(!AllowList(None).permits(None));
    assert!(!allow_none().permits(None));
    assert!(allow_everyone().permits(None));
    let with = |matcher: PeerMatcher| AllowList(Some(vec![matcher]));
    assert!(!with(PeerMatcher::default()).permits(None));
    assert!(!with(PeerMatcher { anonymous: true, dns: Some("a".into()), ..PeerMatcher::default() }).permits(None));
    assert!(!with(PeerMatcher { anonymous: true, partner: Some("a".into()), ..PeerMatcher::default() }).permits(None));
}

/// Another spelling of a plain path: escapes, dot segments, doubled slashes, put in where `spell` says.
fn respell_path(path: &str, spell: &[u8]) -> String {
    let mut out = String::new();
    for (at, byte) in path.bytes().enumerate() {
        let how = spell[at % spell.len()] % 6;
        match (byte, how) {
            (b'/', 0) => out.push_str("//"),
            (b'/', 1) => out.push_str("/./"),
            (b'/', 2) => out.push_str("/x/../"),
            (b'/', 3) => out.push_str("/%2e/"),
            (b'/', 4) => out.push_str("/y/%2E./"),
            (b'/', _) => out.push('/'),
            (_, 0) => out.push_str(&format!("%{byte:02x}")),
            (_, 1) => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// The obvious way to match, exponential: what the automaton must agree with.
fn matches_naively(pattern: &[u8], text: &[u8], least: usize) -> bool {
    let stars = pattern.iter().take_while(|byte| **byte == b'*').count();
    match (stars, pattern.first()) {
        (0, None) => text.is_empty(),
        (0, Some(byte)) => text.first() == Some(byte) && matches_naively(&pattern[1..], &text[1..], least),
        _ => (least..=text.len())
            .take_while(|taken| stars > 1 || !text[..*taken].contains(&b'.'))
            .any(|taken| matches_naively(&pattern[stars..], &text[taken..], least)),
    }
}

proptest! {
    #[test]
    fn normalising_twice_is_normalising_once(path in "/([a-c./%;\0\r]|%2[ef0]|%61|%3[aA]|\u{e9}){0,24}") {
        if let Ok(normal) = normalise(&path) {
            prop_assert_eq!(normalise(&normal), Ok(normal.clone()));
            prop_assert!(normal.starts_with('/') && normal.is_ascii());
            prop_assert!(!normal.contains("//"));
            prop_assert!(normal.split('/').all(|segment| !matches!(segment, "." | "..")));
        }
    }

    #[test]
    fn normalise_takes_any_text(path in any::<String>()) {
        let _ = normalise(&path);
    }

    #[test]
    fn no_other_spelling_walks_around_a_rule(
        path in "/admin(/[a-z:@]{1,5}){0,3}/?",
        spell in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let rules = AccessRules { rules: vec![access_rule(&["/admin/**"], &[], allow_none())], allow: allow_everyone() };
        let spelled = respell_path(&path, &spell);
        prop_assert!(rules.decide(None, "GET", &spelled).is_err(), "{}", spelled);
        let exact = AccessRules { rules: vec![access_rule(&[&path], &[], allow_none())], allow: allow_everyone() };
        prop_assert!(exact.decide(None, "GET", &spelled).is_err(), "{}", spelled);
    }

    #[test]
    fn the_automaton_agrees_with_the_obvious_way(pattern in "[ab.*]{0,8}", text in "[ab.]{0,10}") {
        prop_assert_eq!(pattern::matches_dns(&pattern, &text), matches_naively(pattern.as_bytes(), text.as_bytes(), 1));
    }
}
