//! Settings to the core's options.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rbuild_core::exec::{
    BuildOptions, ExpectCached, Isolation, NamedContext, NoCache, Output, OutputKind, Secret, SshSource,
};
use rbuild_core::layer::Compression;
use rbuild_core::plan::NetworkChoice;
use rbuild_core::progress::Events;
use rbuild_core::reference::Reference;
use rbuild_core::store::{Store, TempDir};

use super::inputs::Inputs;
use crate::commands::client;
use crate::error::{Failure, Kind};
use crate::settings::{self, BuildSettings, Destination, Environment, GlobalSettings, HostName, SecretFrom};
use crate::signals::Stop;

/// Everything that the core is told.
pub(super) fn of(
    settings: &BuildSettings,
    global: &GlobalSettings,
    environment: &Environment,
    inputs: &Inputs,
    outputs: &Outputs,
    stop: &Stop,
    events: &Events,
) -> Result<BuildOptions, Failure> {
    let authorities = client::certificate_authorities(global)?;
    let mut options = BuildOptions::new(&global.root, PathBuf::new());
    options.context = inputs.context.clone();
    options.dockerfile = inputs.dockerfile.clone();
    options.target.clone_from(&settings.target);
    options.build_args = build_args(settings);
    options.labels.clone_from(&settings.labels);
    options.annotations.clone_from(&settings.annotations);
    options.named_contexts =
        settings.named_contexts.iter().map(|(name, context)| (name.clone(), named_context(context))).collect();
    options.secrets = secrets(settings, environment)?;
    options.ssh = settings.ssh.iter().map(|ssh| (ssh.id.clone(), ssh_source(&ssh.paths))).collect();
    options.platforms.clone_from(&settings.platforms);
    options.network = match settings.network {
        settings::Network::Default => NetworkChoice::Default,
        settings::Network::Host => NetworkChoice::Host,
        settings::Network::None => NetworkChoice::None,
    };
    options.extra_hosts = settings.add_hosts.iter().map(|host| (host.name.clone(), address(&host.address))).collect();
    options.no_cache = match &settings.no_cache {
        settings::NoCache::Never => NoCache::Never,
        settings::NoCache::All => NoCache::All,
        settings::NoCache::Stages(stages) => NoCache::Stages(stages.iter().cloned().collect()),
    };
    options.expect_cached = match &settings.expect_cached {
        settings::ExpectCached::Nothing => ExpectCached::Nothing,
        settings::ExpectCached::All => ExpectCached::All,
        settings::ExpectCached::Stages(stages) => ExpectCached::Stages(stages.iter().cloned().collect()),
    };
    options.pull = settings.pull;
    options.offline = settings.offline;
    options.cache_from.clone_from(&settings.cache_from);
    options.cache_max = settings.cache_max_bytes;
    options.cache_to.clone_from(&settings.cache_to);
    options.jobs = settings.jobs.unwrap_or_default();
    options.job_tokens = job_tokens(environment);
    options.tags = tags(settings)?;
    options.outputs.clone_from(&outputs.outputs);
    options.push = settings.outputs.iter().any(|output| output.push);
    options.compression = outputs.compression;
    options.rewrite_timestamps = outputs.rewrite_timestamps.unwrap_or(options.rewrite_timestamps);

    let since_epoch = environment.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    options.now = i64::try_from(since_epoch.as_secs()).unwrap_or_default();
    options.certificate_authorities = authorities.map(Arc::from);
    options.allow.clone_from(&settings.allow);
    if !settings.cdi_spec_dirs.is_empty() {
        options.cdi_spec_dirs.clone_from(&settings.cdi_spec_dirs);
    }
    options.registry = client::options(global, environment, stop.flag(), events.clone())?;
    options.isolation = match settings.isolation {
        settings::Isolation::Auto => Isolation::Namespaces,
        settings::Isolation::Chroot => Isolation::Chroot,
    };
    options.shm_size = settings.shm_size_bytes;
    options.ulimits = settings
        .ulimits
        .iter()
        .map(|limit| (limit.name.clone(), unlimited(limit.soft), unlimited(limit.hard)))
        .collect();
    if let Some(path) = environment.os("PATH") {
        options.program_path = std::env::split_paths(path).filter(|folder| folder.is_absolute()).collect();
    }
    Ok(options)
}

/// The folder in which the builds of this user agree on how many steps run; made where it is missing. `None` where the
/// session has no folder of its own.
fn job_tokens(environment: &Environment) -> Option<PathBuf> {
    let session = environment.os("XDG_RUNTIME_DIR").map(Path::new).filter(|path| path.is_absolute())?;
    // Under `sudo`, the folder may be another user's, who could then not use what root makes in it.
    let own = std::fs::metadata(session).ok().filter(|found| found.uid() == rustix::process::geteuid().as_raw());
    let folder = own.map(|_| session.join("rbuild"))?;
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => None,
        _ => Some(folder),
    }
}

/// The build arguments, and the proxies of the environment where none is given in either case.
fn build_args(settings: &BuildSettings) -> BTreeMap<String, String> {
    let mut build_args = settings.build_args.clone();
    for (name, value) in &settings.proxies {
        if !settings.build_args.keys().any(|given| given.eq_ignore_ascii_case(name)) {
            build_args.insert(name.clone(), value.clone());
        }
    }
    build_args
}

fn named_context(context: &settings::NamedContext) -> NamedContext {
    match context {
        settings::NamedContext::Directory(path) => NamedContext::Directory(path.clone()),
        settings::NamedContext::OciLayout { path, tag, digest } => {
            NamedContext::Layout { path: path.clone(), tag: tag.clone(), digest: digest.clone() }
        }
        settings::NamedContext::Image(reference) => NamedContext::Image(reference.clone()),
        settings::NamedContext::Git(url) | settings::NamedContext::Http(url) => NamedContext::Remote(url.clone()),
    }
}

