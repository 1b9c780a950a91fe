//! Folders with places for mounts. Most steps of a build lack the same ones, and nobody writes into them, so steps share.

use std::sync::{Arc, Mutex};

use crate::error::{BuildError, During};
use crate::exec::layers::lock;
use crate::store::{Store, TempDir};
use crate::tree::{Change, Entry};

/// How many are kept for later steps.
const KEPT: usize = 8;

/// The folders that a build has made, and what is in each.
#[derive(Default)]
pub(crate) struct MountPointFolders(Mutex<Vec<(Vec<Entry>, Arc<TempDir>)>>);

impl MountPointFolders {
    /// A folder with these entries, ready to be an overlay lower directory; `None` where there are none.
    pub(crate) fn folder(&self, changes: &[Change], store: &Store) -> Result<Option<Arc<TempDir>>, BuildError> {
        if changes.is_empty() {
            return Ok(None);
        }
        let mut kept = lock(&self.0);
        let wanted = || changes.iter().map(|change| &change.entry);
        if let Some((_, folder)) = kept.iter().find(|(entries, _)| entries.iter().eq(wanted())) {
            return Ok(Some(Arc::clone(folder)));
        }
        let action = || "make the mount points".to_owned();
        let folder = store.unpack_dir().during(action)?;
        crate::layer::unpack_changes(&changes.into(), folder.path()).during(action)?;
        let folder = Arc::new(folder);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((wanted().cloned().collect(), Arc::clone(&folder)));
        Ok(Some(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{MountKind, MountPoint, mount_point_layer};
    use crate::tree::{MergedTree, TreePath};

    fn changes(paths: &[&str]) -> Vec<Change> {
        let point = |path: &&str| MountPoint { path: TreePath::clean(path.as_bytes()), kind: MountKind::File };
        let points: Vec<MountPoint> = paths.iter().map(point).collect();
        mount_point_layer(&MergedTree::default(), &points).unwrap().changes
    }

    #[test]
    fn equal_places_share_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let folders = MountPointFolders::default();
        let get = |paths: &[&str]| folders.folder(&changes(paths), &store).unwrap();
        assert!(get(&[]).is_none());
        let first = get(&["etc/hosts", "etc/resolv.conf"]).unwrap();
        assert!(first.path().join("etc/resolv.conf").is_file());
        assert!(Arc::ptr_eq(&first, &get(&["etc/hosts", "etc/resolv.conf"]).unwrap()));
        let other = get(&["etc/hosts"]).unwrap();
        assert!(!other.path().join("etc/resolv.conf").exists());
        for number in 0..KEPT {
            get(&[&number.to_string()]);
        }
        assert!(first.path().is_dir(), "who uses it keeps it");
        assert!(!Arc::ptr_eq(&first, &get(&["etc/hosts", "etc/resolv.conf"]).unwrap()));
    }
}
