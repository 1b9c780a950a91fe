//! The layers that a build works with: where each comes from, and bringing it into the form a step needs.
//!
//! A layer has up to three forms in the store: its record (what entries it has), its unpacked files, and compressed
//! blobs. Each is made when something needs it, from whichever of the others there is, or from where the layer
//! comes from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::carry::Losses;
use super::delta::LayerFolders;
use super::encoding::Encoders;
use super::options::Cancel;
use crate::error::{BuildError, During};
use crate::image::LayoutSource;
use crate::layer::{self, EncodedLayer};
use crate::oci::{Descriptor, DiffId};
use crate::progress::Events;
use crate::reference::Reference;
use crate::registry::Client;
use crate::store::{LayerBlob, Store, TempDir, Unpacked};
use crate::sys::mount::MOST_LAYERS;
use crate::sys::threads;
use crate::tree::{MergedTree, OpenContent, Tree, TreeLayer, TreePath};

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

impl Origin {
    /// What it is in a registry, if it is there.
    pub(super) fn registry(&self) -> Option<&Reference> {
        match self {
            Self::Registry(_, reference) => Some(reference),
            Self::Carried(origin, _) => origin.registry(),
            Self::Layout(_) | Self::Store => None,
        }
    }

    /// Lets the build begin again without a layer that a cache has lost.
    pub(super) fn note_loss(&self, diff_id: DiffId, error: &BuildError) {
        if let Self::Carried(_, losses) = self {
            losses.add(diff_id, error);
        }
    }
}

/// A layer of a stage: its diff ID and, for one of a base image, the blob that the image has it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StackLayer {
    pub(crate) diff_id: DiffId,
    pub(crate) base_blob: Option<Descriptor>,
}

/// What ends work on layers before it is done.
#[derive(Default)]
pub(crate) struct Stops {
    /// The build is to stop.
    pub(crate) cancel: Cancel,
    /// A step failed: what is made ahead is not wanted any more.
    pub(crate) failed: Cancel,
}

impl Stops {
    /// Whether either is so.
    pub(super) fn any(&self) -> bool {
        self.cancel.is_cancelled() || self.failed.is_cancelled()
    }
}

/// All layers that a build has to do with.
pub(crate) struct Layers {
    pub(super) store: Store,
    pub(super) origins: Mutex<BTreeMap<DiffId, (Descriptor, Origin)>>,
    pub(super) trees: Mutex<BTreeMap<DiffId, Arc<Tree>>>,
    /// Where layers that were asked for are unpacked: the store's lease keeps them there.
    pub(super) folders: Mutex<BTreeMap<DiffId, Unpacked>>,
    /// Folders of their own that layers have for this build alone.
    pub(super) whole: Mutex<BTreeMap<DiffId, TempDir>>,
    pub(super) stops: Stops,
    /// Who hears of what takes long.
    pub(super) events: Option<Events>,
    /// Layers that only count as there until somebody needs them.
    pub(super) promised: Mutex<BTreeMap<DiffId, Arc<Losses>>>,
    encoders: Encoders,
}

