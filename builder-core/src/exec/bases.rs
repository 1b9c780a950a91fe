//! What stages start from and copy from besides each other: images of registries, layouts and the store, and folders.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::build::Build;
use super::layers::{Layers, Origin, StackLayer, in_parallel, lock};
use super::left_blobs::from_store;
use super::options::NamedContext;
use crate::error::{BuildError, During};
use crate::image::{self, Image, LayoutImage, LayoutSource};
use crate::oci::{Descriptor, ImageConfig, Platform};
use crate::plan::{Needed, Source};
use crate::progress::{Event, Warning};
use crate::reference::Reference;
use crate::registry::PulledImage;
use crate::store::Store;
use crate::tree::TreeView;

/// An image that something is built upon or taken from.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) config: ImageConfig,
    pub(crate) stack: Vec<StackLayer>,
}

/// What a source turned out to be.
#[derive(Clone)]
pub(crate) enum Resolved {
    Image(Arc<Base>),
    Folder(Arc<dyn TreeView>),
}

/// Sources that were looked up already.
#[derive(Default)]
pub(crate) struct Bases {
    resolved: Mutex<BTreeMap<Source, Resolved>>,
}

impl Bases {
    pub(crate) fn resolved(&self, source: &Source) -> Option<Resolved> {
        lock(&self.resolved).get(source).cloned()
    }

    /// Looks up several sources at the same time; gives the failures, each at the place that names the source.
    pub(crate) fn resolve_all(&self, build: &Build<'_>, needed: &[Needed]) -> Vec<BuildError> {
        let look_up = |needed: &Needed| {
            if self.resolved(&needed.source).is_none() {
                let place = |error: BuildError| match needed.span {
                    Some(span) => error.at(span.range()),
                    None => error,
                };
                let resolved = resolve(build, &needed.source).map_err(place)?;
                lock(&self.resolved).insert(needed.source.clone(), resolved);
            }
            Ok(())
        };
        let results = in_parallel(needed, |needed| Ok(look_up(needed)));
        results.into_iter().flatten().filter_map(Result::err).collect()
    }

    /// Looks up a source that nothing depends on; gives none where that fails.
    pub(crate) fn try_resolve(&self, build: &Build<'_>, source: &Source) -> Option<Resolved> {
        if let Some(resolved) = self.resolved(source) {
            return Some(resolved);
        }
        let resolved = resolve(build, source).ok()?;
        lock(&self.resolved).insert(source.clone(), resolved.clone());
        Some(resolved)
    }

    /// The configurations that planning needs; a folder has an empty one.
    pub(crate) fn configs(&self) -> BTreeMap<Source, ImageConfig> {
        lock(&self.resolved)
            .iter()
            .map(|(source, resolved)| {
                let config = match resolved {
                    Resolved::Image(base) => base.config.clone(),
                    Resolved::Folder(_) => ImageConfig::default(),
                };
                (source.clone(), config)
            })
            .collect()
    }
}

fn resolve(build: &Build<'_>, source: &Source) -> Result<Resolved, BuildError> {
    match source {
        Source::Image { reference, platform } => {
            let reference = Reference::parse(reference).during(|| format!("read the image name `{reference}`"))?;
            resolve_image(build, &reference, platform).map(|base| Resolved::Image(Arc::new(base)))
        }
        Source::Named(name) => resolve_named(build, name),
        Source::Scratch | Source::Context | Source::Stage(_) => {
            unreachable!("planning asks for images and named contexts only")
        }
    }
}

fn resolve_named(build: &Build<'_>, name: &str) -> Result<Resolved, BuildError> {
    let context = build.options.named_contexts.get(name).expect("planning takes names from the options");
    let platform = build.target_platform();
    match context {
        NamedContext::Directory(path) => {
            let view = super::context::open_folder(build, path).map_err(|e| named(e, name))?;
            Ok(Resolved::Folder(view))
        }
        NamedContext::Remote(text) => super::context::fetch(build, text).map(|f| Resolved::Folder(f.view)),
        NamedContext::Image(text) => {
            let reference =
                Reference::parse(text).during(|| format!("read the image name of the build context `{name}`"))?;
            resolve_image(build, &reference, &platform).map(|base| Resolved::Image(Arc::new(base)))
        }
        NamedContext::Layout { path, tag, digest } => {
            let action = || format!("open the OCI layout `{}` of the build context `{name}`", path.display());
            let wanted = match (digest, tag) {
                (Some(digest), _) => LayoutImage::Digest(digest.parse().during(action)?),
                (None, Some(tag)) => LayoutImage::Tag(tag.clone()),
                (None, None) => LayoutImage::Default,
            };
            let layout = LayoutSource::open(path).during(action)?;
            let image = layout.image(&wanted, &platform).during(action)?;
            let base = from_image(&build.layers, image, &Origin::Layout(Arc::new(layout)));
            Ok(Resolved::Image(Arc::new(base)))
        }
    }
}

fn named(error: BuildError, name: &str) -> BuildError {
    BuildError::failed(format!("open the build context `{name}`"), error)
}

