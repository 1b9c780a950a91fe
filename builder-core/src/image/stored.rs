//! An image in the store.

use crate::oci::{Descriptor, ImageConfig, Platform};
use crate::store::Store;

use super::ImageError;
use super::manifest::{DOCUMENT_LIMIT, Document, Manifest, is_attestation, read_document, resolve_manifest};

/// An image of one platform: its manifest and configuration, both checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration; it names as many diff IDs as the manifest has layers.
    pub config: ImageConfig,
}

impl Image {
    /// Puts together what was read, and checks that layers and configuration fit each other.
    ///
    /// # Errors
    /// When the configuration is not valid or names another number of layers.
    pub fn new(mut descriptor: Descriptor, manifest: Manifest, config: &[u8]) -> Result<Self, ImageError> {
        let invalid = |error: serde_json::Error| ImageError::invalid("image configuration", error.to_string());
        let config: ImageConfig = serde_json::from_slice(config).map_err(invalid)?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ImageError::LayerCount { layers, diff_ids });
        }
        // What an index called it is no part of the image.
        descriptor.annotations.clear();
        descriptor.platform.get_or_insert_with(|| config.platform());
        Ok(Self { descriptor, manifest, config })
    }
}

/// Reads an image from the store; of an index, the image for `platform`.
///
/// # Errors
/// When a part of it is missing, damaged or not valid, or there is no image for the platform.
pub fn load_image(store: &Store, descriptor: &Descriptor, platform: &Platform) -> Result<Image, ImageError> {
    let mut fetch = |d: &Descriptor| read_small(store, d, "manifest");
    let (descriptor, manifest, _) = resolve_manifest(descriptor, platform, &mut fetch)?;
    let config = read_small(store, &manifest.config, "image configuration")?;
    Image::new(descriptor, manifest, &config)
}

/// Reads the images behind a manifest or index, as far as the store has their manifests; attestations are left out.
///
/// # Errors
/// As [`load_image`].
pub fn load_images(store: &Store, descriptor: &Descriptor) -> Result<Vec<Image>, ImageError> {
    let manifests = match read_document(&read_small(store, descriptor, "manifest")?, Some(&descriptor.media_type))? {
        Document::Manifest(_) => vec![descriptor.clone()],
        Document::Index(index) => index.manifests,
    };
    let is_here = |entry: &&Descriptor| !is_attestation(entry) && store.has_blob(&entry.digest, entry.size);
    let load = |entry: &Descriptor| load_image(store, entry, entry.platform.as_ref().unwrap_or(&Platform::host()));
    manifests.iter().filter(is_here).map(load).collect()
}

pub(super) fn read_small(store: &Store, descriptor: &Descriptor, kind: &'static str) -> Result<Vec<u8>, ImageError> {
    check_size(descriptor, kind)?;
    store.read_blob(descriptor, DOCUMENT_LIMIT).map_err(ImageError::store("read the image"))
}

/// Refuses a document that is announced as larger than rbuild reads.
pub(super) fn check_size(descriptor: &Descriptor, kind: &'static str) -> Result<(), ImageError> {
    let (digest, size) = (descriptor.digest, descriptor.size);
    if size > DOCUMENT_LIMIT {
        return Err(ImageError::TooLarge { kind, digest, size, limit: DOCUMENT_LIMIT });
    }
    Ok(())
}
