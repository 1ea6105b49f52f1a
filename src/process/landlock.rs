//! Confines the process with Landlock: from then on it opens only the files and TCP ports that it was told of, also where an
//! attacker has taken it over. Binds the calling thread and its later children, so it comes before any other thread starts.
//!
//! Which places those are is for the configuration to say. Where the kernel has no Landlock, the process runs unconfined
//! and says so.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};

/// The newest rights that we ask for; an older kernel enforces those that it knows (TCP ports from Linux 6.7 on).
const NEWEST_ABI: ABI = ABI::V5;

/// What the resolver, the platform's trust anchors and the C library read while the process runs. `/etc` as a whole is not
/// among them: it holds accounts, and other programs' secrets.
const SYSTEM_PLACES: [&str; 24] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/nscd",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/var/lib/ca-certificates",
    // Of the own process, and the groups of a user who sends a command.
    "/proc",
];

/// The files and TCP ports that a process needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessAccess {
    /// Files and folders to read, with all below them.
    pub read: BTreeSet<PathBuf>,
    /// Folders to write into, with all below them.
    pub write: BTreeSet<PathBuf>,
    /// Ports to listen on; 0 stands for any that the kernel chooses.
    pub bind: BTreeSet<u16>,
    /// Ports to connect to.
    pub connect: BTreeSet<u16>,
}

impl ProcessAccess {
    /// What `later` needs and this does not give, in words; ports that are listened on are bound at start and stay.
    pub fn missing_places(&self, later: &Self) -> Vec<String> {
        let covered = |path: &Path, roots: &BTreeSet<PathBuf>| roots.iter().any(|root| path.starts_with(root));
        let reads = later.read.iter().filter(|path| !covered(path, &self.read) && !covered(path, &self.write));
        let writes = later.write.iter().filter(|path| !covered(path, &self.write));
        let paths = reads.chain(writes).map(|path| path.display().to_string());
        let ports = later.connect.difference(&self.connect).map(|port| format!("port {port}"));
        paths.chain(ports).collect()
    }
}

/// How far the process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfinementLevel {
    /// To its files and ports.
    Full,
    /// To some of it: the kernel is too old for the rest.
    Partial,
    /// Not at all: the kernel has no Landlock, or it is switched off there.
    None,
}

/// Landlock could not be set up although the kernel has it.
#[derive(Debug, thiserror::Error)]
#[error("cannot confine the process with Landlock")]
pub struct ConfinementError(#[from] landlock::RulesetError);

/// Confines this thread and those that it will start.
///
/// # Errors
/// The kernel refuses a rule.
pub fn confine(access: &ProcessAccess) -> Result<ConfinementLevel, ConfinementError> {
    let (read, all) = (AccessFs::from_read(NEWEST_ABI) & !AccessFs::Execute, AccessFs::from_all(NEWEST_ABI));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .create()?;
    for path in access.read.iter().map(PathBuf::as_path).chain(SYSTEM_PLACES.iter().map(Path::new)) {
        rules = allow_path(rules, path, read)?;
    }
    // Nothing that the process writes is ever run.
    for path in &access.write {
        rules = allow_path(rules, path, all & !AccessFs::Execute & !AccessFs::MakeChar & !AccessFs::MakeBlock)?;
    }
    for device in ["/dev/null", "/dev/urandom", "/dev/random"] {
        rules = allow_path(rules, Path::new(device), read | AccessFs::WriteFile)?;
    }
    for port in &access.bind {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    for port in &access.connect {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => ConfinementLevel::Full,
        RulesetStatus::PartiallyEnforced => ConfinementLevel::Partial,
        RulesetStatus::NotEnforced => ConfinementLevel::None,
    })
}

/// Allows what is below a path. One that is not there is left out: a rule belongs to what a path names now.
fn allow_path(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    // Rights to folders mean nothing for a file, and the kernel refuses them there.
    let is_folder = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let access = if is_folder { access } else { access & AccessFs::from_file(NEWEST_ABI) };
    rules.add_rule(PathBeneath::new(opened, access))
}

/// The folder that a path's parent is, if rules may be given for it: never the root, which would allow everything.
pub fn parent_folder(path: &Path) -> Option<PathBuf> {
    path.parent().filter(|parent| parent.parent().is_some()).map(Path::to_owned)
}

/// Places outside a folder that links in it lead to: the folders of their targets. At most `limit` entries are looked at.
pub fn linked_folders(root: &Path, limit: usize) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let (mut waiting, mut looked) = (vec![root.to_owned()], 0);
    let real_root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(io::Result::ok) {
            looked += 1;
            if looked > limit {
                return found;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_symlink()
                && let Ok(target) = entry.path().canonicalize()
                && !target.starts_with(&real_root)
            {
                found.extend(parent_folder(&target));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_a_reload_adds_are_named() {
        let set = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        let old = ProcessAccess {
            read: set(&["/certs"]),
            write: set(&["/state"]),
            bind: BTreeSet::new(),
            connect: [443].into(),
        };
        assert!(old.missing_places(&old).is_empty());
        let new = ProcessAccess {
            read: set(&["/certs/a/b", "/state/x", "/secrets"]),
            write: set(&["/state/y"]),
            bind: [1].into(),
            connect: [443, 8443].into(),
        };
        assert_eq!(old.missing_places(&new), ["/secrets", "port 8443"]);
    }

    #[test]
    fn folders_behind_links_are_found_and_the_root_is_never_one() {
        let folder = tempfile::tempdir().unwrap();
        let (live, archive) = (folder.path().join("live"), folder.path().join("archive"));
        std::fs::create_dir_all(live.join("inner")).unwrap();
        std::fs::create_dir(&archive).unwrap();
        std::fs::write(archive.join("cert.pem"), "x").unwrap();
        std::os::unix::fs::symlink("../../archive/cert.pem", live.join("inner/tls.crt")).unwrap();
        std::os::unix::fs::symlink("nowhere", live.join("dangling")).unwrap();
        std::os::unix::fs::symlink("inner", live.join("within")).unwrap();
        assert_eq!(linked_folders(&live, 100), [archive.canonicalize().unwrap()].into());
        assert!(linked_folders(&live, 0).is_empty());
        assert_eq!(parent_folder(Path::new("/certs")), None);
        assert_eq!(parent_folder(Path::new("/etc/certs")), Some("/etc".into()));
    }
}
