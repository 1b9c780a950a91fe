//! Layers that differ little from an earlier one: only what differs is unpacked, to be stacked over the files of that one.
//!
//! When one file of a large COPY changed, the other files lie unpacked already, as those of the earlier result.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::changing::ChangedFiles;
use super::check_store::is_right;
use super::layers::{Layers, lock};
use crate::error::{BuildError, During};
use crate::layer::{recorded, unpack_changes};
use crate::oci::DiffId;
use crate::rootfs::Root;
use crate::store::Unpacked;
use crate::tree::{
    Change, ChangeList, Content, Delta, Node, OpenContent, SourceFile, Tree, TreeEntry, TreeError, TreePath,
};

/// A layer that is unpacked whole, over whose files others can be unpacked.
pub(super) struct Base {
    diff_id: DiffId,
    tree: Arc<Tree>,
}

impl Layers {
    /// The layer over whose files changes are worth unpacking: an earlier layer, or the one that it lies over itself.
    pub(super) fn base_for(&self, earlier: DiffId, changes: &ChangeList) -> Option<Base> {
        // What can't be read is no base.
        let unpacked = self.store().sound_layer(earlier).ok()??;
        let diff_id = unpacked.over.map_or(earlier, |(base, _)| base);
        let tree = self.tree_at_hand(diff_id)?;
        // Contents are known only when they were read; mostly what changed has another time or size.
        let entries = changes.iter().map(|change| Ok(TreeEntry { entry: recorded(change?.entry), digest: None }));
        Delta::over(&tree, entries).ok()?.filter(Delta::is_small)?;
        Some(Base { diff_id, tree })
    }

    /// Unpacks a layer after its changes were encoded: what `base` has not, or everything where that is too much.
    pub(super) fn unpack_over(
        &self,
        base: &Base,
        changes: &ChangeList,
        diff_id: DiffId,
        tree: &Tree,
    ) -> Result<(), BuildError> {
        let action = || "unpack the layer".to_owned();
        let store = self.store();
        if store.sound_layer(diff_id).during(action)?.is_some() {
            return Ok(());
        }
        let delta = Delta::over(&base.tree, tree.iter()).during(action)?.filter(Delta::is_small);
        let is_held = |number: usize| delta.as_ref().is_none_or(|delta| delta.holds()[number]);
        let held = changes.iter().enumerate().filter(|(number, _)| is_held(*number)).map(|(_, change)| change);
        let held = ChangeList::collect_in(&store.temp_folder().during(action)?, held).during(action)?;
        let folder = store.unpack_dir().during(action)?;
        unpack_changes(&held, folder.path()).during(action)?;
        // The files were read a second time.
        let root = Root::open(folder.path()).during(action)?;
        let mut entries = tree.iter().enumerate().filter(|(number, _)| is_held(*number));
        let wrong = entries.find(|(_, entry)| !entry.as_ref().is_ok_and(|entry| is_right(&root, entry)));
        if let Some((_, wrong)) = wrong {
            let wrong = wrong.during(action)?;
            let path = &wrong.entry.path;
            return Err(BuildError::failed(format!("copy `{path}`"), ChangedFiles));
        }
        match delta {
            Some(_) => store.adopt_unpacked_over(diff_id, folder.path(), base.diff_id),
            None => store.adopt_unpacked(diff_id, folder.path()),
        }
        .during(action)
        .map(drop)
    }

    /// The folders of unpacked layers, lowest first; no more than `most`, where whole copies can avoid it.
    pub(super) fn stack_folders(&self, stack: &[(DiffId, Unpacked)], most: usize) -> Result<Vec<PathBuf>, BuildError> {
        let folders = || stack.iter().flat_map(|(_, unpacked)| unpacked.folders());
        if folders().collect::<BTreeSet<_>>().len() <= most {
            return Ok(folders().map(Into::into).collect());
        }
        let whole = stack.iter().map(|(diff_id, unpacked)| match unpacked.over {
            Some(_) => self.whole_copy(*diff_id, unpacked),
            None => Ok(unpacked.folder.clone()),
        });
        whole.collect()
    }

    /// A folder with all files of a layer that lies over another one, for as long as this value lives.
    fn whole_copy(&self, diff_id: DiffId, unpacked: &Unpacked) -> Result<PathBuf, BuildError> {
        let action = || format!("copy the files of the layer {diff_id}");
        let mut copies = lock(&self.whole);
        if let Some(copy) = copies.get(&diff_id) {
            return Ok(copy.path().to_owned());
        }
        let changes = self.changes_of(&*self.tree(diff_id)?, unpacked).during(action)?;
        let folder = self.store().unpack_dir().during(action)?;
        unpack_changes(&changes, folder.path()).during(action)?;
        let path = folder.path().to_owned();
        copies.insert(diff_id, folder);
        Ok(path)
    }

    /// The changes of a layer, from its record and its unpacked files.
    pub(super) fn changes_of(&self, tree: &Tree, unpacked: &Unpacked) -> io::Result<ChangeList> {
        let opener: Arc<dyn OpenContent> = Arc::new(LayerFolders::open(unpacked).map_err(io::Error::other)?);
        let changes = tree.iter().map(|record| {
            let entry = record?.entry;
            let content = match entry.node {
                Node::File { size } if size > 0 => Content::Source(SourceFile {
                    opener: Arc::clone(&opener),
                    path: entry.path.clone(),
                    stamp: 0,
                    mark: None,
                }),
                _ => Content::None,
            };
            Ok(Change { entry, content })
        });
        ChangeList::collect_in(&self.store().temp_folder().map_err(io::Error::other)?, changes)
    }

    /// Makes a layer's files count as lost, wherever they lie, because they are not what they should be.
    pub(super) fn discard_unpacked(&self, diff_id: DiffId) -> Result<(), crate::store::StoreError> {
        let below = self.store().layer(diff_id).and_then(|layer| layer.unpacked()).and_then(|unpacked| unpacked.over);
        self.store().discard_unpacked(diff_id)?;
        below.map_or(Ok(()), |(base, _)| self.store().discard_unpacked(base))
    }
}

/// The open folders that a layer is unpacked in.
pub(super) struct LayerFolders {
    /// The topmost first: what it has hides what the others have.
    roots: Vec<Root>,
}

impl LayerFolders {
    pub(super) fn open(unpacked: &Unpacked) -> Result<Self, TreeError> {
        let roots = unpacked.folders().rev().map(Root::open).collect::<Result<_, _>>()?;
        Ok(Self { roots })
    }

    /// Opens a regular file of the layer.
    pub(super) fn open_file(&self, path: &TreePath) -> Result<File, TreeError> {
        let (last, above) = self.roots.split_last().expect("a layer has a folder of its own");
        for root in above {
            match root.open_file(path) {
                Err(TreeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        }
        last.open_file(path)
    }
}

impl OpenContent for LayerFolders {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
        self.open_file(path).map_err(io::Error::other)
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
