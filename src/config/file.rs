//! The parsed TOML as sections and items that remember where they are, so that every fault is reported, each with its place.
//!
//! A hand-written mirror rather than serde's: serde stops at the first fault, and would know nothing of "not yet
//! supported". The reader of a section asks it for each key it knows; a key never asked for is unknown. What the
//! keys mean is left to the files beside this one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use toml::de::{DeTable, DeValue};

use super::environment::{EnvironmentVariables, substitute_variables};
use super::place::{ConfigFault, SourceText, suggestion};
use super::value::{self, ValueError};

/// What one pass over a file shares.
pub(super) struct ConfigReader<'d> {
    text: SourceText<'d>,
    environment: EnvironmentVariables<'d>,
    folder: &'d Path,
    faults: RefCell<Vec<ConfigFault>>,
    known: RefCell<BTreeSet<String>>,
}

/// A table, or the place where one would be.
pub(super) struct ConfigSection<'d> {
    reading: &'d ConfigReader<'d>,
    table: Option<&'d DeTable<'d>>,
    span: Range<usize>,
    path: String,
    schema: String,
    asked: RefCell<BTreeSet<&'static str>>,
}

/// A value.
#[derive(Clone)]
pub(super) struct ConfigItem<'d> {
    reading: &'d ConfigReader<'d>,
    value: &'d DeValue<'d>,
    span: Range<usize>,
    path: String,
    schema: String,
}

impl<'d> ConfigReader<'d> {
    /// `folder` is where relative paths begin.
    pub(super) fn new(text: SourceText<'d>, folder: &'d Path, environment: EnvironmentVariables<'d>) -> Self {
        Self { text, environment, folder, faults: RefCell::default(), known: RefCell::default() }
    }

    /// The whole file.
    pub(super) fn top_level(&'d self, table: &'d DeTable<'d>) -> ConfigSection<'d> {
        ConfigSection {
            reading: self,
            table: Some(table),
            span: 0..0,
            path: String::new(),
            schema: String::new(),
            asked: RefCell::default(),
        }
    }

    /// Every key that was asked for, as in `keyring.*.overlap`.
    #[cfg(test)]
    pub(super) fn known_keys(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    /// The faults, in the order of the file.
    pub(super) fn into_faults(self) -> Vec<ConfigFault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| (fault.line, fault.column));
        faults.dedup();
        faults
    }

    fn add_fault(&self, span: &Range<usize>, path: &str, message: String) {
        self.faults.borrow_mut().push(self.text.fault_at(span, path, message));
    }
}

fn join_path(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'d> ConfigSection<'d> {
    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<ConfigItem<'d>> {
        let schema = join_path(&self.schema, key);
        self.reading.known.borrow_mut().insert(schema.clone());
        self.asked.borrow_mut().insert(key);
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(ConfigItem {
            reading: self.reading,
            value: value.get_ref(),
            span: value.span(),
            path: join_path(&self.path, key),
            schema,
        })
    }

    /// The value of `key` as `read` sees it; `None` where it is missing, or wrong (then there is a fault).
    pub(super) fn read_optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&ConfigItem<'d>) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|item| read(&item))
    }

    /// Likewise, or the default.
    pub(super) fn read_or<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&ConfigItem<'d>) -> Option<T>,
        default: T,
    ) -> T {
        self.read_optional(key, read).unwrap_or(default)
    }

    /// Likewise; that it is missing is a fault.
    pub(super) fn read_required<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&ConfigItem<'d>) -> Option<T>,
    ) -> Option<T> {
        let item = self.get(key);
        if item.is_none() {
            self.add_fault(format!("{key:?} is missing"));
        }
        item.and_then(|item| read(&item))
    }

    /// A key whose feature comes later: its type is checked, then it is refused, unless it sets what is true today.
    pub(super) fn refuse_later<T: PartialEq>(
        &self,
        key: &'static str,
        read: impl FnOnce(&ConfigItem<'d>) -> Option<T>,
        today: Option<&T>,
    ) {
        let Some(item) = self.get(key) else { return };
        let value = read(&item);
        if value.is_some() && value.as_ref() != today {
            item.add_fault("not yet supported: leave it out".to_owned());
        }
    }

    /// A key that means something elsewhere and nothing here.
    pub(super) fn refuse_key(&self, key: &'static str, why: &str) {
        self.asked.borrow_mut().insert(key);
        let found = self.table.into_iter().flatten().find(|(name, _)| name.get_ref() == key);
        if let Some((name, _)) = found {
            self.reading.add_fault(&name.span(), &join_path(&self.path, key), why.to_owned());
        }
    }

    /// The table under `key`, absent or not.
    pub(super) fn section(&self, key: &'static str) -> Self {
        self.get(key).and_then(|item| item.section()).unwrap_or_else(|| Self {
            reading: self.reading,
            table: None,
            span: self.span.clone(),
            path: join_path(&self.path, key),
            schema: join_path(&self.schema, key),
            asked: RefCell::default(),
        })
    }

    /// The tables `[key.NAME]`, in the order of the file, with their names.
    pub(super) fn named_sections(
        &self,
        key: &'static str,
        name: fn(&str) -> Result<std::sync::Arc<str>, ValueError>,
    ) -> Vec<(std::sync::Arc<str>, Self)> {
        let Some(ConfigItem { value, span, path, schema, .. }) = self.get(key) else { return Vec::new() };
        let DeValue::Table(table) = value else {
            self.reading.add_fault(&span, &path, format!("write [{key}.NAME]"));
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut sections = Vec::new();
        for (key_text, value) in entries {
            let item = ConfigItem {
                reading: self.reading,
                value: value.get_ref(),
                span: key_text.span(),
                path: join_path(&path, key_text.get_ref()),
                schema: join_path(&schema, "*"),
            };
            match name(key_text.get_ref()) {
                Ok(name) => sections.extend(item.section().map(|section| (name, section))),
                Err(wrong) => item.add_fault(wrong),
            }
        }
        sections
    }

    /// The tables `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(item) = self.get(key) else { return Vec::new() };
        if item.value.is_table() {
            item.add_fault(format!("write [[{}]], as there can be several", item.path));
            return Vec::new();
        }
        item.read_list(ConfigItem::section).unwrap_or_default()
    }

    /// Whether the file has this table.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// A fault of the table as a whole.
    pub(super) fn add_fault(&self, message: String) {
        self.reading.add_fault(&self.span, &self.path, message);
    }

    /// Every key has been asked for: what is left is unknown.
    pub(super) fn report_unknown_keys(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !asked.contains(name) {
                let message = format!("unknown key{}", suggestion(name, asked.iter().copied()));
                self.reading.add_fault(&key.span(), &join_path(&self.path, name), message);
            }
        }
    }
}

