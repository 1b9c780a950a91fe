//! What is in a place that holds caches.
//!
//! A cache is a manifest of OCI's kind, which every registry takes and whose layers no clean-up of a registry removes:
//!
//! ```text
//! manifest    artifactType application/vnd.rbuild.cache.v1+json
//!   config    the bundle of step records (`cache::Bundle`), a blob of the same media type
//!   layers    the steps' layers as images have them; annotation containerd.io/uncompressed: the diff ID
//!             cache mounts; annotation rbuild.cache.mount: which one, and where it is in several parts (`parts`)
//!             rbuild.cache.part: `2/3`, rbuild.cache.media-type: what they are together
//! ```
//!
//! An image can be a cache of itself: the bundle is then the text of the annotation `rbuild.cache.v1` of its manifest, and its
//! configuration names the diff IDs. Manifest and configuration stay what they are otherwise, so it runs as before.
//!
//! Nothing that is read here is trusted: sizes are bounded, every blob is checked against its digest, and a layer against
//! its diff ID before anything of it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use super::options::CachePlace;
use super::parts::PART_TYPE;
use crate::cache::Bundle;
use crate::error::{BuildError, During};
use crate::exec::layers::Origin;
use crate::exec::options::BuildOptions;
use crate::image::{self, Document, LayoutImage, LayoutSource, Manifest};
use crate::oci::{Descriptor, DiffId, Digest, ImageConfig, Platform, media_type};
use crate::reference::Reference;
use crate::registry::{self, Client};

/// The media type of a bundle, and what a cache's manifest says that it is.
pub(super) const BUNDLE_TYPE: &str = "application/vnd.rbuild.cache.v1+json";

/// The annotation of an image's manifest that holds a bundle.
pub(crate) const INLINE_ANNOTATION: &str = "rbuild.cache.v1";

/// The annotation of a layer's descriptor that names its diff ID, as other tools write it too.
pub(super) const DIFF_ID_ANNOTATION: &str = "containerd.io/uncompressed";

/// The annotation of a layer that is a cache mount: which one it is.
const MOUNT_ANNOTATION: &str = "rbuild.cache.mount";

/// The annotation of a layer that is one of several parts of a cache mount: its place and their number, as in `2/3`.
const PART_ANNOTATION: &str = "rbuild.cache.part";

/// The annotation of a part that names the media type of the archive they are together.
const WHOLE_ANNOTATION: &str = "rbuild.cache.media-type";

/// The most cache mounts that are looked at, and the longest name of one.
const MOUNT_LIMIT: usize = 256;

/// The most parts of all cache mounts together: registries take no manifest of any size.
pub(super) const PART_LIMIT: usize = 4096;

/// The largest bundle, in bytes.
const BUNDLE_LIMIT: u64 = 32 << 20;

/// The largest configuration of an image, in bytes.
const CONFIG_LIMIT: u64 = 4 << 20;

/// How often a registry is asked that does not answer.
const ATTEMPTS: u32 = 2;

/// A place, ready to be read. Opening it asks nobody.
#[derive(Clone)]
pub(super) enum Opened {
    Registry(Arc<Client>, Reference),
    Layout(Arc<LayoutSource>, LayoutImage),
}

/// A cache mount in a cache: the archive of its files.
#[derive(Debug, Clone)]
pub(super) struct CarriedMount {
    pub(super) diff_id: DiffId,
    /// How the archive is compressed.
    pub(super) media_type: String,
    /// What it is put together of, in order.
    pub(super) parts: Vec<Descriptor>,
}

/// A cache that was read.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The bytes of the manifest; empty where there are several.
    pub(super) manifest: Vec<u8>,
    pub(super) bundle: Bundle,
    /// The blobs of layers.
    pub(super) layers: BTreeMap<DiffId, Descriptor>,
    /// Cache mounts by the hash of what they are.
    pub(super) mounts: BTreeMap<String, CarriedMount>,
    /// Those whose parts are not complete.
    pub(super) broken_mounts: BTreeSet<String>,
    /// Every blob that the place has because the cache names it.
    pub(super) blobs: BTreeSet<Digest>,
}

