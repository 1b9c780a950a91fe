//! The layers that a build works with: where each comes from, and bringing it into the form a step needs.
//!
//! A layer has up to three forms in the store: its record (what entries it has), its unpacked files, and compressed
//! blobs. Each is made when something needs it, from whichever of the others there is, or from where the layer
//! comes from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::carry::Losses;
use crate::error::{BuildError, During};
use crate::image::LayoutSource;
use crate::layer::{self, Compression, EncodedLayer, Limits};
use crate::oci::{Descriptor, DiffId};
use crate::reference::Reference;
use crate::registry::Client;
use crate::store::{LayerBlob, Store};
use crate::tree::{Change, Content, LayerFiles, MergedTree, OpenContent, Tree, TreeLayer, TreePath};

/// Where a blob can be read that the store may not have.
#[derive(Clone)]
pub(crate) enum Origin {
    /// An OCI layout of this machine.
    Layout(Arc<LayoutSource>),
    /// A registry.
    Registry(Arc<Client>, Reference),
    /// The store itself.
    Store,
    /// A cache of another machine, which may have lost the layer since.
    Carried(Box<Origin>, Arc<Losses>),
}

/// A layer of a stage: its diff ID and, for one of a base image, the blob that the image has it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StackLayer {
    pub(crate) diff_id: DiffId,
    pub(crate) base_blob: Option<Descriptor>,
}

/// All layers that a build has to do with.
pub(crate) struct Layers {
    store: Store,
    origins: Mutex<BTreeMap<DiffId, (Descriptor, Origin)>>,
    trees: Mutex<BTreeMap<DiffId, Arc<Tree>>>,
    /// Layers that only count as there until somebody needs them.
    promised: Mutex<BTreeMap<DiffId, Arc<Losses>>>,
}

