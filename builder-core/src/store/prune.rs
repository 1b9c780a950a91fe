//! Removing what nothing needs, while builds go on.
//!
//! What is alive is found anew each time. Images of the index are alive; so are records (of steps, notes), each with
//! the time of its last use. They name digests as text, and so do manifests, configurations and lists of a layer's
//! blobs (`references.rs`): everything that they name is alive as long as they are. A layer also keeps the one that its
//! files lie over. What a running process claims is alive as well.
//!
//! Here is decided what goes; `sweep.rs` removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::oci::{DiffId, Digest};

use super::claim::{Claimed, Unclaimed};
use super::file;
use super::references::{digests_in, read_document};
use super::sweep::Sweep;
use super::usage::{disk_usage, own_bytes};
use super::{Store, StoreError};

/// What [`Store::prune`] may remove beyond what nothing refers to.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// The time to measure ages from.
    pub now: SystemTime,
    /// Records not used for this long go, and what only they kept. Zero means all of them.
    pub unused_for: Option<Duration>,
    /// Then the least recently used records go until the store holds at most this many bytes, and after them the
    /// unpacked files of named images, which can be made again.
    pub keep_bytes: Option<u64>,
    /// Whether cache mounts count as records.
    pub cache_mounts: bool,
    /// Whether to remove nothing and only say what would go.
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Records of steps, notes and builds, stat caches, and cache mounts.
    pub records: u64,
    /// Layers.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
    /// Disk space, in bytes as `du` counts them.
    pub freed_bytes: u64,
    /// How many layers, blobs and cache mounts stayed because running builds use them.
    pub in_use: u64,
}

/// Something with a time of last use, that may refer to objects.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) path: PathBuf,
    pub(super) used: SystemTime,
    pub(super) bytes: u64,
    pub(super) kind: RecordKind,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// A file that may name objects.
    Refers,
    /// A file that keeps nothing.
    File,
    /// A folder that processes claim before they use it.
    Folder(Claimed),
}

/// When an object is needed last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// By a named image.
    Image,
    /// By a running process.
    Process,
    /// By the record of that number.
    Record(usize),
}

/// An object and the bytes that it takes.
pub(super) type Sized = (Digest, u64);

/// What is to be removed.
#[derive(Default)]
pub(super) struct Doomed {
    pub(super) records: Vec<Record>,
    pub(super) layers: Vec<Sized>,
    pub(super) blobs: Vec<Sized>,
}

/// What there is, besides records.
pub(super) struct Objects {
    layers: BTreeMap<Digest, u64>,
    blobs: BTreeMap<Digest, u64>,
    needs: BTreeMap<Digest, Need>,
    /// What takes space and is not removed.
    fixed_bytes: u64,
}

