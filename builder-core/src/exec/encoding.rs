//! Layers that are written: encoded from the changes of a step, or compressed later from their unpacked files.
//!
//! Every encoder of a large layer uses all processors and has its share of memory, so only a few work at a time; of
//! those that nobody waits for yet, one. What they compress is remembered by its contents, also for later builds.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::layers::{Layers, StackLayer, compression_name, descriptor_of, lock};
use crate::error::{BuildError, During};
use crate::layer::{self, ChunkMemory, ChunkRecord, Compression, EncodeOptions, EncodedLayer};
use crate::oci::{Descriptor, DiffId};
use crate::store::StoreError;
use crate::tree::ChangeList;

/// How many large layers are encoded at the same time.
const MOST_ENCODERS: usize = 2;

/// What is shared by all encoders of a build.
pub(crate) struct Encoders {
    places: (Sender<()>, Receiver<()>),
    background: Mutex<()>,
    memory: OnceLock<ChunkMemory>,
}

/// What is to be made of changes besides their digest and record.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AddOptions {
    /// A blob with this compression.
    pub(crate) compression: Option<Compression>,
    /// The unpacked files.
    pub(crate) unpack: bool,
    /// A layer that may have most of them already.
    pub(crate) earlier: Option<DiffId>,
}

impl Encoders {
    pub(super) fn new() -> Self {
        Self { places: bounded(MOST_ENCODERS), background: Mutex::new(()), memory: OnceLock::new() }
    }

    /// Works when there is a place.
    fn in_place<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Place<'a>(&'a Receiver<()>);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                let _ = self.0.try_recv();
            }
        }
        // Both ends live as long as this value.
        let _ = self.places.0.send(());
        let _place = Place(&self.places.1);
        work()
    }
}

impl Layers {
    /// Encodes changes that a step made.
    pub(crate) fn add(&self, changes: &ChangeList, options: AddOptions) -> Result<DiffId, BuildError> {
        let action = || "write the layer".to_owned();
        let base = options.earlier.filter(|_| options.unpack).and_then(|earlier| self.base_for(earlier, changes));
        let folder =
            if options.unpack && base.is_none() { Some(self.store().unpack_dir().during(action)?) } else { None };
        let unpack_into = folder.as_ref().map(|folder| folder.path());
        let encoded = match options.compression {
            Some(compression) => self.write_blob(changes, compression, unpack_into, None, action)?,
            None => self.encode(changes, Compression::Uncompressed, unpack_into, &mut io::sink()).during(action)?,
        };
        let diff_id = encoded.diff_id;
        self.store().add_layer_tree(diff_id, &mut encoded.tree.reader()).during(action)?;
        if let Some(folder) = folder {
            self.store().adopt_unpacked(diff_id, folder.path()).during(action)?;
        }
        if let Some(base) = base {
            self.unpack_over(&base, changes, diff_id, &encoded.tree)?;
        }
        self.keep_tree(diff_id, encoded.tree);
        Ok(diff_id)
    }

    /// The blob of a layer in the compression asked for, made from its files where the store has none.
    pub(crate) fn blob(
        self: &Arc<Self>,
        layer: &StackLayer,
        compression: Compression,
    ) -> Result<Descriptor, BuildError> {
        if let Some(blob) = &layer.base_blob {
            self.fetch_blob(layer.diff_id, blob)?;
            return Ok(blob.clone());
        }
        if let Some(blob) = self.known_blob(layer.diff_id, compression)? {
            return Ok(blob);
        }
        let action = || format!("compress the layer {}", layer.diff_id);
        let tree = self.tree(layer.diff_id)?;
        // Reading a layer of another machine brought its blob along.
        if let Some(blob) = self.known_blob(layer.diff_id, compression)? {
            return Ok(blob);
        }
        let unpacked = self.unpacked(layer.diff_id)?;
        let changes = self.changes_of(&tree, &unpacked).during(action)?;
        let encoded = self.write_blob(&changes, compression, None, Some(layer.diff_id), action)?;
        Ok(descriptor_of(&encoded))
    }

