//! How much a store holds, and removing what nothing needs.
//!
//! What is alive is found anew each time. Images of the index are alive; so are records (of steps, notes), each with
//! the time of its last use. They name digests as text, and so do manifests, configurations and lists of a layer's
//! blobs: everything that they name is alive as long as they are. Taking any such text for a reference errs only
//! towards keeping, and needs no knowledge of what the texts mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::oci::{DiffId, Digest};

use super::delete::remove_path;
use super::file::{self, open_regular};
use super::lock::{Lock, open_lock_file, try_exclusive};
use super::{Store, StoreError};

/// The largest manifest, index or configuration that is searched for digests, in bytes.
const DOCUMENT_LIMIT: u64 = 4 << 20;

/// Disk space by kind, in bytes as `du` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Manifests, configurations and compressed layers.
    pub blobs_bytes: u64,
    /// Unpacked layers and their records.
    pub layers_bytes: u64,
    /// Records of steps and notes.
    pub records_bytes: u64,
    /// Cache mounts.
    pub mounts_bytes: u64,
    /// Records of builds.
    pub builds_bytes: u64,
    /// What running processes work on, stat caches, locks and the rest.
    pub other_bytes: u64,
}

impl Usage {
    /// All of it.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.blobs_bytes
            + self.layers_bytes
            + self.records_bytes
            + self.mounts_bytes
            + self.builds_bytes
            + self.other_bytes
    }
}

/// What [`Store::prune`] may remove beyond what nothing refers to.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// The time to measure ages from.
    pub now: SystemTime,
    /// Records not used for this long go, and what only they kept. Zero means all of them.
    pub unused_for: Option<Duration>,
    /// Then the least recently used records go until the store holds at most this many bytes.
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
}

/// Something with a time of last use, that may refer to objects.
struct Record {
    path: PathBuf,
    used: SystemTime,
    bytes: u64,
    refers: bool,
}

/// When an object is needed last: by an image, or by the record of that number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Image,
    Record(usize),
}

impl Store {
    /// Counts the disk space that the store takes.
    ///
    /// # Errors
    /// When the store's folder can't be listed.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        let mut seen = BTreeSet::new();
        for name in file::list(self.root())? {
            let bytes = disk_usage(&self.path(&name), &mut seen);
            *match name.as_str() {
                "blobs" => &mut usage.blobs_bytes,
                "layers" => &mut usage.layers_bytes,
                "steps" | "notes" => &mut usage.records_bytes,
                "mounts" => &mut usage.mounts_bytes,
                "builds" => &mut usage.builds_bytes,
                _ => &mut usage.other_bytes,
            } += bytes;
        }
        Ok(usage)
    }

    /// Removes what nothing refers to, and what the options allow. Interrupted, it leaves a sound store.
    ///
    /// Works on a full disk. No build can start meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when a build holds a lease; and when the store can't be read or an object not be removed.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        let _alone = if options.dry_run { None } else { Some(self.lock_out_builds()?) };
        let mut records = self.records(options.cache_mounts)?;
        records.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        let needs = self.mark(&records)?;
        let layers = self.sizes("layers")?;
        let blobs = self.sizes("blobs/sha256")?;
        let kept = records_to_keep(&records, options, &needs, &[&layers, &blobs]);
        let dead = |digest: &Digest| match needs.get(digest) {
            None => true,
            Some(Need::Image) => false,
            Some(Need::Record(number)) => *number >= kept,
        };
        let mut pruned = Pruned::default();
        // Records go first, so that none outlives what it refers to.
        for record in &records[kept..] {
            if !options.dry_run {
                remove_path(&record.path).map_err(StoreError::io("remove", &record.path))?;
            }
            pruned.records += 1;
            pruned.freed_bytes += record.bytes;
        }
        for (digest, bytes) in layers.iter().filter(|(digest, _)| dead(digest)) {
            if !options.dry_run {
                self.remove_layer(DiffId(*digest))?;
            }
            pruned.layers += 1;
            pruned.freed_bytes += bytes;
        }
        for (digest, bytes) in blobs.iter().filter(|(digest, _)| dead(digest)) {
            if !options.dry_run {
                self.remove_blob(digest)?;
            }
            pruned.blobs += 1;
            pruned.freed_bytes += bytes;
        }
        Ok(pruned)
    }

    /// Removes all that the store knows of a layer but its blobs. No build may be using it.
    ///
    /// # Errors
    /// When a part of it can't be removed.
    pub fn remove_layer(&self, diff_id: DiffId) -> Result<(), StoreError> {
        let path = self.path("layers").join(diff_id.0.hex());
        // Without the mark the folder does not count as unpacked, so this may be interrupted.
        file::remove(&path.join("unpacked"))?;
        remove_path(&path).map_err(StoreError::io("remove", &path))?;
        file::remove(&self.path("locks").join(super::layer::layer_lock_name(diff_id)))?;
        Ok(())
    }

    fn lock_out_builds(&self) -> Result<Lock, StoreError> {
        let path = self.path("locks/lease");
        let lock = try_exclusive(open_lock_file(&path)?, &path)?;
        lock.ok_or_else(|| StoreError::Busy { path: self.root().to_owned() })
    }

    fn records(&self, cache_mounts: bool) -> Result<Vec<Record>, StoreError> {
        let mut folders = vec![(self.path("steps"), true)];
        for kind in file::list(&self.path("notes"))? {
            folders.push((self.path("notes").join(kind), true));
        }
        folders.push((self.path("builds"), false));
        folders.push((self.path("contexts"), false));
        if cache_mounts {
            folders.push((self.path("mounts"), false));
        }
        let mut records = Vec::new();
        for (folder, refers) in folders {
            for name in file::list(&folder)? {
                let path = folder.join(name);
                // A record that vanished meanwhile is none.
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let bytes = disk_usage(&path, &mut BTreeSet::new());
                records.push(Record { path, used, bytes, refers });
            }
        }
        Ok(records)
    }

    /// Finds who needs each object last. The records must be sorted, the most recently used first.
    fn mark(&self, records: &[Record]) -> Result<BTreeMap<Digest, Need>, StoreError> {
        let mut needs = BTreeMap::new();
        let index = file::read(&self.path("index.json"), u64::MAX)?.unwrap_or_default();
        self.mark_text(&index, Need::Image, &mut needs);
        for (number, record) in records.iter().enumerate().filter(|(_, record)| record.refers) {
            let bytes = file::read(&record.path, u64::MAX).ok().flatten().unwrap_or_default();
            self.mark_text(&bytes, Need::Record(number), &mut needs);
        }
        Ok(needs)
    }

    fn mark_text(&self, text: &[u8], need: Need, needs: &mut BTreeMap<Digest, Need>) {
        let mut open = digests_in(text);
        while let Some(digest) = open.pop() {
            if needs.contains_key(&digest) {
                continue;
            }
            needs.insert(digest, need);
            open.extend(digests_in(&read_document(&self.blob_path(&digest))));
            open.extend(digests_in(&read_document(&self.path("layers").join(digest.hex()).join("blobs.json"))));
        }
    }

    /// The objects of a folder, whose names are digests, and their sizes on disk.
    fn sizes(&self, folder: &str) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let folder = self.path(folder);
        let mut sizes = BTreeMap::new();
        for name in file::list(&folder)? {
            if let Ok(digest) = format!("sha256:{name}").parse() {
                sizes.insert(digest, disk_usage(&folder.join(name), &mut BTreeSet::new()));
            }
        }
        Ok(sizes)
    }
}

