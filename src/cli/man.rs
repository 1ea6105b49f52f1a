//! `sidekey man FOLDER`: writes the manual pages, one for each command.

use std::path::PathBuf;

use anyhow::Context;

use super::failure::CommandFailure;
use super::print;

#[derive(clap::Args)]
pub(super) struct ManArguments {
    /// The folder for the pages
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(super) fn run(arguments: &ManArguments, command: clap::Command) -> Result<(), CommandFailure> {
    let folder = &arguments.folder;
    let shown = crate::pki::printable(&folder.display().to_string());
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    written.with_context(|| format!("cannot write the manual pages into {shown}")).map_err(CommandFailure::Wrong)?;
    print::talk(&format!("wrote the manual pages into {shown}"));
    Ok(())
}