impl Store {
    /// Removes what nothing refers to, and what the options allow. Interrupted, it leaves a sound store.
    ///
    /// Works on a full disk, and beside running builds: what they use stays. Images that have names stay too.
    ///
    /// # Errors
    /// When the store can't be read or an object not be removed; and [`StoreError::Busy`] when a build is running on a
    /// file system whose locks can't tell what it uses.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        let _alone = self.lock("prune")?;
        let unclaimed = Unclaimed::new(self)?;
        let mut sweep = Sweep::new(self, &unclaimed, options.dry_run)?;
        sweep.remove_leftovers()?;
        let mut records = self.records(options.cache_mounts)?;
        records.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        let (used, records): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| is_in_use(record, &unclaimed));
        let mut needs = self.mark(sweep.index(), &records)?;
        let layers = self.sizes("layers")?;
        let blobs = self.sizes("blobs/sha256")?;
        let mut in_use = used.len() as u64;
        for claimed in layers
            .keys()
            .map(|digest| (digest, Claimed::layer(DiffId(*digest))))
            .chain(blobs.keys().map(|digest| (digest, Claimed::blob(digest))))
        {
            if needs.get(claimed.0) != Some(&Need::Image) && unclaimed.with(claimed.1, || Ok(()))?.is_none() {
                needs.insert(*claimed.0, Need::Process);
                in_use += 1;
            }
        }
        let fixed_bytes = self.fixed_bytes(options.cache_mounts)? + used.iter().map(|record| record.bytes).sum::<u64>();
        let objects = Objects { layers, blobs, needs, fixed_bytes };
        let doomed = self.doom(records, &objects, options);
        let pruned = sweep.remove(&doomed)?;
        Ok(Pruned { in_use: pruned.in_use + in_use, ..pruned })
    }

    /// Chooses what goes.
    fn doom(&self, mut records: Vec<Record>, objects: &Objects, options: &PruneOptions) -> Doomed {
        let (kept, mut total) = records_to_keep(&records, options, objects);
        let dead = |(digest, _): &(&Digest, &u64)| match objects.needs.get(digest) {
            None => true,
            Some(Need::Image | Need::Process) => false,
            Some(Need::Record(number)) => *number >= kept,
        };
        let of = |sizes: &BTreeMap<Digest, u64>| -> Vec<Sized> {
            sizes.iter().filter(dead).map(|(digest, bytes)| (*digest, *bytes)).collect()
        };
        let mut doomed =
            Doomed { layers: of(&objects.layers), blobs: of(&objects.blobs), records: records.split_off(kept) };
        let Some(limit) = options.keep_bytes else { return doomed };
        for (digest, bytes) in &objects.layers {
            if total <= limit {
                break;
            }
            let listed = read_document(&self.path("layers").join(digest.hex()).join("blobs.json"));
            let has_blob = digests_in(&listed).iter().any(|blob| objects.blobs.contains_key(blob));
            if objects.needs.get(digest) == Some(&Need::Image) && has_blob {
                doomed.layers.push((*digest, *bytes));
                total -= bytes;
            }
        }
        doomed
    }

    /// What takes space besides records, layers and blobs.
    fn fixed_bytes(&self, cache_mounts: bool) -> Result<u64, StoreError> {
        let mut total = own_bytes(self.root());
        for name in file::list(self.root())? {
            let path = self.path(&name);
            total += match name.as_str() {
                "steps" | "contexts" | "builds" | "layers" => own_bytes(&path),
                "blobs" => own_bytes(&path) + own_bytes(&path.join("sha256")),
                "notes" => {
                    own_bytes(&path) + file::list(&path)?.iter().map(|kind| own_bytes(&path.join(kind))).sum::<u64>()
                }
                "mounts" if cache_mounts => own_bytes(&path),
                _ => disk_usage(&path, &mut BTreeSet::new()),
            };
        }
        Ok(total)
    }

    pub(super) fn records(&self, cache_mounts: bool) -> Result<Vec<Record>, StoreError> {
        let mut folders = vec![(self.path("steps"), "")];
        for kind in file::list(&self.path("notes"))? {
            folders.push((self.path("notes").join(kind), ""));
        }
        folders.push((self.path("builds"), "build"));
        folders.push((self.path("contexts"), "context"));
        if cache_mounts {
            folders.push((self.path("mounts"), "mount"));
        }
        let mut records = Vec::new();
        for (folder, claimed_as) in folders {
            for name in file::list(&folder)? {
                let path = folder.join(&name);
                // A record that vanished meanwhile is none.
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                let kind = match claimed_as {
                    "" => RecordKind::Refers,
                    _ if metadata.is_dir() => RecordKind::Folder(Claimed::named(claimed_as, &name)),
                    _ => RecordKind::File,
                };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let bytes = disk_usage(&path, &mut BTreeSet::new());
                records.push(Record { path, used, bytes, kind });
            }
        }
        Ok(records)
    }

    /// What each record alone keeps, in bytes, and what images keep. The records must be sorted, the latest first.
    pub(super) fn weights(&self, records: &[Record]) -> Result<(Vec<u64>, u64), StoreError> {
        let needs = self.mark(&self.index_bytes()?, records)?;
        let (layers, blobs) = (self.sizes("layers")?, self.sizes("blobs/sha256")?);
        let objects = Objects { layers, blobs, needs, fixed_bytes: 0 };
        Ok(weights(records, &objects))
    }

    /// Finds who needs each object last. The records must be sorted, the most recently used first.
    fn mark(&self, index: &[u8], records: &[Record]) -> Result<BTreeMap<Digest, Need>, StoreError> {
        let mut needs = BTreeMap::new();
        self.follow(index, |digest| insert_new(&mut needs, digest, Need::Image));
        for (number, record) in records.iter().enumerate().filter(|(_, record)| record.kind == RecordKind::Refers) {
            let bytes = file::read(&record.path, u64::MAX).ok().flatten().unwrap_or_default();
            self.follow(&bytes, |digest| insert_new(&mut needs, digest, Need::Record(number)));
        }
        Ok(needs)
    }
}

fn insert_new(needs: &mut BTreeMap<Digest, Need>, digest: Digest, need: Need) -> bool {
    let is_new = !needs.contains_key(&digest);
    if is_new {
        needs.insert(digest, need);
    }
    is_new
}

fn is_in_use(record: &Record, unclaimed: &Unclaimed) -> bool {
    match record.kind {
        RecordKind::Folder(claimed) => !matches!(unclaimed.with(claimed, || Ok(())), Ok(Some(()))),
        RecordKind::Refers | RecordKind::File => false,
    }
}

/// How many of the records, counted from the most recently used one, stay, and how many bytes are left then.
fn records_to_keep(records: &[Record], options: &PruneOptions, objects: &Objects) -> (usize, u64) {
    let too_old = |record: &Record| {
        // A record from the future, of a clock that was wrong, has the age zero.
        let age = options.now.duration_since(record.used).unwrap_or_default();
        options.unused_for.is_some_and(|limit| age >= limit)
    };
    let mut kept = records.iter().position(too_old).unwrap_or(records.len());
    let (weights, other) = weights(records, objects);
    let mut total = objects.fixed_bytes + other;
    total += weights[..kept].iter().sum::<u64>();
    while kept > 0 && options.keep_bytes.is_some_and(|limit| total > limit) {
        kept -= 1;
        total -= weights[kept];
    }
    (kept, total)
}

/// What goes together with each record, in bytes, and what objects take that no record keeps.
fn weights(records: &[Record], objects: &Objects) -> (Vec<u64>, u64) {
    let mut weights: Vec<u64> = records.iter().map(|record| record.bytes).collect();
    let mut other = 0;
    for (digest, bytes) in objects.layers.iter().chain(&objects.blobs) {
        match objects.needs.get(digest) {
            Some(Need::Image | Need::Process) => other += bytes,
            Some(Need::Record(number)) => weights[*number] += bytes,
            None => {}
        }
    }
    (weights, other)
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
