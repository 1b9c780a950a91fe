//! The flags of the commands that explain builds.

use clap::Args;

use super::{BuildArgs, Format, GlobalArgs};

/// `rbuild plan`
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 when every step is cached, 3 when something would run.")]
pub(crate) struct PlanArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// `rbuild why`
#[derive(Debug, Args)]
#[command(
    after_help = "STEP is the number of a step in the build's output (`3` for `#3`), `STAGE/NUMBER` (`build/2`), or the beginning of an\n\
                  instruction (`COPY src`). CONTEXT and -f name the Dockerfile as they did for the build."
)]
pub(crate) struct WhyArgs {
    /// The step, and the build context of the build [default context: .]
    #[arg(value_name = "STEP [CONTEXT]", num_args = 0..=2)]
    pub(crate) words: Vec<String>,
    /// The Dockerfile, as for the build
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Ask about this build instead of the last one
    #[arg(long, value_name = "BUILD")]
    pub(crate) build: Option<String>,
    /// Compare with this build instead of the one before
    #[arg(long, value_name = "BUILD")]
    pub(crate) against: Option<String>,
    /// List the builds on record
    #[arg(long, conflicts_with_all = ["build", "against"])]
    pub(crate) list: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}
