//! What `rbuild build` is to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rbuild_core::exec::{CacheSource, CacheTarget};
use rbuild_core::image::Annotation;
use rbuild_core::oci::Platform;

use super::annotation::{annotations, is_annotation};
use super::cache;
use super::call::{Call, call};
use super::context::{Context, DockerfileFrom, NamedContext, context, dockerfile, named_context};
use super::output::{Output, outputs};
use super::prune;
use super::values::{
    HostEntry, Isolation, Network, Secret, SshForward, Ulimit, add_host, isolation, network, secret, size_bytes, ssh,
    ulimit,
};
use super::{Environment, Progress, UsageError, absolute};
use crate::args::BuildArgs;

/// What is done anew although its result is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum NoCache {
    /// Nothing.
    #[default]
    Never,
    /// Everything.
    All,
    /// The steps of these stages.
    Stages(Vec<String>),
}

/// What must have an earlier result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ExpectCached {
    /// Nothing.
    #[default]
    Nothing,
    /// Every step.
    All,
    /// The steps of these stages.
    Stages(Vec<String>),
}

/// A whole build as meant.
#[derive(Debug, Clone)]
pub(crate) struct BuildSettings {
    pub(crate) context: Context,
    pub(crate) dockerfile: DockerfileFrom,
    pub(crate) tags: Vec<String>,
    pub(crate) target: Option<String>,
    pub(crate) build_args: BTreeMap<String, String>,
    /// Proxies of the environment, for steps that no build argument gives another.
    pub(crate) proxies: BTreeMap<String, String>,
    pub(crate) named_contexts: BTreeMap<String, NamedContext>,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: Vec<Annotation>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) ssh: Vec<SshForward>,
    pub(crate) network: Network,
    pub(crate) add_hosts: Vec<HostEntry>,
    /// What steps may do by their own flags, as the library calls it.
    pub(crate) allow: BTreeSet<String>,
    /// Folders with device files; the usual ones where empty.
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
    pub(crate) shm_size_bytes: Option<u64>,
    pub(crate) ulimits: Vec<Ulimit>,
    pub(crate) isolation: Isolation,
    pub(crate) jobs: Option<usize>,
    pub(crate) no_cache: NoCache,
    pub(crate) expect_cached: ExpectCached,
    pub(crate) pull: bool,
    pub(crate) offline: bool,
    pub(crate) cache_from: Vec<CacheSource>,
    /// The most bytes that the store may hold.
    pub(crate) cache_max_bytes: Option<u64>,
    pub(crate) cache_to: Vec<CacheTarget>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) iidfile: Option<PathBuf>,
    pub(crate) metadata_file: Option<PathBuf>,
    pub(crate) quiet: bool,
    pub(crate) progress: Progress,
    pub(crate) call: Call,
    /// What was asked for and is not done; each is said before the build.
    pub(crate) warnings: Vec<String>,
}