impl<'d> ConfigItem<'d> {
    /// Reports a fault of this value.
    pub(super) fn add_fault(&self, message: String) {
        self.reading.add_fault(&self.span, &self.path, message);
    }

    fn reject<T>(&self, message: String) -> Option<T> {
        self.add_fault(message);
        None
    }

    fn reject_type<T>(&self, wanted: &str) -> Option<T> {
        self.reject(format!("expected {wanted}, found {}", self.value.type_str()))
    }

    /// A string, with `${NAME}` and `${NAME:-default}` replaced.
    pub(super) fn text(&self) -> Option<String> {
        let DeValue::String(text) = self.value else { return self.reject_type("a string") };
        substitute_variables(text, self.reading.environment).map_err(|wrong| self.add_fault(wrong)).ok()
    }

    /// A string that is not blank.
    pub(super) fn nonempty_text(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() { self.reject("is empty: leave it out instead".to_owned()) } else { Some(text) }
    }

    /// A string that `read` understands.
    pub(super) fn parse_text<T>(&self, read: impl FnOnce(&str) -> Result<T, ValueError>) -> Option<T> {
        read(&self.text()?).map_err(|wrong| self.add_fault(wrong)).ok()
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.reject_type("true or false"))
    }

    /// A whole number from 1 up to `most`.
    pub(super) fn count(&self, most: usize) -> Option<usize> {
        let Some(integer) = self.value.as_integer() else { return self.reject_type("a whole number") };
        match usize::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(count) if (1..=most).contains(&count) => Some(count),
            _ => self.reject(format!("{integer} is out of range: from 1 to {most}")),
        }
    }

    /// A duration.
    pub(super) fn duration(&self) -> Option<Duration> {
        if self.value.is_integer() {
            return self.reject_type("a duration with its unit, as in \"30s\"");
        }
        self.parse_text(value::parse_duration)
    }

    /// A duration above zero.
    pub(super) fn positive_duration(&self) -> Option<Duration> {
        let duration = self.duration()?;
        if duration.is_zero() { self.reject("must be longer than zero".to_owned()) } else { Some(duration) }
    }

    /// A date, as a string or as TOML's own.
    pub(super) fn date(&self) -> Option<Timestamp> {
        if let DeValue::Datetime(date) = self.value {
            return value::parse_date(&date.to_string()).map_err(|wrong| self.add_fault(wrong)).ok();
        }
        self.parse_text(value::parse_date)
    }

    /// A size in bytes between two bounds.
    pub(super) fn size(&self, least: usize, most: usize) -> Option<usize> {
        if self.value.is_integer() {
            return self.reject_type("a size with its unit, as in \"64KiB\"");
        }
        let size = self.parse_text(value::parse_byte_size)?;
        if (least..=most).contains(&size) {
            Some(size)
        } else {
            self.reject(format!("is out of range: from {} to {} KiB", least.div_ceil(1024), most / 1024))
        }
    }

    /// One of a few words.
    pub(super) fn read_word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        self.parse_text(|text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                format!("invalid value {text:?}: write {}", all.join(" or "))
            })
        })
    }

    /// A list; every wrong element is a fault of its own.
    pub(super) fn read_list<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Option<Vec<T>> {
        let DeValue::Array(array) = self.value else { return self.reject_type("a list in [ ]") };
        let elements: Vec<Option<T>> = array
            .iter()
            .map(|element| read(&Self { value: element.get_ref(), span: element.span(), ..self.clone() }))
            .collect();
        elements.into_iter().collect()
    }

    /// A list that is not empty.
    pub(super) fn nonempty_list<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Option<Vec<T>> {
        let list = self.read_list(read)?;
        if list.is_empty() { self.reject("is empty: leave it out instead".to_owned()) } else { Some(list) }
    }

    /// A table.
    pub(super) fn section(&self) -> Option<ConfigSection<'d>> {
        let DeValue::Table(table) = self.value else { return self.reject_type("a table") };
        Some(ConfigSection {
            reading: self.reading,
            table: Some(table),
            span: self.span.clone(),
            path: self.path.clone(),
            schema: self.schema.clone(),
            asked: RefCell::default(),
        })
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether it is a string rather than, say, a table.
    pub(super) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// Under another name in the list of known keys, for tables that occur in several places.
    pub(super) fn with_schema(&self, schema: &str) -> Self {
        Self { schema: schema.to_owned(), ..self.clone() }
    }

    /// A path; relative ones begin where the file is.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.nonempty_text().map(|text| self.reading.folder.join(text))
    }

    /// Where relative paths begin.
    pub(super) fn resolve_path(&self, path: &Path) -> PathBuf {
        self.reading.folder.join(path)
    }
}
