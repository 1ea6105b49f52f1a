//! The documentation for strangers keeps to what the program is.
//!
//! Must hold: the reference has every key of `deploy/sidekey.toml`, which another test compares with the parser; the index of
//! reasons has every reason; the API's page has every path; the README's commands do what it says, typed literally.
//! `SIDEKEY_WRITE_DOCS=1` writes what is generated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a generated part of a page begins; it goes on to the end.
const GENERATED: &str = "<!-- From here on written by a test: SIDEKEY_WRITE_DOCS=1 -->\n";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The generated part of a page is this text.
fn compare_generated(page: &str, expected: &str) {
    let text = read(page);
    let (before, found) = text.split_once(GENERATED).unwrap_or_else(|| panic!("{page} has no generated part"));
    if found != expected && std::env::var_os("SIDEKEY_WRITE_DOCS").is_some() {
        std::fs::write(path(page), format!("{before}{GENERATED}{expected}")).expect("written");
        return;
    }
    assert_eq!(found, expected, "{page} is out of date: run this test with SIDEKEY_WRITE_DOCS=1");
}

/// How a heading is linked to.
fn anchor_of(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The sections of a page that have reasons, each with these: a heading of its own, or the first cell of a row.
fn reasons_by_section(page: &str) -> Vec<(String, Vec<String>)> {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in read(page).lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            sections.push((heading.to_owned(), Vec::new()));
        }
        let reason =
            line.strip_prefix("### `").or_else(|| line.strip_prefix("| `")).and_then(|rest| rest.split('`').next());
        if let (Some(reason), Some((_, reasons))) = (reason, sections.last_mut()) {
            reasons.push(reason.to_owned());
        }
    }
    sections.retain(|(_, reasons)| !reasons.is_empty());
    sections
}

#[test]
fn troubleshooting_leads_from_every_reason_to_its_explanation() {
    let mut index = String::new();
    for (title, page) in [("Handshakes", "handshakes.md"), ("Requests and connections", "requests.md")] {
        let _ = write!(index, "\n### {title}\n\n");
        for (heading, reasons) in reasons_by_section(&format!("docs/{page}")) {
            let links = reasons.iter().map(|reason| {
                let anchor = if page == "handshakes.md" { reason.clone() } else { anchor_of(&heading) };
                format!("[`{reason}`]({page}#{anchor})")
            });
            let _ = writeln!(index, "- {heading}: {}", links.collect::<Vec<_>>().join(", "));
        }
    }
    assert!(index.matches("](handshakes.md#").count() > 50 && index.matches("](requests.md#").count() > 60, "{index}");
    compare_generated("docs/troubleshooting.md", &index);
}

/// One table of the example configuration, with its keys.
#[derive(Default)]
struct ConfigTable {
    heading: String,
    rows: Vec<[String; 3]>,
}

/// The tables of the example: keys, values and what the comments say.
fn read_example() -> Vec<ConfigTable> {
    let mut tables = vec![ConfigTable { heading: "At the top".to_owned(), ..ConfigTable::default() }];
    // Lines of a list that began on an earlier one.
    let mut is_within = false;
    for line in read("deploy/sidekey.toml").lines() {
        let is_key = |text: &str| text.starts_with(|first: char| first.is_ascii_lowercase());
        if is_within {
            is_within = line.trim_start_matches('#') != "]";
        } else if let Some(heading) = line.strip_prefix('#').unwrap_or(line).strip_prefix('[') {
            let heading = format!("[{}", heading.split('#').next().unwrap_or_default().trim());
            tables.push(ConfigTable { heading: format!("`{heading}`"), ..ConfigTable::default() });
        } else if let Some((key, rest)) = line
            .strip_prefix('#')
            .unwrap_or(line)
            .split_once(" = ")
            .filter(|(key, _)| is_key(key) && !key.contains(' '))
        {
            let (value, comment) = split_comment(rest);
            is_within = value == "[";
            let value = if is_within { "[…]".to_owned() } else { value };
            tables.last_mut().expect("one").rows.push([key.to_owned(), value, comment]);
        } else if let (Some(comment), Some(row)) =
            (line.trim_start().strip_prefix("# "), tables.last_mut().and_then(|table| table.rows.last_mut()))
            && line.starts_with(' ')
        {
            row[2] = format!("{} {comment}", row[2]);
        }
    }
    tables
}

