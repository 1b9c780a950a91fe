//! `rbuild man`: a manual page for rbuild and for each of its commands.

use std::fs;

use super::command_line;
use crate::args::ManArgs;
use crate::error::{Failure, Kind};

pub(super) fn run(args: &ManArgs) -> Result<(), Failure> {
    let folder = &args.folder;
    let failed = |error: std::io::Error| {
        Failure::caused(Kind::Environment, format!("cannot write manual pages into `{}`", folder.display()), &error)
    };
    fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(command_line(), folder).map_err(failed)
}
