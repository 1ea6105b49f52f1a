//! The files that the page needs: style sheet, script and icon, compiled in. Their paths change with their content.

use std::sync::LazyLock;

use crate::pki::Fingerprint;

/// A file of the page.
#[derive(Debug)]
pub(super) struct PageAsset {
    path: String,
    /// Its media type.
    pub(super) content_type: &'static str,
    /// Its content.
    pub(super) content: &'static str,
}

impl PageAsset {
    fn new(name: &str, ending: &str, content_type: &'static str, content: &'static str) -> Self {
        let path = format!("/assets/{name}-{}.{ending}", Fingerprint::of(content.as_bytes()).short());
        Self { path, content_type, content }
    }
}

static STYLE: LazyLock<PageAsset> =
    LazyLock::new(|| PageAsset::new("page", "css", "text/css; charset=utf-8", include_str!("page.css")));
static SCRIPT: LazyLock<PageAsset> =
    LazyLock::new(|| PageAsset::new("page", "js", "text/javascript; charset=utf-8", include_str!("page.js")));
static ICON: LazyLock<PageAsset> =
    LazyLock::new(|| PageAsset::new("icon", "svg", "image/svg+xml", include_str!("icon.svg")));

/// The style sheet's path.
pub(super) fn style_path() -> &'static str {
    &STYLE.path
}

/// The script's path.
pub(super) fn script_path() -> &'static str {
    &SCRIPT.path
}

/// The icon's path.
pub(super) fn icon_path() -> &'static str {
    &ICON.path
}

/// The file at this path.
pub(super) fn find_asset(path: &str) -> Option<&'static PageAsset> {
    [&*STYLE, &*SCRIPT, &*ICON].into_iter().find(|asset| asset.path == path)
}
