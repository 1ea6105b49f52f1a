//! Rust sources as the `house` test reads them: what a file defines, and every path in it that leads to another module.
//!
//! syn reads the items; what stands inside a macro call is read as tokens, so that `tokio::select!` hides no path.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// One file.
pub(super) struct SourceFile {
    /// From the repository's root, with `/`.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
    /// What it defines.
    pub(super) definitions: Vec<Definition>,
    /// Every path that begins with `crate`, `super`, `self`, our own name or a child module.
    paths: Vec<ModulePath>,
    /// `pub use`: the path, and the name under which others find it.
    re_exports: Vec<(ModulePath, String)>,
    /// Every identifier and keyword, with its line.
    identifiers: Vec<(usize, String)>,
    /// Every module that is declared, with its line.
    modules: Vec<(usize, String)>,
}

/// Something that has a name.
pub(super) struct Definition {
    /// Which kind of thing.
    pub(super) kind: DefinitionKind,
    /// Its name.
    pub(super) name: String,
    /// Where.
    pub(super) line: usize,
}

/// The kinds that have rules for their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DefinitionKind {
    /// A struct, enum, trait or alias.
    Type,
    /// A function or method whose name is ours to choose.
    Function,
}

/// A path as it is written, and the inline module that it is written in.
#[derive(Clone, Debug)]
pub(super) struct ModulePath {
    /// Where.
    pub(super) line: usize,
    /// From the crate's root.
    pub(super) segments: Vec<String>,
}

/// A path that leads from one room into another.
#[derive(Debug)]
pub(super) struct RoomImport {
    /// Where.
    pub(super) line: usize,
    /// The room that imports.
    pub(super) from: String,
    /// The room that is imported.
    pub(super) to: String,
    /// What of it; nothing where the whole room is named.
    pub(super) item: Option<String>,
}

/// Every Rust file below a folder of the repository; none where the folder does not exist.
pub(super) fn read_sources(folder: &str) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<SourceFile> = files_below(&root.join(folder), "rs")
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).expect("a source is readable text");
            let path = path.strip_prefix(root).expect("it was found below the root");
            SourceFile::parse(&path.to_string_lossy().replace('\\', "/"), text)
        })
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Every file below a folder whose name ends so.
pub(super) fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("our own folder is readable").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found
}

impl SourceFile {
    /// Reads a source; `path` is the one from the repository's root.
    pub(super) fn parse(path: &str, text: String) -> Self {
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let tokens: TokenStream = text.parse().expect("what syn reads has tokens");
        let mut identifiers = Vec::new();
        collect_identifiers(tokens, &mut identifiers);
        let mut reader = ItemReader {
            module: module_of(path),
            children: Vec::new(),
            source: Self {
                path: path.to_owned(),
                text,
                definitions: Vec::new(),
                paths: Vec::new(),
                re_exports: Vec::new(),
                identifiers,
                modules: Vec::new(),
            },
        };
        reader.children = file
            .items
            .iter()
            .filter_map(|item| match item {
                syn::Item::Mod(module) => Some(module.ident.to_string()),
                _ => None,
            })
            .collect();
        reader.visit_file(&file);
        reader.source
    }

    /// The room: `trust` for `src/trust.rs` and everything in `src/trust/`.
    pub(super) fn room(&self) -> &str {
        self.path.trim_start_matches("src/").trim_end_matches(".rs").split('/').next().unwrap_or_default()
    }

    /// Its module's path from the crate's root.
    pub(super) fn module(&self) -> Vec<String> {
        module_of(&self.path)
    }

    /// Only tests inside, or what only tests use.
    pub(super) fn is_tests(&self) -> bool {
        const FOR_TESTS: [&str; 5] = ["tests.rs", "sample.rs", "fixture.rs", "properties.rs", "pool.rs"];
        self.path.contains("/tests/")
            || FOR_TESTS.iter().any(|name| self.path.ends_with(&format!("/{name}"))) && self.is_declared_for_tests()
    }

    fn is_declared_for_tests(&self) -> bool {
        let module = self.module();
        let Some((name, parent)) = module.split_last() else { return false };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let parent = root.join("src").join(parent.join("/")).with_extension("rs");
        std::fs::read_to_string(parent).is_ok_and(|text| {
            let declared = text.lines().zip(text.lines().skip(1));
            let wanted = format!("mod {name};");
            declared.into_iter().any(|(before, line)| before == "#[cfg(test)]" && line.ends_with(&wanted))
        })
    }

    /// The lines before the tests at its foot.
    pub(super) fn lines_without_tests(&self) -> usize {
        self.text.lines().take_while(|line| *line != "#[cfg(test)]").count()
    }

    /// What its first line says of it.
    pub(super) fn summary(&self) -> &str {
        self.text.lines().next().and_then(|line| line.strip_prefix("//! ")).unwrap_or_default()
    }