    /// As [`Self::blob`], for a moment when nobody waits for it: one layer at a time.
    pub(crate) fn blob_in_background(self: &Arc<Self>, layer: &StackLayer, compression: Compression) {
        let _turn = lock(&self.encoders().background);
        // Whoever needs the blob tries again, and reports what is wrong.
        let _ = self.blob(layer, compression);
    }

    /// The blob of a layer in the compression asked for, if the store has it.
    pub(crate) fn known_blob(
        &self,
        diff_id: DiffId,
        compression: Compression,
    ) -> Result<Option<Descriptor>, BuildError> {
        let known = self.store().layer_blobs(diff_id).during(|| format!("look up the layer {diff_id}"))?;
        let wanted = compression.media_type();
        Ok(known.into_iter().map(|blob| blob.descriptor).find(|descriptor| descriptor.media_type == wanted))
    }

    /// Encodes changes into a blob of the store. It counts only if the layer is the expected one.
    fn write_blob(
        &self,
        changes: &ChangeList,
        compression: Compression,
        unpack_into: Option<&Path>,
        expected: Option<DiffId>,
        action: impl Fn() -> String + Copy,
    ) -> Result<EncodedLayer, BuildError> {
        let mut writer = self.store().hashed_blob_writer().during(action)?;
        let encoded = self.encode(changes, compression, unpack_into, &mut writer).during(action)?;
        if let Some(expected) = expected.filter(|expected| *expected != encoded.diff_id) {
            self.discard_unpacked(expected).during(action)?;
            return Err(BuildError::failed(action(), StoreError::LayerLost { diff_id: expected })
                .with_help("build again with --no-cache"));
        }
        let descriptor = writer.finish_with(encoded.media_type, encoded.digest, encoded.size).during(action)?;
        self.remember_blob(encoded.diff_id, &descriptor)?;
        if let Some(record) = &encoded.chunks {
            self.remember_chunks(encoded.diff_id, compression, record).during(action)?;
        }
        Ok(encoded)
    }

    fn encode(
        &self,
        changes: &ChangeList,
        compression: Compression,
        unpack_into: Option<&Path>,
        out: &mut dyn io::Write,
    ) -> Result<EncodedLayer, layer::LayerError> {
        let encoders = self.encoders();
        let folder = self
            .store()
            .temp_folder()
            .map_err(|error| layer::LayerError::Record { source: io::Error::other(error) })?;
        let temporary_folder = Some(folder.as_path());
        let mut options = EncodeOptions { compression, unpack_into, temporary_folder, ..EncodeOptions::default() };
        if !layer::is_large(changes) {
            return layer::encode_with(changes, &options, out);
        }
        if !matches!(compression, Compression::Uncompressed) {
            options.memory = Some(encoders.memory.get_or_init(|| self.remembered_chunks(compression)));
        }
        encoders.in_place(|| layer::encode_with(changes, &options, out))
    }

    /// The chunks of all layers in the store.
    fn remembered_chunks(&self, compression: Compression) -> ChunkMemory {
        let memory = ChunkMemory::new();
        let store = self.store();
        // What can't be read is compressed again.
        for bytes in store.layer_chunks(compression_name(compression.media_type())).unwrap_or_default() {
            if let Some(record) = ChunkRecord::from_bytes(&bytes) {
                memory.add(&record, &store.blob_path(&record.blob()));
            }
        }
        memory
    }

    fn remember_chunks(
        &self,
        diff_id: DiffId,
        compression: Compression,
        record: &ChunkRecord,
    ) -> Result<(), StoreError> {
        let store = self.store();
        if let Some(memory) = self.encoders().memory.get() {
            memory.add(record, &store.blob_path(&record.blob()));
        }
        store.add_layer_chunks(diff_id, compression_name(compression.media_type()), &record.to_bytes())
    }
}
