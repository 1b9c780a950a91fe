//! Layers by diff ID: their entries as a record, and as compressed blobs. `unpacked.rs` has their files.

use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci::{Descriptor, DiffId};

use super::claim::Claimed;
use super::file;
use super::lock::Lock;
use super::record::{RecordFile, read_record};
use super::{Store, StoreError};

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
    /// The image of a registry that has the blob, where it came with one. Without a digest: prune would keep what it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
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
    /// When it can't be read or written.
    pub fn add_layer_tree(&self, diff_id: DiffId, bytes: &mut dyn Read) -> Result<(), StoreError> {
        let dir = self.layer_dir(diff_id)?;
        self.write_record_from(&dir.join("tree"), bytes)
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

    /// Adds a compressed form to a layer's list; one of the same digest is replaced, but for its source where the new one
    /// has none.
    ///
    /// # Errors
    /// When the list can't be written.
    pub fn add_layer_blob(&self, diff_id: DiffId, mut blob: LayerBlob) -> Result<(), StoreError> {
        let path = self.layer_dir(diff_id)?.join("blobs.json");
        let _lock = self.lock("layer-blobs")?;
        let mut blobs = self.all_layer_blobs(diff_id)?;
        let old = blobs.iter().find(|other| other.descriptor.digest == blob.descriptor.digest);
        blob.source = blob.source.or_else(|| old?.source.clone());
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

    /// What [`Self::add_layer_chunks`] stored; `None` where there is nothing, or it is damaged.
    #[must_use]
    pub fn layer_chunks(&self, diff_id: DiffId, compression: &str) -> Option<Vec<u8>> {
        read_record(&self.layer_path(diff_id).join(chunks_name(compression))).ok().flatten()
    }

    /// What [`Self::add_layer_chunks`] stored of all layers; damaged records are left out.
    ///
    /// # Errors
    /// When the layers can't be listed.
    pub fn all_layer_chunks(&self, compression: &str) -> Result<Vec<Vec<u8>>, StoreError> {
        let layers = self.path("layers");
        let name = chunks_name(compression);
        let record = |layer: &String| read_record(&layers.join(layer).join(&name)).ok().flatten();
        Ok(file::list(&layers)?.iter().filter_map(record).collect())
    }

    /// The names of all layers' folders.
    pub(super) fn layer_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = file::list(&self.path("layers"))?;
        names.retain(|name| !name.starts_with(super::sweep::REMOVED));
        Ok(names)
    }

    /// The folder of a layer, made where it is missing.
    pub(super) fn layer_dir(&self, diff_id: DiffId) -> Result<PathBuf, StoreError> {
        self.claim(Claimed::layer(diff_id));
        let path = self.layer_path(diff_id);
        file::create_dir(&path)?;
        Ok(path)
    }

    pub(super) fn layer_path(&self, diff_id: DiffId) -> PathBuf {
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
    pub fn tree(&self) -> Result<Option<RecordFile>, StoreError> {
        self.store.open_noted(&self.dir().join("tree"))
    }

    /// The known compressed forms whose blobs are in the store.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn blobs(&self) -> Result<Vec<LayerBlob>, StoreError> {
        self.store.layer_blobs(self.diff_id)
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.store.layer_path(self.diff_id)
    }
}

pub(super) fn layer_lock_name(diff_id: DiffId) -> String {
    format!("layer-{}", diff_id.0.hex())
}

fn chunks_name(compression: &str) -> String {
    format!("{CHUNKS}{compression}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::scratch;
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn chunk_records_are_listed_but_for_damaged_ones() {
        let (_dir, store) = scratch();
        let ids = [b"a", b"b", b"c"].map(|name| DiffId(Digest::of(name)));
        for id in ids {
            store.add_layer_chunks(id, "gzip", &id.0.as_bytes()[..]).unwrap();
        }
        assert_eq!(store.all_layer_chunks("gzip").unwrap().len(), 3);
        assert_eq!(store.all_layer_chunks("zstd").unwrap().len(), 0);
        assert_eq!(store.layer_chunks(ids[0], "gzip").as_deref(), Some(&ids[0].0.as_bytes()[..]));
        assert_eq!(store.layer_chunks(ids[0], "zstd"), None);
        let path = store.layer_path(ids[1]).join("chunks-gzip");
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::write(&path, bytes).unwrap();
        let found = store.all_layer_chunks("gzip").unwrap();
        assert_eq!(store.layer_chunks(ids[1], "gzip"), None);
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
                    let (compression, encoder) = ("gzip-6".into(), "1".into());
                    let blob = LayerBlob { descriptor, compression, encoder, source: None };
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
