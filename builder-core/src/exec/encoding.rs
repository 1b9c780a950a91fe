//! Layers that are written: encoded from the changes of a step, or compressed later from their unpacked files.
//!
//! Every encoder of a large layer uses all processors and has its share of memory, so only a few work at a time. What they
//! compress is remembered by its contents, also for later builds.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::compression_progress::{Teller, Watched, stop_if};
use super::layers::{Layers, StackLayer, compression_name, descriptor_of, lock};
use crate::error::{BuildError, During};
use crate::layer::{self, ChunkMemory, ChunkRecord, Compression, EncodeOptions, EncodedLayer, FirstPass, Prefix};
use crate::oci::{Descriptor, DiffId};
use crate::store::StoreError;
use crate::tree::ChangeList;

/// How many large layers are encoded at the same time.
const MOST_ENCODERS: usize = 2;

/// What is shared by all encoders of a build.
pub(crate) struct Encoders {
    places: (Sender<()>, Receiver<()>),
    memory: OnceLock<ChunkMemory>,
    /// What is known of layers that were only unpacked yet.
    first_passes: Mutex<BTreeMap<DiffId, FirstPass>>,
    /// Whether whatever is still compressed is waited for.
    all_awaited: AtomicBool,
}

/// What is to be made of changes besides their digest and record.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AddOptions {
    /// A blob with this compression.
    pub(crate) compression: Option<Compression>,
    /// The compression of a blob that will be made later, where none is made now.
    pub(crate) later: Option<Compression>,
    /// The unpacked files.
    pub(crate) unpack: bool,
    /// A layer that may have most of them already.
    pub(crate) earlier: Option<DiffId>,
}

/// What a layer is encoded for.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// A step that makes it.
    Step,
    /// Something that waits for the blob of this layer.
    Blob(DiffId),
    /// Something that will want it later.
    BlobAhead(DiffId),
}

impl Work {
    /// The layer, where it is known before.
    const fn layer(self) -> Option<DiffId> {
        match self {
            Self::Step => None,
            Self::Blob(layer) | Self::BlobAhead(layer) => Some(layer),
        }
    }
}