fn secrets(settings: &BuildSettings, environment: &Environment) -> Result<BTreeMap<String, Secret>, Failure> {
    let secret = |secret: &settings::Secret| match &secret.from {
        SecretFrom::File(path) if path.is_file() || path.exists() => {
            Ok((secret.id.clone(), Secret::File(path.clone())))
        }
        SecretFrom::File(path) => Err(Failure::new(
            Kind::Usage,
            format!("there is no file `{}` for the secret `{}`", path.display(), secret.id),
        )
        .hint("name the file with `src=FILE`, or a variable with `env=VARIABLE`")),
        SecretFrom::Variable(name) => match environment.variables.get(std::ffi::OsStr::new(name)) {
            Some(value) => Ok((secret.id.clone(), Secret::Bytes(value.as_encoded_bytes().into()))),
            None => Err(Failure::new(
                Kind::Usage,
                format!("the variable `{name}` of the secret `{}` is not set", secret.id),
            )),
        },
    };
    settings.secrets.iter().map(secret).collect()
}

fn ssh_source(paths: &[PathBuf]) -> SshSource {
    use std::os::unix::fs::FileTypeExt;
    match paths {
        [socket] if socket.metadata().is_ok_and(|data| data.file_type().is_socket()) => {
            SshSource::Agent(socket.clone())
        }
        keys => SshSource::Keys(keys.to_vec()),
    }
}

fn address(address: &HostName) -> String {
    match address {
        HostName::Address(address) => address.to_string(),
        HostName::HostGateway => "host-gateway".to_owned(),
    }
}

fn unlimited(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// All names of the image: those of `-t`, and those of `name=` of outputs.
fn tags(settings: &BuildSettings) -> Result<Vec<Reference>, Failure> {
    let of_outputs = settings.outputs.iter().filter_map(|output| output.attributes.get("name"));
    let mut tags = Vec::new();
    for name in settings.tags.iter().map(String::as_str).chain(of_outputs.flat_map(|names| names.split(','))) {
        let reference = Reference::parse(name).map_err(|error| Failure::of(Kind::Usage, &error))?;
        if reference.digest().is_some() {
            return Err(Failure::new(
                Kind::Usage,
                format!("an image cannot be named `{name}`: the digest comes from the build"),
            ));
        }
        if !tags.contains(&reference) {
            tags.push(reference);
        }
    }
    Ok(tags)
}

/// Where results go, and what is done with them once they are whole.
pub(super) struct Outputs {
    outputs: Vec<Output>,
    compression: Compression,
    rewrite_timestamps: Option<bool>,
    /// An archive for the Docker that runs here.
    load: Option<(TempDir, PathBuf)>,
}

impl Outputs {
    /// Decides for each output of the settings.
    pub(super) fn plan(settings: &BuildSettings, store: &Store) -> Result<Self, Failure> {
        let mut planned =
            Self { outputs: Vec::new(), compression: Compression::default(), rewrite_timestamps: None, load: None };
        for output in &settings.outputs {
            planned.read_attributes(output)?;
            let kind = match (output.kind, output.archive) {
                (settings::OutputKind::Oci, true) => OutputKind::OciArchive,
                (settings::OutputKind::Oci, false) => OutputKind::OciLayout,
                (settings::OutputKind::Docker, true) => OutputKind::DockerArchive,
                (settings::OutputKind::Docker, false) => OutputKind::OciLayout,
                (settings::OutputKind::Local, _) => OutputKind::Local,
                (settings::OutputKind::Tar, _) => OutputKind::Tar,
                (settings::OutputKind::Image | settings::OutputKind::CacheOnly, _) => continue,
            };
            let destination = match &output.destination {
                Some(Destination::Path(path)) => rbuild_core::exec::Destination::Path(path.clone()),
                Some(Destination::Stdout) => rbuild_core::exec::Destination::Stdout,
                None => {
                    let folder = store.temp_dir("load").map_err(|error| Failure::of(Kind::Environment, &error))?;
                    let path = folder.path().join("image.tar");
                    planned.load = Some((folder, path.clone()));
                    rbuild_core::exec::Destination::Path(path)
                }
            };
            planned.outputs.push(Output { kind, destination });
        }
        Ok(planned)
    }

    fn read_attributes(&mut self, output: &settings::Output) -> Result<(), Failure> {
        let attribute = |name: &str| output.attributes.get(name).map(String::as_str);
        if let Some(name) = attribute("compression") {
            self.compression = Compression::parse(name, attribute("compression-level"))
                .map_err(|error| Failure::of(Kind::Usage, &error))?;
        }
        match attribute("rewrite-timestamp") {
            None => {}
            Some("true" | "1") => self.rewrite_timestamps = Some(true),
            Some("false" | "0") => self.rewrite_timestamps = Some(false),
            Some(other) => {
                return Err(Failure::new(
                    Kind::Usage,
                    format!("`rewrite-timestamp={other}` is neither true nor false"),
                ));
            }
        }
        Ok(())
    }

    /// Hands the archive for Docker over.
    pub(super) fn deliver(&self, environment: &Environment) -> Result<(), Failure> {
        let Some((_, path)) = &self.load else { return Ok(()) };
        let mut docker = Command::new("docker");
        docker.args(["load", "--quiet", "--input"]).arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        docker.env_clear().envs(&environment.variables);
        let hint = "without a running Docker write an archive: `-o type=docker,dest=FILE`";
        match docker.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::new(Kind::Environment, format!("`docker load` ended with {status}")).hint(hint)),
            Err(error) => Err(Failure::caused(Kind::Environment, "cannot run `docker load`", &error).hint(hint)),
        }
    }
}
