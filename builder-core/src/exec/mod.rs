//! Runs a plan: the only module that orchestrates.
//!
//! ```text
//! build      the whole of it: read, plan, run, finish
//! bases      images and named contexts that stages start from
//! cache_mount cache mounts from and to archives
//! room       keeps the limit of the store's size
//! scheduler  who waits for whom
//! stage      one stage, step by step: key, look up, do, record
//! earlier    why a step has no result to use
//! journal    what became of each step, from build to build
//! forecast   what a build would do
//! past       builds that are over, compared
//! copy run   what a step does
//! changing   steps whose files change meanwhile
//! execute    a command while it runs
//! removal    what steps leave, while the next one runs
//! selection  what a COPY takes from layers, remembered
//! devices    what of the host a command may use
//! check      the linter's look at a Dockerfile
//! check_store reads everything that a store holds
//! platforms  whether commands can run on this machine's processor
//! layers     every layer that the build works with, in the form that is needed
//! delta      layers that lie over an earlier one
//! left_blobs blobs of base images that stay in their registry
//! finish     configuration, manifest, names, outputs, push
//! carry      results of steps from and for other machines
//! ```

mod advice;
mod bases;
mod build;
mod build_arguments;
mod ca;
mod cache_mount;
mod carry;
mod changing;
mod check;
mod check_store;
mod chroot;
mod command_output;
mod compression_progress;
mod context;
mod copy;
mod delta;
mod devices;
mod earlier;
mod encoding;
mod execute;
mod finish;
mod forecast;
mod heal;
mod host_files;
mod jobs;
mod journal;
mod layers;
mod left_blobs;
mod load;
mod materialize;
mod mounts;
mod options;
mod owner;
mod past;
mod platforms;
mod remote_files;
mod removal;
mod room;
mod run;
mod run_image;
mod scheduler;
mod selection;
mod sent;
mod ssh_agent;
mod stage;
mod unread_copy;

pub use build::{BuildResult, BuiltImage, build, build_plan};
pub use cache_mount::{cache_mount_hash, export_cache_mount, import_cache_mount};
pub use carry::{CacheMode, CachePlace, CacheSource, CacheTarget};
pub use check::{BaseLookup, CheckOptions, CheckResult, RuleSet, check};
pub use check_store::check_store;
pub use forecast::{Forecast, ForecastStep, Outlook, forecast};
pub use heal::tell_damage;
pub use host_files::{ExtraHost, ExtraHostError};
pub use left_blobs::push_stored;
pub use options::{
    BuildOptions, Cancel, ContextInput, Destination, DockerfileInput, ExpectCached, Isolation, NamedContext, NoCache,
    Output, OutputKind, Secret, SshSource,
};
pub use past::{Comparison, compare_builds, past_builds};
pub use run_image::{RunImageOptions, RunningImage, run_image};
