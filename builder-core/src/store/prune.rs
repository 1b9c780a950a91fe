//! Removing what nothing needs, while builds go on.
//!
//! What is alive is found anew each time. Images of the index are alive; so are records (of steps, notes), each with
//! the time of its last use. They name digests as text, and so do manifests, configurations and lists of a layer's
//! blobs: everything that they name is alive as long as they are. Taking any such text for a reference errs only
//! towards keeping, and needs no knowledge of what the texts mean. A layer also keeps the one that its files lie over.
//! What a running process claims is alive as well.
//!
//! Here is decided what goes; `sweep.rs` removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::oci::{DiffId, Digest};

use super::claim::{Claimed, Unclaimed};
use super::file::{self, open_regular};
use super::sweep::Sweep;
use super::usage::{disk_usage, own_bytes};
use super::{Store, StoreError};

/// The largest manifest, index or configuration that is searched for digests, in bytes.
const DOCUMENT_LIMIT: u64 = 4 << 20;

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

    /// Goes through all that a text names, directly or through others, as far as `is_new` says that it was not seen.
    pub(super) fn follow(&self, text: &[u8], mut is_new: impl FnMut(Digest) -> bool) {
        let mut open = digests_in(text);
        while let Some(digest) = open.pop() {
            if is_new(digest) {
                open.extend(digests_in(&read_document(&self.blob_path(&digest))));
                open.extend(digests_in(&read_document(&self.path("layers").join(digest.hex()).join("blobs.json"))));
                open.extend(self.lies_over(&digest));
            }
        }
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
        let (compression, encoder) = (String::new(), String::new());
        let blob = LayerBlob { descriptor: descriptor.clone(), compression, encoder, source: None };
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

    /// As another process would.
    fn prune(store: &Store, options: &PruneOptions) -> Result<Pruned, StoreError> {
        store.give_up_claims();
        store.prune(options)
    }

    #[test]
    fn removes_only_what_nothing_needs() {
        let (_dir, store) = scratch();
        let [image, step, nobody] = populate(&store);
        let before = store.usage().unwrap().total_bytes();
        let planned = prune(&store, &PruneOptions { dry_run: true, ..options() }).unwrap();
        assert_eq!(alive(&store, &nobody), (true, true));
        let pruned = prune(&store, &options()).unwrap();
        assert_eq!(pruned, planned);
        assert_eq!((pruned.records, pruned.layers, pruned.blobs), (0, 1, 1));
        assert_eq!(before - store.usage().unwrap().total_bytes(), pruned.freed_bytes);
        assert_eq!([&image, &step, &nobody].map(|l| alive(&store, l)), [(true, true), (true, true), (false, false)]);
        let all = PruneOptions { unused_for: Some(Duration::ZERO), ..options() };
        assert_eq!(prune(&store, &all).unwrap().records, 1);
        assert_eq!([&image, &step].map(|l| alive(&store, l)), [(true, true), (false, false)]);
        store.untag("app:1").unwrap();
        assert_eq!(prune(&store, &options()).unwrap().blobs, 3);
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
        let without_one =
            store.usage().unwrap().total_bytes() - disk_usage(&store.path("layers"), &mut BTreeSet::new()) / 2;
        prune(&store, &PruneOptions { keep_bytes: Some(without_one), ..options() }).unwrap();
        assert!(store.usage().unwrap().total_bytes() <= without_one);
        assert_eq!([&layers[0], &layers[1]].map(|l| alive(&store, l)), [(false, false), (true, true)]);
        let recent = PruneOptions { unused_for: Some(Duration::from_secs(60)), ..options() };
        assert_eq!(prune(&store, &recent).unwrap(), Pruned::default());
    }

    #[test]
    fn what_others_use_stays_until_they_are_done() {
        let (_dir, store) = scratch();
        let [image, step, nobody] = populate(&store);
        let other = Store::open(store.root()).unwrap();
        let all = PruneOptions { unused_for: Some(Duration::ZERO), ..options() };
        store.give_up_claims();
        assert_eq!(alive(&other, &step), (true, true));
        assert_eq!(alive(&other, &nobody), (true, true));
        let pruned = store.prune(&all).unwrap();
        assert_eq!((pruned.records, pruned.layers, pruned.blobs, pruned.in_use), (1, 0, 0, 4));
        assert_eq!(store.prune(&PruneOptions { keep_bytes: Some(0), ..all.clone() }).unwrap().in_use, 4);
        drop(other);
        assert_eq!(store.prune(&all).unwrap().in_use, 0);
        let last = Store::open(store.root()).unwrap();
        assert_eq!([&image, &step, &nobody].map(|l| alive(&last, l).1), [true, false, false]);
    }

    #[test]
    fn unpacked_files_of_images_are_the_last_to_go() {
        let (_dir, store) = scratch();
        let [image, step, _] = populate(&store);
        store.give_up_claims();
        store.prune(&PruneOptions { keep_bytes: Some(1), ..options() }).unwrap();
        assert_eq!([&image, &step].map(|l| alive(&store, l)), [(false, true), (false, false)]);
    }

    #[test]
    fn an_image_that_is_named_meanwhile_stays() {
        let (_dir, store) = scratch();
        let [image, step, nobody] = populate(&store);
        store.give_up_claims();
        let unclaimed = Unclaimed::new(&store).unwrap();
        let mut sweep = Sweep::new(&store, &unclaimed, false).unwrap();
        let blobs = store.sizes("blobs/sha256").unwrap().into_iter().collect();
        let layers = store.sizes("layers").unwrap().into_iter().collect();
        store.tag("app:2", &step.1).unwrap();
        sweep.remove(&Doomed { records: Vec::new(), layers, blobs }).unwrap();
        assert_eq!(fs::read_dir(store.path("blobs/sha256")).unwrap().count(), 4);
        assert_eq!([&image, &step, &nobody].map(|l| alive(&store, l).1), [true, true, false]);
    }
}
