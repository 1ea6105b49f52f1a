//! The control socket: how an operator's commands inspect and change a running sidecar. One JSON line in, JSON lines
//! out, over a Unix socket that only the owner, root and one group may use.
//!
//! Here are the words on the socket. `server` decides which users may ask, and answers; `place` says where the socket
//! `place`'s; what the commands use, `client`'s. Changes go through the writer like every other input, and every answer
//! carries the epoch in which it is true.

mod answers;
mod change;
pub mod client;
mod context;
pub mod old_process;
pub mod place;
mod reload;
pub mod server;
pub mod take_over;

use serde::{Deserialize, Serialize};

pub use crate::evidence::report::{
    PriorHistory, ReportLine, RetireAdvice, RotationProgress, RotationReport, SenderLine, SubjectKind,
};
pub use crate::keyring::{ActivationPolicy, PreferPolicy, Standing};
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;
pub use crate::snapshot::{AnchorUsage, KeyPairView, KeyringView, TrustUsage};
pub use crate::views::handshakes::HandshakeFilter;
pub use crate::views::keyrings::{KeyringAnswer, KeyringList};
pub use crate::views::rotation::RotationAnswer;
pub use crate::views::status::StatusReport;
pub use context::{CommandContext, HandOverMeans, LoadedSettings, ReloadOrder};

/// The longest line that is read from a command.
pub const LONGEST_REQUEST: usize = 16 * 1024;

/// What a command asks: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// What needs attention.
    Status {},
    /// Every keyring.
    Keyrings {},
    /// One keyring, whole.
    Keyring {
        /// Which.
        keyring: String,
    },
    /// A change of a keyring.
    Change {
        /// Which.
        keyring: String,
        /// What.
        change: PairChange,
        /// The pair by any unambiguous beginning of its fingerprint; left out where only one can be meant.
        #[serde(default)]
        key_pair: Option<String>,
        /// It may end at a restart.
        #[serde(default)]
        until_restart: bool,
    },
    /// The rotation report.
    Rotation {},
    /// Show a source the new pair again.
    Forget {
        /// As the report names it.
        source: String,
    },
    /// Handshakes of the recent past, and those to come.
    Handshakes {
        /// Which.
        #[serde(default)]
        filter: HandshakeFilter,
        /// Goes on with those to come, until the command ends.
        #[serde(default)]
        follow: bool,
        /// How.
        #[serde(default)]
        form: HandshakeFormat,
    },
    /// One handshake with everything that is known.
    Handshake {
        /// Its connection's number.
        id: u64,
    },
    /// Read the configuration and the folder again.
    Reload {},
    /// Drain and end.
    Stop {},
    /// Hand sockets and state over to the process that asks; then it sends the two that follow.
    TakeOver {},
    /// Save the state and stand still, while the new process reads it.
    Hold {},
    /// The new process accepts: leave sockets and state to it.
    Commit {
        /// It has a supervisor of its own, so that the old one's has not to be told of it.
        is_supervised: bool,
    },
}

/// A change of a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairChange {
    /// A staged, previous or retired pair becomes current.
    Promote,
    /// The pair that was current before becomes current again.
    Rollback,
    /// A previous pair's overlap ends now.
    Retire,
    /// A pair never serves again.
    Revoke,
}

/// How a handshake is presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandshakeFormat {
    /// As a line for people, like in the log.
    #[default]
    Text,
    /// The same for a terminal.
    Coloured,
    /// As an object with the contract's fields.
    Json,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAnswer {
    /// It was done, or nothing was left to do.
    Done(ChangeOutcome),
    /// What needs attention.
    Status(Box<StatusReport>),
    /// The rotation report.
    Rotation(RotationAnswer),
    /// Keyrings as they are served.
    Keyrings(KeyringList),
    /// One of them.
    Keyring(Box<KeyringAnswer>),
    /// A handshake for people.
    Line(String),
    /// A handshake for programs.
    Handshake(serde_json::Value),
    /// It was not done.
    Refused(CommandRefusal),
}

impl ControlAnswer {
    /// With the epoch in which it is true, where it does not say one itself.
    pub(crate) fn in_epoch(mut self, epoch: Epoch) -> Self {
        match &mut self {
            Self::Done(ChangeOutcome { epoch: known, .. }) | Self::Refused(CommandRefusal { epoch: known, .. }) => {
                known.get_or_insert(epoch.0);
            }
            // A handshake's own epoch is among its fields.
            Self::Status(_)
            | Self::Rotation(_)
            | Self::Keyrings(_)
            | Self::Keyring(_)
            | Self::Line(_)
            | Self::Handshake(_) => {}
        }
        self
    }
}

/// What a command did, and what that means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeOutcome {
    /// Whether anything changed.
    pub changed: bool,
    /// What was done, one sentence.
    pub did: String,
    /// What that means from now on, one sentence.
    pub means: String,
    /// The pair that it was about.
    pub key_pair: Option<Fingerprint>,
    /// The snapshot in which it is true.
    pub epoch: Option<u64>,
    /// Whether a restart leaves it as it is.
    pub survives_restart: Option<bool>,
    /// For `reload`: what is in use since then, a sentence for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loaded: Vec<String>,
    /// For `reload`: what the folder holds that is refused, a sentence for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

