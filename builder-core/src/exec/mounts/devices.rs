//! Mounts that devices bring (`RUN --device`).

use super::Wanted;
use crate::exec::devices::DeviceEdits;
use crate::snapshot::MountKind;
use crate::sys::sandbox::MountSource;
use crate::tree::TreePath;

/// The mounts of a step's devices.
pub(super) fn device_mounts(devices: &DeviceEdits) -> Vec<Wanted> {
    let nodes = devices.nodes.iter().map(|(host, target)| Wanted {
        target: TreePath::clean(target.as_bytes()),
        source: MountSource::Device(host.clone()),
        read_only: false,
        kind: MountKind::File,
    });
    let mounts = devices.mounts.iter().map(|mount| Wanted {
        target: TreePath::clean(mount.target.as_bytes()),
        source: MountSource::Bind(mount.host.clone()),
        read_only: mount.read_only,
        kind: if mount.is_directory { MountKind::Directory } else { MountKind::File },
    });
    nodes.chain(mounts).collect()
}
