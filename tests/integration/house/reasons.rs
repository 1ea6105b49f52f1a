//! The `reason` codes that the sources can write into lines about requests and connections, read from their syntax.
//!
//! A code is a literal in a function, a variable, a field or an argument that `reason` names. Lists at run time cannot
//! be had: most codes belong to variants with values.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::source::SourceFile;

/// Where request and connection codes are made.
const ROOMS: &[&str] = &["src/http", "src/jwt", "src/dataplane"];

/// Files whose codes belong to other lines than those of requests, and the page that lists them.
pub(super) const LISTED_ELSEWHERE: &[(&str, &str)] =
    &[("src/dataplane/drain.rs", "docs/metrics.md"), ("src/dataplane/egress/fact.rs", "docs/upstreams.md")];

/// The reason of a handshake that succeeded.
const SUCCESS: &str = "ok";

/// Every code, with the first file that makes it, outside tests.
pub(super) fn find_codes(sources: &[SourceFile]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let in_rooms = |source: &&SourceFile| ROOMS.iter().any(|room| source.path.starts_with(room)) && !source.is_tests();
    for source in sources.iter().filter(in_rooms) {
        for code in codes_in(&source.text) {
            found.entry(code).or_insert_with(|| source.path.clone());
        }
    }
    found
}

fn codes_in(text: &str) -> Vec<String> {
    let mut reader = CodeReader::default();
    reader.visit_file(&syn::parse_file(text).expect("a source is syntax"));
    reader.found
}

fn is_code(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && text != SUCCESS
}

fn names_reason(name: &syn::Ident) -> bool {
    name.to_string().contains("reason")
}

fn binds_reason(pattern: &syn::Pat) -> bool {
    match pattern {
        syn::Pat::Ident(name) => names_reason(&name.ident),
        syn::Pat::Tuple(tuple) => tuple.elems.iter().any(binds_reason),
        syn::Pat::Type(typed) => binds_reason(&typed.pat),
        _ => false,
    }
}

fn is_test_code(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|one| {
        one.path().is_ident("cfg") && one.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

#[derive(Default)]
struct CodeReader {
    /// How many things that make reasons are open.
    inside: usize,
    found: Vec<String>,
}

impl CodeReader {
    fn read_if(&mut self, makes_reasons: bool, read: impl FnOnce(&mut Self)) {
        self.inside += usize::from(makes_reasons);
        read(self);
        self.inside -= usize::from(makes_reasons);
    }

    /// `reason = "code"` among the fields of a log line.
    fn read_log_fields(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for three in tokens.windows(3) {
            if let [TokenTree::Ident(name), TokenTree::Punct(mark), TokenTree::Literal(value)] = three
                && name == "reason"
                && mark.as_char() == '='
            {
                self.add(value.to_string().trim_matches('"'));
            }
        }
    }

    fn add(&mut self, text: &str) {
        if is_code(text) {
            self.found.push(text.to_owned());
        }
    }
}

impl<'ast> Visit<'ast> for CodeReader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_code(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.read_if(names_reason(&item.sig.ident), |reader| visit::visit_item_fn(reader, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.read_if(names_reason(&item.sig.ident), |reader| visit::visit_impl_item_fn(reader, item));
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        self.read_if(binds_reason(&local.pat), |reader| visit::visit_local(reader, local));
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        let makes_reasons = matches!(&field.member, syn::Member::Named(name) if names_reason(name));
        self.read_if(makes_reasons, |reader| visit::visit_field_value(reader, field));
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.visit_expr(&call.receiver);
        self.read_if(names_reason(&call.method), |reader| {
            call.args.iter().for_each(|argument| reader.visit_expr(argument));
        });
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.read_log_fields(call.tokens.clone());
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        if self.inside > 0 {
            self.add(&literal.value());
        }
    }
}

/// The rows of a page's tables that begin with a code: code and the other cells.
pub(super) fn code_rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    page.lines()
        .filter_map(|line| {
            let (code, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((code, rest.trim_end_matches('|').split(" | ").map(str::trim).collect()))
        })
        .filter(|(code, _)| is_code(code))
        .collect()
}

#[test]
fn codes_are_found_where_reasons_are_made_and_nowhere_else() {
    let text = r#"
        impl Fault { fn reason(&self) -> &'static str { match self { Self::A => "one", Self::B => "No code" } } }
        fn other() -> &'static str { "none" }
        fn make() {
            let reason = if true { "two" } else { "ok" };
            let (reason, why) = ("three", format!("none"));
            record.set_break_reason("four");
            let made = Failure::Token { reason: "five", explanation: "none" };
            tracing::info!(target: "proxy", limit, reason = "six", "none");
        }
        #[cfg(test)]
        mod tests { fn reason() -> &'static str { "none" } }
    "#;
    assert_eq!(codes_in(text), ["one", "two", "three", "four", "five", "six"]);
}
