//! The flags of `rbuild build`, spelled as in `docker buildx build`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{StringValueParser, TypedValueParser};
use rbuild_dockerfile::parse_bool;

use super::GlobalArgs;

/// Reads a flag's truth value the way Go's flag packages do (`--pull`, `--pull=true`, `--pull=0`).
fn truth() -> impl TypedValueParser<Value = bool> {
    StringValueParser::new().try_map(|text| parse_bool(&text).ok_or("expected `true` or `false`"))
}

/// `rbuild build`
#[derive(Debug, Default, Args)]
#[command(
    after_help = "CONTEXT is a folder, a git or http(s) URL, or `-` for a tar archive or a Dockerfile on standard input.\n\
                        Without -o the image stays in rbuild's own store, which is an OCI image layout; `rbuild images` lists it."
)]
pub(crate) struct BuildArgs {
    /// The build context: a folder, a URL or `-`
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,

    /// The Dockerfile: a path, a URL, or `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Name the image; repeatable
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// Build up to this stage
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// Give `FROM NAME` and `--from=NAME` a folder, `oci-layout://PATH[:TAG|@DIGEST]`, `docker-image://REF`, git or http(s) URL
    #[arg(long, value_name = "NAME=SOURCE")]
    pub(crate) build_context: Vec<String>,
    /// Build for these platforms, separated by commas
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Vec<String>,
    /// Add a label to the image; wins over LABEL
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Add an annotation to the manifest or the index
    #[arg(long, value_name = "[TYPE[PLATFORM]:]NAME=VALUE")]
    pub(crate) annotation: Vec<String>,

    /// Show a file or a variable to RUN steps that mount it, without a trace in the image
    #[arg(long, value_name = "id=ID[,src=FILE|,env=VAR]", help_heading = "Running steps")]
    pub(crate) secret: Vec<String>,
    /// Show an SSH agent or keys to RUN steps that mount it
    #[arg(long, value_name = "default|ID[=SOCKET|KEY[,KEY]]", help_heading = "Running steps")]
    pub(crate) ssh: Vec<String>,
    /// The network of RUN steps: default, host or none
    #[arg(long, value_name = "MODE", help_heading = "Running steps")]
    pub(crate) network: Option<String>,
    /// Add a line to /etc/hosts of RUN steps
    #[arg(long, value_name = "NAME:IP", help_heading = "Running steps")]
    pub(crate) add_host: Vec<String>,
    /// Allow what is refused otherwise: network.host, security.insecure, device[=NAME]
    #[arg(long, value_name = "WHAT", help_heading = "Running steps")]
    pub(crate) allow: Vec<String>,
    /// Look for device files (CDI) in this folder instead of /etc/cdi, /var/run/cdi and /etc/buildkit/cdi
    #[arg(long, value_name = "DIR", help_heading = "Running steps")]
    pub(crate) cdi_spec_dir: Vec<PathBuf>,
    /// Size of /dev/shm in RUN steps [default: 64m]
    #[arg(long, value_name = "BYTES[k|m|g]", help_heading = "Running steps")]
    pub(crate) shm_size: Option<String>,
    /// A resource limit of RUN steps
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Running steps")]
    pub(crate) ulimit: Vec<String>,
    /// Put RUN steps under this control group
    #[arg(long, value_name = "PATH", help_heading = "Running steps")]
    pub(crate) cgroup_parent: Option<String>,
    /// How RUN steps are kept apart: auto, or chroot where namespaces are not to be had (no security boundary)
    #[arg(long, value_name = "KIND", help_heading = "Running steps")]
    pub(crate) isolation: Option<String>,
    /// Run at most this many steps at a time [default: number of processors]
    #[arg(long, value_name = "N", help_heading = "Running steps")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,

