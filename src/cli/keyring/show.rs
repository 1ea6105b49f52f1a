//! `sidekey keyring show KEYRING`: every key pair of one keyring, and the reason for its standing.

use jiff::Timestamp;

use super::super::ask::{ControlArguments, unexpected};
use super::super::failure::CommandFailure;
use super::super::print;
use crate::clock::Clock;
use crate::control::{
    ActivationPolicy, ControlAnswer, ControlRequest, KeyPairView, KeyringView, PreferPolicy, Standing,
};

#[derive(clap::Args)]
pub(super) struct KeyringShowArguments {
    /// Name of the keyring
    keyring: String,
    #[command(flatten)]
    ask: ControlArguments,
}

pub(super) fn run(arguments: &KeyringShowArguments) -> Result<(), CommandFailure> {
    let keyring = match arguments.ask.request_single(&ControlRequest::Keyring { keyring: arguments.keyring.clone() })? {
        ControlAnswer::Keyring(keyring) => keyring,
        other => return Err(unexpected(&other)),
    };
    if arguments.ask.json {
        print::json(&keyring);
        return Ok(());
    }
    print_keyring(&keyring.keyring, Clock::system().now());
    Ok(())
}

fn print_keyring(keyring: &KeyringView, now: Timestamp) {
    print::line(&format!("keyring {}", keyring.name));
    for (what, said) in [("purpose", &keyring.purpose), ("owner", &keyring.owner), ("contact", &keyring.contact)] {
        if let Some(said) = said {
            print::field(what, said);
        }
    }
    print::field("overlap", &print::length(keyring.overlap_seconds));
    print::field(
        "prefer",
        match keyring.prefer {
            PreferPolicy::New => "new",
            PreferPolicy::Old => "old",
        },
    );
    print::field(
        "activate",
        match keyring.activate {
            ActivationPolicy::Auto => "auto",
            ActivationPolicy::Manual => "manual",
        },
    );
    if let Some((newest, since)) = keyring.diverges {
        print::field(
            "differs",
            &format!(
                "{} in the folder is newer than the current pair, since {}",
                newest.short(),
                print::format_minute(since)
            ),
        );
    }
    let order = [
        Standing::Current,
        Standing::Previous,
        Standing::Staged,
        Standing::Retired,
        Standing::Refused,
        Standing::Revoked,
    ];
    for standing in order {
        for pair in keyring.pairs_with_standing(standing) {
            print::line("");
            say_pair(keyring, pair, now);
        }
    }
    let known = |name: &&crate::pki::Fingerprint| !keyring.key_pairs.iter().any(|pair| pair.key_pair == **name);
    for revoked in keyring.revoked.iter().filter(known) {
        print::line("");
        print::line(&format!("revoked   {}  not in the folder", revoked.short()));
    }
}

fn say_pair(keyring: &KeyringView, pair: &KeyPairView, now: Timestamp) {
    let held = if keyring.held.contains(&pair.key_pair) { ", held after a rollback: promote it to use it" } else { "" };
    print::line(&format!(
        "{:<9} {}  since {}{held}",
        pair.standing.as_str(),
        pair.key_pair.short(),
        print::format_minute(pair.since)
    ));
    print::field("fingerprint", &pair.key_pair.to_string());
    print::field("subject", &pair.subject);
    print::field("names", &pair.names.join(" "));
    print::field("issuer", &pair.issuer);
    print::field("serial", &pair.serial);
    print::field("key", &pair.key);
    let validity = pair.validity;
    print::field(
        "valid",
        &format!(
            "{} to {} ({})",
            print::format_minute(validity.not_before),
            print::format_minute(validity.not_after),
            print::in_time(now, validity.not_after)
        ),
    );
    if let Some(ends) = pair.overlap_ends {
        print::field("overlap", &format!("ends {} ({})", print::format_minute(ends), print::in_time(now, ends)));
    }
    let files = pair.sources.join(" ");
    print::field("files", &if pair.in_folder { files } else { format!("{files} (no longer in the folder; retained)") });
    if !pair.chain_sources.is_empty() {
        print::field("chain", &format!("intermediates in {}", pair.chain_sources.join(" ")));
    }
    if let Some(why) = &pair.why {
        print::field("why", why);
    }
}
