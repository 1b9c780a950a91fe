//! File trees on disk, for RUN steps: stacked layers before, the changes after.
//!
//! A RUN step sees an overlay:
//!
//! ```text
//! upper     what the step writes; read by `upper_changes`, then it becomes the layer's own folder
//! lower 0   mount points that the image lacks (`mount_point_layer`), so that they never reach the upper
//! lower 1…  the folders of the image's layers
//! ```
//!
//! Where no overlay can be mounted, the step gets a copy of the tree (`FullCopy`), and the whole of it is compared
//! afterwards. Both ways give the same changes, because both end in one comparison:
//!
//! - a name that is gone becomes one whiteout, also where overlayfs marked a whole directory as opaque;
//! - an entry that is equal to the one below, content included, is no change, whoever touched it;
//! - a directory whose time alone differs is no change, but every directory that leads to a change is repeated as it
//!   is after the step;
//! - names that the step linked together are hard links of the first; sockets are left out;
//! - the root directory itself is left out.
//!
//! COMPAT(buildkit): these are the rules by which BuildKit compares snapshots.

mod changes;
mod error;
mod full_copy;
mod mount_points;
mod times;
mod walk;
mod write;

pub use changes::{StepPaths, diff, upper_changes};
pub use error::SnapshotError;
pub use full_copy::FullCopy;
pub use mount_points::{MountKind, MountPoint, MountPointLayer, mount_point_layer};
pub use times::clamp_time;
pub use write::{make_upper, write_changes};

#[cfg(test)]
mod tests;