fn from_image(layers: &Layers, image: Image, origin: &Origin) -> Base {
    let stack: Vec<StackLayer> = image
        .config
        .rootfs
        .diff_ids
        .iter()
        .zip(&image.manifest.layers)
        .map(|(&diff_id, blob)| {
            layers.add_origin(diff_id, blob.clone(), origin.clone());
            StackLayer { diff_id, base_blob: Some(blob.clone()) }
        })
        .collect();
    Base { config: image.config, stack }
}

/// Finds an image: one that was built or pulled into the store, else in its registry.
fn resolve_image(build: &Build<'_>, reference: &Reference, platform: &Platform) -> Result<Base, BuildError> {
    let store = build.layers.store();
    let action = || format!("load the image `{}`", reference.familiar());
    if let Some(descriptor) = store.resolve_tag(&reference.to_string()).during(action)?
        && let Ok(image) = image::load_image(store, &descriptor, platform)
    {
        let base = from_store(&build.layers, image, &|| build.client())?;
        return Ok(checked(build, reference, platform, base));
    }
    let client = build.client()?;
    let known = || {
        // A digest always means the same image; what a tag means is looked up again only when that is asked for.
        let may = reference.digest().is_some() || !build.options.pull;
        let image = pulled_before(store, reference, platform).filter(|_| may)?;
        let origin = Origin::Registry(Arc::clone(&client), reference.clone());
        Some(checked(build, reference, platform, from_image(&build.layers, image, &origin)))
    };
    if let Some(base) = known() {
        return Ok(base);
    }
    let name = note_name(reference, platform);
    let _lock = build.layers.wait_for(|| store.try_lock_note("pulled", &name), action)?;
    // Another build may have looked it up while this one waited.
    if let Some(base) = known() {
        return Ok(base);
    }
    let pulled = client.pull_manifest(reference, platform).map_err(|error| {
        let not_found = error.is_not_found();
        let error = BuildError::failed(action(), error);
        if not_found {
            error.with_help("check the name and the tag; a private image needs `docker login` first")
        } else if build.options.offline {
            error.with_help("build once without --offline: from then on the store knows the image")
        } else {
            error
        }
    })?;
    remember(store, reference, platform, &pulled).during(action)?;
    let descriptor = pulled.manifest.clone();
    let manifest = image::read_manifest(&pulled.manifest_bytes).during(action)?;
    let image = Image::new(descriptor, manifest, &pulled.config_bytes).during(action)?;
    let origin = Origin::Registry(Arc::clone(&client), pulled.reference);
    Ok(checked(build, reference, platform, from_image(&build.layers, image, &origin)))
}

/// Warns when an image is for another platform than it was asked for.
fn checked(build: &Build<'_>, reference: &Reference, platform: &Platform, base: Base) -> Base {
    let has = base.config.platform();
    if !has.satisfies(platform) {
        build.events.event(Event::Warning(Warning {
            rule: "InvalidBaseImagePlatform".to_owned(),
            message: format!(
                "base image `{}` was pulled with platform `{has}`, expected `{platform}`",
                reference.familiar()
            ),
            help: String::new(),
            span: None,
        }));
    }
    base
}

/// The configuration of a source that is on this machine already; nothing is fetched for it.
pub(crate) fn known_config(build: &Build<'_>, source: &Source) -> Option<ImageConfig> {
    let of_store = |text: &str, platform: &Platform| {
        let store = build.layers.store();
        let reference = Reference::parse(text).ok()?;
        let built = store.resolve_tag(&reference.to_string()).ok()?;
        let built = built.and_then(|descriptor| image::load_image(store, &descriptor, platform).ok());
        built.or_else(|| pulled_before(store, &reference, platform)).map(|image| image.config)
    };
    match source {
        Source::Image { reference, platform } => of_store(reference, platform),
        Source::Named(name) => match build.options.named_contexts.get(name)? {
            NamedContext::Image(text) => of_store(text, &build.target_platform()),
            NamedContext::Layout { .. } => match resolve_named(build, name).ok()? {
                Resolved::Image(base) => Some(base.config.clone()),
                Resolved::Folder(_) => None,
            },
            NamedContext::Directory(_) | NamedContext::Remote(_) => None,
        },
        Source::Scratch | Source::Context | Source::Stage(_) => None,
    }
}

fn note_name(reference: &Reference, platform: &Platform) -> String {
    format!("{reference} {platform}")
}

/// Keeps what a reference stands for, so that the next build asks nobody.
fn remember(
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    pulled: &PulledImage,
) -> Result<(), crate::store::StoreError> {
    store.put_blob(&pulled.config_bytes, &pulled.config.media_type)?;
    store.put_blob(&pulled.manifest_bytes, &pulled.manifest.media_type)?;
    let bytes = serde_json::to_vec(&pulled.manifest).expect("a descriptor has string keys only");
    store.write_note("pulled", &note_name(reference, platform), &bytes)
}

fn pulled_before(store: &Store, reference: &Reference, platform: &Platform) -> Option<Image> {
    let bytes = store.read_note("pulled", &note_name(reference, platform)).ok()??;
    let descriptor: Descriptor = serde_json::from_slice(&bytes).ok()?;
    image::load_image(store, &descriptor, platform).ok()
}
