//! A file in the watched folder is unusable, or deserves a log line.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::fields::EventDescription;
use crate::log::Level;
use crate::pki::{FolderProblem, ProblemSeverity};

/// A file's problem, and the keyring it concerns.
#[derive(Clone, Debug)]
pub struct FolderRecord {
    /// Which keyring; `None` for trust files and the folder itself.
    pub keyring: Option<Arc<str>>,
    /// What.
    pub problem: FolderProblem,
    /// It was reported before, and does not hold any more.
    pub over: bool,
}

impl Serialize for FolderRecord {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut fields = out.serialize_struct("FolderRecord", 5)?;
        fields.serialize_field("file", &self.problem.file)?;
        fields.serialize_field("keyring", &self.keyring)?;
        fields.serialize_field("reason", self.problem.reason)?;
        if self.over {
            fields.serialize_field("explanation", &format!("this is over: {}", self.problem.why))?;
            fields.skip_field("remedy")?;
        } else {
            fields.serialize_field("explanation", &self.problem.why)?;
            fields.serialize_field("remedy", &self.problem.remedy)?;
        }
        fields.end()
    }
}

impl EventDescription for FolderRecord {
    fn target(&self) -> &'static str {
        "folder"
    }

    fn level(&self) -> Level {
        match self.problem.severity {
            _ if self.over => Level::INFO,
            ProblemSeverity::Info | ProblemSeverity::Incomplete => Level::INFO,
            ProblemSeverity::Warning | ProblemSeverity::Refused => Level::WARN,
        }
    }

    fn message(&self) -> &'static str {
        match self.problem.severity {
            _ if self.over => "resolved",
            ProblemSeverity::Info => "note",
            ProblemSeverity::Warning => "warning",
            ProblemSeverity::Incomplete => "not yet complete",
            ProblemSeverity::Refused => "refused",
        }
    }
}