impl Layers {
    pub(crate) fn new(store: Store, stops: Stops, events: Option<Events>) -> Self {
        Self {
            store,
            origins: Mutex::new(BTreeMap::new()),
            trees: Mutex::new(BTreeMap::new()),
            folders: Mutex::new(BTreeMap::new()),
            whole: Mutex::new(BTreeMap::new()),
            stops,
            events,
            promised: Mutex::new(BTreeMap::new()),
            encoders: Encoders::new(),
        }
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    pub(super) const fn encoders(&self) -> &Encoders {
        &self.encoders
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
        self.has_origin(diff_id) || self.is_promise(diff_id) || self.is_stored(diff_id)
    }

    /// Whether a layer can be read from somewhere, the store or not.
    pub(crate) fn has_origin(&self, diff_id: DiffId) -> bool {
        lock(&self.origins).contains_key(&diff_id)
    }

    /// Whether everything of a layer can be had from the store.
    pub(crate) fn is_stored(&self, diff_id: DiffId) -> bool {
        let Some(layer) = self.store.layer(diff_id) else { return false };
        layer.unpacked().is_some() && matches!(layer.tree(), Ok(Some(_)))
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

    /// Keeps the record of a layer that was just made.
    pub(super) fn keep_tree(&self, diff_id: DiffId, tree: Tree) {
        lock(&self.trees).insert(diff_id, Arc::new(tree));
    }

    /// The record of a layer, where it need not be made.
    pub(super) fn tree_at_hand(&self, diff_id: DiffId) -> Option<Arc<Tree>> {
        let known = lock(&self.trees).get(&diff_id).cloned();
        known.or_else(|| self.stored_tree(diff_id))
    }

    pub(super) fn stored_tree(&self, diff_id: DiffId) -> Option<Arc<Tree>> {
        tree_of(&self.store, diff_id).map(Arc::new)
    }

    /// The folders that a layer is unpacked in.
    pub(crate) fn unpacked(&self, diff_id: DiffId) -> Result<Unpacked, BuildError> {
        if let Some(unpacked) = lock(&self.folders).get(&diff_id) {
            return Ok(unpacked.clone());
        }
        let action = || format!("unpack the layer {diff_id}");
        let unpacked = match self.store.sound_layer(diff_id).during(action)? {
            Some(unpacked) => unpacked,
            None => {
                self.load(diff_id, true)?;
                let unpacked = self.store.sound_layer(diff_id).during(action)?;
                unpacked.ok_or_else(|| BuildError::failed(action(), "it is gone again"))?
            }
        };
        lock(&self.folders).insert(diff_id, unpacked.clone());
        Ok(unpacked)
    }

    /// The folders of a stack, lowest first, ready to be overlay lower directories: unpacks what is not yet, several
    /// layers at a time.
    pub(crate) fn unpacked_stack(&self, stack: &[StackLayer]) -> Result<Vec<PathBuf>, BuildError> {
        let known = |layer: &StackLayer| Some((layer.diff_id, lock(&self.folders).get(&layer.diff_id).cloned()?));
        let unpacked = known_or_in_parallel(stack, known, |layer| Ok((layer.diff_id, self.unpacked(layer.diff_id)?)))?;
        self.stack_folders(&unpacked, MOST_LAYERS - FOLDERS_OF_STEPS)
    }

    /// A view of a stack's merged tree whose files will be read.
    pub(crate) fn view_with_files(self: &Arc<Self>, stack: &[StackLayer]) -> Result<MergedTree, BuildError> {
        self.read_new(stack)?;
        self.view(stack)
    }

    /// A view of a stack's merged tree.
    pub(crate) fn view(self: &Arc<Self>, stack: &[StackLayer]) -> Result<MergedTree, BuildError> {
        let known = |layer: &StackLayer| lock(&self.trees).get(&layer.diff_id).cloned();
        let trees = known_or_in_parallel(stack, known, |layer| self.tree(layer.diff_id))?;
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

    pub(super) fn remember_blob(&self, diff_id: DiffId, descriptor: &Descriptor) -> Result<(), BuildError> {
        self.store
            .add_layer_blob(
                diff_id,
                LayerBlob {
                    descriptor: descriptor.clone(),
                    compression: compression_name(&descriptor.media_type).to_owned(),
                    encoder: layer::ENCODER_VERSION.to_string(),
                    source: self
                        .registry_of(diff_id, &descriptor.digest)
                        .map(|reference| reference.without_digest().to_string()),
                },
            )
            .during(|| format!("record the layer {diff_id}"))
    }
}

pub(super) fn descriptor_of(encoded: &EncodedLayer) -> Descriptor {
    Descriptor::new(encoded.media_type, encoded.digest, encoded.size)
}

pub(super) fn compression_name(media_type: &str) -> &'static str {
    match media_type {
        t if t.ends_with("gzip") => "gzip",
        t if t.ends_with("zstd") => "zstd",
        _ => "uncompressed",
    }
}

/// Opens files of a layer, unpacking it first where that was not done yet.
struct UnpackedFiles {
    layers: Arc<Layers>,
    diff_id: DiffId,
}

impl OpenContent for UnpackedFiles {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
        let unpacked = self.layers.unpacked(self.diff_id).map_err(io::Error::other)?;
        LayerFolders::open(&unpacked).and_then(|folders| folders.open_file(path)).map_err(io::Error::other)
    }
}

/// Folders that a step's mount stacks besides those of layers: that of its mount points.
const FOLDERS_OF_STEPS: usize = 1;

/// How many layers are fetched or unpacked at the same time.
const PARALLEL_LAYERS: usize = 4;

/// Does the same for several things, a few at a time, in plain threads: the work may wait for a network.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, BuildError> + Sync,
) -> Result<Vec<R>, BuildError> {
    threads::in_parallel(items, PARALLEL_LAYERS, work)
}

/// As [`in_parallel`], for things most of which are known: threads are started for the others only.
fn known_or_in_parallel<T: Sync, R: Send>(
    items: &[T],
    known: impl Fn(&T) -> Option<R>,
    work: impl Fn(&T) -> Result<R, BuildError> + Sync,
) -> Result<Vec<R>, BuildError> {
    let found: Vec<Option<R>> = items.iter().map(known).collect();
    let unknown: Vec<&T> =
        items.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(item, _)| item).collect();
    let mut made = in_parallel(&unknown, |item| work(item))?.into_iter();
    Ok(found.into_iter().map(|found| found.or_else(|| made.next()).expect("what is not known was made")).collect())
}

/// The record of a layer, where the store has it whole.
pub(super) fn tree_of(store: &Store, diff_id: DiffId) -> Option<Tree> {
    let record = store.layer(diff_id)?.tree().ok()??;
    Tree::from_file(record.file, record.length).ok()?.ok()
}

/// Takes a lock whose data no panic leaves half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
