//! Layers read from their blobs, and blobs of base images brought into the store.
//!
//! A base's layer comes from its registry in one pass: the bytes are checked, kept as a blob, decompressed, checked against
//! the diff ID, recorded and unpacked while they arrive. One thread of one process does that at a time, under the layer's
//! lock; whoever waited for the lock finds the work done.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::layers::{Layers, Origin, StackLayer, in_parallel, lock};
use crate::error::{BuildError, During};
use crate::layer::{self, Limits};
use crate::oci::{Descriptor, DiffId};
use crate::store::{Lock, Store, StoreError};
use crate::tree::Tree;

/// How soon a lock that another holds is tried again: at first, and at most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

impl Layers {
    /// Waits for a lock that its holder may keep for as long as a download takes; a cancelled build does not wait.
    pub(super) fn wait_for(
        &self,
        take: impl Fn() -> Result<Option<Lock>, StoreError>,
        action: impl Fn() -> String,
    ) -> Result<Lock, BuildError> {
        wait_for_lock(take, || self.stops.any(), action)
    }

    /// Reads a layer's blob for its record and, when asked, unpacks it on the way.
    pub(super) fn load(&self, diff_id: DiffId, unpack: bool) -> Result<Arc<Tree>, BuildError> {
        let action = || format!("read the layer {diff_id}");
        let _lock = self.wait_for(|| self.store.try_lock_layer(diff_id), action)?;
        // Another thread or process may have done it while this one waited.
        if let Some(tree) = self.stored_tree(diff_id)
            && (!unpack || self.store.layer(diff_id).is_some_and(|layer| layer.unpacked().is_some()))
        {
            return Ok(tree);
        }
        let mut failure = None;
        for blob in self.store.layer_blobs(diff_id).during(action)? {
            match self.read_stored(diff_id, &blob.descriptor, unpack) {
                Ok(tree) => return Ok(tree),
                Err(error) => failure = Some(error),
            }
        }
        let origin = lock(&self.origins).get(&diff_id).cloned();
        let Some((descriptor, origin)) = origin else {
            if let Some(losses) = lock(&self.promised).get(&diff_id) {
                losses.break_promises();
                return Err(BuildError::failed(action(), "only its step is known"));
            }
            return Err(failure.unwrap_or_else(|| {
                BuildError::failed(action(), StoreError::LayerLost { diff_id }).with_help("build again with --no-cache")
            }));
        };
        if self.store.has_blob(&descriptor.digest, descriptor.size)
            && let Ok(tree) = self.read_stored(diff_id, &descriptor, unpack)
        {
            self.remember_blob(diff_id, &descriptor)?;
            return Ok(tree);
        }
        let read = self.read_from(diff_id, &descriptor, &origin, unpack);
        let tree = read.inspect_err(|error| origin.note_loss(diff_id, error))?;
        self.remember_blob(diff_id, &descriptor)?;
        Ok(tree)
    }

    fn read_stored(&self, diff_id: DiffId, blob: &Descriptor, unpack: bool) -> Result<Arc<Tree>, BuildError> {
        let action = || format!("read the layer {} of the store", blob.digest);
        let mut reader = self.store.open_blob(blob).during(action)?;
        self.take_in(diff_id, &blob.media_type, unpack, &mut reader).map_err(|error| {
            // A damaged blob often fails to decode before its end shows the wrong digest; checking all of it removes it.
            let damage = self.store.open_blob(blob).ok().and_then(|reader| reader.finish().err());
            damage.map_or(error, |damage| BuildError::failed(action(), damage))
        })
    }

    /// Reads a blob from where it comes from into the store, and the layer out of it in the same pass.
    fn read_from(
        &self,
        diff_id: DiffId,
        blob: &Descriptor,
        origin: &Origin,
        unpack: bool,
    ) -> Result<Arc<Tree>, BuildError> {
        let mut source = open_origin(&self.store, origin, blob)?;
        // Every origin checks size and digest of what it gives, so the bytes are not hashed a second time.
        let mut writer = self.store.hashed_blob_writer().during(|| format!("store the blob {}", blob.digest))?;
        let mut tee = Tee { source: &mut *source, copy: &mut writer };
        let tree = self.take_in(diff_id, &blob.media_type, unpack, &mut tee)?;
        // What follows the end of the layer's stream belongs to the blob too.
        io::copy(&mut tee, &mut io::sink()).during(|| format!("read the blob {}", blob.digest))?;
        let finished = writer.finish_with(&blob.media_type, blob.digest, blob.size);
        finished.during(|| format!("store the blob {}", blob.digest))?;
        Ok(tree)
    }

    fn take_in(
        &self,
        diff_id: DiffId,
        media_type: &str,
        unpack: bool,
        reader: &mut (dyn Read + Send),
    ) -> Result<Arc<Tree>, BuildError> {
        let action = || format!("unpack the layer {diff_id}");
        let folder = if unpack { Some(self.store.unpack_dir().during(action)?) } else { None };
        let limits = Limits { temporary_folder: Some(self.store.temp_folder().during(action)?), ..Limits::default() };
        let unpack_into = folder.as_ref().map(|folder| folder.path());
        let read = layer::read_layer(reader, media_type, Some(diff_id), unpack_into, &limits).during(action)?;
        let tree = Arc::new(read.tree);
        self.store.add_layer_tree(diff_id, &mut tree.reader()).during(action)?;
        if let Some(folder) = &folder {
            self.store.adopt_unpacked(diff_id, folder.path()).during(action)?;
        }
        lock(&self.trees).insert(diff_id, Arc::clone(&tree));
        Ok(tree)
    }

