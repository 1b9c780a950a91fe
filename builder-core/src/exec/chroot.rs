//! RUN without namespaces (`--isolation=chroot`): a private copy of the whole tree, `chroot`, and a comparison.
//!
//! What would be mounted is put into the copy instead:
//!
//! | mount | in the copy |
//! | --- | --- |
//! | secret, host names, scripts | the file |
//! | bind | a copy; what the command writes there is lost, as it is in a mount |
//! | cache | a copy, which takes the cache's place when the command is over |
//! | tmpfs | an empty folder |
//! | ssh | another name of the socket |
//! | `/dev` | the six nodes that every command has |
//!
//! None of these places is looked at when the changes are read, and folders around them keep their times.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timestamps};

use super::execute::{Executed, execute};
use super::materialize::{make_directories, part_of, rebase, set_file_metadata, set_metadata};
use super::mounts::{Mounted, MountedSource};
use super::run::Command;
use super::stage::{Made, StageRun};
use crate::error::{BuildError, During};
use crate::plan::{NetworkChoice, Run};
use crate::rootfs::{DirectoryTree, Root, remove_contents};
use crate::snapshot::{FullCopy, StepPaths, write_changes};
use crate::sys::sandbox::{Isolation, Mount, MountSource, NetworkMode, RootMount, SandboxSpec};
use crate::tree::{Change, FollowLast, MergedTree, Node, Timestamp, TreePath, TreeView, resolve};

/// The nodes of `/dev`: name, major and minor number.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// A cache in use: where its copy is, and where it is kept.
struct Cache {
    copy: PathBuf,
    kept: PathBuf,
}

/// Runs a command in a copy of the tree.
pub(crate) fn run(stage: &StageRun<'_, '_>, command: &Command<'_>, mut mounted: Mounted) -> Result<Made, BuildError> {
    let Command { run, id, below, work, .. } = *command;
    let action = || "prepare the command".to_owned();
    if run.network == NetworkChoice::None {
        return Err(BuildError::failed("cut the command off from the network", "that needs namespaces")
            .with_help("leave --isolation=chroot or --network=none out"));
    }
    let root = work.join("root");
    std::fs::create_dir(&root).during(action)?;
    let copy = FullCopy::create(below, &root).during(action)?;
    make_working_directory(stage, run, below, &root)?;
    copy.add_mount_points(&mounted.layer).during(action)?;
    make_system_folders(&root, below, &mut mounted.layer.own).during(|| "make `/dev`".to_owned())?;
    let mut caches = Vec::new();
    for mount in &mounted.mounts {
        let placed = Place { stage, root: &root, binds: &mounted.binds }.put(mount)?;
        caches.extend(placed);
    }
    let mut spec = SandboxSpec::new(RootMount::Directory(root), command.process());
    spec.isolation = Isolation::Chroot;
    spec.network = NetworkMode::Host;
    let ended = execute(stage.build, id, spec);
    for cache in &caches {
        keep_cache(cache).during(|| "keep what the command left in a cache".to_owned())?;
    }
    let peak_bytes = match ended? {
        Executed::Done { peak_bytes } => peak_bytes,
        Executed::NetworkLost => unreachable!("it has the host's network"),
    };
    let action = || "read what the command changed".to_owned();
    let folder = stage.build.layers.store().temp_folder().during(action)?;
    let changes = copy.changes(below, &mounted.layer.own, &folder).during(action)?;
    drop(mounted.keep);
    Ok(Made { peak_bytes, ..stage.store_changes(changes, None, None)? })
}

/// Makes the working directory where an earlier step removed it; it then belongs to the layer.
fn make_working_directory(
    stage: &StageRun<'_, '_>,
    run: &Run,
    below: &MergedTree,
    root: &Path,
) -> Result<(), BuildError> {
    let action = || format!("make the working directory `{}`", run.working_dir);
    let path = resolve(below, run.working_dir.as_bytes(), FollowLast::Yes).during(action)?;
    let time = Timestamp::from_seconds(stage.build.file_epoch().unwrap_or_else(|| stage.build.now()));
    let made = make_directories(below, &path, (0, 0), time).during(action)?;
    write_changes(root, &made).map(drop).during(action)
}

/// Fills `/dev`, and makes the folders that the sandbox has mounts on; what is in them belongs to no layer.
fn make_system_folders(root: &Path, below: &MergedTree, own: &mut StepPaths) -> io::Result<()> {
    let times = Times::of(root)?;
    for name in ["dev", "proc", "sys"] {
        let path = TreePath::clean(name.as_bytes());
        match below.get(&path).map_err(io::Error::other)? {
            Some(entry) if entry.node.is_directory() => {}
            Some(_) => return Err(io::Error::other(format!("`/{name}` of the image is not a directory"))),
            None => std::fs::create_dir_all(root.join(name))?,
        }
        own.mount_points.insert(path);
    }
    for (name, major, minor) in NODES {
        let path = root.join("dev").join(name);
        let device = rustix::fs::makedev(major, minor);
        let _ = std::fs::remove_file(&path);
        match rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device) {
            // A container may not make devices: what is written to this file at least reaches no layer.
            Err(_) if name == "null" => std::fs::write(&path, "")?,
            Err(_) => continue,
            Ok(()) => {}
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    }
    times.restore(root)
}

/// The times of a folder that something is put into.
struct Times(Timestamps);