impl BuildSettings {
    /// Reads every value.
    ///
    /// # Errors
    /// A value that cannot be read, and flags that contradict each other.
    pub(crate) fn new(args: &BuildArgs, environment: &Environment) -> Result<Self, UsageError> {
        let context = context(&args.context, environment)?;
        let dockerfile = dockerfile(args.file.as_deref(), &context, environment)?;
        let outputs = outputs(&args.output, args.push == Some(true), args.load == Some(true), environment)?;
        if args.tag.is_empty() && outputs.iter().any(|output| output.push && !output.attributes.contains_key("name")) {
            return Err(
                UsageError::new("cannot push an image without a name").hint("name it with `-t REGISTRY/NAME:TAG`")
            );
        }
        let quiet = args.quiet == Some(true);
        Ok(Self {
            dockerfile,
            tags: args.tag.clone(),
            target: args.target.clone().filter(|target| !target.is_empty()),
            build_args: build_args(&args.build_arg, environment)?,
            proxies: environment.proxies(),
            named_contexts: args
                .build_context
                .iter()
                .map(|value| named_context(value, environment))
                .collect::<Result<_, _>>()?,
            platforms: platforms(&args.platform, environment)?,
            labels: labels(&args.label)?,
            annotations: annotations(&args.annotation, &outputs)?,
            secrets: args.secret.iter().map(|value| secret(value, environment)).collect::<Result<_, _>>()?,
            ssh: args.ssh.iter().map(|value| ssh(value, environment)).collect::<Result<_, _>>()?,
            network: network(args.network.as_deref().unwrap_or_default())?,
            add_hosts: args.add_host.iter().map(|value| add_host(value)).collect::<Result<Vec<_>, _>>()?.concat(),
            allow: allowed(&args.allow)?,
            cdi_spec_dirs: args.cdi_spec_dir.iter().map(|path| absolute(path, environment)).collect(),
            shm_size_bytes: args.shm_size.as_deref().map(|value| size_bytes("--shm-size", value)).transpose()?,
            ulimits: args.ulimit.iter().map(|value| ulimit(value)).collect::<Result<_, _>>()?,
            isolation: isolation(args.isolation.as_deref())?,
            jobs: args.jobs.map(std::num::NonZeroUsize::get),
            no_cache: no_cache(args)?,
            expect_cached: expect_cached(args.expect_cached.as_deref()),
            pull: args.pull == Some(true),
            offline: offline(args, &outputs)?,
            cache_from: cache::sources(&args.cache_from, environment)?,
            cache_max_bytes: prune::cache_max(args.cache_max.as_deref(), environment)?,
            cache_to: cache::targets(&args.cache_to, environment)?,
            iidfile: args.iidfile.as_deref().map(|path| absolute(path, environment)),
            metadata_file: args.metadata_file.as_deref().map(|path| absolute(path, environment)),
            quiet,
            progress: Progress::new(args.progress.as_deref(), quiet, environment)?,
            call: call(args)?,
            warnings: [warnings(args)?, warnings_of_outputs(&outputs)].concat(),
            outputs,
            context,
        })
    }
}

/// Reads `NAME=VALUE`; a name alone takes its value from the environment, and is left out where that has none.
fn build_args(values: &[String], environment: &Environment) -> Result<BTreeMap<String, String>, UsageError> {
    let mut build_args = BTreeMap::new();
    for value in values {
        let (name, text) = match value.split_once('=') {
            Some((name, text)) => (name, Some(text.to_owned())),
            None => (value.as_str(), environment.exact(value)),
        };
        if name.is_empty() {
            return Err(UsageError::value("--build-arg", value, "the name is missing").hint("write `NAME=VALUE`"));
        }
        match text {
            Some(text) => build_args.insert(name.to_owned(), text),
            None => build_args.remove(name),
        };
    }
    if let Some(epoch) = environment.text("SOURCE_DATE_EPOCH") {
        build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
    }
    Ok(build_args)
}

