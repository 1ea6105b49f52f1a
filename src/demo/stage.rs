//! What the caller of the demonstration asks for, and how it shows what happens.

/// What the caller shows.
pub trait DemoStage: Send + Sync {
    /// A new part of the demonstration.
    fn part(&self, title: &str);
    /// One line.
    fn print_line(&self, line: &str);
    /// How far the load has come: requests answered, of about how many, and lost.
    fn progress(&self, answered: u64, of: u64, lost: u64);
    /// The load is over.
    fn progress_ends(&self);
}

/// The demonstration's options.
#[derive(Clone, Debug, Default)]
pub struct DemoOptions {
    /// Leave the folder.
    pub keep: bool,
    /// Keep running until the process is interrupted.
    pub serve: bool,
}