    /// Makes sure that the store has a blob of a base image or of a cache, as it is.
    pub(crate) fn fetch_blob(&self, diff_id: DiffId, blob: &Descriptor) -> Result<(), BuildError> {
        if self.store.has_blob(&blob.digest, blob.size) {
            return Ok(());
        }
        let origin = lock(&self.origins).get(&diff_id).cloned();
        let Some((_, origin)) = origin else {
            return Err(BuildError::failed(format!("find the layer {}", blob.digest), "the store has lost it")
                .with_help("build again with --no-cache"));
        };
        let action = || format!("fetch the layer {}", blob.digest);
        let _lock = self.wait_for(|| self.store.try_lock_layer(diff_id), action)?;
        if self.store.has_blob(&blob.digest, blob.size) {
            return Ok(());
        }
        self.copy_from(blob, &origin, action).inspect_err(|error| origin.note_loss(diff_id, error))?;
        self.remember_blob(diff_id, blob)
    }

    /// Copies a blob from where it comes from into the store.
    fn copy_from(
        &self,
        blob: &Descriptor,
        origin: &Origin,
        action: impl Fn() -> String + Copy,
    ) -> Result<(), BuildError> {
        let mut source = open_origin(&self.store, origin, blob)?;
        let mut writer = self.store.hashed_blob_writer().during(action)?;
        io::copy(&mut source, &mut writer).during(action)?;
        writer.finish_with(&blob.media_type, blob.digest, blob.size).during(action)?;
        Ok(())
    }

    /// Reads the layers of a stack whose entries are not known yet, and unpacks them in the same pass: for a caller that
    /// will need the files too.
    pub(super) fn read_new(&self, stack: &[StackLayer]) -> Result<(), BuildError> {
        let new: Vec<DiffId> = stack.iter().map(|layer| layer.diff_id).filter(|id| !self.knows_tree(*id)).collect();
        in_parallel(&new, |diff_id| self.unpacked(*diff_id))?;
        Ok(())
    }

    fn knows_tree(&self, diff_id: DiffId) -> bool {
        lock(&self.trees).contains_key(&diff_id) || self.stored_tree(diff_id).is_some()
    }
}

/// Waits for a lock that its holder may keep for as long as a download takes.
pub(super) fn wait_for_lock(
    take: impl Fn() -> Result<Option<Lock>, StoreError>,
    stopped: impl Fn() -> bool,
    action: impl Fn() -> String,
) -> Result<Lock, BuildError> {
    let (mut pause, longest) = LOOK_AGAIN;
    loop {
        if let Some(lock) = take().during(&action)? {
            return Ok(lock);
        }
        if stopped() {
            return Err(BuildError::cancelled());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

pub(super) fn open_origin<'a>(
    store: &Store,
    origin: &'a Origin,
    blob: &Descriptor,
) -> Result<Box<dyn Read + Send + 'a>, BuildError> {
    Ok(match origin {
        Origin::Layout(layout) => Box::new(layout.open_blob(blob).during(|| format!("open the blob {}", blob.digest))?),
        Origin::Registry(client, reference) => Box::new(client.blob(reference, blob).map_err(|error| {
            let is_offline = error.is_offline();
            let failed = BuildError::failed(format!("fetch the blob {} of {reference}", blob.digest), error);
            match is_offline {
                true => failed.with_help(format!(
                    "the store does not have this layer of `{}`, because no build needed its files: build once without \
                     --offline",
                    reference.without_digest().familiar()
                )),
                false => failed,
            }
        })?),
        Origin::Carried(inner, _) => open_origin(store, inner, blob)?,
        Origin::Store => Box::new(store.open_blob(blob).during(|| format!("open the blob {}", blob.digest))?),
    })
}

struct Tee<'a, W: Write> {
    source: &'a mut (dyn Read + Send),
    copy: &'a mut W,
}

impl<W: Write> Read for Tee<'_, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn waits_for_a_lock_until_it_is_free_or_the_build_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let action = || "wait".to_owned();
        let held = Cell::new(store.try_lock_note("kind", "name").unwrap());
        let tries = Cell::new(0);
        let take = || {
            tries.set(tries.get() + 1);
            if tries.get() == 3 {
                drop(held.take());
            }
            store.try_lock_note("kind", "name")
        };
        let lock = wait_for_lock(take, || false, action).unwrap();
        assert_eq!(tries.get(), 3);
        let error = wait_for_lock(|| store.try_lock_note("kind", "name"), || true, action).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Cancelled), "{error:?}");
        drop(lock);
        assert!(wait_for_lock(|| store.try_lock_note("kind", "name"), || true, action).is_ok());
    }
}