/// A value and the comment behind it; a `#` within quotes belongs to the value.
fn split_comment(rest: &str) -> (String, String) {
    let mut is_quoted = false;
    let end = rest.char_indices().find(|(_, c)| {
        is_quoted ^= *c == '"';
        *c == '#' && !is_quoted
    });
    let (value, comment) = end.map_or((rest, ""), |(at, _)| rest.split_at(at));
    (value.trim().to_owned(), comment.trim_start_matches(['#', ' ']).to_owned())
}

#[test]
fn the_configuration_reference_has_every_key_of_the_example() {
    let mut reference = String::new();
    // What a key does is said once; tables that have the same key later say the same.
    let mut said = BTreeMap::new();
    for table in read_example().iter().filter(|table| !table.rows.is_empty()) {
        let _ = write!(reference, "\n### {}\n\n| key | value | what it does |\n|---|---|---|\n", table.heading);
        for [key, value, comment] in &table.rows {
            let known = said.entry(key.clone()).or_insert_with(|| comment.clone());
            let comment = if comment.is_empty() { known } else { comment };
            assert!(!comment.is_empty(), "{}: {key} has no comment", table.heading);
            let _ =
                writeln!(reference, "| `{key}` | `{}` | {} |", value.replace('|', "\\|"), comment.replace('|', "\\|"));
        }
    }
    for known in [
        "| `overlap` | `\"30d\"` |",
        "| `hello_waiting` | `1024` |",
        "| `token_url` |",
        "| `webhook` |",
        "| `probes` |",
    ] {
        assert!(reference.contains(known), "{known}: {reference}");
    }
    compare_generated("docs/configuration.md", &reference);
}

#[test]
fn the_page_of_the_api_has_every_path_of_its_document() {
    let document: serde_json::Value = serde_json::from_str(&read("src/admin/api/openapi.json")).expect("JSON");
    let paths: BTreeSet<String> = document["paths"].as_object().expect("paths").keys().cloned().collect();
    let page = read("docs/api.md");
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `/api")?.split_once('`')?.0))
        .map(|path| format!("/api{path}"))
        .collect();
    assert_eq!(listed, paths);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages = std::fs::read_dir(path("docs")).expect("docs").flatten().map(|page| page.path());
    for page in pages
        .filter(|page| page.extension().is_some_and(|end| end == "md"))
        .chain([path("README.md"), path("SECURITY.md")])
    {
        let (text, folder) =
            (std::fs::read_to_string(&page).expect("text"), page.parent().expect("a folder").to_owned());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") || file.contains(' ') {
                continue;
            }
            let target = if file.is_empty() { page.clone() } else { folder.join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).expect("text");
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor_of(line.trim_start_matches('#').trim()) == anchor),
                    "{}: {link}",
                    page.display()
                );
            }
        }
    }
}

/// The README's commands: what stands in blocks of `sh`, in their order.
fn readme_commands() -> String {
    let text = read("README.md");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let commands = readme_commands();
    assert!(commands.contains("sidekey run ") && commands.contains("curl "), "{commands}");
    let folder = tempfile::tempdir().expect("a folder");
    // The program is the one that is tested; ports are those of a network of its own, where the kernel lets us have one.
    let program = path(env!("CARGO_BIN_EXE_sidekey"));
    let search = format!("{}:{}", program.parent().expect("a folder").display(), std::env::var("PATH").expect("PATH"));
    let script = format!(
        "ip link set lo up 2>/dev/null || true\nset -euxo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{commands}"
    );
    let own = |arguments: &[&str]| {
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]).current_dir(folder.path()).env("PATH", &search).env_remove("SIDEKEY_CONFIG");
        command.stdin(std::process::Stdio::null()).output().expect("a shell")
    };
    let has_own_network = own(&["unshare", "-rn", "true"]).status.success();
    let shell: &[&str] = if has_own_network { &["unshare", "-rn", "bash", "-c"] } else { &["bash", "-c"] };
    let done = own(&[shell, &[script.as_str()]].concat());
    let said = format!("{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
}