/// How many of the records, counted from the most recently used one, stay.
fn records_to_keep(
    records: &[Record],
    options: &PruneOptions,
    needs: &BTreeMap<Digest, Need>,
    objects: &[&BTreeMap<Digest, u64>],
) -> usize {
    let too_old = |record: &Record| {
        // A record from the future, of a clock that was wrong, has the age zero.
        let age = options.now.duration_since(record.used).unwrap_or_default();
        options.unused_for.is_some_and(|limit| age >= limit)
    };
    let mut kept = records.iter().position(too_old).unwrap_or(records.len());
    let Some(limit) = options.keep_bytes else { return kept };
    // What goes together with each record.
    let mut weights: Vec<u64> = records.iter().map(|record| record.bytes).collect();
    let mut images = 0;
    for (digest, bytes) in objects.iter().copied().flatten() {
        match needs.get(digest) {
            Some(Need::Image) => images += bytes,
            Some(Need::Record(number)) => weights[*number] += bytes,
            None => {}
        }
    }
    let mut total: u64 = images + weights[..kept].iter().sum::<u64>();
    while kept > 0 && total > limit {
        kept -= 1;
        total -= weights[kept];
    }
    kept
}

/// The digests that a text names.
fn digests_in(text: &[u8]) -> Vec<Digest> {
    const LENGTH: usize = "sha256:".len() + 64;
    let starts = text.windows(7).enumerate().filter(|(_, window)| *window == b"sha256:").map(|(start, _)| start);
    starts.filter_map(|start| std::str::from_utf8(text.get(start..start + LENGTH)?).ok()?.parse().ok()).collect()
}

/// Reads a file if it is small and looks like a JSON object; empty otherwise.
fn read_document(path: &Path) -> Vec<u8> {
    let read = || {
        let mut file = open_regular(path).ok()?;
        if file.metadata().ok()?.len() > DOCUMENT_LIMIT {
            return None;
        }
        let mut first = [0];
        file.read_exact(&mut first).ok()?;
        let mut bytes = Vec::new();
        (first == *b"{").then(|| file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes)).transpose().ok()??;
        Some(bytes)
    };
    read().unwrap_or_default()
}