impl Times {
    fn of(folder: &Path) -> io::Result<Self> {
        let status = rustix::fs::stat(folder)?;
        let time = |seconds, nanoseconds: u64| rustix::fs::Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
        };
        Ok(Self(Timestamps {
            last_access: time(status.st_atime, status.st_atime_nsec),
            last_modification: time(status.st_mtime, status.st_mtime_nsec),
        }))
    }

    fn restore(&self, folder: &Path) -> io::Result<()> {
        Ok(rustix::fs::utimensat(CWD, folder, &self.0, AtFlags::empty())?)
    }
}

/// Where mounts are put in place.
struct Place<'a> {
    stage: &'a StageRun<'a, 'a>,
    root: &'a Path,
    binds: &'a std::collections::BTreeMap<TreePath, MountedSource>,
}

impl Place<'_> {
    /// Puts what a mount would show into the copy.
    fn put(&self, mount: &Mount) -> Result<Option<Cache>, BuildError> {
        let action = || format!("put `{}` in place", mount.target);
        let target = self.target(&mount.target).during(action)?;
        let parent = target.parent().unwrap_or(self.root).to_owned();
        let times = Times::of(&parent).during(action)?;
        let mut cache = None;
        match &mount.source {
            MountSource::SecretFile { bytes, mode, uid, gid } => {
                std::fs::write(&target, bytes).during(action)?;
                set_file_metadata(&target, *mode, *uid, *gid).during(action)?;
            }
            MountSource::Tmpfs { mode, files, .. } => {
                empty_folder(&target).during(action)?;
                std::fs::set_permissions(&target, std::fs::Permissions::from_mode(*mode)).during(action)?;
                for file in files {
                    let path = target.join(file.name.to_string_lossy().as_ref());
                    std::fs::write(&path, &file.bytes).during(action)?;
                    set_file_metadata(&path, file.mode, file.uid, file.gid).during(action)?;
                }
            }
            MountSource::Overlay { .. } => {
                let source = self.binds.get(&mount.target).expect("every bind mount is told with its source");
                self.copy_source(source, &target)?;
            }
            MountSource::Bind(kept) => {
                copy_folder(kept, &target).during(action)?;
                cache = Some(Cache { copy: target, kept: kept.clone() });
            }
            MountSource::Socket(socket) => {
                let _ = std::fs::remove_file(&target);
                std::fs::hard_link(socket, &target).during(action)?;
            }
            MountSource::BindBeneath { .. } | MountSource::Device(_) => {
                return Err(BuildError::failed(action(), "folders and devices of the host need namespaces"));
            }
        }
        times.restore(&parent).during(action)?;
        Ok(cache)
    }

    /// Where a target is in the copy. A mount inside another one may meet links there, which lead out of the copy.
    fn target(&self, target: &TreePath) -> io::Result<PathBuf> {
        for path in target.ancestors() {
            let path = self.root.join(path.as_path());
            match std::fs::symlink_metadata(&path) {
                Ok(status) if status.is_dir() => {}
                Ok(_) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir(&path)?,
                Err(error) => return Err(error),
            }
        }
        let path = self.root.join(target.as_path());
        match std::fs::symlink_metadata(&path) {
            Ok(status) if status.is_symlink() => Err(io::Error::other("it is a symbolic link")),
            _ => Ok(path),
        }
    }

    fn copy_source(&self, source: &MountedSource, target: &Path) -> Result<(), BuildError> {
        let action = || format!("copy `{}`", source.path);
        let view = self.stage.build.layers.view_with_files(&source.stack)?;
        let Some(entry) = view.get(&source.path).during(action)? else {
            return Err(BuildError::failed(action(), "it was not found"));
        };
        if entry.node.is_directory() {
            empty_folder(target).during(action)?;
            let changes = part_of(&view, &source.path).during(action)?.map(|part| part.changes).unwrap_or_default();
            write_changes(target, &rebase(changes, &source.path)).during(action)?;
            return set_metadata(target, &entry.metadata).during(action);
        }
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(BuildError::failed(action(), "a file cannot be mounted at `/`"));
        };
        let content = match entry.node {
            Node::File { .. } => view.content(&source.path).during(action)?,
            _ => crate::tree::Content::None,
        };
        let _ = std::fs::remove_file(target);
        let path = TreePath::clean(std::os::unix::ffi::OsStrExt::as_bytes(name));
        let change = Change { entry: crate::tree::Entry { path, ..entry }, content };
        write_changes(parent, &[change]).map(drop).during(action)
    }
}

/// Makes a folder, or empties the one that is there.
fn empty_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let folder = rustix::fs::open(
        path,
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    remove_contents(std::os::fd::AsFd::as_fd(&folder))
}

/// Copies a folder of the store with all that is in it.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    empty_folder(to)?;
    let tree = DirectoryTree::new(Root::open(from).map_err(io::Error::other)?);
    let part = part_of(&tree, &TreePath::root()).map_err(io::Error::other)?;
    let changes = part.map(|part| part.changes).unwrap_or_default();
    write_changes(to, &changes).map_err(io::Error::other)?;
    match tree.get(&TreePath::root()).map_err(io::Error::other)? {
        Some(entry) => set_metadata(to, &entry.metadata),
        None => Ok(()),
    }
}

/// Puts the copy of a cache where the cache was.
fn keep_cache(cache: &Cache) -> io::Result<()> {
    empty_folder(&cache.kept)?;
    for entry in std::fs::read_dir(&cache.copy)? {
        let entry = entry?;
        std::fs::rename(entry.path(), cache.kept.join(entry.file_name()))?;
    }
    let tree = DirectoryTree::new(Root::open(&cache.copy).map_err(io::Error::other)?);
    match tree.get(&TreePath::root()).map_err(io::Error::other)? {
        Some(entry) => set_metadata(&cache.kept, &entry.metadata),
        None => Ok(()),
    }
}
