//! Blobs of base images and of caches that stay in their registry, because nothing needed their bytes yet.
//!
//! The list of a layer's blobs says which image or cache of a registry each came with, whether it was fetched or not. So whatever
//! needs its bytes later finds them: a step, an output, a command in the image, a push to another registry.

use std::io::{self, Read};
use std::sync::Arc;

use super::bases::Base;
use super::layers::{Layers, Origin, StackLayer, Stops, lock};
use crate::error::{BuildError, During};
use crate::image::{self, Image};
use crate::layer::Compression;
use crate::oci::{Descriptor, DiffId, Digest};
use crate::progress::Events;
use crate::reference::Reference;
use crate::registry::{self, BlobSource, Client, PushOptions};
use crate::store::Store;

/// Gives a client when one is needed.
pub(super) type MakeClient<'a> = &'a dyn Fn() -> Result<Arc<Client>, BuildError>;

impl Layers {
    /// The blob of a layer, where it can stay in a registry until something needs its bytes: that of a base image, or one of
    /// a cache in the `compression` asked for. Where it is is recorded then.
    pub(super) fn left_blob(
        &self,
        layer: &StackLayer,
        compression: Compression,
    ) -> Result<Option<Descriptor>, BuildError> {
        let diff_id = layer.diff_id;
        // Most layers come from nowhere but the store, which need not be asked to tell that.
        let origin = lock(&self.origins).get(&diff_id).map(|(blob, _)| blob.clone());
        let carried = || origin.filter(|blob| blob.media_type == compression.media_type());
        let Some(blob) = layer.base_blob.clone().or_else(carried) else { return Ok(None) };
        if self.registry_of(diff_id, &blob.digest).is_none()
            || self.store.has_blob(&blob.digest, blob.size)
            || layer.base_blob.is_none() && self.known_blob(diff_id, compression)?.is_some()
        {
            return Ok(None);
        }
        self.remember_blob(diff_id, &blob)?;
        Ok(Some(blob))
    }

    /// The image or cache of a registry that a layer's blob comes from in this build.
    pub(super) fn registry_of(&self, diff_id: DiffId, blob: &Digest) -> Option<Reference> {
        match lock(&self.origins).get(&diff_id) {
            Some((known, origin)) if known.digest == *blob => origin.registry().cloned(),
            _ => None,
        }
    }

    /// The image or cache of a registry that has a blob, as far as is known: one of this build, or of an earlier one.
    pub(super) fn pulled_with(&self, blob: &Digest) -> Option<Reference> {
        let (diff_id, descriptor) = self.with_blob(blob)?;
        self.registry_of(diff_id, blob).or_else(|| self.recorded_source(diff_id, &descriptor))
    }

    /// Makes sure that the store has a blob, if it is one of a base image or of a cache.
    pub(super) fn fetch_left(&self, blob: &Descriptor) -> Result<(), BuildError> {
        match self.with_blob(&blob.digest) {
            Some((diff_id, descriptor)) => self.fetch_blob(diff_id, &descriptor),
            None => Ok(()),
        }
    }

    fn with_blob(&self, blob: &Digest) -> Option<(DiffId, Descriptor)> {
        let origins = lock(&self.origins);
        let mut known = origins.iter().map(|(diff_id, (descriptor, _))| (*diff_id, descriptor));
        known.find(|(_, descriptor)| descriptor.digest == *blob).map(|(diff_id, known)| (diff_id, known.clone()))
    }

    fn recorded_source(&self, diff_id: DiffId, blob: &Descriptor) -> Option<Reference> {
        let known = self.recorded_sources(diff_id).into_iter().find(|(known, _)| known.digest == blob.digest);
        known.map(|(_, source)| source)
    }

    /// The blobs of a layer that came from registries or were left there, and which image or cache each is of.
    pub(super) fn recorded_sources(&self, diff_id: DiffId) -> Vec<(Descriptor, Reference)> {
        let blobs = self.store.all_layer_blobs(diff_id).unwrap_or_default();
        let sources =
            blobs.into_iter().filter_map(|blob| Some((blob.descriptor, Reference::parse(&blob.source?).ok()?)));
        sources.collect()
    }
}

/// Takes an image of the store, whose layers' blobs are there or in the registry that they came from.
pub(super) fn from_store(layers: &Layers, image: Image, client: MakeClient<'_>) -> Result<Base, BuildError> {
    let mut stack = Vec::new();
    for (&diff_id, blob) in image.config.rootfs.diff_ids.iter().zip(&image.manifest.layers) {
        // A look claims the blob: no prune may remove what will be read from here.
        let source = match layers.store().has_blob(&blob.digest, blob.size) {
            true => None,
            false => layers.recorded_source(diff_id, blob),
        };
        let origin = match source {
            Some(source) => Origin::Registry(client()?, source),
            None => Origin::Store,
        };
        layers.add_origin(diff_id, blob.clone(), origin);
        stack.push(StackLayer { diff_id, base_blob: Some(blob.clone()) });
    }
    Ok(Base { config: image.config, stack })
}

/// What is pushed, read from the store or else from where it came from.
struct Blobs<'a>(&'a Layers);

impl BlobSource for Blobs<'_> {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + '_>> {
        self.0.fetch_left(descriptor).map_err(io::Error::other)?;
        let reader = self.0.store().open_blob(descriptor).map_err(io::Error::other)?;
        Ok(Box::new(reader))
    }

    fn pulled_with(&self, digest: &Digest) -> Option<Reference> {
        self.0.pulled_with(digest)
    }
}

/// Pushes an image of the layers that are known.
pub(super) fn push(
    layers: &Layers,
    client: &Client,
    reference: &Reference,
    image: &Descriptor,
    events: Events,
) -> Result<Digest, BuildError> {
    let options = PushOptions { events: Some(events), ..PushOptions::default() };
    registry::push_image(client, reference, image, &Blobs(layers), &options)
        .during(|| format!("push the image to `{}`", reference.familiar()))
}

/// Pushes an image of the store, or the images of an index, under a name; gives the digest that it has there.
///
/// Of a base image's blobs that the registry lacks and the store never needed, the bytes are fetched first.
///
/// # Errors
/// When the registry refuses, or a part of the image is neither in the store nor where it came from.
pub fn push_stored(
    store: &Store,
    image: &Descriptor,
    reference: &Reference,
    client: Client,
    events: Events,
) -> Result<Digest, BuildError> {
    let layers = Layers::new(store.clone(), Stops::default(), None);
    let client = Arc::new(client);
    for image in image::load_images(store, image).during(|| format!("load the image `{}`", image.digest))? {
        from_store(&layers, image, &|| Ok(Arc::clone(&client)))?;
    }
    push(&layers, &client, reference, image, events)
}
