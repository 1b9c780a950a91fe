//! Runs a command in a built image: the sandbox of RUN, over a tree that is thrown away afterwards.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::bases::Base;
use super::host_files;
use super::layers::{Layers, Stops};
use super::options::{Cancel, DEFAULT_PROGRAM_PATH};
use crate::error::{BuildError, During};
use crate::image;
use crate::oci::{Descriptor, Platform};
use crate::plan::NetworkChoice;
use crate::registry::{self, Client};
use crate::snapshot::{MountKind, MountPoint, mount_point_layer};
use crate::store::Store;
use crate::sys::mount::{Overlay, WritableLayer};
use crate::sys::network::PrivateNetwork;
use crate::sys::sandbox::{self, Mount, MountSource, NetworkMode, Process, RootMount, Running, SandboxSpec, Stdio};
use crate::tree::{FollowLast, TreePath, lookup_user, resolve};

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct RunImageOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// The image's manifest or index, in the store.
    pub image: Descriptor,
    /// Arguments in place of the image's CMD; empty for the CMD.
    pub command: Vec<String>,
    /// A program in place of the image's ENTRYPOINT; an empty text for none.
    pub entrypoint: Option<String>,
    /// Variables in addition to the image's, or in place of them: name and value.
    pub env: Vec<(String, String)>,
    /// Files and folders of this machine to mount: where from, where to, and whether they can't be written.
    pub volumes: Vec<(PathBuf, String, bool)>,
    /// The working directory in place of the image's.
    pub working_dir: Option<String>,
    /// The user in place of the image's.
    pub user: Option<String>,
    /// The network.
    pub network: NetworkChoice,
    /// The size of the caller's terminal, rows and columns, where the command is to have one.
    pub terminal: Option<(u16, u16)>,
    /// Folders to find programs of this machine in.
    pub program_path: Vec<PathBuf>,
    /// How registries are reached, for layers that nothing needed before.
    pub registry: registry::Options,
}

impl RunImageOptions {
    /// Options for an image's own command, with no standard input and no terminal.
    #[must_use]
    pub fn new(store: impl Into<PathBuf>, image: Descriptor) -> Self {
        Self {
            store: store.into(),
            image,
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            volumes: Vec::new(),
            working_dir: None,
            user: None,
            network: NetworkChoice::Default,
            terminal: None,
            program_path: DEFAULT_PROGRAM_PATH.map(PathBuf::from).to_vec(),
            registry: registry::Options::default(),
        }
    }
}

/// A command that runs in an image. Dropping it ends the command and throws its tree away.
#[derive(Debug)]
pub struct RunningImage {
    running: Running,
    network: Option<PrivateNetwork>,
    work: crate::store::TempDir,
}

impl RunningImage {
    /// The other end of the command's terminal, where it has one. Gives it once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.running.take_terminal()
    }

    /// Waits for the command to end; gives its exit status, 128 and the signal's number where a signal ended it.
    ///
    /// # Errors
    /// When the command could not be started, or `cancel` was set.
    pub fn wait(self, cancel: &Cancel) -> Result<u8, BuildError> {
        while !super::execute::ended(self.running.pidfd()) {
            if cancel.is_cancelled() {
                self.running.kill();
            }
        }
        let result = self.running.wait();
        drop(self.running);
        drop(self.network);
        self.work.close().during(|| "remove what the command wrote".to_owned())?;
        let exit = result.map_err(|error| BuildError::failed("run the command", error))?;
        if cancel.is_cancelled() { Err(BuildError::cancelled()) } else { Ok(exit.code()) }
    }
}

