//! Folders of a build context as layers, for what needs files on disk: bind mounts, caches that begin with content, and
//! stages that start from a folder.

use std::collections::BTreeMap;

use super::encoding::AddOptions;
use super::layers::{Layers, StackLayer};
use crate::error::{BuildError, During};
use crate::oci::DiffId;
use crate::tree::{Change, ChangeList, Entry, Node, TreeError, TreePath, TreeView, sort_changes};

/// A path of a tree and all below it, with the directories that lead there.
pub(crate) struct Part {
    pub(crate) changes: Vec<Change>,
    /// The digest of everything but times.
    pub(crate) digest: String,
}

/// Collects a part of a tree. `None` where the path does not exist.
pub(crate) fn part_of(view: &dyn TreeView, path: &TreePath) -> Result<Option<Part>, TreeError> {
    let Some(entry) = view.get(path)? else { return Ok(None) };
    let mut changes = Vec::new();
    for above in path.ancestors() {
        if let Some(entry) = view.get(&above)? {
            changes.push(Change::new(entry));
        }
    }
    let hasher = blake3::Hasher::new();
    let mut collector = Collector { view, changes, hasher, links: BTreeMap::new() };
    collector.collect(entry)?;
    let Collector { mut changes, hasher, .. } = collector;
    sort_changes(&mut changes);
    changes.retain(|change| !change.entry.path.is_root());
    Ok(Some(Part { changes, digest: hasher.finalize().to_hex().to_string() }))
}

struct Collector<'a> {
    view: &'a dyn TreeView,
    changes: Vec<Change>,
    hasher: blake3::Hasher,
    links: BTreeMap<u64, TreePath>,
}

impl Collector<'_> {
    fn collect(&mut self, mut entry: Entry) -> Result<(), TreeError> {
        let (view, hasher, links) = (self.view, &mut self.hasher, &mut self.links);
        let path = entry.path.clone();
        let metadata = &entry.metadata;
        let facts =
            format!("{:?} {:o} {}:{} {:?} ", entry.node, metadata.mode, metadata.uid, metadata.gid, metadata.xattrs);
        hasher.update(&(path.as_bytes().len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(&(facts.len() as u64).to_le_bytes());
        hasher.update(facts.as_bytes());
        let directory = entry.node.is_directory();
        let mut content = crate::tree::Content::None;
        let mut digest = None;
        if let Node::File { .. } = entry.node {
            let contents = view.content_digest(&path)?;
            hasher.update(contents.as_bytes());
            digest = Some(contents);
        }
        if digest.is_some() {
            let first = view.link_id(&path)?.and_then(|id| match links.entry(id) {
                std::collections::btree_map::Entry::Occupied(first) => Some(first.get().clone()),
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(path.clone());
                    None
                }
            });
            match first {
                Some(target) => entry.node = Node::HardLink { target },
                None => content = view.content(&path)?,
            }
        }
        self.changes.push(Change { entry, content });
        if directory {
            for child in view.read_dir(&path)? {
                self.collect(child)?;
            }
        }
        Ok(())
    }
}

impl Layers {
    /// Unpacks changes as a layer of their own; those of a digest that is known are neither made nor unpacked again.
    pub(crate) fn materialize(
        &self,
        digest: &str,
        changes: impl FnOnce() -> Result<Vec<Change>, BuildError>,
    ) -> Result<DiffId, BuildError> {
        let action = || "unpack files of the build context".to_owned();
        let store = self.store();
        if let Some(bytes) = store.read_note("folder", digest).during(action)?
            && let Ok(diff_id) = serde_json::from_slice::<DiffId>(&bytes)
            && store.sound_layer(diff_id).during(action)?.is_some()
        {
            return Ok(diff_id);
        }
        let diff_id = self.add(&changes()?.into(), AddOptions { unpack: true, ..AddOptions::default() })?;
        let bytes = serde_json::to_vec(&diff_id).expect("a digest is a string");
        store.write_note("folder", digest, &bytes).during(action)?;
        Ok(diff_id)
    }
}

/// A stack of one layer without a base image.
pub(crate) fn single(diff_id: DiffId) -> Vec<StackLayer> {
    vec![StackLayer { diff_id, base_blob: None }]
}

/// The changes that make a directory and its missing parents; the parents that exist are repeated as they are.
pub(crate) fn make_directories(
    below: &dyn TreeView,
    path: &TreePath,
    owner: (u32, u32),
    modified: crate::tree::Timestamp,
) -> Result<Vec<Change>, TreeError> {
    let mut changes = Vec::new();
    let mut missing = false;
    for directory in path.ancestors().chain([path.clone()]) {
        let entry = match below.get(&directory)? {
            Some(entry) if entry.node.is_directory() => entry,
            Some(_) => return Err(TreeError::NotADirectory { path: directory.to_string() }),
            None => {
                missing = true;
                let metadata =
                    crate::tree::Metadata { mode: 0o755, uid: owner.0, gid: owner.1, modified, ..Default::default() };
                Entry { path: directory, node: Node::Directory { opaque: false }, metadata }
            }
        };
        changes.push(Change::new(entry));
    }
    Ok(if missing { changes } else { Vec::new() })
}

/// Moves changes from below a directory to the root.
pub(crate) fn rebase(changes: Vec<Change>, base: &TreePath) -> Vec<Change> {
    changes
        .into_iter()
        .filter_map(|mut change| {
            change.entry.path = change.entry.path.strip_prefix(base).filter(|path| !path.is_root())?;
            if let Node::HardLink { target } = &mut change.entry.node {
                *target = target.strip_prefix(base)?;
            }
            Some(change)
        })
        .collect()
}

/// Gives a folder its owner, mode and time.
pub(crate) fn set_metadata(folder: &std::path::Path, metadata: &crate::tree::Metadata) -> std::io::Result<()> {
    use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid};
    let fd = rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    rustix::fs::fchown(&fd, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(metadata.mode))?;
    if metadata.modified != crate::tree::Timestamp::default() {
        let time = Timespec { tv_sec: metadata.modified.seconds, tv_nsec: metadata.modified.nanoseconds.into() };
        rustix::fs::futimens(&fd, &Timestamps { last_access: time, last_modification: time })?;
    }
    Ok(())
}

/// Gives a file its owner and mode.
pub(crate) fn set_file_metadata(path: &std::path::Path, mode: u32, uid: u32, gid: u32) -> std::io::Result<()> {
    use rustix::fs::{Gid, Mode, OFlags, Uid};
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
    Ok(())
}

/// Sets the times of unpacked entries that are later than an epoch, so that the files on disk are what the layer says.
pub(crate) fn clamp_times(folder: &std::path::Path, changes: &ChangeList, epoch: i64) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
    let root = crate::rootfs::Root::open(folder).map_err(std::io::Error::other)?;
    for change in changes {
        let change = change?;
        let before = change.entry.metadata.modified;
        let entry = crate::snapshot::clamp_time(change, epoch).entry;
        if entry.metadata.modified == before || matches!(entry.node, Node::Whiteout | Node::HardLink { .. }) {
            continue;
        }
        let (Some(parent), Some(name)) = (entry.path.parent(), entry.path.file_name()) else { continue };
        let directory = root.open_dir(&parent).map_err(std::io::Error::other)?;
        let time = Timespec { tv_sec: entry.metadata.modified.seconds, tv_nsec: 0 };
        let readable = rustix::fs::openat(&directory, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::utimensat(
            &readable,
            name,
            &Timestamps { last_access: time, last_modification: time },
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}
