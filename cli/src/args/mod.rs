//! The command line as typed.
//!
//! Nothing here decides anything: values stay strings wherever their meaning depends on the environment, on
//! files or on other flags. [`crate::settings`] turns them into what is meant.

mod build;
mod cache;
mod check;
mod explain;
mod short_form;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use build::BuildArgs;
pub(crate) use cache::{
    CacheArgs, CacheCheckArgs, CacheCommand, CacheDuArgs, CacheLimitArgs, CacheListArgs, CachePruneArgs, MountCommand,
    MountExportArgs, MountImportArgs, MountListArgs, MountRemoveArgs,
};
pub(crate) use check::{CheckArgs, FormatArgs, ReportFormat};
pub(crate) use explain::{PlanArgs, WhyArgs};
pub(crate) use short_form::expand;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    about = "Turns a Dockerfile into an OCI image: no daemon, no root, one binary",
    after_help = "`rbuild .` is short for `rbuild build .`; a context named like a command is written with its path, as in `rbuild ./push`.\n\
                  Exit status: 0 done, 1 the build failed (a failing RUN passes its own status on), 2 wrong usage, 3 the machine cannot do it\n\
                  (of `plan`: something would run), 4 a step is not cached that was expected to be.",
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes, before its name or after it.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Keep images, layers and caches in this folder [env: RBUILD_ROOT=]
    #[arg(long, value_name = "DIR", id = "global-root")]
    pub(crate) root: Option<PathBuf>,
    /// Say more: isolation, network, cache; twice for traces
    #[arg(short, long, action = clap::ArgAction::Count, id = "global-verbose")]
    pub(crate) verbose: u8,
    /// Trust these certificate authorities too, here and in RUN steps [env: RBUILD_CA=]
    #[arg(long, value_name = "FILE", id = "global-ca")]
    pub(crate) ca: Option<PathBuf>,
}

/// The same flags where `-v` means a volume.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgsWithoutV {
    /// Keep images, layers and caches in this folder [env: RBUILD_ROOT=]
    #[arg(long, value_name = "DIR", id = "global-root")]
    pub(crate) root: Option<PathBuf>,
    /// Say more: isolation, network, cache; twice for traces
    #[arg(long, action = clap::ArgAction::Count, id = "global-verbose")]
    pub(crate) verbose: u8,
    /// Trust these certificate authorities too, here and in RUN steps [env: RBUILD_CA=]
    #[arg(long, value_name = "FILE", id = "global-ca")]
    pub(crate) ca: Option<PathBuf>,
}

impl GlobalArgs {
    /// Adds what was typed after the command's name, which wins.
    pub(crate) fn merged(&self, later: &Self) -> Self {
        Self {
            root: later.root.clone().or_else(|| self.root.clone()),
            verbose: self.verbose.saturating_add(later.verbose),
            ca: later.ca.clone().or_else(|| self.ca.clone()),
        }
    }
}

impl From<&GlobalArgsWithoutV> for GlobalArgs {
    fn from(args: &GlobalArgsWithoutV) -> Self {
        Self { root: args.root.clone(), verbose: args.verbose, ca: args.ca.clone() }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// Say what a build would do, and why, without doing it
    Plan(Box<PlanArgs>),
    /// Say why a step of the last build was done, or was not
    Why(WhyArgs),
    /// Look for mistakes in a Dockerfile, and mend them
    Check(CheckArgs),
    /// Format Dockerfiles
    Fmt(FormatArgs),
    /// Push an image to its registry
    Push(PushArgs),
    /// List the images that were built
    Images(ImagesArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show everything about an image, as JSON
    Inspect(InspectArgs),
    /// Show the steps that made an image
    History(HistoryArgs),
    /// Look after the store: its size, what it keeps, damage
    Cache(CacheArgs),
    /// Run a command in an image, with the sandbox of RUN steps
    Run(RunArgs),
    /// Say what this machine can do, and what would make it better
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
}

impl Command {
    /// The global flags typed after the command's name.
    pub(crate) fn global(&self) -> GlobalArgs {
        match self {
            Self::Build(args) => args.global.clone(),
            Self::Plan(args) => args.build.global.clone(),
            Self::Why(args) => args.global.clone(),
            Self::Check(args) => args.global.clone(),
            Self::Fmt(args) => args.global.clone(),
            Self::Push(args) => args.global.clone(),
            Self::Images(args) => args.global.clone(),
            Self::Rmi(args) => args.global.clone(),
            Self::Inspect(args) => args.global.clone(),
            Self::History(args) => args.global.clone(),
            Self::Cache(args) => args.global(),
            Self::Run(args) => GlobalArgs::from(&args.global),
            Self::Doctor(args) => args.global.clone(),
            Self::Completions(args) => args.global.clone(),
            Self::Man(args) => args.global.clone(),
        }
    }
}

/// How a list or a record is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// `rbuild push`
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The image, by the name it has here and gets there
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// How progress is shown: auto, tty, plain, quiet, rawjson [env: BUILDKIT_PROGRESS=]
    #[arg(long, value_name = "KIND")]
    pub(crate) progress: Option<String>,
    /// Print only the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild images`
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Print only digests
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild rmi`
#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// The images, by name or digest
    #[arg(value_name = "REF", required = true)]
    pub(crate) references: Vec<String>,
    /// Do not fail where an image does not exist
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The images, by name or digest
    #[arg(value_name = "REF", required = true)]
    pub(crate) references: Vec<String>,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild history`
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The image, by name or digest
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Do not shorten long commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Set an environment variable; without a value it is taken from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Show a folder or file of this machine in the container
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    pub(crate) volume: Vec<String>,
    /// Work in this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Use this program instead of the image's entry point; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// default, host or none
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(crate) network: String,
    /// Give the command our standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Accepted: what the command writes is always thrown away
    #[arg(long)]
    pub(crate) rm: bool,
    /// The image, by name or digest
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// The command; the image's own when missing
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
    #[command(flatten)]
    pub(crate) global: GlobalArgsWithoutV,
}

/// `rbuild doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild completions`
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild man`
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder, made when it is missing
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