/// The options of a client that is less patient than one for images: a cache is worth no long wait.
pub(super) fn client_options(options: &BuildOptions, place: &CachePlace, timeout: Duration) -> registry::Options {
    let offline = options.offline;
    let mut options = options.registry.clone();
    let transport = &mut options.transport;
    transport.offline |= offline;
    transport.attempts = transport.attempts.min(ATTEMPTS);
    for limit in [&mut transport.connect_timeout, &mut transport.answer_timeout, &mut transport.stall_timeout] {
        *limit = (*limit).min(timeout);
    }
    if let CachePlace::Registry { reference, insecure: true } = place {
        options.insecure_registries.push(reference.registry().to_owned());
    }
    options
}

impl Opened {
    pub(super) fn new(place: &CachePlace, options: registry::Options) -> Result<Self, BuildError> {
        Ok(match place {
            CachePlace::Registry { reference, .. } => {
                let client = Client::new(options).during(|| "prepare to reach registries".to_owned())?;
                Self::Registry(Arc::new(client), reference.clone())
            }
            CachePlace::Layout { path, tag, digest } => {
                let layout = LayoutSource::open(path).during(|| format!("open the OCI layout `{}`", path.display()))?;
                let image = digest.map_or_else(|| LayoutImage::Tag(tag.clone()), LayoutImage::Digest);
                Self::Layout(Arc::new(layout), image)
            }
        })
    }

    /// Where the layers can be read.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Registry(client, reference) => Origin::Registry(Arc::clone(client), reference.clone()),
            Self::Layout(layout, _) => Origin::Layout(Arc::clone(layout)),
        }
    }

    /// Whether a blob that a cache names is there as well.
    pub(super) fn has(&self, blob: &Descriptor) -> bool {
        match self {
            // A registry keeps what a manifest of its names.
            Self::Registry(..) => true,
            Self::Layout(layout, _) => layout.has_blob(blob),
        }
    }

    /// Reads the cache that is there; of an image, those for the platforms that are built.
    pub(super) fn read(&self, platforms: &[Platform]) -> Result<Found, BuildError> {
        let (bytes, descriptor) = self.manifest(None)?;
        match image::read_document(&bytes, Some(&descriptor.media_type)).during(|| "read the manifest".to_owned())? {
            Document::Manifest(manifest) => self.found(bytes, descriptor.digest, &manifest),
            Document::Index(index) => {
                let mut all = Found::default();
                for platform in platforms {
                    let Some(entry) = image::select_platform(&index, platform) else { continue };
                    let (bytes, child) = self.manifest(Some(entry))?;
                    let manifest = image::read_manifest(&bytes).during(|| "read the manifest".to_owned())?;
                    all.take(self.found(bytes, child.digest, &manifest)?);
                }
                all.manifest.clear();
                Ok(all)
            }
        }
    }

    fn found(&self, bytes: Vec<u8>, digest: Digest, manifest: &Manifest) -> Result<Found, BuildError> {
        let action = || "read its list of steps".to_owned();
        let mut found = Found { manifest: bytes, ..Found::default() };
        found.blobs.extend(manifest.layers.iter().map(|layer| layer.digest).chain([manifest.config.digest, digest]));
        if manifest.config.media_type == BUNDLE_TYPE {
            found.bundle = Bundle::from_bytes(&self.blob(&manifest.config, BUNDLE_LIMIT)?).during(action)?;
            let diff_id = |layer: &Descriptor| Some(DiffId(layer.annotations.get(DIFF_ID_ANNOTATION)?.parse().ok()?));
            found.add_layers(manifest.layers.iter().filter_map(|layer| Some((diff_id(layer)?, layer))));
            return Ok(found);
        }
        let Some(text) = manifest.annotations.get(INLINE_ANNOTATION) else {
            return Err(BuildError::failed(action(), "it is an image without a cache"));
        };
        found.bundle = Bundle::from_bytes(text.as_bytes()).during(action)?;
        let config = self.blob(&manifest.config, CONFIG_LIMIT)?;
        let config: ImageConfig = serde_json::from_slice(&config).during(|| "read its configuration".to_owned())?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(BuildError::failed(action(), "its configuration names another number of layers"));
        }
        found.add_layers(config.rootfs.diff_ids.into_iter().zip(&manifest.layers));
        Ok(found)
    }

    fn manifest(&self, child: Option<&Descriptor>) -> Result<(Vec<u8>, Descriptor), BuildError> {
        let action = || "read the manifest".to_owned();
        match self {
            Self::Registry(client, reference) => {
                let child = child.map(|child| reference.by_digest(child.digest));
                client.manifest(child.as_ref().unwrap_or(reference)).during(action)
            }
            Self::Layout(layout, image) => {
                let descriptor = match child {
                    Some(child) => child.clone(),
                    None => layout.find(image).during(action)?,
                };
                Ok((self.blob(&descriptor, image::DOCUMENT_LIMIT)?, descriptor))
            }
        }
    }

    fn blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, BuildError> {
        let action = || format!("read the blob {}", blob.digest);
        if blob.size > limit {
            return Err(BuildError::failed(action(), format!("it has {} bytes, and {limit} are the most", blob.size)));
        }
        let mut bytes = Vec::new();
        let read = match self {
            Self::Registry(client, reference) => client.blob(reference, blob).during(action)?.read_to_end(&mut bytes),
            Self::Layout(layout, _) => layout.open_blob(blob).during(action)?.read_to_end(&mut bytes),
        };
        read.during(action)?;
        Ok(bytes)
    }
}

