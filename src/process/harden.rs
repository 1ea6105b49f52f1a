//! Hardens the process at start: no core dump and no debugger, since both would expose keys; no program with more rights than
//! it has itself; and as many descriptors as it may have.
//!
//! Nothing here prevents the start: what the kernel refuses is returned to be logged.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;
use tikv_jemalloc_ctl::background_thread;

/// The result of hardening.
#[derive(Debug)]
pub struct HardeningReport {
    /// Open files that the process may have; `None` = no limit. Connection caps are lowered to what it allows.
    pub descriptors: Option<u64>,
    /// What the kernel refused.
    pub refused: Vec<HardeningFailure>,
}

impl HardeningReport {
    /// Logs what the kernel refused, once the log is set up.
    pub fn log_failures(&self) {
        for refused in &self.refused {
            tracing::warn!(target: "process", error = %refused, "hardening the process failed in part");
        }
    }
}

/// A step that the kernel refused: the process serves all the same.
#[derive(Debug, thiserror::Error)]
pub enum HardeningFailure {
    /// Core dumps.
    #[error("core dumps could not be disabled")]
    CoreDumps(#[source] io::Error),
    /// Attaching and reading memory.
    #[error("the process could not be protected from debuggers")]
    Dumpable(#[source] io::Error),
    /// Rights of other programs.
    #[error("the process could still gain rights from a program that it runs (no_new_privs)")]
    NewPrivileges(#[source] io::Error),
    /// The allocator's own thread.
    #[error("the allocator's thread could not be stopped before the process is confined: {0}")]
    AllocatorThread(tikv_jemalloc_ctl::Error),
    /// Open files.
    #[error("the limit of open files stays at {current}; raising it to the allowed {maximum} failed")]
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

/// Warns where the process runs as root: it needs no right of root.
pub fn warn_of_root() {
    if rustix::process::geteuid().is_root() {
        tracing::warn!(
            target: "process",
            "this process runs as root, which it does not need: start it as an ordinary user (User= of systemd, runAsNonRoot of \
             Kubernetes); for ports below 1024 give it CAP_NET_BIND_SERVICE, or sockets of systemd"
        );
    }
}

/// Core dumps off, not ptraceable by the same user, no new privileges (prctl(2)), and the soft limit of open files raised to the
/// hard one. Must be called first of all, before any key is read and any thread is started: some of it, and Landlock after it,
/// binds the calling thread and those that it starts. jemalloc has started one before `main`; it ends here, and
/// [`start_allocator_thread`] starts another.
pub fn harden() -> HardeningReport {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let mut refused = Vec::new();
    if let Err(error) = background_thread::write(false) {
        refused.push(HardeningFailure::AllocatorThread(error));
    }
    if let Err(error) = set_no_new_privs(true) {
        refused.push(HardeningFailure::NewPrivileges(error.into()));
    }
    if let Err(error) = setrlimit(Resource::Core, none) {
        refused.push(HardeningFailure::CoreDumps(error.into()));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        refused.push(HardeningFailure::Dumpable(error.into()));
    }
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            let number = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
            let (current, maximum) = (number(limit.current), number(limit.maximum));
            refused.push(HardeningFailure::Descriptors { current, maximum, source: error.into() });
        }
    }
    HardeningReport { descriptors: getrlimit(Resource::Nofile).current, refused }
}

/// Starts the thread that gives freed memory back to the system, as confined as this thread is. Short commands need none.
pub fn start_allocator_thread() {
    if let Err(error) = background_thread::write(true) {
        tracing::warn!(
            target: "process", %error,
            "the allocator's thread did not start: freed memory goes back to the system later"
        );
    }
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
        assert!(rustix::thread::no_new_privs().unwrap());
    }
}
