//! The emulator of a step for another processor, where the kernel looks for it in the step.

use super::Wanted;
use crate::error::{BuildError, During};
use crate::exec::options::Isolation;
use crate::exec::stage::StageRun;
use crate::snapshot::MountKind;
use crate::sys::sandbox::MountSource;
use crate::tree::{FollowLast, MergedTree, TreePath, TreeView, resolve};

impl StageRun<'_, '_> {
    /// Shows the emulator at its own path; an image that brings one there keeps it.
    pub(super) fn emulator_mount(&self, below: &MergedTree) -> Result<Option<Wanted>, BuildError> {
        let Some(emulator) = self.build.emulator_to_show(self.key, self.plan) else { return Ok(None) };
        let path = emulator.interpreter;
        let action = || format!("show the emulator `{}` to the command", path.display());
        let target = TreePath::clean(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        let inside = resolve(below, target.as_bytes(), FollowLast::Yes).during(action)?;
        if below.get(&inside).during(action)?.is_some() {
            return Ok(None);
        }
        let source = match self.build.options.isolation {
            Isolation::Namespaces => MountSource::Bind(std::fs::canonicalize(&path).during(action)?),
            // Without mounts it has to be a copy.
            Isolation::Chroot => {
                let bytes = std::fs::read(&path).during(action)?;
                MountSource::SecretFile { bytes, mode: 0o755, uid: 0, gid: 0 }
            }
        };
        Ok(Some(Wanted { target, source, read_only: true, kind: MountKind::File }))
    }
}
