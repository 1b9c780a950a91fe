//! `rbuild completions`: a script that teaches a shell rbuild's commands and flags.

use super::{command_line, print_data};
use crate::args::CompletionsArgs;
use crate::error::Failure;

pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command_line(), "rbuild", &mut script);
    print_data(&script)
}
