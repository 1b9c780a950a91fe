//! Carrying out what pruning decided, so that no running build notices.
//!
//! A decision may be old when its turn comes: builds went on meanwhile. So each object is removed only when nobody
//! claims it, when it is no younger than the decision, and when no image names it that got its name since. A build claims what it names
//! until after it named it, and no image gets a name while objects are removed, so nothing can slip through between.
//!
//! Layers and cache mounts are renamed to `removed-…` beside where they were, which is done at once, and deleted
//! afterwards. What a killed prune leaves of them is deleted by the next.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::claim::{Claimed, Unclaimed};
use super::delete::remove_path;
use super::lock::open_lock_file;
use super::prune::{Doomed, Pruned, Record, RecordKind, Sized};
use super::{Store, StoreError, file};
use crate::oci::{DiffId, Digest};

/// What the names of folders that are being deleted begin with.
pub(super) const REMOVED: &str = "removed-";

/// How many objects are removed while others wait to name an image.
const BATCH: usize = 64;

/// An object that is younger than the start of the sweep by more than this has its time from a clock that was wrong.
const LONGEST_SWEEP: Duration = Duration::from_hours(24);

/// One prune at work.
pub(super) struct Sweep<'s> {
    store: &'s Store,
    unclaimed: &'s Unclaimed,
    begun: SystemTime,
    index: Vec<u8>,
    /// What images need that were named since the start.
    named_since: BTreeSet<Digest>,
    seen_index: Vec<u8>,
    dry_run: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Layer,
    Blob,
}

impl<'s> Sweep<'s> {
    pub(super) fn new(store: &'s Store, unclaimed: &'s Unclaimed, dry_run: bool) -> Result<Self, StoreError> {
        let clock = store.path("locks/prune");
        let file = open_lock_file(&clock)?;
        file::touch(&clock);
        let begun = file.metadata().and_then(|metadata| metadata.modified());
        let begun = begun.map_err(StoreError::io("look at", &clock))?;
        let index = store.index_bytes()?;
        let seen_index = index.clone();
        Ok(Self { store, unclaimed, begun, index, named_since: BTreeSet::new(), seen_index, dry_run })
    }

    /// The index of images as it was at the start.
    pub(super) fn index(&self) -> &[u8] {
        &self.index
    }

    /// Deletes what an interrupted prune moved away.
    pub(super) fn remove_leftovers(&self) -> Result<(), StoreError> {
        for folder in ["layers", "mounts"] {
            let folder = self.store.path(folder);
            for name in file::list(&folder)?.iter().filter(|name| name.starts_with(REMOVED) && !self.dry_run) {
                let path = folder.join(name);
                remove_path(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, doomed: &Doomed) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        // Records go first, so that none outlives what it refers to.
        for record in &doomed.records {
            if self.remove_record(record)? {
                pruned.records += 1;
                pruned.freed_bytes += record.bytes;
            }
        }
        for (kind, objects) in [(Kind::Layer, &doomed.layers), (Kind::Blob, &doomed.blobs)] {
            for batch in objects.chunks(BATCH) {
                let removed = self.remove_batch(kind, batch)?;
                pruned.in_use += (batch.len() - removed.len()) as u64;
                pruned.freed_bytes += removed.iter().map(|(_, bytes)| bytes).sum::<u64>();
                match kind {
                    Kind::Layer => pruned.layers += removed.len() as u64,
                    Kind::Blob => pruned.blobs += removed.len() as u64,
                }
            }
        }
        Ok(pruned)
    }

    /// Removes a record unless it was used since it was chosen; whether it did.
    fn remove_record(&self, record: &Record) -> Result<bool, StoreError> {
        let used = fs::symlink_metadata(&record.path).and_then(|metadata| metadata.modified());
        if used.is_ok_and(|used| used != record.used) {
            return Ok(false);
        }
        match record.kind {
            _ if self.dry_run => Ok(true),
            RecordKind::Refers | RecordKind::File => file::remove(&record.path).map(|_| true),
            RecordKind::Folder(claimed) => self.remove_folder(claimed, &record.path),
        }
    }

    /// Removes a folder that nobody claims; whether it did.
    pub(super) fn remove_folder(&self, claimed: Claimed, path: &Path) -> Result<bool, StoreError> {
        let Some(moved) = self.unclaimed.with(claimed, || move_away(path))? else { return Ok(false) };
        remove_path(&moved).map_err(StoreError::io("remove", &moved))?;
        Ok(true)
    }

    fn remove_batch<'b>(&mut self, kind: Kind, batch: &'b [Sized]) -> Result<Vec<&'b Sized>, StoreError> {
        let index = if self.dry_run { None } else { Some(self.store.lock("index")?) };
        self.see_new_names()?;
        let mut removed = Vec::new();
        let mut moved = Vec::new();
        for object in batch {
            let digest = &object.0;
            let (path, claimed) = match kind {
                Kind::Layer => (self.store.path("layers").join(digest.hex()), Claimed::layer(DiffId(*digest))),
                Kind::Blob => (self.store.blob_path(digest), Claimed::blob(digest)),
            };
            if self.named_since.contains(digest) || self.is_new(kind, &path) {
                continue;
            }
            let done = self.unclaimed.with(claimed, || match kind {
                _ if self.dry_run => Ok(()),
                Kind::Layer => move_away(&path).map(|path| moved.push((*digest, path))),
                Kind::Blob => self.store.remove_blob(digest).map(|_| ()),
            })?;
            if done.is_some() {
                removed.push(object);
            }
        }
        drop(index);
        for (digest, path) in moved {
            remove_path(&path).map_err(StoreError::io("remove", &path))?;
            self.store.remove_lock(&super::layer::layer_lock_name(DiffId(digest)))?;
        }
        Ok(removed)
    }

    /// Finds what images need that were named since the sweep began.
    fn see_new_names(&mut self) -> Result<(), StoreError> {
        let index = self.store.index_bytes()?;
        if index != self.seen_index {
            self.store.follow(&index, |digest| self.named_since.insert(digest));
            self.seen_index = index;
        }
        Ok(())
    }

    fn is_new(&self, kind: Kind, path: &Path) -> bool {
        let Ok(metadata) = fs::symlink_metadata(path) else { return false };
        let written = match kind {
            Kind::Layer => metadata.modified().ok(),
            // The modification time of a blob is its seal.
            Kind::Blob => time_of(metadata.ctime(), metadata.ctime_nsec()),
        };
        let age = written.and_then(|written| written.duration_since(self.begun).ok());
        age.is_some_and(|age| !age.is_zero() && age < LONGEST_SWEEP)
    }
}

fn time_of(seconds: i64, nanoseconds: i64) -> Option<SystemTime> {
    let (seconds, nanoseconds) = (u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// Renames a folder so that it is not what it was; gives where it is then.
fn move_away(path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for number in 0_u32.. {
        let moved = path.with_file_name(format!("{REMOVED}{number}-{name}"));
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, &moved, flags) {
            Err(rustix::io::Errno::EXIST) => {}
            // Gone already; removing nothing is fine.
            Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(moved),
            Err(errno) => return Err(StoreError::errno("move away", path)(errno)),
        }
    }
    unreachable!("a folder has fewer entries than there are numbers")
}
