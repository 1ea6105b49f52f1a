//! Reads `--name value`: no library, so that the benchmark's program is quick to build.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use crate::LoadError;

/// Options that stand alone.
const FLAGS: &[&str] = &["resume", "distinct", "gate", "admit-all"];
/// Options with a value.
const NAMES: &[&str] = &[
    "port",
    "certs",
    "pair",
    "protocol",
    "connections",
    "streams",
    "download",
    "upload",
    "path",
    "rate",
    "warm",
    "seconds",
    "count",
    "proxy",
    "backend",
    "slice",
    "out",
    "pairs",
    "names",
    "resumed",
];

/// What stands after the command.
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    /// From the command line. An unknown name is an error.
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Self, LoadError> {
        let (mut arguments, mut values) = (arguments, BTreeMap::new());
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").ok_or_else(|| format!("{argument:?} is no option"))?;
            let value = if FLAGS.contains(&name) {
                String::new()
            } else if NAMES.contains(&name) {
                arguments.next().ok_or_else(|| format!("--{name} needs a value"))?
            } else {
                return Err(format!("--{name} is unknown").into());
            };
            values.insert(name.to_owned(), value);
        }
        Ok(Self(values))
    }

    /// Whether it was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Its value as it stands.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Its value as a number, if it was given.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, LoadError> {
        let read = |text: &String| text.parse().map_err(|_| format!("--{name} needs a number, not {text:?}").into());
        self.0.get(name).map(read).transpose()
    }

    /// Its value as a number, or what stands for it.
    pub(crate) fn number_or<T: FromStr>(&self, name: &str, otherwise: T) -> Result<T, LoadError> {
        Ok(self.number(name)?.unwrap_or(otherwise))
    }

    /// A folder that has to be given.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, LoadError> {
        self.text(name).map(PathBuf::from).ok_or_else(|| format!("--{name} is needed").into())
    }

    /// A list of process identifiers; empty where none was given.
    pub(crate) fn processes(&self, name: &str) -> Result<Vec<u32>, LoadError> {
        let parts = self.text(name).unwrap_or_default().split(',').filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|_| format!("--{name}: {part:?} is no process").into())).collect()
    }
}
