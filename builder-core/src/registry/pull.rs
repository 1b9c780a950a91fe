//! Pulling images: from a reference and a platform to a manifest, a configuration and layers.

use std::io::{self, Read};

use super::blob::BlobReader;
use super::client::{Client, context};
use super::document::{Index, Manifest};
use super::error::{Action, RegistryError, RegistryErrorKind};
use super::told::Told;
use crate::oci::{Descriptor, ImageConfig, Platform};
use crate::progress::Events;
use crate::reference::Reference;
use crate::sys::threads::in_parallel;

const INDEX_DEPTH_MAX: usize = 4;
const CONFIG_SIZE_MAX: u64 = 4 * 1024 * 1024;
const UNKNOWN: &str = "unknown";

/// Keeps pulled blobs. Called from several threads.
pub trait BlobSink: Sync {
    /// Whether the blob is there already and need not be pulled.
    fn has(&self, descriptor: &Descriptor) -> bool;

    /// Stores a blob. `reader` checks size and digest and fails where they are wrong, so what it fails on must not be
    /// kept.
    ///
    /// # Errors
    ///
    /// Those of `reader`, passed on as they are, and those of storing.
    fn write(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> io::Result<()>;
}

/// How to pull.
#[derive(Clone)]
pub struct PullOptions {
    /// How many blobs are fetched at once.
    pub parallel: usize,
    /// Hears of progress.
    pub events: Option<Events>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { parallel: 4, events: None }
    }
}

/// An image in a registry, for one platform: all but the layers' bytes.
#[derive(Debug, Clone)]
pub struct PulledImage {
    /// The reference, pinned to what it stood for: the index, or the manifest where there is no index.
    pub reference: Reference,
    /// The indexes on the way to the manifest, outermost first, each with its bytes.
    pub indexes: Vec<(Descriptor, Vec<u8>)>,
    /// The manifest's descriptor.
    pub manifest: Descriptor,
    /// The manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// The configuration's descriptor.
    pub config: Descriptor,
    /// The configuration's bytes.
    pub config_bytes: Vec<u8>,
    /// The layers, lowest first; as many as the configuration has diff IDs.
    pub layers: Vec<Descriptor>,
}

impl Client {
    /// Fetches the manifest and the configuration of the image that a reference has for a platform.
    ///
    /// An image that is not in an index is taken for any platform; its configuration says which one it is for.
    ///
    /// # Errors
    ///
    /// When nothing is for the platform, and when the documents contradict each other.
    pub fn pull_manifest(&self, reference: &Reference, platform: &Platform) -> Result<PulledImage, RegistryError> {
        let context = context(Action::FetchManifest, reference);
        let (mut bytes, mut descriptor) = self.manifest(reference)?;
        let pinned = reference.with_digest(descriptor.digest);
        let mut indexes = Vec::new();
        while descriptor.is_index() {
            if indexes.len() == INDEX_DEPTH_MAX {
                let reason = format!("its indexes are nested more than {INDEX_DEPTH_MAX} deep");
                return Err(context(RegistryError::answer(reason)));
            }
            let index = Index::parse(&bytes).map_err(&context)?;
            let chosen = select(&index, platform).ok_or_else(|| {
                let available = platforms(&index);
                context(RegistryError::new(RegistryErrorKind::Platform { wanted: platform.clone(), available }))
            })?;
            let (child_bytes, child) = self.manifest(&reference.by_digest(chosen.digest))?;
            if child.size != chosen.size {
                let kind = RegistryErrorKind::Size { wanted: chosen.size, got: child.size };
                return Err(context(RegistryError::new(kind)));
            }
            indexes.push((descriptor, bytes));
            (bytes, descriptor) = (child_bytes, child);
        }
        let manifest = Manifest::parse(&bytes).map_err(&context)?;
        let config_bytes = self.small_blob(reference, &manifest.config)?;
        check_config(&manifest, &config_bytes).map_err(&context)?;
        Ok(PulledImage {
            reference: pinned,
            indexes,
            manifest: descriptor,
            manifest_bytes: bytes,
            config: manifest.config,
            config_bytes,
            layers: manifest.layers,
        })
    }

    /// Fetches blobs that the sink does not have, several at once.
    ///
    /// # Errors
    ///
    /// The first failure of the registry or of the sink; nothing new is begun after it.
    pub fn pull_blobs(
        &self,
        reference: &Reference,
        blobs: &[Descriptor],
        sink: &dyn BlobSink,
        options: &PullOptions,
    ) -> Result<(), RegistryError> {
        let mut wanted: Vec<&Descriptor> = Vec::new();
        for blob in blobs {
            if !wanted.iter().any(|other| other.digest == blob.digest) && !sink.has(blob) {
                wanted.push(blob);
            }
        }
        let pull = |blob: &&Descriptor| {
            let reader = self.blob(reference, blob)?;
            let mut told = Told::new(reader, blob, options.events.as_ref());
            sink.write(blob, &mut told).map_err(|error| sink_error(error, reference, blob))
        };
        in_parallel(&wanted, options.parallel, pull).map(drop)
    }

