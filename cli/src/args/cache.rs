//! The flags of `rbuild cache`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Format, GlobalArgs};

/// `rbuild cache`
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

/// What to do with the cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show how much disk space the store takes
    Du(CacheDuArgs),
    /// List what the store keeps: results of steps, records, contexts, cache mounts
    Ls(CacheListArgs),
    /// Remove what nothing needs, and more when asked; builds may go on meanwhile
    Prune(CachePruneArgs),
    /// Read everything in the store and say what is damaged
    Check(CacheCheckArgs),
    /// Show or set the most disk space that the store may take
    Limit(CacheLimitArgs),
    /// Look after the folders of `RUN --mount=type=cache`
    Mount(CacheMountArgs),
}

impl CacheArgs {
    /// The global flags typed after the command's name.
    pub(crate) fn global(&self) -> GlobalArgs {
        match &self.command {
            CacheCommand::Du(args) => args.global.clone(),
            CacheCommand::Ls(args) => args.global.clone(),
            CacheCommand::Prune(args) => args.global.clone(),
            CacheCommand::Check(args) => args.global.clone(),
            CacheCommand::Limit(args) => args.global.clone(),
            CacheCommand::Mount(args) => args.command.global(),
        }
    }
}

/// `rbuild cache du`
#[derive(Debug, Args)]
pub(crate) struct CacheDuArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache ls`
#[derive(Debug, Args)]
pub(crate) struct CacheListArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Do not shorten long commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache prune`
#[derive(Debug, Args)]
#[command(after_help = "Without a flag only what neither an image nor any result of a step needs is removed.\n\
                        Images that have names stay, and so does what running builds use.")]
pub(crate) struct CachePruneArgs {
    /// Remove everything but images that have names
    #[arg(short, long, conflicts_with = "older_than")]
    pub(crate) all: bool,
    /// Remove what was not used for this long, such as `36h` or `7d`
    #[arg(long, value_name = "TIME", visible_alias = "until")]
    pub(crate) older_than: Option<String>,
    /// Remove the least recently used until the store takes no more than this, such as `10g`
    #[arg(long, value_name = "SIZE", visible_aliases = ["keep-storage", "max-used-space"])]
    pub(crate) keep: Option<String>,
    /// Remove nothing, and say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Accepted: nothing is asked
    #[arg(short, long)]
    pub(crate) force: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache check`
#[derive(Debug, Args)]
pub(crate) struct CacheCheckArgs {
    /// Remove what is damaged, so that it is made anew when it is needed
    #[arg(long)]
    pub(crate) repair: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache limit`
#[derive(Debug, Args)]
pub(crate) struct CacheLimitArgs {
    /// The limit, such as `20g`; `none` for no limit; shows the limit when missing
    #[arg(value_name = "SIZE")]
    pub(crate) size: Option<String>,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache mount`
#[derive(Debug, Args)]
pub(crate) struct CacheMountArgs {
    #[command(subcommand)]
    pub(crate) command: MountCommand,
}

/// What to do with cache mounts.
#[derive(Debug, Subcommand)]
pub(crate) enum MountCommand {
    /// List the cache mounts
    Ls(MountListArgs),
    /// Remove cache mounts
    Rm(MountRemoveArgs),
    /// Write the files of a cache mount as a tar archive
    Export(MountExportArgs),
    /// Fill a cache mount from a tar archive; what it held is gone then
    Import(MountImportArgs),
}

impl MountCommand {
    fn global(&self) -> GlobalArgs {
        match self {
            Self::Ls(args) => args.global.clone(),
            Self::Rm(args) => args.global.clone(),
            Self::Export(args) => args.global.clone(),
            Self::Import(args) => args.global.clone(),
        }
    }
}

/// `rbuild cache mount ls`
#[derive(Debug, Args)]
pub(crate) struct MountListArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache mount rm`
#[derive(Debug, Args)]
pub(crate) struct MountRemoveArgs {
    /// The caches: `id=` of the mount, or its target where it has none; or the beginning of the hash that `ls` shows
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache mount export`
#[derive(Debug, Args)]
pub(crate) struct MountExportArgs {
    /// The cache, as for `rm`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The file to write; `-` for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// `rbuild cache mount import`
#[derive(Debug, Args)]
pub(crate) struct MountImportArgs {
    /// The cache, as for `rm`; one that does not exist is made for a mount with this `id=` or target
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The archive, plain or compressed; `-` for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}