/// The media type of OCI for that of a layer.
fn layer_kind(kind: &str) -> Option<&'static str> {
    Some(match kind {
        media_type::LAYER | media_type::DOCKER_LAYER => media_type::LAYER,
        media_type::LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP,
        media_type::LAYER_ZSTD => media_type::LAYER_ZSTD,
        _ => return None,
    })
}

impl CarriedMount {
    /// Puts a mount together of what a manifest says of its parts, in any order; `None` where one is missing or too much.
    fn of_parts(layers: &[(DiffId, &Descriptor)]) -> Option<Self> {
        let (diff_id, first) = layers.first()?;
        let kind = match first.annotations.get(WHOLE_ANNOTATION) {
            Some(kind) if first.media_type == PART_TYPE => kind,
            _ => &first.media_type,
        };
        let media_type = layer_kind(kind)?.to_owned();
        let mut parts: Vec<Option<Descriptor>> = vec![None; layers.len()];
        for (_, layer) in layers {
            let place = match layer.annotations.get(PART_ANNOTATION) {
                None => 0,
                Some(text) => {
                    let (place, number) = text.split_once('/')?;
                    let is_complete = number.parse() == Ok(layers.len());
                    place.parse::<usize>().ok().filter(|_| is_complete)?.checked_sub(1)?
                }
            };
            let part = parts.get_mut(place).filter(|part| part.is_none())?;
            *part = Some(Descriptor::new(&layer.media_type, layer.digest, layer.size));
        }
        Some(Self { diff_id: *diff_id, media_type, parts: parts.into_iter().collect::<Option<_>>()? })
    }

    /// The layers of a manifest that are the mount of this name.
    pub(super) fn layers(&self, id: &str) -> impl Iterator<Item = Descriptor> {
        self.parts.iter().enumerate().map(move |(at, part)| {
            let mut layer = part.clone();
            let mut annotate = |name: &str, value: String| layer.annotations.insert(name.to_owned(), value);
            annotate(MOUNT_ANNOTATION, id.to_owned());
            annotate(DIFF_ID_ANNOTATION, self.diff_id.to_string());
            if self.parts.len() > 1 {
                annotate(PART_ANNOTATION, format!("{}/{}", at + 1, self.parts.len()));
                annotate(WHOLE_ANNOTATION, self.media_type.clone());
            }
            layer
        })
    }
}

impl Found {
    fn add_layers<'a>(&mut self, layers: impl Iterator<Item = (DiffId, &'a Descriptor)>) {
        let mut mounts: BTreeMap<&str, Vec<(DiffId, &Descriptor)>> = BTreeMap::new();
        for (diff_id, layer) in layers {
            match layer.annotations.get(MOUNT_ANNOTATION) {
                Some(id) if id.len() <= MOUNT_LIMIT => mounts.entry(id).or_default().push((diff_id, layer)),
                Some(_) => {}
                None => {
                    let Some(kind) = layer_kind(&layer.media_type) else { continue };
                    self.layers.insert(diff_id, Descriptor::new(kind, layer.digest, layer.size));
                }
            }
        }
        for (id, parts) in mounts.into_iter().take(MOUNT_LIMIT) {
            match CarriedMount::of_parts(&parts) {
                Some(mount) => drop(self.mounts.insert(id.to_owned(), mount)),
                None => drop(self.broken_mounts.insert(id.to_owned())),
            }
        }
    }

    fn take(&mut self, other: Self) {
        self.bundle.extend(other.bundle);
        self.layers.extend(other.layers);
        self.mounts.extend(other.mounts);
        self.broken_mounts.extend(other.broken_mounts);
        self.blobs.extend(other.blobs);
    }
}