impl ChangeOutcome {
    /// Nothing was done yet.
    const fn nothing() -> Self {
        Self {
            changed: false,
            did: String::new(),
            means: String::new(),
            key_pair: None,
            epoch: None,
            survives_restart: None,
            loaded: Vec::new(),
            refused: Vec::new(),
        }
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct CommandRefusal {
    /// Stable code.
    pub reason: RefusalReason,
    /// One sentence, with what to do.
    pub why: String,
    /// The snapshot in which it is true; none for a caller that may not ask.
    #[serde(default)]
    pub epoch: Option<u64>,
}

/// Stable codes of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The line is not a valid request.
    NotUnderstood,
    /// The caller lacks permission.
    NotAllowed,
    /// The keyring, key pair, source or handshake does not exist.
    NotFound,
    /// More than one pair is meant.
    Ambiguous,
    /// The rules forbid it now.
    NotNow,
    /// It would last only until the restart, and the caller did not allow that.
    UntilRestart,
    /// The operation failed.
    Failed,
}

impl CommandRefusal {
    /// With a sentence.
    pub fn new(reason: RefusalReason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into(), epoch: None }
    }
}

/// Reads a command's line.
///
/// # Errors
/// The line is not a request that this version knows.
pub fn parse(line: &[u8]) -> Result<ControlRequest, CommandRefusal> {
    serde_json::from_slice(line).map_err(|error| {
        let why = crate::pki::printable(&error.to_string());
        CommandRefusal::new(
            RefusalReason::NotUnderstood,
            format!("invalid request: {why}; use the same version of sidekey on both sides"),
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> impl Strategy<Value = ControlRequest> {
        let text = || any::<String>();
        let change = prop::sample::select(vec![
            PairChange::Promote,
            PairChange::Rollback,
            PairChange::Retire,
            PairChange::Revoke,
        ]);
        let filter =
            (any::<bool>(), prop::option::of(text()), prop::option::of(text()), prop::option::of(any::<usize>()))
                .prop_map(|(failed, peer, listener, last)| HandshakeFilter {
                    failed,
                    peer,
                    listener,
                    last,
                    ..HandshakeFilter::default()
                });
        prop_oneof![
            Just(ControlRequest::Status {}),
            Just(ControlRequest::Stop {}),
            text().prop_map(|keyring| ControlRequest::Keyring { keyring }),
            text().prop_map(|source| ControlRequest::Forget { source }),
            any::<u64>().prop_map(|id| ControlRequest::Handshake { id }),
            (text(), change, prop::option::of(text()), any::<bool>()).prop_map(
                |(keyring, change, key_pair, until_restart)| ControlRequest::Change {
                    keyring,
                    change,
                    key_pair,
                    until_restart
                }
            ),
            (filter, any::<bool>()).prop_map(|(filter, follow)| ControlRequest::Handshakes {
                filter,
                follow,
                form: HandshakeFormat::Json
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_request_is_one_line_and_is_read_back(request in request()) {
            let line = serde_json::to_string(&request).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(parse(line.as_bytes()), Ok(request));
        }

        #[test]
        fn any_bytes_are_a_request_or_a_printable_refusal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(refused) = parse(&bytes) {
                prop_assert_eq!(crate::pki::printable(&refused.why), refused.why);
            }
        }
    }

    #[test]
    fn the_lines_on_the_socket_are_stable() {
        let line = |request: &ControlRequest| serde_json::to_string(request).unwrap();
        assert_eq!(line(&ControlRequest::Status {}), r#"{"ask":"status"}"#);
        assert_eq!(
            parse(br#"{"ask":"change","keyring":"api","change":"rollback"}"#).map(|request| line(&request)),
            Ok(r#"{"ask":"change","keyring":"api","change":"rollback","key_pair":null,"until_restart":false}"#
                .to_owned())
        );
        assert!(matches!(
            parse(br#"{"ask":"handshakes"}"#),
            Ok(ControlRequest::Handshakes { follow: false, form: HandshakeFormat::Text, .. })
        ));
        for wrong in
            [&br#"{"ask":"status","more":1}"#[..], br#"{"ask":"nothing"}"#, b"", b"status", br#"{"ask":"stop"}{}"#]
        {
            assert_eq!(parse(wrong).map_err(|refused| refused.reason), Err(RefusalReason::NotUnderstood));
        }
        let done = ControlAnswer::Done(ChangeOutcome { changed: true, epoch: Some(3), ..ChangeOutcome::nothing() });
        assert_eq!(
            serde_json::to_string(&done).unwrap(),
            r#"{"done":{"changed":true,"did":"","means":"","key_pair":null,"epoch":3,"survives_restart":null}}"#
        );
    }

    #[test]
    fn every_answer_says_its_epoch_beside_what_it_said_before() {
        let keyring = crate::snapshot::sample::sample_keyring(vec![crate::snapshot::sample::sample_pair(
            &[1],
            Standing::Current,
        )]);
        let alone = serde_json::to_value(&keyring).unwrap();
        let answer = ControlAnswer::Keyring(Box::new(KeyringAnswer { epoch: 7, keyring }));
        let line = serde_json::to_string(&answer).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&told["keyring"]["epoch"], &told["keyring"]["key_pairs"]), (&7.into(), &alone["key_pairs"]));
        assert!(matches!(serde_json::from_str(&line).unwrap(), ControlAnswer::Keyring(read) if read.epoch == 7));
        let done = ControlAnswer::Done(ChangeOutcome { epoch: Some(3), ..ChangeOutcome::nothing() });
        assert!(matches!(done.in_epoch(Epoch(9)), ControlAnswer::Done(ChangeOutcome { epoch: Some(3), .. })));
        let refused = ControlAnswer::Refused(CommandRefusal::new(RefusalReason::NotNow, "not now"));
        assert_eq!(
            serde_json::to_string(&refused.in_epoch(Epoch(9))).unwrap(),
            r#"{"refused":{"reason":"not_now","why":"not now","epoch":9}}"#
        );
    }
}