impl Encoders {
    pub(super) fn new() -> Self {
        Self {
            places: bounded(MOST_ENCODERS),
            memory: OnceLock::new(),
            first_passes: Mutex::default(),
            all_awaited: AtomicBool::new(false),
        }
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
        let prefix = options.earlier.zip(options.compression).filter(|_| unpack_into.is_none());
        let prefix = prefix.and_then(|(earlier, compression)| self.prefix_of(earlier, compression, changes));
        let prefix = prefix.as_ref();
        let encode_options =
            |compression| EncodeOptions { compression, unpack_into, prefix, ..EncodeOptions::default() };
        let encoded = match options.compression {
            Some(compression) => self.write_blob(changes, encode_options(compression), Work::Step, action)?,
            None => {
                let options = EncodeOptions { later: options.later, ..encode_options(Compression::Uncompressed) };
                self.encode(changes, options, Work::Step, &mut io::sink(), action)?
            }
        };
        let diff_id = encoded.diff_id;
        if let Some(pass) = encoded.first_pass {
            lock(&self.encoders().first_passes).insert(diff_id, pass);
        }
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

    /// What changes begin with that an earlier layer began with.
    fn prefix_of(&self, earlier: DiffId, compression: Compression, changes: &ChangeList) -> Option<Prefix> {
        let bytes = self.store().layer_chunks(earlier, compression_name(compression.media_type()))?;
        let record = ChunkRecord::from_bytes(&bytes)?;
        let tree = self.tree_at_hand(earlier)?;
        // What can't be read is no help.
        Prefix::find(changes, tree, record, compression).ok().flatten()
    }

    /// The blob of a layer in the compression asked for, made from its files where the store has none.
    pub(crate) fn blob(
        self: &Arc<Self>,
        layer: &StackLayer,
        compression: Compression,
    ) -> Result<Descriptor, BuildError> {
        self.blob_by(layer, compression, Work::Blob(layer.diff_id))
    }

    /// As [`Self::blob`], for a moment when nobody waits for it.
    pub(crate) fn blob_in_background(self: &Arc<Self>, layer: &StackLayer, compression: Compression) {
        if self.stops.any() {
            return;
        }
        // Whoever needs the blob tries again, and reports what is wrong.
        let _ = self.blob_by(layer, compression, Work::BlobAhead(layer.diff_id));
    }

    /// Tells that everything that is compressed in the background is waited for.
    pub(crate) fn await_background(&self) {
        self.encoders().all_awaited.store(true, Ordering::Relaxed);
    }

    fn blob_by(
        self: &Arc<Self>,
        layer: &StackLayer,
        compression: Compression,
        work: Work,
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
        let first_pass = lock(&self.encoders().first_passes).remove(&layer.diff_id);
        let options = EncodeOptions { compression, first_pass: first_pass.as_ref(), ..EncodeOptions::default() };
        let encoded = self.write_blob(&changes, options, work, action)?;
        Ok(descriptor_of(&encoded))
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

    /// Encodes changes into a blob of the store. It counts only if the layer is the one that it is for.
    fn write_blob(
        &self,
        changes: &ChangeList,
        options: EncodeOptions<'_>,
        work: Work,
        action: impl Fn() -> String + Copy,
    ) -> Result<EncodedLayer, BuildError> {
        let mut writer = self.store().hashed_blob_writer().during(action)?;
        let encoded = self.encode(changes, options, work, &mut writer, action);
        let is_other = |diff_id: &DiffId| match &encoded {
            Ok(encoded) => *diff_id != encoded.diff_id,
            Err(error) => has_changed(error),
        };
        if let Some(diff_id) = work.layer().filter(is_other) {
            self.discard_unpacked(diff_id).during(action)?;
            return Err(BuildError::failed(action(), StoreError::LayerLost { diff_id })
                .with_help("build again with --no-cache"));
        }
        let encoded = encoded?;
        let descriptor = writer.finish_with(encoded.media_type, encoded.digest, encoded.size).during(action)?;
        self.remember_blob(encoded.diff_id, &descriptor)?;
        if let Some(record) = &encoded.chunks {
            self.remember_chunks(encoded.diff_id, options.compression, record).during(action)?;
        }
        Ok(encoded)
    }

    fn encode(
        &self,
        changes: &ChangeList,
        options: EncodeOptions<'_>,
        work: Work,
        out: &mut dyn io::Write,
        action: impl Fn() -> String + Copy,
    ) -> Result<EncodedLayer, BuildError> {
        let encoders = self.encoders();
        let folder = self.store().temp_folder().during(action)?;
        let done = AtomicU64::new(0);
        let pace = Some(self.store().pace());
        let temporary_folder = Some(folder.as_path());
        let mut options = EncodeOptions { pace, temporary_folder, progress: Some(&done), ..options };
        let is_stopped = || match work {
            Work::Step | Work::Blob(_) => self.stops.cancel.is_cancelled(),
            Work::BlobAhead(_) => self.stops.any(),
        };
        let is_awaited = || match work {
            Work::Step => false,
            Work::Blob(_) => true,
            Work::BlobAhead(_) => encoders.all_awaited.load(Ordering::Relaxed),
        };
        let mut teller = work.layer().zip(self.events.as_ref()).map(|(layer, events)| {
            let what = format!("compress the layer {}", &layer.0.hex()[..12]);
            Teller::new(events, what, layer::estimate(changes))
        });
        let before = || {
            stop_if(is_stopped())?;
            if let Some(teller) = teller.as_mut().filter(|_| is_awaited()) {
                teller.waited(done.load(Ordering::Relaxed));
            }
            Ok(())
        };
        let mut out = Watched { out, before };
        let encoded = if layer::is_large(changes) {
            // What is known is not compressed ahead either.
            let compression = options.later.unwrap_or(options.compression);
            if !compression.is_none() {
                options.memory = Some(encoders.memory.get_or_init(|| self.remembered_chunks(compression)));
            }
            encoders.in_place(|| layer::encode_with(changes, &options, &mut out))
        } else {
            layer::encode_with(changes, &options, &mut out)
        };
        encoded
            .map_err(|error| if is_stopped() { BuildError::cancelled() } else { BuildError::failed(action(), error) })
    }

    /// The chunks of all layers in the store.
    fn remembered_chunks(&self, compression: Compression) -> ChunkMemory {
        let memory = ChunkMemory::new();
        let store = self.store();
        // What can't be read is compressed again.
        for bytes in store.all_layer_chunks(compression_name(compression.media_type())).unwrap_or_default() {
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

/// Whether files that were read a second time had other contents.
fn has_changed(error: &BuildError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(layer::LayerError::Changed))
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
