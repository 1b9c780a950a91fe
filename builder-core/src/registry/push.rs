//! Pushing images: blobs first, then manifests, then the index, so that nothing names what is not there yet.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::client::{Client, context};
use super::document::{Index, Manifest};
use super::error::{Action, RegistryError, RegistryErrorKind};
use super::manifest::MANIFEST_SIZE_MAX;
use super::response::read_bounded;
use super::told::{Told, tell};
use super::upload::Pushed;
use crate::oci::{Descriptor, Digest};
use crate::progress::Events;
use crate::reference::Reference;
use crate::sys::threads::in_parallel;

const DEPTH_MAX: usize = 4;

/// Gives the blobs of an image to push. Called from several threads.
pub trait BlobSource: Sync {
    /// Opens a blob for reading from its start. May be called again for each attempt.
    ///
    /// # Errors
    ///
    /// When the blob is not there or cannot be read.
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + '_>>;

    /// The image that a blob was pulled with, where known: a registry can take it from there without being sent its
    /// bytes.
    fn pulled_with(&self, _digest: &Digest) -> Option<Reference> {
        None
    }
}

/// How to push.
#[derive(Clone)]
pub struct PushOptions {
    /// How many blobs are sent at once.
    pub parallel: usize,
    /// Hears of progress.
    pub events: Option<Events>,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { parallel: 4, events: None }
    }
}

/// Pushes an image or an index of images under the reference's tag (or its digest, where it has no tag).
///
/// Returns the digest that the registry now has under it: that of `root`. Doing it again is harmless.
///
/// # Errors
///
/// The first failure of the registry or of the source; the tag changes only when everything else is there.
pub fn push_image(
    client: &Client,
    reference: &Reference,
    root: &Descriptor,
    source: &dyn BlobSource,
    options: &PushOptions,
) -> Result<Digest, RegistryError> {
    let mut content = Content::default();
    content.collect(root, source, 0).map_err(context(Action::PushManifest, reference))?;
    let blobs: Vec<&Descriptor> = content.blobs.values().collect();
    let events = options.events.as_ref();
    in_parallel(&blobs, options.parallel, |blob| push_one(client, reference, blob, source, events))?;
    let (last, children) = content.documents.split_last().expect("the root itself is always collected");
    for (descriptor, bytes) in children {
        client.push_manifest(&reference.by_digest(descriptor.digest), &descriptor.media_type, bytes)?;
    }
    client.push_manifest(reference, &last.0.media_type, &last.1)
}

fn push_one(
    client: &Client,
    reference: &Reference,
    blob: &Descriptor,
    source: &dyn BlobSource,
    events: Option<&Events>,
) -> Result<(), RegistryError> {
    let same_registry = |from: &Reference| from.registry() == reference.registry();
    let mount_from = source.pulled_with(&blob.digest).filter(same_registry);
    let open = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(Told::new(source.open(blob)?, blob, events))) };
    let from = mount_from.as_ref().map(Reference::repository);
    match client.push_blob(reference, blob, &open, from)? {
        Pushed::Present | Pushed::Mounted => tell(events, blob, blob.size),
        Pushed::Sent => {}
    }
    Ok(())
}

/// What belongs to an image: blobs, and the documents that name them, each after all that it names.
#[derive(Default)]
struct Content {
    blobs: BTreeMap<Digest, Descriptor>,
    documents: Vec<(Descriptor, Vec<u8>)>,
}

impl Content {
    fn collect(&mut self, descriptor: &Descriptor, source: &dyn BlobSource, depth: usize) -> Result<(), RegistryError> {
        if depth > DEPTH_MAX {
            let reason = format!("its indexes are nested more than {DEPTH_MAX} deep");
            return Err(RegistryError::new(RegistryErrorKind::Content(reason)));
        }
        if depth > 0 && self.documents.iter().any(|(other, _)| other.digest == descriptor.digest) {
            return Ok(());
        }
        let bytes = read_document(descriptor, source)?;
        if descriptor.is_index() {
            for child in Index::parse(&bytes)?.manifests {
                self.collect(&child, source, depth + 1)?;
            }
        } else {
            let manifest = Manifest::parse(&bytes)?;
            let stored = manifest.layers.into_iter().filter(|layer| !is_foreign(layer));
            for blob in stored.chain([manifest.config]) {
                self.blobs.insert(blob.digest, blob);
            }
        }
        self.documents.push((descriptor.clone(), bytes));
        Ok(())
    }
}

fn read_document(descriptor: &Descriptor, source: &dyn BlobSource) -> Result<Vec<u8>, RegistryError> {
    let unreadable = |error: io::Error| RegistryError::new(RegistryErrorKind::Source).caused_by(error);
    let mut bytes = Vec::new();
    read_bounded(&mut source.open(descriptor).map_err(unreadable)?, MANIFEST_SIZE_MAX, &mut bytes)?;
    let got = Digest::of(&bytes);
    if got != descriptor.digest {
        let reason = format!("the stored manifest has the digest {got} instead of {}", descriptor.digest);
        return Err(RegistryError::new(RegistryErrorKind::Content(reason)));
    }
    Ok(bytes)
}

/// Layers that must not be distributed stay where their makers keep them.
fn is_foreign(layer: &Descriptor) -> bool {
    layer.media_type.contains(".foreign.") || layer.media_type.contains(".nondistributable.")
}