impl Layers {
    pub(crate) const fn new(store: Store) -> Self {
        Self {
            store,
            origins: Mutex::new(BTreeMap::new()),
            trees: Mutex::new(BTreeMap::new()),
            promised: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Tells where a base image's layer can be read.
    pub(crate) fn add_origin(&self, diff_id: DiffId, blob: Descriptor, origin: Origin) {
        lock(&self.origins).entry(diff_id).or_insert((blob, origin));
    }

    /// Lets a layer that nobody has count as there. Should it be needed after all, that is a loss.
    pub(crate) fn promise(&self, diff_id: DiffId, losses: &Arc<Losses>) {
        lock(&self.promised).insert(diff_id, Arc::clone(losses));
    }

    /// Whether a layer only counts as there.
    pub(crate) fn is_promise(&self, diff_id: DiffId) -> bool {
        lock(&self.promised).contains_key(&diff_id)
    }

    /// Whether everything of a layer can be had, or counts as there, without making it again.
    pub(crate) fn is_available(&self, diff_id: DiffId) -> bool {
        lock(&self.origins).contains_key(&diff_id) || self.is_promise(diff_id) || self.is_stored(diff_id)
    }

    /// Whether everything of a layer can be had from the store.
    pub(crate) fn is_stored(&self, diff_id: DiffId) -> bool {
        let Some(layer) = self.store.layer(diff_id) else { return false };
        layer.fs_path().is_some() && matches!(layer.tree(), Ok(Some(_)))
            || layer.blobs().is_ok_and(|blobs| !blobs.is_empty())
    }

    /// The record of a layer.
    pub(crate) fn tree(&self, diff_id: DiffId) -> Result<Arc<Tree>, BuildError> {
        if let Some(tree) = lock(&self.trees).get(&diff_id) {
            return Ok(Arc::clone(tree));
        }
        let stored = self.stored_tree(diff_id);
        let tree = match stored {
            Some(tree) => tree,
            None => self.load(diff_id, false)?,
        };
        lock(&self.trees).insert(diff_id, Arc::clone(&tree));
        Ok(tree)
    }

    fn stored_tree(&self, diff_id: DiffId) -> Option<Arc<Tree>> {
        let bytes = self.store.layer(diff_id)?.tree().ok()??;
        Tree::from_bytes(bytes).ok().map(Arc::new)
    }

    /// The folder that a layer is unpacked in, ready to be an overlay lower directory.
    pub(crate) fn unpacked(&self, diff_id: DiffId) -> Result<PathBuf, BuildError> {
        if let Some(path) = self.store.layer(diff_id).and_then(|layer| layer.fs_path()) {
            return Ok(path);
        }
        self.load(diff_id, true)?;
        self.store
            .layer(diff_id)
            .and_then(|layer| layer.fs_path())
            .ok_or_else(|| BuildError::failed(format!("unpack the layer {diff_id}"), "it is gone again"))
    }

    /// The folders of a stack, lowest first, unpacking what is not yet, several at a time.
    pub(crate) fn unpacked_stack(&self, stack: &[StackLayer]) -> Result<Vec<PathBuf>, BuildError> {
        in_parallel(stack, |layer| self.unpacked(layer.diff_id))
    }

    /// A view of a stack's merged tree.
    pub(crate) fn view(self: &Arc<Self>, stack: &[StackLayer]) -> Result<MergedTree, BuildError> {
        let trees = in_parallel(stack, |layer| self.tree(layer.diff_id))?;
        Ok(MergedTree::new(
            stack
                .iter()
                .zip(trees)
                .map(|(layer, tree)| TreeLayer {
                    tree,
                    files: Arc::new(UnpackedFiles { layers: Arc::clone(self), diff_id: layer.diff_id }),
                })
                .collect(),
        ))
    }

    /// Reads a layer's blob for its record and, when asked, unpacks it on the way.
    fn load(&self, diff_id: DiffId, unpack: bool) -> Result<Arc<Tree>, BuildError> {
        let action = || format!("read the layer {diff_id}");
        let _lock = self.store.lock_layer(diff_id).during(action)?;
        // Another thread or process may have done it while this one waited.
        if let Some(tree) = self.stored_tree(diff_id)
            && (!unpack || self.store.layer(diff_id).is_some_and(|layer| layer.fs_path().is_some()))
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
                BuildError::failed(action(), "the store has lost it").with_help("build again with --no-cache")
            }));
        };
        if self.store.has_blob(&descriptor.digest, descriptor.size)
            && let Ok(tree) = self.read_stored(diff_id, &descriptor, unpack)
        {
            self.remember_blob(diff_id, &descriptor)?;
            return Ok(tree);
        }
        let tree = self.read_from(diff_id, &descriptor, &origin, unpack).inspect_err(|error| {
            if let Origin::Carried(_, losses) = &origin {
                losses.add(diff_id, error);
            }
        })?;
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
        let mut writer = self.store.blob_writer().during(|| format!("store the blob {}", blob.digest))?;
        let mut tee = Tee { source: &mut *source, copy: &mut writer };
        let tree = self.take_in(diff_id, &blob.media_type, unpack, &mut tee)?;
        // What follows the end of the layer's stream belongs to the blob too.
        io::copy(&mut tee, &mut io::sink()).during(|| format!("read the blob {}", blob.digest))?;
        writer.finish_expecting(blob).during(|| format!("store the blob {}", blob.digest))?;
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
        let read =
            layer::read_layer(reader, media_type, Some(diff_id), folder.as_ref().map(|f| f.path()), &Limits::default())
                .during(action)?;
        let tree = Arc::new(read.tree);
        self.store.add_layer_tree(diff_id, tree.as_bytes()).during(action)?;
        if let Some(folder) = &folder {
            self.store.adopt_unpacked(diff_id, folder.path()).during(action)?;
        }
        lock(&self.trees).insert(diff_id, Arc::clone(&tree));
        Ok(tree)
    }

    fn remember_blob(&self, diff_id: DiffId, descriptor: &Descriptor) -> Result<(), BuildError> {
        self.store
            .add_layer_blob(
                diff_id,
                LayerBlob {
                    descriptor: descriptor.clone(),
                    compression: compression_name(&descriptor.media_type).to_owned(),
                    encoder: layer::ENCODER_VERSION.to_string(),
                },
            )
            .during(|| format!("record the layer {diff_id}"))
    }

    /// Makes sure that the store has a blob of a base image, as it is.
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
        let mut source = open_origin(&self.store, &origin, blob)?;
        let mut writer = self.store.blob_writer().during(action)?;
        io::copy(&mut source, &mut writer).during(action)?;
        writer.finish_expecting(blob).during(action)?;
        self.remember_blob(diff_id, blob)
    }

    /// Encodes changes that a step made: only their digest and record where the result is not `compressed`.
    pub(crate) fn add(&self, changes: &[Change], compressed: Option<&Compression>) -> Result<DiffId, BuildError> {
        let action = || "write the layer".to_owned();
        let encoded = match compressed {
            Some(compression) => {
                let mut writer = self.store.hashed_blob_writer().during(action)?;
                let encoded = layer::encode(changes, *compression, &mut writer).during(action)?;
                writer.finish_with(encoded.media_type, encoded.digest, encoded.size).during(action)?;
                self.remember_blob(encoded.diff_id, &descriptor_of(&encoded))?;
                encoded
            }
            None => layer::encode(changes, Compression::Uncompressed, &mut io::sink()).during(action)?,
        };
        let diff_id = encoded.diff_id;
        self.store.add_layer_tree(diff_id, encoded.tree.as_bytes()).during(action)?;
        lock(&self.trees).insert(diff_id, Arc::new(encoded.tree));
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
        let action = || format!("compress the layer {}", layer.diff_id);
        let wanted = compression.media_type();
        let known = || -> Result<Option<Descriptor>, BuildError> {
            let blobs = self.store.layer_blobs(layer.diff_id).during(action)?;
            Ok(blobs.into_iter().map(|blob| blob.descriptor).find(|blob| blob.media_type == wanted))
        };
        if let Some(blob) = known()? {
            return Ok(blob);
        }
        let tree = self.tree(layer.diff_id)?;
        // Reading a layer of another machine brought its blob along.
        if let Some(blob) = known()? {
            return Ok(blob);
        }
        let folder = self.unpacked(layer.diff_id)?;
        let changes = changes_of(&tree, &folder).during(action)?;
        let mut writer = self.store.hashed_blob_writer().during(action)?;
        let encoded = layer::encode(&changes, compression, &mut writer).during(action)?;
        if encoded.diff_id != layer.diff_id {
            return Err(BuildError::failed(action(), "its unpacked files were changed by somebody")
                .with_help("build again with --no-cache"));
        }
        let descriptor = writer.finish_with(encoded.media_type, encoded.digest, encoded.size).during(action)?;
        self.remember_blob(layer.diff_id, &descriptor)?;
        Ok(descriptor)
    }
}

