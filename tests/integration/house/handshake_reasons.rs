//! The `reason` codes of handshakes that the sources make: the first text of an explanation, or of a pair with its sentence.
//!
//! Their page, `docs/handshakes.md`, is compared with the list in `tls::explain`, and here that list with what is made.

use std::collections::BTreeSet;

use sidekey::tls::explain::REASONS;
use syn::visit::{self, Visit};

use super::source::read_sources;

#[derive(Default)]
struct ExplanationReader {
    found: BTreeSet<String>,
}

impl ExplanationReader {
    fn add(&mut self, first: Option<&syn::Expr>) {
        let Some(syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. })) = first else { return };
        let text = text.value();
        if !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            self.found.insert(text);
        }
    }
}

impl<'ast> Visit<'ast> for ExplanationReader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(path) = &*call.func
            && path.path.segments.last().is_some_and(|last| last.ident == "refused" || last.ident == "failed")
        {
            self.add(call.args.first());
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_tuple(&mut self, tuple: &'ast syn::ExprTuple) {
        if tuple.elems.len() == 2 {
            self.add(tuple.elems.first());
        }
        visit::visit_expr_tuple(self, tuple);
    }
}

fn codes_in(text: &str) -> BTreeSet<String> {
    let mut reader = ExplanationReader::default();
    reader.visit_file(&syn::parse_file(text).expect("a source is syntax"));
    reader.found
}

#[test]
fn every_reason_of_a_handshake_has_its_row() {
    let explains = |path: &str| path.starts_with("src/tls/explain") && !path.ends_with("tests.rs");
    let sources = read_sources("src");
    let made: BTreeSet<String> =
        sources.iter().filter(|source| explains(&source.path)).flat_map(|source| codes_in(&source.text)).collect();
    let unlisted: Vec<_> = made.iter().filter(|code| !REASONS.contains(&code.as_str())).collect();
    assert!(unlisted.is_empty(), "made in src/tls/explain and not in docs/handshakes.md: {unlisted:?}");
    let unmade: Vec<_> = REASONS
        .iter()
        .filter(|code| {
            !sources.iter().any(|source| {
                !source.is_tests()
                    && source.path != "src/tls/explain.rs"
                    && source.text.contains(&format!("\"{code}\""))
            })
        })
        .collect();
    assert!(unmade.is_empty(), "in docs/handshakes.md, and made nowhere: {unmade:?}");
}

#[test]
fn codes_are_found_where_explanations_are_made() {
    let text = r#"
        fn one() { FailureReason::refused("one", format!("none")); let refused = |code, why| code; refused("two", "why") }
        fn two() { let (reason, why) = if true { ("three", String::new()) } else { ("No code", String::new()) }; }
        mod tests { fn three() { FailureReason::failed("none", why) } }
    "#;
    assert_eq!(codes_in(text).into_iter().collect::<Vec<_>>(), ["one", "three", "two"]);
}
