//! Layers by diff ID: their entries as a record, unpacked, and as compressed blobs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::oci::{Descriptor, DiffId};

use super::claim::Claimed;
use super::file;
use super::lock::Lock;
use super::record::read_record;
use super::seal::Seal;
use super::{Store, StoreError, TempDir};

/// What the names of records of chunks begin with.
pub(super) const CHUNKS: &str = "chunks-";

/// What the store knows of a layer.
#[derive(Debug, Clone)]
pub struct Layer {
    store: Store,
    diff_id: DiffId,
}

/// One compressed form of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// The blob.
    pub descriptor: Descriptor,
    /// The compression and its settings, such as `gzip-6`; empty where it came from elsewhere.
    pub compression: String,
    /// The version of the encoder that wrote it; empty where it came from elsewhere.
    pub encoder: String,
}

#[derive(Default, Serialize, Deserialize)]
struct BlobList {
    blobs: Vec<LayerBlob>,
}

impl Store {
    /// What the store knows of a layer; `None` when that is nothing. It stays as long as this handle.
    #[must_use]
    pub fn layer(&self, diff_id: DiffId) -> Option<Layer> {
        self.claim(Claimed::layer(diff_id));
        let layer = Layer { store: self.clone(), diff_id };
        layer.dir().is_dir().then_some(layer)
    }

