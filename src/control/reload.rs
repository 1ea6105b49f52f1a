//! `sidekey reload`: waits until settings and folder are in use or refused, and says which.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::context::{CommandContext, LoadedSettings, ReloadOrder, stopping, wait_until};
use super::{ChangeOutcome, CommandRefusal, RefusalReason};
use crate::keyring::Standing;
use crate::pki::ProblemSeverity;
use crate::snapshot::{KeyringView, Snapshot};
use crate::writer::WriterView;

/// How long settings and folder together may take until the answer is what they are still waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Orders both readings, and answers once the writer is done with both.
pub(super) async fn reload(context: &CommandContext) -> Result<ChangeOutcome, CommandRefusal> {
    let deadline = Instant::now() + PATIENCE;
    let before = context.snapshot();
    let ((settings, loaded), (folder, settled)) = (oneshot::channel(), oneshot::channel());
    let awaited =
        "requested, but the settings are still awaited, and the folder after them: the log reports the result";
    let order = async { context.reloads.send(ReloadOrder { settings, folder }).await.map_err(|_| stopping()) };
    wait_until(deadline, order, awaited).await?;
    let loaded = async { loaded.await.map_err(|_| stopping()) };
    let settings = wait_until(deadline, loaded, awaited).await?.map_err(|why| {
        CommandRefusal::new(RefusalReason::Failed, format!("configuration rejected; keeping the previous one: {why}"))
    })?;
    let awaited = "the settings are in use, but the folder is still awaited: something in it changes, is incomplete or cannot be read; \
                   the log reports the result";
    let look = async {
        settled.await.map_err(|_| CommandRefusal::new(RefusalReason::Failed, awaited))?;
        context.look().await
    };
    let look = wait_until(deadline, look, awaited).await?;
    if let Some(why) = look.not_served {
        let why = format!("the settings are read, but what the folder holds is not served: {why}");
        return Err(CommandRefusal::new(RefusalReason::Failed, why));
    }
    Ok(describe_reload(&settings, &look, &before, &context.snapshot()))
}

/// What it did, from what is served before and after. Pure.
fn describe_reload(settings: &LoadedSettings, look: &WriterView, before: &Snapshot, after: &Snapshot) -> ChangeOutcome {
    let loaded = new_standings(before, after);
    let refused = refused_content(look, after);
    let changed = settings.changed || before.epoch != after.epoch;
    let mut means = vec![match &settings.needs_restart[..] {
        [] if changed => "All settings are in use.".to_owned(),
        [] => "Nothing changed.".to_owned(),
        keys => format!("All settings are in use, except those that need a restart: {}.", keys.join(", ")),
    }];
    means.extend(loaded.iter().map(|what| format!("Loaded: {what}.")));
    means.extend(refused.iter().map(|what| format!("Refused: {what}.")));
    ChangeOutcome {
        changed,
        did: "reloaded the configuration and the folder".to_owned(),
        means: means.join(" "),
        epoch: Some(after.epoch.0),
        loaded,
        refused,
        ..ChangeOutcome::nothing()
    }
}

/// Key pairs that stand elsewhere than before, and trusts that hold something else.
fn new_standings(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let former = |name: &str| before.keyrings.iter().find(|keyring| *keyring.name == *name);
    let mut news = Vec::new();
    for keyring in &after.keyrings {
        let stood = |pair: &crate::snapshot::KeyPairView| {
            let pairs = former(&keyring.name).map_or(&[][..], |keyring| &keyring.key_pairs[..]);
            pairs.iter().find(|other| other.key_pair == pair.key_pair).map(|pair| pair.standing)
        };
        let moved = keyring.key_pairs.iter().filter(|pair| stood(pair) != Some(pair.standing));
        news.extend(moved.filter(|pair| pair.standing != Standing::Refused).map(|pair| {
            format!("key pair {} of keyring {} is {}", pair.key_pair.short(), keyring.name, pair.standing.as_str())
        }));
    }
    let changed = after.trusts.iter().filter(|trust| {
        before.trusts.iter().find(|other| other.holds.name == trust.holds.name).map(|other| &other.holds)
            != Some(&trust.holds)
    });
    news.extend(changed.map(|trust| format!("{} has changed", trust.holds.describe_trust())));
    news
}

/// What is in the folder and cannot be used, whether it is new or not.
fn refused_content(look: &WriterView, after: &Snapshot) -> Vec<String> {
    let problems = look.problems.iter().filter(|(_, problem)| problem.severity == ProblemSeverity::Refused);
    let files = problems.map(|(_, problem)| format!("{}: {}", problem.file, problem.why));
    let pairs = |keyring: &KeyringView| -> Vec<String> {
        let refused = keyring.pairs_with_standing(Standing::Refused);
        let why = |pair: &crate::snapshot::KeyPairView| pair.why.clone().unwrap_or_else(|| pair.key_pair.short());
        refused.map(why).collect()
    };
    files.chain(after.keyrings.iter().flat_map(pairs)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::FolderProblem;
    use crate::snapshot::Epoch;
    use crate::snapshot::sample::{sample_keyring, sample_pair, sample_snapshot};

    fn snapshot(epoch: u64, pairs: &[(u8, Standing)]) -> Snapshot {
        let pairs = pairs.iter().map(|(byte, standing)| sample_pair(&[*byte], *standing)).collect();
        Snapshot { epoch: Epoch(epoch), ..sample_snapshot(vec![sample_keyring(pairs)]) }
    }

    #[test]
    fn it_says_what_was_loaded_and_refused_and_what_needs_a_restart() {
        let before = snapshot(4, &[(1, Standing::Current)]);
        let same = describe_reload(&LoadedSettings::default(), &WriterView::default(), &before, &before);
        assert_eq!((same.changed, &*same.means, same.epoch), (false, "Nothing changed.", Some(4)));
        let after = snapshot(5, &[(1, Standing::Previous), (2, Standing::Current), (3, Standing::Refused)]);
        let problem = FolderProblem {
            file: "lonely.crt".into(),
            reason: "no_key",
            why: "its key is missing".to_owned(),
            remedy: String::new(),
            severity: ProblemSeverity::Refused,
        };
        let look = WriterView { problems: vec![(None, problem)], ..WriterView::default() };
        let settings = LoadedSettings { changed: false, needs_restart: vec!["certs".to_owned()] };
        let told = describe_reload(&settings, &look, &before, &after);
        assert_eq!((told.changed, told.epoch), (true, Some(5)));
        assert_eq!((told.loaded.len(), told.refused.len()), (2, 2), "{told:?}");
        assert!(told.loaded[1].ends_with("is current") && told.refused[0] == "lonely.crt: its key is missing");
        assert!(
            told.means.starts_with("All settings are in use, except those that need a restart: certs. Loaded: "),
            "{}",
            told.means
        );
    }
}