/// The disk space of a file or a tree, each file counted once; what can't be read counts as nothing.
fn disk_usage(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
    let walk = walkdir::WalkDir::new(path).follow_links(false).follow_root_links(false).same_file_system(true);
    let sizes = walk.into_iter().filter_map(|entry| {
        let metadata = entry.ok()?.metadata().ok()?;
        let counted = metadata.is_dir() || metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino()));
        counted.then(|| metadata.blocks() * 512)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::super::{LayerBlob, PruneOptions};
    use super::*;
    use crate::oci::{Descriptor, media_type};

    fn options() -> PruneOptions {
        let now = SystemTime::now();
        PruneOptions { now, unused_for: None, keep_bytes: None, cache_mounts: false, dry_run: false }
    }

    fn put_layer(store: &Store, name: &str) -> (DiffId, Descriptor) {
        let id = DiffId(Digest::of(name.as_bytes()));
        let descriptor = store.put_blob(format!("\x1f{name}").repeat(5000).as_bytes(), media_type::LAYER_GZIP).unwrap();
        let dir = store.unpack_dir().unwrap();
        fs::write(dir.path().join("file"), name).unwrap();
        store.adopt_unpacked(id, &dir.keep()).unwrap();
        let blob = LayerBlob { descriptor: descriptor.clone(), compression: String::new(), encoder: String::new() };
        store.add_layer_blob(id, blob).unwrap();
        (id, descriptor)
    }

    /// An image of one layer with a name, a step whose record names another layer, and a third that nobody needs.
    fn populate(store: &Store) -> [(DiffId, Descriptor); 3] {
        let layers = ["image", "step", "nobody"].map(|name| put_layer(store, name));
        let config = store.put_blob(format!("{{\"d\":\"{}\"}}", layers[0].0).as_bytes(), "c").unwrap();
        let text = format!("{{\"config\":\"{}\",\"layer\":\"{}\"}}", config.digest, layers[0].1.digest);
        let manifest = store.put_blob(text.as_bytes(), media_type::MANIFEST).unwrap();
        store.tag("app:1", &manifest).unwrap();
        store.write_step("key", format!("layer {}", layers[1].0).as_bytes()).unwrap();
        layers
    }

    fn alive(store: &Store, layer: &(DiffId, Descriptor)) -> (bool, bool) {
        (store.layer(layer.0).is_some(), store.has_blob(&layer.1.digest, layer.1.size))
    }

    #[test]
    fn removes_only_what_nothing_needs() {
        let (_dir, store) = scratch();
        let [image, step, nobody] = populate(&store);
        let before = store.usage().unwrap().total_bytes();
        let planned = store.prune(&PruneOptions { dry_run: true, ..options() }).unwrap();
        assert_eq!(alive(&store, &nobody), (true, true));
        let pruned = store.prune(&options()).unwrap();
        assert_eq!(pruned, planned);
        assert_eq!((pruned.records, pruned.layers, pruned.blobs), (0, 1, 1));
        assert_eq!(before - store.usage().unwrap().total_bytes(), pruned.freed_bytes);
        assert_eq!([&image, &step, &nobody].map(|l| alive(&store, l)), [(true, true), (true, true), (false, false)]);
        let all = PruneOptions { unused_for: Some(Duration::ZERO), ..options() };
        assert_eq!(store.prune(&all).unwrap().records, 1);
        assert_eq!([&image, &step].map(|l| alive(&store, l)), [(true, true), (false, false)]);
        store.untag("app:1").unwrap();
        assert_eq!(store.prune(&options()).unwrap().blobs, 3);
        assert_eq!(fs::read_dir(store.path("blobs/sha256")).unwrap().count(), 0);
    }

    #[test]
    fn spares_the_most_recently_used() {
        let (_dir, store) = scratch();
        let layers = ["old", "new"].map(|name| put_layer(&store, name));
        for (layer, (key, age)) in layers.iter().zip([("a", 1000), ("b", 10)]) {
            store.write_step(key, layer.0.to_string().as_bytes()).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            let file = fs::OpenOptions::new().write(true).open(store.path("steps").join(key)).unwrap();
            file.set_modified(time).unwrap();
        }
        let one_layer = disk_usage(&store.path("layers"), &mut BTreeSet::new()) / 2 + 40_000;
        store.prune(&PruneOptions { keep_bytes: Some(one_layer), ..options() }).unwrap();
        assert_eq!([&layers[0], &layers[1]].map(|l| alive(&store, l)), [(false, false), (true, true)]);
        let recent = PruneOptions { unused_for: Some(Duration::from_secs(60)), ..options() };
        assert_eq!(store.prune(&recent).unwrap(), Pruned::default());
    }

    #[test]
    fn waits_for_no_build() {
        let (_dir, store) = scratch();
        let lease = store.lease().unwrap();
        let _second = Store::open(store.root()).unwrap().lease().unwrap();
        assert!(matches!(store.prune(&options()), Err(StoreError::Busy { .. })));
        drop((lease, _second));
        store.prune(&options()).unwrap();
    }
}
