//! The flags of `rbuild check` and `rbuild fmt`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::GlobalArgs;

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people
    #[default]
    Text,
    /// For programs, as `build --call=check,format=json`
    Json,
    /// For code hosting and editors (SARIF 2.1.0)
    Sarif,
}

/// `rbuild check`
#[derive(Debug, Args)]
#[command(
    after_help = "Rules are turned off by `# check=skip=RULE` at the top of the file, or right above an instruction for that one.\n\
                  Exit status: 0 nothing found, 1 something found."
)]
pub(crate) struct CheckArgs {
    /// The build context, or a Dockerfile
    #[arg(value_name = "PATH", default_value = ".")]
    pub(crate) path: String,
    /// The Dockerfile [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Mend what can be mended without a decision
    #[arg(long)]
    pub(crate) fix: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ReportFormat,
    /// Look only at what a build of this stage needs
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set a build argument
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// Give `FROM NAME` and `--from=NAME` another source, as in `build`
    #[arg(long, value_name = "NAME=SOURCE")]
    pub(crate) build_context: Vec<String>,
    /// Check as for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild fmt`
#[derive(Debug, Args)]
#[command(
    after_help = "Keywords get upper case, stages an empty line before them, and blanks at the ends of lines go away.\n\
                  What is built stays the same. Heredocs are not touched."
)]
pub(crate) struct FormatArgs {
    /// The Dockerfiles, or the folders that they are in, or `-` for standard input to standard output
    #[arg(value_name = "FILE", default_value = "Dockerfile")]
    pub(crate) files: Vec<PathBuf>,
    /// Change nothing: list the files that are not formatted, and end with status 1 where there are any
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}
