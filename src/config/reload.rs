//! Two configurations → what can change without a new socket, and what needs a restart, named by key.
//!
//! Pure. What needs a restart keeps its old value, whole: a listener never runs with half of a new file.

use std::sync::Arc;

use super::access::listener_access;
use super::{Config, add_implied, named_files};
use crate::snapshot::egress::EgressSettings;
use crate::snapshot::ingress::IngressSettings;
use crate::{folder, writer};

/// What a reload does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadPlan {
    /// What snapshots are made of from now on.
    pub settings: writer::WriterSettings,
    /// The watched folder from now on.
    pub folder: folder::FolderSettings,
    /// Keys whose new values wait for a restart, as in `ingress "api": listen`. For the log.
    pub needs_restart: Vec<String>,
}

/// Compares the running configuration with the one that was read.
pub fn plan_reload(old: &Config, new: &Config) -> ReloadPlan {
    let mut needs_restart = process_wide_changes(old, new);
    let mut settings = new.settings.clone();
    settings.remembers = old.settings.remembers;
    settings.ingresses =
        merge_listeners("ingress", &old.settings.ingresses, &new.settings.ingresses, &mut needs_restart);
    settings.egresses = merge_listeners("egress", &old.settings.egresses, &new.settings.egresses, &mut needs_restart);
    retain_confined(old, &mut settings, &mut needs_restart);
    retain_trusts(&old.settings, &mut settings);
    add_implied(&mut settings);
    let folder =
        folder::FolderSettings { root: old.folder.root.clone(), named: named_files(&settings), ..new.folder.clone() };
    ReloadPlan { settings, folder, needs_restart }
}