    /// Do every step anew
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth(), value_name = "BOOL", hide_possible_values = true, help_heading = "Cache")]
    pub(crate) no_cache: Option<bool>,
    /// Do the steps of these stages anew
    #[arg(long, value_name = "STAGE[,STAGE]", help_heading = "Cache")]
    pub(crate) no_cache_filter: Vec<String>,
    /// Ask the registry for every base image, even when it is here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth(), value_name = "BOOL", help_heading = "Cache")]
    pub(crate) pull: Option<bool>,
    /// Fail before the first step (of these stages) that has no earlier result
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_name = "STAGE[,STAGE]", help_heading = "Cache")]
    pub(crate) expect_cached: Option<String>,
    /// Ask no registry, git or web server; RUN steps have the network that they have otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth(), value_name = "BOOL", hide_possible_values = true, help_heading = "Cache")]
    pub(crate) offline: Option<bool>,
    /// Look steps up in this cache too: NAME in a registry, type=registry,ref=NAME or type=local,src=DIR
    #[arg(long, value_name = "NAME|type=TYPE[,…]", help_heading = "Cache")]
    pub(crate) cache_from: Vec<String>,
    /// Keep the store below this size, whatever `rbuild cache limit` says [env: RBUILD_CACHE_MAX=]
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_max: Option<String>,
    /// Keep the steps for other machines: NAME, type=registry,ref=NAME, type=local,dest=DIR or type=inline; mode=max for all stages
    #[arg(long, value_name = "NAME|type=TYPE[,mode=max][,…]", help_heading = "Cache")]
    pub(crate) cache_to: Vec<String>,

    /// Where the result goes: DIR, `-`, or type=oci|docker|local|tar|image|registry|cacheonly with dest=PATH
    #[arg(short, long, value_name = "DIR|-|type=TYPE[,dest=PATH][,…]", help_heading = "Output")]
    pub(crate) output: Vec<String>,
    /// Push the image under every tag; same as -o type=registry
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth(), value_name = "BOOL", help_heading = "Output")]
    pub(crate) push: Option<bool>,
    /// Hand the image to a local Docker; same as -o type=docker
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth(), value_name = "BOOL", help_heading = "Output")]
    pub(crate) load: Option<bool>,
    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write facts about the result to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Print nothing but the image's digest
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth(), value_name = "BOOL", help_heading = "Output")]
    pub(crate) quiet: Option<bool>,
    /// How progress is shown: auto, tty, plain, quiet, rawjson [env: BUILDKIT_PROGRESS=]
    #[arg(long, value_name = "KIND", help_heading = "Output")]
    pub(crate) progress: Option<String>,
    /// Only look at the Dockerfile: check, outline, targets or subrequests.describe, with `,format=json` or text
    #[arg(long, value_name = "METHOD[,format=FORMAT]", help_heading = "Output")]
    pub(crate) call: Option<String>,
    /// Only check the Dockerfile; same as --call=check
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth(), value_name = "BOOL", help_heading = "Output")]
    pub(crate) check: Option<bool>,
    /// Attach a statement to the image
    #[arg(long, value_name = "type=sbom|provenance[,…]", help_heading = "Output")]
    pub(crate) attest: Vec<String>,
    /// Same as --attest=type=provenance; `false` for none
    #[arg(long, value_name = "VALUE", help_heading = "Output")]
    pub(crate) provenance: Option<String>,
    /// Same as --attest=type=sbom; `false` for none
    #[arg(long, value_name = "VALUE", help_heading = "Output")]
    pub(crate) sbom: Option<String>,

    #[command(flatten)]
    pub(crate) ignored: IgnoredArgs,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// Flags of other builders that have no meaning here; each says so when it is used.
#[derive(Debug, Default, Args)]
pub(crate) struct IgnoredArgs {
    #[arg(long, hide = true)]
    pub(crate) builder: Option<String>,
    #[arg(short = 'D', long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth())]
    pub(crate) debug: Option<bool>,
    #[arg(long, hide = true)]
    pub(crate) policy: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) resource: Vec<String>,
    #[arg(short, long, hide = true)]
    pub(crate) memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    #[arg(short = 'c', long, hide = true)]
    pub(crate) cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpu_period: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_mems: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) security_opt: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth())]
    pub(crate) compress: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth())]
    pub(crate) squash: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth())]
    pub(crate) rm: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth())]
    pub(crate) force_rm: Option<bool>,
    #[arg(long, hide = true)]
    pub(crate) print: Option<String>,
}

impl IgnoredArgs {
    /// The names of those that were used with a value that asks for something.
    pub(crate) fn used(&self) -> Vec<&'static str> {
        let on = |flag: Option<bool>| flag == Some(true);
        [
            ("--builder", self.builder.is_some()),
            ("--resource", !self.resource.is_empty()),
            ("--memory", self.memory.is_some()),
            ("--memory-swap", self.memory_swap.is_some()),
            ("--cpu-shares", self.cpu_shares.is_some()),
            ("--cpu-period", self.cpu_period.is_some()),
            ("--cpu-quota", self.cpu_quota.is_some()),
            ("--cpuset-cpus", self.cpuset_cpus.is_some()),
            ("--cpuset-mems", self.cpuset_mems.is_some()),
            ("--security-opt", !self.security_opt.is_empty()),
            ("--compress", on(self.compress)),
            ("--squash", on(self.squash)),
            ("--rm", on(self.rm)),
            ("--force-rm", on(self.force_rm)),
        ]
        .into_iter()
        .filter_map(|(name, used)| used.then_some(name))
        .collect()
    }
}