    /// Stores the record of a layer's entries, at once.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add_layer_tree(&self, diff_id: DiffId, bytes: &[u8]) -> Result<(), StoreError> {
        let dir = self.layer_dir(diff_id)?;
        self.write_record(&dir.join("tree"), bytes)
    }

    /// A new folder on the store's file system, to unpack a layer into or to run a step in. It goes when it is dropped.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn unpack_dir(&self) -> Result<TempDir, StoreError> {
        self.make_room_when_due();
        self.temp_dir("unpack")
    }

    /// Makes a finished folder under `tmp/` the unpacked form of a layer, and gives where it is then.
    ///
    /// At once, and harmless to repeat: where the layer is unpacked already, `dir` is removed. A file system mounted
    /// with `dir` in it must be unmounted before.
    ///
    /// # Errors
    /// When the folder can't be moved.
    pub fn adopt_unpacked(&self, diff_id: DiffId, dir: &Path) -> Result<PathBuf, StoreError> {
        let layer = Layer { store: self.clone(), diff_id };
        let target = self.layer_dir(diff_id)?.join("fs");
        let old = self.temp_dir("old")?;
        // What is there already may be damaged, and then it does not count.
        self.sound_layer_path(diff_id)?;
        let seal = Seal::of(dir, boot_id()).map_err(StoreError::io("look at", dir))?;
        let mark = layer.dir().join("unpacked");
        let lock = self.lock("adopt")?;
        let adopted = layer.fs_path().is_none();
        if adopted {
            // Left by an earlier boot or by a prune that was stopped; nobody uses it, or it would count.
            match fs::rename(&target, old.path().join("fs")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("move away", &target)(error));
                }
                _ => {}
            }
            // The mark comes first: a folder never stands without knowing which boot wrote it.
            self.write_record(&mark, seal.to_text().as_bytes())?;
            fs::rename(dir, &target).map_err(StoreError::io("put in place", &target))?;
            self.remember_sound(diff_id);
            self.wrote(seal.bytes);
        }
        drop(lock);
        self.make_room_when_due();
        if !adopted {
            super::delete::remove_path(dir).map_err(StoreError::io("remove", dir))?;
        }
        Ok(target)
    }

    /// Waits until no other thread or process unpacks the layer, and keeps others from it.
    ///
    /// # Errors
    /// When the lock can't be taken.
    pub fn lock_layer(&self, diff_id: DiffId) -> Result<Lock, StoreError> {
        self.lock(&layer_lock_name(diff_id))
    }

    /// As [`Self::lock_layer`], but gives `None` at once where another holds the lock.
    ///
    /// # Errors
    /// When the lock can't be taken.
    pub fn try_lock_layer(&self, diff_id: DiffId) -> Result<Option<Lock>, StoreError> {
        self.try_lock(&layer_lock_name(diff_id))
    }

    /// The known compressed forms of a layer whose blobs are in the store.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn layer_blobs(&self, diff_id: DiffId) -> Result<Vec<LayerBlob>, StoreError> {
        let mut blobs = self.all_layer_blobs(diff_id)?;
        blobs.retain(|blob| self.has_blob(&blob.descriptor.digest, blob.descriptor.size));
        Ok(blobs)
    }

    /// The known compressed forms of a layer, whether or not the store has their blobs: a layer of a base image may
    /// be known only by the descriptor under which a registry has it.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn all_layer_blobs(&self, diff_id: DiffId) -> Result<Vec<LayerBlob>, StoreError> {
        let path = self.layer_path(diff_id).join("blobs.json");
        let Some(bytes) = self.read_noted(&path)? else { return Ok(Vec::new()) };
        Ok(serde_json::from_slice::<BlobList>(&bytes).unwrap_or_default().blobs)
    }

    /// Adds a compressed form to a layer's list; one of the same digest is replaced.
    ///
    /// # Errors
    /// When the list can't be written.
    pub fn add_layer_blob(&self, diff_id: DiffId, blob: LayerBlob) -> Result<(), StoreError> {
        let path = self.layer_dir(diff_id)?.join("blobs.json");
        let _lock = self.lock("layer-blobs")?;
        let mut blobs = self.all_layer_blobs(diff_id)?;
        if blobs.contains(&blob) {
            return Ok(());
        }
        blobs.retain(|other| other.descriptor.digest != blob.descriptor.digest);
        blobs.push(blob);
        blobs.sort_by_key(|blob| blob.descriptor.digest);
        let value = serde_json::to_value(BlobList { blobs }).expect("descriptors have string keys only");
        let bytes = serde_json::to_vec(&value).expect("a JSON value can always be written");
        self.write_record(&path, &bytes)
    }

    /// Stores what the chunks of a layer's blob are, by the name of its compression. Prune removes it with the layer.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add_layer_chunks(&self, diff_id: DiffId, compression: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let dir = self.layer_dir(diff_id)?;
        self.write_record(&dir.join(chunks_name(compression)), bytes)
    }

    /// What [`Self::add_layer_chunks`] stored of all layers; damaged records are left out.
    ///
    /// # Errors
    /// When the layers can't be listed.
    pub fn layer_chunks(&self, compression: &str) -> Result<Vec<Vec<u8>>, StoreError> {
        let layers = self.path("layers");
        let name = chunks_name(compression);
        let record = |layer: &String| read_record(&layers.join(layer).join(&name)).ok().flatten();
        Ok(file::list(&layers)?.iter().filter_map(record).collect())
    }

    /// Flushes the file system, so that layers that were unpacked by then count after a restart of the machine too.
    ///
    /// Is quick where that is so long ago that the kernel has written them by itself, else may take seconds. Gives how
    /// many layers it settled.
    ///
    /// # Errors
    /// When the file system can't be flushed.
    pub fn settle(&self, unpacked_by: SystemTime) -> Result<usize, StoreError> {
        let boot = boot_id();
        let layers = self.path("layers");
        let read = |mark: &Path| Seal::read(mark).filter(|seal| seal.boot.as_deref() == Some(boot.trim()));
        let old = |mark: &Path| fs::metadata(mark).and_then(|m| m.modified()).is_ok_and(|time| time <= unpacked_by);
        let open = |name: &String| {
            let folder = layers.join(name);
            let mark = folder.join("unpacked");
            let seal = read(&mark).filter(|_| old(&mark) && folder.join("fs").is_dir())?;
            Some((mark, seal))
        };
        let marks: Vec<(PathBuf, Seal)> = self.layer_names()?.iter().filter_map(open).collect();
        if marks.is_empty() {
            return Ok(0);
        }
        let folder = fs::File::open(&layers).map_err(StoreError::io("open", &layers))?;
        rustix::fs::syncfs(&folder).map_err(StoreError::errno("flush the file system of", &layers))?;
        // Nobody else writes marks meanwhile.
        let _lock = self.lock("adopt")?;
        let mut count = 0;
        for (mark, seal) in marks {
            // Another folder may have taken the place of the flushed one.
            if read(&mark).as_ref() == Some(&seal) {
                self.write_record(&mark, Seal { boot: None, ..seal }.to_text().as_bytes())?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// The names of all layers' folders.
    pub(super) fn layer_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = file::list(&self.path("layers"))?;
        names.retain(|name| !name.starts_with(super::sweep::REMOVED));
        Ok(names)
    }

    /// The folder of a layer, made where it is missing.
    fn layer_dir(&self, diff_id: DiffId) -> Result<PathBuf, StoreError> {
        self.claim(Claimed::layer(diff_id));
        let path = self.layer_path(diff_id);
        file::create_dir(&path)?;
        Ok(path)
    }

    fn layer_path(&self, diff_id: DiffId) -> PathBuf {
        self.path("layers").join(diff_id.0.hex())
    }
}

impl Layer {
    /// The layer's diff ID.
    #[must_use]
    pub const fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// The record of the layer's entries; `None` when there is none, or only a damaged one.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn tree(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.read_noted(&self.dir().join("tree"))
    }

    /// Where the layer is unpacked, ready to be an overlay lower directory; `None` when it is not, when the store is a
    /// copy, or when a restart of the machine makes it doubtful that all of it reached the disk.
    /// [`Store::sound_layer_path`] looks at its files.
    #[must_use]
    pub fn fs_path(&self) -> Option<PathBuf> {
        let path = self.dir().join("fs");
        let seal = Seal::parse(self.store.read_noted(&self.dir().join("unpacked")).ok()??)?;
        let in_place = fs::symlink_metadata(&path).is_ok_and(|status| status.is_dir() && status.ino() == seal.place);
        (in_place && seal.boot.is_none_or(|boot| boot == boot_id().trim())).then_some(path)
    }

    /// The known compressed forms whose blobs are in the store.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn blobs(&self) -> Result<Vec<LayerBlob>, StoreError> {
        self.store.layer_blobs(self.diff_id)
    }

    fn dir(&self) -> PathBuf {
        self.store.layer_path(self.diff_id)
    }
}