/// Keys beside the listeners that are only read at start.
fn process_wide_changes(old: &Config, new: &Config) -> Vec<String> {
    let (log, shutdown) = ((&old.log, &new.log), (old.shutdown, new.shutdown));
    let keys = [
        ("certs", old.folder.root != new.folder.root),
        ("state", old.state != new.state),
        ("workers", old.workers != new.workers),
        ("instance", old.instance != new.instance),
        ("registry", old.registry != new.registry),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.probes", old.admin.probes != new.admin.probes),
        ("admin.control", !old.admin.control_is_given && old.admin.control != new.admin.control),
        ("admin.control_group", old.admin.control_group != new.admin.control_group),
        ("shutdown.delay", shutdown.0.delay != shutdown.1.delay),
        ("shutdown.drain", shutdown.0.drain != shutdown.1.drain),
        ("shutdown.egress_linger", shutdown.0.egress_linger != shutdown.1.egress_linger),
        ("log.format", old.log_flags.format.is_none() && log.0.format != log.1.format),
        ("log.level", old.log_flags.level.is_none() && log.0.level != log.1.level),
        ("log.handshakes", log.0.handshakes != log.1.handshakes),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}

/// What both sides' listeners have.
trait ListenerIdentity: Clone {
    fn name(&self) -> &Arc<str>;
    /// Takes over the socket of `old`; true if it had wanted another one.
    fn keep_socket(&mut self, old: &Self) -> bool;
}

impl ListenerIdentity for IngressSettings {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
    fn keep_socket(&mut self, old: &Self) -> bool {
        std::mem::replace(&mut self.listen, old.listen.clone()) != old.listen
    }
}

impl ListenerIdentity for EgressSettings {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
    fn keep_socket(&mut self, old: &Self) -> bool {
        std::mem::replace(&mut self.listen, old.listen.clone()) != old.listen
    }
}

/// The old listeners, in their order, each with its new settings and its old socket. One that is gone from the file
/// stays as it was; one that is new waits.
fn merge_listeners<L: ListenerIdentity>(side: &str, old: &[L], new: &[L], needs_restart: &mut Vec<String>) -> Vec<L> {
    let mut kept = Vec::with_capacity(old.len());
    for running in old {
        let name = running.name();
        let Some(mut next) = find_listener(new, name) else {
            needs_restart.push(format!("{side} {name:?}: removed"));
            kept.push(running.clone());
            continue;
        };
        if next.keep_socket(running) {
            needs_restart.push(format!("{side} {name:?}: listen"));
        }
        kept.push(next);
    }
    let added = new.iter().filter(|listener| find_listener(old, listener.name()).is_none());
    needs_restart.extend(added.map(|listener| format!("{side} {:?}: added", listener.name())));
    kept
}

/// What the process is not allowed to open since its start waits for a restart: such listeners keep their settings.
fn retain_confined(old: &Config, settings: &mut writer::WriterSettings, needs_restart: &mut Vec<String>) {
    let Some(confined) = &old.confined_to else { return };
    let missing = |ingresses: &[IngressSettings], egresses: &[EgressSettings]| {
        confined.missing_places(&listener_access(ingresses, egresses)).join(", ")
    };
    for ingress in &mut settings.ingresses {
        let places = missing(std::slice::from_ref(ingress), &[]);
        if let (false, Some(running)) = (places.is_empty(), find_listener(&old.settings.ingresses, &ingress.name)) {
            needs_restart.push(format!("ingress {:?}: Landlock does not allow {places}", ingress.name));
            *ingress = running;
        }
    }
    for egress in &mut settings.egresses {
        let places = missing(&[], std::slice::from_ref(egress));
        if let (false, Some(running)) = (places.is_empty(), find_listener(&old.settings.egresses, &egress.name)) {
            needs_restart.push(format!("egress {:?}: Landlock does not allow {places}", egress.name));
            *egress = running;
        }
    }
}

fn find_listener<L: ListenerIdentity>(list: &[L], name: &Arc<str>) -> Option<L> {
    list.iter().find(|listener| listener.name() == name).cloned()
}

/// A listener that stays although the file no longer has it still needs its trust.
fn retain_trusts(old: &writer::WriterSettings, settings: &mut writer::WriterSettings) {
    let ingresses = settings.ingresses.iter().filter_map(|ingress| ingress.trust.clone());
    let egresses = settings.egresses.iter().filter_map(|egress| egress.trust.clone());
    let wanted: Vec<_> = ingresses.chain(egresses).collect();
    for name in wanted {
        if let Some(trust) = old.trusts.get(&name) {
            settings.trusts.entry(name).or_insert_with(|| trust.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::LogFlags;
    use crate::net::ListenAddress;

    const OLD_CONFIG: &str = r#"
        workers = 1
        state = "state"
        [trust.a]
        anchors = ["trust/a.pem"]
        [[ingress]]
        name = "api"
        listen = "[::]:8443"
        trust = "a"
        backend = "http://127.0.0.1:8080"
        [[ingress]]
        name = "old"
        listen = "[::]:8444"
        keyrings = ["old"]
        trust = "a"
        backend = "http://127.0.0.1:8080"
    "#;

    fn parse_config(text: &str) -> Config {
        crate::config::parse(text, Path::new("/etc/sidekey")).unwrap()
    }

    #[test]
    fn flags_override_the_files_log_before_and_after_a_reload() {
        let mut old = parse_config(&format!("{OLD_CONFIG}\n[log]\nlevel = \"warn\"\nformat = \"text\""));
        let flags = LogFlags { format: Some(crate::log::LogFormat::Json), level: Some("debug".to_owned()) };
        old.override_log(flags).unwrap();
        assert_eq!((old.log.format, old.log.level.as_str()), (Some(crate::log::LogFormat::Json), "debug"));
        let new = parse_config(&format!("{OLD_CONFIG}\n[log]\nlevel = \"error\"\nhandshakes = false"));
        assert_eq!(plan_reload(&old, &new).needs_restart, ["log.handshakes"]);
        let wrong = LogFlags { format: None, level: Some("loud".to_owned()) };
        assert!(old.override_log(wrong).unwrap_err().to_string().contains("--log-level: unknown log level"));
        assert_eq!(old.log.level, "debug");
    }

    #[test]
    fn what_landlock_does_not_allow_waits_and_is_named() {
        let mut old = parse_config(OLD_CONFIG);
        let access = crate::config::process_access(&old, Path::new("/run/sidekey/control.sock"));
        old.confined_to = Some(Arc::new(access));
        let moved = parse_config(&OLD_CONFIG.replace("127.0.0.1:8080", "127.0.0.1:8090"));
        let reload = plan_reload(&old, &moved);
        assert!(reload.needs_restart.iter().any(|one| one.contains("Landlock does not allow port 8090")), "{reload:?}");
        assert_eq!(reload.settings.ingresses[0].backend, old.settings.ingresses[0].backend);
        assert!(plan_reload(&old, &old.clone()).needs_restart.is_empty());
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let old = parse_config(OLD_CONFIG);
        let reload = plan_reload(&old, &old.clone());
        assert_eq!(reload, ReloadPlan { settings: old.settings, folder: old.folder, needs_restart: Vec::new() });
    }

    #[test]
    fn what_needs_a_socket_waits_and_is_named() {
        let new = parse_config(
            r#"
            certs = "elsewhere"
            workers = 2
            settle = "5s"
            [shutdown]
            drain = "1s"
            [trust.b]
            anchors = ["trust/b.pem"]
            [[ingress]]
            name = "api"
            listen = "[::]:9443"
            keyrings = ["new"]
            trust = "b"
            backend = "http://127.0.0.1:8081"
            [[egress]]
            name = "out"
            listen = "127.0.0.1:9001"
            upstream = "https://a.example"
            keyring = "out"
            "#,
        );
        let old = parse_config(OLD_CONFIG);
        let reload = plan_reload(&old, &new);
        assert_eq!(
            reload.needs_restart,
            [
                "certs",
                "state",
                "workers",
                "registry",
                "shutdown.drain",
                "ingress \"api\": listen",
                "ingress \"old\": removed",
                "egress \"out\": added"
            ]
        );
        let [api, kept] = &reload.settings.ingresses[..] else { panic!("{:?}", reload.settings.ingresses) };
        assert_eq!(api.listen, ListenAddress::AnyTcp(8443));
        assert_eq!((api.trust.as_deref(), &api.backend), (Some("b"), &new.settings.ingresses[0].backend));
        assert_eq!(*kept, old.settings.ingresses[1]);
        assert!(reload.settings.trusts.contains_key("a") && reload.settings.egresses.is_empty());
        assert!(reload.settings.keyrings["old"].roles.server && reload.settings.keyrings["new"].roles.server);
        assert!(reload.settings.remembers);
        assert_eq!(reload.folder.root, old.folder.root);
        assert_eq!(reload.folder.settle, new.folder.settle);
        assert_eq!(reload.folder.named.len(), 2);
    }
}