    /// Every identifier and keyword, with its line.
    pub(super) fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        self.identifiers.iter().map(|(line, name)| (*line, name.as_str()))
    }

    /// Every module that is declared, with its line.
    pub(super) fn modules(&self) -> impl Iterator<Item = (usize, &str)> {
        self.modules.iter().map(|(line, name)| (*line, name.as_str()))
    }

    /// Every path to another module that is not a mere `pub use`.
    pub(super) fn paths(&self) -> &[ModulePath] {
        &self.paths
    }

    /// What it shows of others: the path, and the name that it has here.
    pub(super) fn re_exports(&self) -> &[(ModulePath, String)] {
        &self.re_exports
    }

    /// Every path into another of these rooms.
    pub(super) fn room_imports(&self, rooms: &[&str]) -> Vec<RoomImport> {
        let own = self.room();
        let shown = self.re_exports.iter().map(|(path, _)| path);
        let all = self
            .paths
            .iter()
            .chain(shown)
            .filter(|path| path.segments.first().is_some_and(|to| rooms.contains(&to.as_str()) && to != own));
        all.map(|path| RoomImport {
            line: path.line,
            from: own.to_owned(),
            to: path.segments[0].clone(),
            item: path.segments.get(1).cloned(),
        })
        .collect()
    }
}

fn module_of(path: &str) -> Vec<String> {
    let parts = path.trim_start_matches("src/").trim_end_matches(".rs").split('/');
    parts.filter(|part| !["lib", "main"].contains(part)).map(str::to_owned).collect()
}

fn collect_identifiers(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => found.push((name.span().start().line, name.to_string())),
            TokenTree::Group(group) => collect_identifiers(group.stream(), found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

struct ItemReader {
    module: Vec<String>,
    children: Vec<String>,
    source: SourceFile,
}

impl ItemReader {
    fn define(&mut self, kind: DefinitionKind, name: &syn::Ident) {
        self.source.definitions.push(Definition { kind, name: name.to_string(), line: name.span().start().line });
    }

    /// A path from the crate's root; `None` where it leads into another crate, or names what is in scope anyway.
    fn resolve(&self, written: &[String]) -> Option<Vec<String>> {
        let (first, rest) = written.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "sidekey" if self.source.path == "src/main.rs" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module.split_last()?.1.to_vec(),
            child if !rest.is_empty() && self.children.iter().any(|known| known == child) => {
                self.module.iter().cloned().chain([child.to_owned()]).collect()
            }
            _ => return None,
        };
        for part in rest {
            if part == "super" { drop(base.pop()) } else { base.push(part.clone()) }
        }
        Some(base)
    }

    fn add_path(&mut self, line: usize, written: &[String]) {
        if let Some(segments) = self.resolve(written) {
            self.source.paths.push(ModulePath { line, segments });
        }
    }

    fn add_use(&mut self, tree: &syn::UseTree, mut written: Vec<String>, is_public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                written.push(path.ident.to_string());
                self.add_use(&path.tree, written, is_public);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, written.clone(), is_public);
                }
            }
            syn::UseTree::Name(name) => self.add_import(&name.ident, &name.ident, written, is_public),
            syn::UseTree::Rename(rename) => self.add_import(&rename.ident, &rename.rename, written, is_public),
            syn::UseTree::Glob(glob) => self.add_path(glob.span().start().line, &written),
        }
    }

    fn add_import(&mut self, item: &syn::Ident, name: &syn::Ident, mut written: Vec<String>, is_public: bool) {
        if item != "self" {
            written.push(item.to_string());
        }
        let line = item.span().start().line;
        if !is_public {
            self.add_path(line, &written);
        } else if let Some(segments) = self.resolve(&written) {
            self.source.re_exports.push((ModulePath { line, segments }, name.to_string()));
        }
    }

    /// Paths among a macro's tokens, which are not syntax yet.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let (mut written, mut line, mut colons): (Vec<String>, usize, usize) = (Vec::new(), 0, 0);
        for token in tokens {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.add_path(line, &std::mem::take(&mut written));
                        line = name.span().start().line;
                    }
                    written.push(name.to_string());
                    colons = 0;
                }
                other => {
                    self.add_path(line, &std::mem::take(&mut written));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.read_tokens(group.stream());
                    }
                }
            }
        }
        self.add_path(line, &written);
    }
}

impl<'ast> Visit<'ast> for ItemReader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.source.modules.push((item.ident.span().start().line, item.ident.to_string()));
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, Vec::new(), !matches!(item.vis, syn::Visibility::Inherited));
    }

    /// `pub(super)` names a module and imports nothing of it.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add_path(path.span().start().line, &written);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.read_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.define(DefinitionKind::Type, &item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.define(DefinitionKind::Type, &item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.define(DefinitionKind::Type, &item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.define(DefinitionKind::Type, &item.ident);
        visit::visit_item_type(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.define(DefinitionKind::Function, &item.sig.ident);
        visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        // The names of a trait's functions are the trait's.
        if item.trait_.is_none() {
            for part in &item.items {
                if let syn::ImplItem::Fn(function) = part {
                    self.define(DefinitionKind::Function, &function.sig.ident);
                }
            }
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.define(DefinitionKind::Function, &item.sig.ident);
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests;
