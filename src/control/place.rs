//! Where the control socket is, for the sidecar that makes it and for the command that looks for it.
//!
//! Pure: the environment is handed in.

use std::path::{Path, PathBuf};

/// Looks up an environment variable.
pub type SocketEnvironment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The socket's file name, where its folder is all that is known.
const NAME: &str = "control.sock";
/// Where it is when nothing else is known.
const SYSTEM: &str = "/run/sidekey";

/// Where a sidecar makes its socket unless the configuration says: `$RUNTIME_DIRECTORY`, else `state`, else
/// `$XDG_RUNTIME_DIR`, else `/run/sidekey`.
pub fn default_place(state: Option<&Path>, environment: SocketEnvironment<'_>) -> PathBuf {
    let folder = runtime_directory(environment)
        .or_else(|| state.map(Path::to_owned))
        .or_else(|| user_directory(environment))
        .unwrap_or_else(|| SYSTEM.into());
    folder.join(NAME)
}

/// Where a command looks for it, the likeliest first: systemd tells `$RUNTIME_DIRECTORY` to the service alone, so that the
/// other places are looked at too.
pub fn candidates(state: Option<&Path>, environment: SocketEnvironment<'_>) -> Vec<PathBuf> {
    let folders =
        [runtime_directory(environment), state.map(Path::to_owned), Some(SYSTEM.into()), user_directory(environment)];
    let mut places = Vec::new();
    for place in folders.into_iter().flatten().map(|folder| folder.join(NAME)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// systemd lists several, separated by colons; ours is the first.
fn runtime_directory(environment: SocketEnvironment<'_>) -> Option<PathBuf> {
    let all = environment("RUNTIME_DIRECTORY")?;
    absolute(all.split(':').next()?)
}

/// The user's own runtime folder is shared with other programs.
fn user_directory(environment: SocketEnvironment<'_>) -> Option<PathBuf> {
    Some(absolute(&environment("XDG_RUNTIME_DIR")?)?.join("sidekey"))
}

fn absolute(path: &str) -> Option<PathBuf> {
    path.starts_with('/').then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(state: Option<&str>, variables: &[(&str, &str)]) -> String {
        let environment =
            |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        default_place(state.map(Path::new), &environment).display().to_string()
    }

    #[test]
    fn the_service_s_folder_comes_before_state_and_that_before_the_user_s() {
        let both = [("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("XDG_RUNTIME_DIR", "/run/user/1000")];
        assert_eq!(place(Some("/s"), &both), "/run/a/control.sock");
        assert_eq!(place(Some("/s"), &both[1..]), "/s/control.sock");
        assert_eq!(place(None, &both[1..]), "/run/user/1000/sidekey/control.sock");
        assert_eq!(place(None, &[]), "/run/sidekey/control.sock");
        assert_eq!(place(None, &[("RUNTIME_DIRECTORY", "")]), "/run/sidekey/control.sock");
    }

    #[test]
    fn a_command_looks_wherever_a_sidecar_may_have_made_it() {
        let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/1000".to_owned());
        let all = candidates(Some(Path::new("/s")), &environment);
        for state in [None, Some(Path::new("/s"))] {
            for variable in [true, false] {
                let environment = |name: &str| if variable { environment(name) } else { None };
                assert!(all.contains(&default_place(state, &environment)), "{state:?} {variable}");
            }
        }
    }
}
