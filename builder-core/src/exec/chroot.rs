//! RUN without namespaces (`--isolation=chroot`): a private copy of the whole tree, `chroot`, and a comparison.

use std::path::Path;

use super::mounts::Mounted;
use super::run::{Command, execute};
use super::stage::{Made, StageRun};
use crate::error::{BuildError, During};
use crate::layer;
use crate::snapshot::FullCopy;
use crate::sys::sandbox::{Isolation, MountSource, NetworkMode, RootMount, SandboxSpec};
use crate::tree::{FollowLast, resolve};

/// Runs a command in a copy of the tree.
///
/// What would be mounted is put into the copy instead and is left out of the comparison.
pub(crate) fn run(stage: &StageRun<'_, '_>, command: &Command<'_>, mounted: Mounted) -> Result<Made, BuildError> {
    let Command { run, id, below, work, .. } = *command;
    let action = || "prepare the command".to_owned();
    let root = work.join("root");
    std::fs::create_dir(&root).during(action)?;
    let copy = FullCopy::create(below, &root).during(action)?;
    let directory = resolve(below, run.working_dir.as_bytes(), FollowLast::Yes).during(action)?;
    let made = super::materialize::make_directories(below, &directory, (0, 0), Default::default()).during(action)?;
    layer::unpack_changes(&made, &root).during(action)?;
    copy.add_mount_points(&mounted.layer).during(action)?;
    for mount in &mounted.mounts {
        put_in_place(&root, mount).during(|| format!("put `{}` in place", mount.target))?;
    }
    let mut spec = SandboxSpec::new(RootMount::Directory(root), command.process());
    spec.isolation = Isolation::Chroot;
    spec.network = NetworkMode::Host;
    execute(stage.build, id, spec)?;
    let changes = copy.changes(below, &mounted.layer.own).during(|| "read what the command changed".to_owned())?;
    drop(mounted.keep);
    stage.store_changes(changes, None)
}

/// Puts what a mount would show into the copy.
fn put_in_place(root: &Path, mount: &crate::sys::sandbox::Mount) -> std::io::Result<()> {
    let target = root.join(mount.target.as_path());
    match &mount.source {
        MountSource::SecretFile { bytes, mode, uid, gid } => {
            std::fs::write(&target, bytes)?;
            super::materialize::set_file_metadata(&target, *mode, *uid, *gid)
        }
        MountSource::Tmpfs { files, .. } => {
            std::fs::create_dir_all(&target)?;
            for file in files {
                let path = target.join(file.name.to_string_lossy().as_ref());
                std::fs::write(&path, &file.bytes)?;
                super::materialize::set_file_metadata(&path, file.mode, file.uid, file.gid)?;
            }
            Ok(())
        }
        _ => Err(std::io::Error::other("mounts of folders need namespaces: leave --isolation=chroot out")),
    }
}