    fn small_blob(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let context = context(Action::FetchBlob(descriptor.digest), reference);
        if descriptor.size > CONFIG_SIZE_MAX {
            let reason = format!("the configuration is larger than {CONFIG_SIZE_MAX} bytes");
            return Err(context(RegistryError::answer(reason)));
        }
        let mut bytes = Vec::new();
        let mut reader: BlobReader<'_> = self.blob(reference, descriptor)?;
        reader.read_to_end(&mut bytes).map_err(|error| sink_error(error, reference, descriptor))?;
        Ok(bytes)
    }
}

/// Pulls a whole image into a sink: its indexes and its manifest, its configuration, and its layers.
///
/// # Errors
///
/// Those of [`Client::pull_manifest`] and [`Client::pull_blobs`].
pub fn pull_image(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
    sink: &dyn BlobSink,
    options: &PullOptions,
) -> Result<PulledImage, RegistryError> {
    let image = client.pull_manifest(reference, platform)?;
    client.pull_blobs(reference, &image.layers, sink, options)?;
    // What names other blobs is stored after them.
    let config = (&image.config, &image.config_bytes);
    let manifest = (&image.manifest, &image.manifest_bytes);
    let indexes = image.indexes.iter().rev().map(|(descriptor, bytes)| (descriptor, bytes));
    for (descriptor, bytes) in [config, manifest].into_iter().chain(indexes) {
        if !sink.has(descriptor) {
            let written = sink.write(descriptor, &mut bytes.as_slice());
            written.map_err(|error| sink_error(error, reference, descriptor))?;
        }
    }
    Ok(image)
}

/// Takes the best entry of an index for a platform. Attestations (`unknown/unknown`) are never taken.
fn select<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let variant = |platform: &Platform| Platform::new(&platform.os, &platform.architecture, &platform.variant).variant;
    let mut best: Option<((bool, String), &Descriptor)> = None;
    for entry in &index.manifests {
        let Some(platform) = entry.platform.as_ref().filter(|platform| platform.satisfies(wanted)) else { continue };
        let score = (variant(platform) == variant(wanted), variant(platform));
        if best.as_ref().is_none_or(|(other, _)| score > *other) {
            best = Some((score, entry));
        }
    }
    best.map(|(_, entry)| entry).or_else(|| index.manifests.iter().find(|entry| entry.platform.is_none()))
}

fn platforms(index: &Index) -> Vec<Platform> {
    let known = |platform: &&Platform| platform.os != UNKNOWN && platform.architecture != UNKNOWN;
    index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).filter(known).cloned().collect()
}

fn check_config(manifest: &Manifest, bytes: &[u8]) -> Result<(), RegistryError> {
    let config: ImageConfig = serde_json::from_slice(bytes)
        .map_err(|error| RegistryError::answer(format!("its configuration is malformed: {error}")))?;
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers == diff_ids {
        return Ok(());
    }
    Err(RegistryError::answer(format!("its manifest has {layers} layers and its configuration {diff_ids}")))
}

/// Tells an error of the registry, met while a sink read, from one of the sink.
fn sink_error(error: io::Error, reference: &Reference, descriptor: &Descriptor) -> RegistryError {
    match error.downcast::<RegistryError>() {
        Ok(error) => error,
        Err(error) => {
            let sink = RegistryError::new(RegistryErrorKind::Sink).caused_by(error);
            context(Action::FetchBlob(descriptor.digest), reference)(sink)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media_type};

    fn index(platforms: &[Option<(&str, &str, &str)>]) -> Index {
        let entry = |(number, platform): (usize, &Option<(&str, &str, &str)>)| {
            let mut descriptor = Descriptor::new(media_type::MANIFEST, Digest::of(&[number as u8]), number as u64);
            descriptor.platform = platform.map(|(os, architecture, variant)| Platform {
                architecture: architecture.to_owned(),
                os: os.to_owned(),
                os_version: String::new(),
                os_features: Vec::new(),
                variant: variant.to_owned(),
            });
            descriptor
        };
        Index { manifests: platforms.iter().enumerate().map(entry).collect() }
    }

    #[test]
    fn selects_the_platform() {
        let many = index(&[
            Some(("unknown", "unknown", "")),
            Some(("windows", "amd64", "")),
            Some(("linux", "arm", "v5")),
            Some(("linux", "arm", "v6")),
            Some(("linux", "arm64", "v8")),
            Some(("linux", "amd64", "")),
            Some(("linux", "amd64", "")),
        ]);
        for (wanted, position) in [
            ("linux/amd64", Some(5)),
            ("linux/arm64", Some(4)),
            ("linux/arm/v7", Some(3)),
            ("linux/arm/v5", Some(2)),
            ("linux/s390x", None),
        ] {
            let chosen = select(&many, &wanted.parse().unwrap()).map(|entry| entry.size);
            assert_eq!(chosen, position, "{wanted}");
        }
        let bare = index(&[Some(("unknown", "unknown", "")), None]);
        assert_eq!(select(&bare, &"linux/amd64".parse().unwrap()).map(|entry| entry.size), Some(1));
        assert_eq!(platforms(&many).len(), 6);
    }
}