/// Starts a command in an image.
///
/// `streams` are its standard input (empty without one), output and error; they are not used where the command has a
/// terminal.
///
/// # Errors
/// When the image is not in the store, there is nothing to run, or the sandbox can't be made.
pub fn run_image(
    options: &RunImageOptions,
    streams: (Option<OwnedFd>, OwnedFd, OwnedFd),
) -> Result<RunningImage, BuildError> {
    let store = Store::open(&options.store).during(|| format!("open the store `{}`", options.store.display()))?;
    let layers = Arc::new(Layers::new(store.clone(), Stops::default(), None));
    let base = find(&store, &layers, options)?;
    let config = &base.config.config;
    let arguments = arguments(options, config)?;
    let below = layers.view_with_files(&base.stack)?;
    let user = options.user.clone().unwrap_or_else(|| config.user.clone());
    let account = lookup_user(&below, &user).during(|| format!("look up the user `{user}`"))?;
    let mut environment: Vec<(String, String)> = config
        .env
        .iter()
        .map(|text| text.split_once('=').map_or((text.clone(), String::new()), |(n, v)| (n.to_owned(), v.to_owned())))
        .collect();
    for (name, value) in &options.env {
        environment.retain(|(n, _)| n != name);
        environment.push((name.clone(), value.clone()));
    }
    if !environment.iter().any(|(name, _)| name == "HOME") {
        let home =
            account.home.as_deref().map_or_else(|| "/".to_owned(), |home| String::from_utf8_lossy(home).into_owned());
        environment.push(("HOME".to_owned(), home));
    }
    if options.terminal.is_some() && !environment.iter().any(|(name, _)| name == "TERM") {
        environment.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let action = || "prepare the command".to_owned();
    let work = store.unpack_dir().during(action)?;
    let working_dir = options.working_dir.clone().unwrap_or_else(|| config.working_dir.clone());
    let working_dir = if working_dir.starts_with('/') { working_dir } else { format!("/{working_dir}") };
    let (upper, scratch) = (work.path().join("upper"), work.path().join("work"));
    crate::snapshot::make_upper(&upper, &below).during(action)?;
    std::fs::create_dir(&scratch).during(action)?;
    let directory = resolve(&below, working_dir.as_bytes(), FollowLast::Yes).during(action)?;
    let made = super::materialize::make_directories(&below, &directory, (0, 0), Default::default()).during(action)?;
    crate::layer::unpack_changes(&made.into(), &upper).during(action)?;
    let network = match options.network {
        NetworkChoice::Default => {
            PrivateNetwork::start(&std::env::join_paths(&options.program_path).unwrap_or_default()).ok()
        }
        NetworkChoice::None | NetworkChoice::Host => None,
    };
    let mut lower = layers.unpacked_stack(&base.stack)?;
    lower.reverse();
    let mounts = mounts(options, &below, network.as_ref(), work.path(), &mut lower)?;
    if lower.is_empty() {
        let empty = work.path().join("empty");
        std::fs::create_dir(&empty).during(action)?;
        lower.push(empty);
    }
    let overlay = Overlay { lower, writable: Some(WritableLayer { upper, work: scratch }) };
    let process = Process {
        arguments: arguments.iter().map(OsString::from).collect(),
        environment: environment.iter().map(|(name, value)| OsString::from(format!("{name}={value}"))).collect(),
        working_directory: working_dir.into(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups,
    };
    let mut spec = SandboxSpec::new(RootMount::Overlay(overlay), process);
    spec.mounts = mounts;
    spec.hostname = "rbuild".into();
    spec.network = match (options.network, &network) {
        (NetworkChoice::None, _) => NetworkMode::None,
        (_, Some(network)) => network.mode(),
        (_, None) => NetworkMode::Host,
    };
    let (stdin, stdout, stderr) = streams;
    let stdio = match options.terminal {
        Some((rows, columns)) => Stdio::Terminal { rows, columns },
        None => Stdio::Descriptors { stdin, stdout, stderr },
    };
    let running = sandbox::spawn(spec, stdio).map_err(|error| BuildError::failed("start the command", error))?;
    Ok(RunningImage { running, network, work })
}

fn find(store: &Store, layers: &Layers, options: &RunImageOptions) -> Result<Base, BuildError> {
    let action = || format!("load the image `{}`", options.image.digest);
    let image = image::load_image(store, &options.image, &Platform::host()).during(action)?;
    let client =
        || Client::new(options.registry.clone()).map(Arc::new).during(|| "prepare to reach registries".to_owned());
    super::left_blobs::from_store(layers, image, &client)
}

/// Puts entrypoint and command together as `docker run` does.
fn arguments(options: &RunImageOptions, config: &crate::oci::ContainerConfig) -> Result<Vec<String>, BuildError> {
    let mut arguments: Vec<String> = match &options.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    if !options.command.is_empty() {
        arguments.extend(options.command.iter().cloned());
    } else if options.entrypoint.is_none() {
        arguments.extend(config.cmd.clone().unwrap_or_default());
    }
    if arguments.is_empty() {
        return Err(BuildError::usage("the image has no command to run", "name one: rbuild run IMAGE COMMAND"));
    }
    Ok(arguments)
}

fn mounts(
    options: &RunImageOptions,
    below: &crate::tree::MergedTree,
    network: Option<&PrivateNetwork>,
    work: &std::path::Path,
    lower: &mut Vec<PathBuf>,
) -> Result<Vec<Mount>, BuildError> {
    let action = || "make the mounts".to_owned();
    let in_memory = |bytes: Vec<u8>| MountSource::SecretFile { bytes, mode: 0o644, uid: 0, gid: 0 };
    let mut wanted = vec![(
        TreePath::clean(b"etc/hosts"),
        MountKind::File,
        in_memory(host_files::hosts("rbuild", &[]).into_bytes()),
        true,
    )];
    if options.network != NetworkChoice::None {
        wanted.push((
            TreePath::clean(b"etc/resolv.conf"),
            MountKind::File,
            in_memory(host_files::resolv_conf(network.is_some())),
            true,
        ));
    }
    for (source, target, read_only) in &options.volumes {
        let directory = std::fs::metadata(source).during(|| format!("mount `{}`", source.display()))?.is_dir();
        let kind = if directory { MountKind::Directory } else { MountKind::File };
        wanted.push((TreePath::clean(target.as_bytes()), kind, MountSource::Bind(source.clone()), *read_only));
    }
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    let points: Vec<MountPoint> =
        wanted.iter().map(|(path, kind, ..)| MountPoint { path: path.clone(), kind: *kind }).collect();
    let placed = mount_point_layer(below, &points).during(action)?;
    if !placed.changes.is_empty() {
        let folder = work.join("mount-points");
        std::fs::create_dir(&folder).during(action)?;
        crate::layer::unpack_changes(&placed.changes.into(), &folder).during(action)?;
        lower.insert(0, folder);
    }
    Ok(wanted
        .into_iter()
        .zip(placed.targets)
        .map(|((_, _, source, read_only), target)| Mount { target, source, read_only })
        .collect())
}