fn platforms(values: &[String], environment: &Environment) -> Result<Vec<Platform>, UsageError> {
    let default: Vec<String> = environment.text("DOCKER_DEFAULT_PLATFORM").into_iter().collect();
    let values = if values.is_empty() { &default } else { values };
    let mut platforms = Vec::new();
    for text in values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|text| !text.is_empty()) {
        let platform = match text {
            "local" => Platform::host(),
            _ => text.parse().map_err(|error: rbuild_core::oci::PlatformError| {
                UsageError::value("--platform", text, &error.to_string())
            })?,
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn labels(values: &[String]) -> Result<BTreeMap<String, String>, UsageError> {
    values
        .iter()
        .map(|value| {
            let (name, text) = value.split_once('=').unwrap_or((value, ""));
            if name.is_empty() {
                return Err(UsageError::value("--label", value, "the name is missing").hint("write `NAME=VALUE`"));
            }
            Ok((name.to_owned(), text.to_owned()))
        })
        .collect()
}

/// Reads `--allow`.
fn allowed(values: &[String]) -> Result<BTreeSet<String>, UsageError> {
    let mut allowed = BTreeSet::new();
    for value in values {
        // The alias of a device stands behind a comma.
        if value.starts_with("device=") {
            allowed.insert(value.clone());
            continue;
        }
        for word in value.split(',') {
            match word.trim() {
                word @ ("network.host" | "security.insecure" | "device") => drop(allowed.insert(word.to_owned())),
                // Deleting files under `-o type=local` is no danger that rbuild knows: it never deletes there.
                "buildx.local.delete" => {}
                other => {
                    return Err(UsageError::value("--allow", other, "nothing of this name can be allowed")
                        .hint("network.host, security.insecure, device and device=NAME[,alias=NAME] can"));
                }
            }
        }
    }
    Ok(allowed)
}

fn no_cache(args: &BuildArgs) -> Result<NoCache, UsageError> {
    let stages: Vec<String> = args
        .no_cache_filter
        .iter()
        .flat_map(|value| value.split(','))
        .map(|stage| stage.trim().to_owned())
        .filter(|stage| !stage.is_empty())
        .collect();
    match (args.no_cache == Some(true), stages.is_empty()) {
        (true, false) => Err(UsageError::new("`--no-cache` and `--no-cache-filter` cannot be used together")),
        (true, true) => Ok(NoCache::All),
        (false, false) => Ok(NoCache::Stages(stages)),
        (false, true) => Ok(NoCache::Never),
    }
}

fn expect_cached(value: Option<&str>) -> ExpectCached {
    let Some(value) = value else { return ExpectCached::Nothing };
    let stages: Vec<String> =
        value.split(',').map(|stage| stage.trim().to_owned()).filter(|stage| !stage.is_empty()).collect();
    if stages.is_empty() { ExpectCached::All } else { ExpectCached::Stages(stages) }
}

/// Whether no server is to be asked; refuses flags that ask for one.
fn offline(args: &BuildArgs, outputs: &[Output]) -> Result<bool, UsageError> {
    let offline = args.offline == Some(true);
    let pushed = outputs.iter().any(|output| output.push);
    for (flag, used) in [("--pull", args.pull == Some(true)), ("--push", pushed)] {
        if offline && used {
            return Err(UsageError::new(format!("`--offline` and `{flag}` cannot be used together")));
        }
    }
    Ok(offline)
}

/// What becomes of `--attest` and its short forms.
const NO_STATEMENTS: &str = "the image comes without provenance and SBOM";

/// Says of each flag that is accepted and does nothing that it does nothing.
fn warnings(args: &BuildArgs) -> Result<Vec<String>, UsageError> {
    if !args.ignored.policy.is_empty() {
        // A policy that is not enforced would be worse than none.
        return Err(
            UsageError::new("`--policy` is not supported").hint("leave it out, or check the sources before the build")
        );
    }
    let mut warnings: Vec<String> =
        args.ignored.used().into_iter().map(|flag| format!("`{flag}` has no effect")).collect();
    let asked = |value: &Option<String>| {
        value.as_deref().is_some_and(|text| !matches!(text, "" | "false" | "0" | "disabled=true" | "none"))
    };
    let attested = args.attest.iter().any(|value| !value.contains("disabled=true"));
    let consequences = [
        ("--cgroup-parent", args.cgroup_parent.is_some(), "RUN steps stay in the control group that rbuild is in"),
        ("--provenance", asked(&args.provenance), NO_STATEMENTS),
        ("--sbom", asked(&args.sbom), NO_STATEMENTS),
        ("--attest", attested, NO_STATEMENTS),
    ];
    let used = consequences.into_iter().filter(|(_, used, _)| *used);
    warnings
        .extend(used.map(|(flag, _, instead)| format!("`{flag}` is not supported yet and has no effect: {instead}")));
    Ok(warnings)
}

/// Says of each attribute of an output that is accepted and does nothing that it does nothing.
fn warnings_of_outputs(outputs: &[Output]) -> Vec<String> {
    let has_effect = |key: &str, value: &str| match key {
        "name" | "compression" | "compression-level" | "rewrite-timestamp" => true,
        // These ask for what is done anyway.
        "oci-mediatypes" | "store" | "unpack" => matches!(value, "true" | "1" | "t"),
        "force-compression" | "platform-split" | "push-by-digest" | "registry.insecure" => value == "false",
        key => is_annotation(key),
    };
    let attributes = outputs.iter().flat_map(|output| &output.attributes);
    attributes
        .filter(|(key, value)| !has_effect(key, value))
        .map(|(key, value)| format!("`{key}={value}` of `--output` is not supported yet and has no effect"))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings_in(environment: &Environment, line: &[&str]) -> Result<BuildSettings, UsageError> {
        let words = ["rbuild", "build"].iter().chain(line).chain(&["/"]);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Build(args) => BuildSettings::new(&args, environment),
            _ => unreachable!("the line begins with `build`"),
        }
    }

    fn settings(line: &[&str]) -> Result<BuildSettings, UsageError> {
        settings_in(&Environment::of(&[]), line)
    }

    #[test]
    fn build_args_come_from_flags_then_environment() {
        let environment = Environment::of(&[("A", "env"), ("E", ""), ("SOURCE_DATE_EPOCH", "7")]);
        let args = |line: &[&str]| settings_in(&environment, line).unwrap().build_args;
        let all = args(&["--build-arg", "A", "--build-arg", "B=x=y", "--build-arg", "C", "--build-arg", "E"]);
        assert_eq!(all["A"], "env");
        assert_eq!(all["B"], "x=y");
        assert_eq!(all["E"], "");
        assert!(!all.contains_key("C"));
        assert_eq!(all["SOURCE_DATE_EPOCH"], "7");
        assert_eq!(args(&["--build-arg", "SOURCE_DATE_EPOCH=9"])["SOURCE_DATE_EPOCH"], "9");
    }

    #[test]
    fn proxies_are_kept_apart_from_arguments() {
        let environment = Environment::of(&[("https_proxy", "http://p"), ("HTTP_PROXY", "")]);
        let settings = settings_in(&environment, &[]).unwrap();
        assert_eq!(settings.proxies, BTreeMap::from([("https_proxy".to_owned(), "http://p".to_owned())]));
        assert!(settings.build_args.is_empty());
    }

    #[test]
    fn contradictions_are_refused() {
        for (line, reason) in [
            (&["--no-cache", "--no-cache-filter", "a"][..], "cannot be used together"),
            (&["--push"], "without a name"),
            (&["--check", "--call", "build"], "cannot be used together"),
            (&["--call", "subrequests"], "no method `subrequests`"),
            (&["--network", "bridge"], "expected default, host or none"),
            (&["--allow", "everything"], "nothing of this name"),
            (&["--policy", "x"], "not supported"),
            (&["--platform", "linux/"], "--platform"),
            (&["--build-arg", "=x"], "the name is missing"),
        ] {
            let error = settings(line).unwrap_err().message;
            assert!(error.contains(reason), "{line:?}: {error}");
        }
    }

    #[test]
    fn truth_values_are_go_s() {
        assert_eq!(settings(&["--no-cache=false"]).unwrap().no_cache, NoCache::Never);
        assert_eq!(settings(&["--no-cache=1"]).unwrap().no_cache, NoCache::All);
        assert!(settings(&["--pull"]).unwrap().pull);
        let stages = NoCache::Stages(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(settings(&["--no-cache-filter", "a,b"]).unwrap().no_cache, stages);
    }

    #[test]
    fn flags_without_effect_say_so() {
        let warnings =
            settings(&["--squash", "--memory", "1g", "--cgroup-parent", "x", "--sbom=true"]).unwrap().warnings;
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(settings(&["--provenance=false", "--sbom=false"]).unwrap().warnings.is_empty());
        let outputs = settings(&["-o", "type=oci,dest=a,compression=zstd,mode=x"]).unwrap().warnings;
        assert_eq!(outputs, ["`mode=x` of `--output` is not supported yet and has no effect"]);
    }
}