pub(super) fn layer_lock_name(diff_id: DiffId) -> String {
    format!("layer-{}", diff_id.0.hex())
}

fn chunks_name(compression: &str) -> String {
    format!("{CHUNKS}{compression}")
}

/// What tells this run of the machine from earlier ones. Where the kernel does not say, every run is taken for the same.
fn boot_id() -> String {
    let unknown = || "unknown\n".to_owned();
    file::read_kernel_text(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use crate::oci::Digest;

    fn unpacked(store: &Store, content: &str) -> PathBuf {
        let dir = store.unpack_dir().unwrap();
        fs::write(dir.path().join("file"), content).unwrap();
        dir.keep()
    }

    #[test]
    fn adopts_a_layer_once() {
        let (_dir, store) = scratch();
        let id = DiffId(Digest::of(b"layer"));
        assert!(store.layer(id).is_none());
        let first = unpacked(&store, "one");
        let path = store.adopt_unpacked(id, &first).unwrap();
        assert!(!first.exists());
        let second = unpacked(&store, "two");
        assert_eq!(store.adopt_unpacked(id, &second).unwrap(), path);
        assert!(!second.exists());
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "one");
        let layer = store.layer(id).unwrap();
        assert_eq!(layer.fs_path(), Some(path));
        assert_eq!(layer.tree().unwrap(), None);
        store.add_layer_tree(id, b"entries").unwrap();
        assert_eq!(layer.tree().unwrap().as_deref(), Some(&b"entries"[..]));
    }

    #[test]
    fn a_layer_of_another_boot_counts_only_when_settled() {
        let (_dir, store) = scratch();
        let id = DiffId(Digest::of(b"layer"));
        let path = store.adopt_unpacked(id, &unpacked(&store, "one")).unwrap();
        let mark = path.with_file_name("unpacked");
        fs::write(&mark, "another boot\n").unwrap();
        assert_eq!(store.layer(id).unwrap().fs_path(), None);
        store.adopt_unpacked(id, &unpacked(&store, "two")).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "two");
        let (before, after) = (SystemTime::UNIX_EPOCH, SystemTime::now() + std::time::Duration::from_secs(60));
        assert_eq!(store.settle(before).unwrap(), 0);
        assert_eq!(store.settle(after).unwrap(), 1);
        assert_eq!(store.settle(after).unwrap(), 0);
        assert_eq!(Seal::read(&mark).unwrap().boot, None);
        assert!(store.layer(id).unwrap().fs_path().is_some());
    }

    #[test]
    fn threads_that_adopt_the_same_layer_agree() {
        let (_dir, store) = scratch();
        let id = DiffId(Digest::of(b"layer"));
        std::thread::scope(|scope| {
            for n in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    let dir = unpacked(store, &n.to_string());
                    let path = store.adopt_unpacked(id, &dir).unwrap();
                    assert!(path.join("file").is_file());
                });
            }
        });
        assert!(store.layer(id).unwrap().fs_path().is_some());
    }

    #[test]
    fn chunk_records_are_listed_but_for_damaged_ones() {
        let (_dir, store) = scratch();
        let ids = [b"a", b"b", b"c"].map(|name| DiffId(Digest::of(name)));
        for id in ids {
            store.add_layer_chunks(id, "gzip", &id.0.as_bytes()[..]).unwrap();
        }
        assert_eq!(store.layer_chunks("gzip").unwrap().len(), 3);
        assert_eq!(store.layer_chunks("zstd").unwrap().len(), 0);
        let path = store.layer_path(ids[1]).join("chunks-gzip");
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::write(&path, bytes).unwrap();
        let found = store.layer_chunks("gzip").unwrap();
        assert!(found.len() == 2 && !found.contains(&ids[1].0.as_bytes().to_vec()));
    }

    #[test]
    fn lists_blobs_from_many_threads() {
        let (_dir, store) = scratch();
        let id = DiffId(Digest::of(b"layer"));
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let store = &store;
                scope.spawn(move || {
                    let descriptor = store.put_blob(&[n], "x/y").unwrap();
                    let blob = LayerBlob { descriptor, compression: "gzip-6".into(), encoder: "1".into() };
                    store.add_layer_blob(id, blob).unwrap();
                });
            }
        });
        let blobs = store.layer_blobs(id).unwrap();
        assert_eq!(blobs.len(), 8);
        store.remove_blob(&blobs[0].descriptor.digest).unwrap();
        assert_eq!(store.layer_blobs(id).unwrap().len(), 7);
        assert_eq!(store.all_layer_blobs(id).unwrap().len(), 8);
        fs::write(store.layer_path(id).join("blobs.json"), b"{\"blobs\":[{").unwrap();
        assert_eq!(store.layer_blobs(id).unwrap(), []);
    }
}