fn descriptor_of(encoded: &EncodedLayer) -> Descriptor {
    Descriptor::new(encoded.media_type, encoded.digest, encoded.size)
}

fn compression_name(media_type: &str) -> &'static str {
    match media_type {
        t if t.ends_with("gzip") => "gzip",
        t if t.ends_with("zstd") => "zstd",
        _ => "uncompressed",
    }
}

fn open_origin<'a>(
    store: &Store,
    origin: &'a Origin,
    blob: &Descriptor,
) -> Result<Box<dyn Read + Send + 'a>, BuildError> {
    Ok(match origin {
        Origin::Layout(layout) => Box::new(layout.open_blob(blob).during(|| format!("open the blob {}", blob.digest))?),
        Origin::Registry(client, reference) => {
            Box::new(client.blob(reference, blob).during(|| format!("fetch the blob {} of {reference}", blob.digest))?)
        }
        Origin::Carried(inner, _) => open_origin(store, inner, blob)?,
        Origin::Store => Box::new(store.open_blob(blob).during(|| format!("open the blob {}", blob.digest))?),
    })
}

/// The changes of a layer, from its record and its unpacked files.
pub(crate) fn changes_of(tree: &Tree, folder: &Path) -> io::Result<Vec<Change>> {
    let root = Arc::new(crate::rootfs::Root::open(folder).map_err(io::Error::other)?);
    Ok(tree
        .iter()
        .map(|record| {
            let content = match record.entry.node {
                crate::tree::Node::File { size } if size > 0 => {
                    Content::Source(Arc::new(UnpackedFile { root: Arc::clone(&root), path: record.entry.path.clone() }))
                }
                _ => Content::None,
            };
            Change { entry: record.entry, content }
        })
        .collect())
}

struct UnpackedFile {
    root: Arc<crate::rootfs::Root>,
    path: TreePath,
}

impl OpenContent for UnpackedFile {
    fn open(&self) -> io::Result<File> {
        self.root.open_file(&self.path).map_err(io::Error::other)
    }
}

/// Opens files of a layer, unpacking it first where that was not done yet.
struct UnpackedFiles {
    layers: Arc<Layers>,
    diff_id: DiffId,
}

impl LayerFiles for UnpackedFiles {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        let folder = self.layers.unpacked(self.diff_id).map_err(io::Error::other)?;
        crate::rootfs::Root::open(&folder).and_then(|root| root.open_file(path)).map_err(io::Error::other)
    }
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

/// How many layers are fetched or unpacked at the same time.
const PARALLEL_LAYERS: usize = 4;

/// Does the same for several things, a few at a time, in plain threads: the work may wait for a network.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, BuildError> + Sync,
) -> Result<Vec<R>, BuildError> {
    if items.len() < 2 {
        return items.iter().map(work).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<R, BuildError>>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..items.len().min(PARALLEL_LAYERS) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    lock(&results)[index] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.into_iter().map(|result| result.expect("every index below the length was worked on")).collect()
}

/// Takes a lock whose data no panic leaves half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
