//! How a command ends that has not done what it was asked, and what it then says.

use std::process::ExitCode;

use super::print;

/// How a command failed.
#[derive(Debug)]
pub(super) enum CommandFailure {
    /// Exit code 2: usage, configuration or folder.
    Wrong(anyhow::Error),
    /// Exit code 1: anything else.
    Failed(anyhow::Error),
    /// Exit code as given; the message has been printed.
    Said(u8),
}

impl<E: Into<anyhow::Error>> From<E> for CommandFailure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl CommandFailure {
    /// Prints what went wrong, unless that was done, and returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Said(code) => ExitCode::from(*code),
            Self::Wrong(error) => {
                print::error(error);
                ExitCode::from(2)
            }
            Self::Failed(error) => {
                print::error(error);
                ExitCode::from(1)
            }
        }
    }
}
