//! What the process does to itself at start: no core dump and no debugger, since both would show keys; and as many
//! descriptors as it may have.
//!
//! Nothing here stops a start: what the kernel refuses is handed back to be logged.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// What came of it.
#[derive(Debug)]
pub struct Hardened {
    /// Open files that the process may have; `None` = no limit. Connection caps are lowered to what it allows.
    pub descriptors: Option<u64>,
    /// What the kernel refused.
    pub refused: Vec<Refused>,
}

impl Hardened {
    /// Logs what was refused, once there is a log.
    pub fn tell(&self) {
        for refused in &self.refused {
            tracing::warn!(target: "process", error = %refused, "not hardened as it should be");
        }
    }
}

/// A step that the kernel refused: the process serves all the same.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Core dumps.
    #[error("core dumps could not be turned off")]
    CoreDumps(#[source] io::Error),
    /// Attaching and reading memory.
    #[error("the process could not be hidden from debuggers")]
    Dumpable(#[source] io::Error),
    /// Open files.
    #[error("the limit of open files stays at {current}, below the {maximum} that would be allowed")]
    Descriptors {
        /// What it is.
        current: String,
        /// What it could be.
        maximum: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Core dumps off, not ptraceable by the same user, and the soft limit of open files raised to the hard one. To be
/// called first of all, before any key is read.
pub fn harden() -> Hardened {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let mut refused = Vec::new();
    if let Err(error) = setrlimit(Resource::Core, none) {
        refused.push(Refused::CoreDumps(error.into()));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        refused.push(Refused::Dumpable(error.into()));
    }
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            let number = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
            let (current, maximum) = (number(limit.current), number(limit.maximum));
            refused.push(Refused::Descriptors { current, maximum, source: error.into() });
        }
    }
    Hardened { descriptors: getrlimit(Resource::Nofile).current, refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_core_is_written_and_descriptors_are_raised() {
        let hardened = harden();
        assert!(hardened.refused.is_empty(), "{:?}", hardened.refused);
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(hardened.descriptors, getrlimit(Resource::Nofile).maximum);
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
