use super::{DefinitionKind, SourceFile};

fn imports(path: &str, text: &str) -> Vec<String> {
    let source = SourceFile::parse(path, text.to_owned());
    let found = source.room_imports(&["pki", "keyring", "trust"]);
    found
        .into_iter()
        .map(|import| format!("{}:{}:{}", import.line, import.to, import.item.unwrap_or_default()))
        .collect()
}

#[test]
fn groups_nesting_and_names_are_followed() {
    let text =
        "use crate::{pki::{self, KeyPair as Pair, blocks::{A, B}}, keyring};\nfn f(_: crate::trust::Peer<'_>) {}";
    assert_eq!(
        imports("src/tls.rs", text),
        ["1:pki:", "1:pki:KeyPair", "1:pki:blocks", "1:pki:blocks", "1:keyring:", "2:trust:Peer"]
    );
}

#[test]
fn super_is_counted_through_inline_modules() {
    let text = "mod tests { use super::super::pki::X; }\nuse super::keyring::Y;\nuse self::trust::Z;";
    assert_eq!(imports("src/tls.rs", text), ["1:pki:X", "2:keyring:Y"]);
    assert_eq!(imports("src/tls/seen.rs", "use super::pki::X;\nuse super::super::pki::Y;"), ["2:pki:Y"]);
}

#[test]
fn comments_and_text_are_not_read_and_macros_are() {
    let text = "/* crate::pki /* x */ crate::pki */ // crate::pki\nconst A: &str = \"crate::pki \\\" crate::pki\";\n\
                type E = crate::pki::F;\nfn f() { m!(a => { crate::trust::G(1, \"crate::pki\") }); }";
    assert_eq!(imports("src/tls.rs", text), ["3:pki:F", "4:trust:G"]);
}

#[test]
fn own_room_is_not_an_import() {
    assert!(imports("src/pki/join.rs", "use crate::pki::KeyPair; use super::Blocks;").is_empty());
}

#[test]
fn names_of_foreign_traits_are_not_ours() {
    let text = "struct A;\nimpl A { fn of() {} }\nimpl Foreign for A { fn poll() {} }\ntrait B { fn at(&self); }";
    let source = SourceFile::parse("src/tls.rs", text.to_owned());
    let names: Vec<_> = source.definitions.iter().map(|found| (found.kind, found.name.as_str())).collect();
    let (ours, functions) = (DefinitionKind::Type, DefinitionKind::Function);
    assert_eq!(names, [(ours, "A"), (functions, "of"), (ours, "B"), (functions, "at")]);
}
