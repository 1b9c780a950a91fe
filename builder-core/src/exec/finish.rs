//! The end of a build: configuration, manifest, names, outputs, push.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::build::{Build, BuildResult, BuiltImage, StageKey};
use super::build_arguments::{MULTI_PLATFORM, truth};
use super::carry;
use super::layers::{StackLayer, in_parallel};
use super::left_blobs;
use super::options::{BuildOptions, Destination, Output, OutputKind};
use super::stage::StageResult;
use crate::error::{BuildError, During};
use crate::image::{self, AnnotationLevel, ArchiveFormat, ArchiveOptions, AssembleOptions};
use crate::oci::{Descriptor, Digest, History, ImageConfig, Platform};
use crate::progress::Event;

/// Makes images of the targets, and puts them where they were wanted.
pub(crate) fn finish(build: &Build<'_>, targets: &[StageKey]) -> Result<BuildResult, BuildError> {
    let mut images = Vec::new();
    let mut manifests = Vec::new();
    for key in targets {
        let result = build.stage_result(key.platform, key.stage)?;
        let config = finished_config(build, &result);
        let mut built = BuiltImage {
            platform: build.platforms()[key.platform].clone(),
            manifest: None,
            config_digest: None,
            config,
        };
        if build.makes_image() {
            let layers = in_parallel(&result.stack, |layer| blob_of(build, layer))?;
            let mut annotations = annotations(build, AnnotationLevel::Manifest, &built.platform);
            if carry::is_inline(build.options)? {
                annotations.extend(carry::inline_annotation(build, *key));
            }
            let options = AssembleOptions { annotations, ..AssembleOptions::default() };
            let mut manifest = image::assemble(build.layers.store(), &built.config, &layers, &options)
                .during(|| "put the image together".to_owned())?;
            manifest.annotations = self::annotations(build, AnnotationLevel::ManifestDescriptor, &built.platform);
            built.config_digest = Some(Digest::of(&built.config.to_json()));
            built.manifest = Some(manifest.clone());
            manifests.push(manifest);
        }
        images.push(built);
    }
    let manifest = match &manifests[..] {
        [] => None,
        [only] if !makes_index(build.options)? => Some(only.clone()),
        several => Some(index(build, several)?),
    };
    if let Some(manifest) = &manifest {
        name(build, manifest)?;
    }
    for output in &build.options.outputs {
        write_output(build, output, manifest.as_ref(), targets)?;
    }
    if build.options.push
        && let Some(manifest) = &manifest
    {
        push(build, manifest)?;
    }
    if let (Some(manifest), Some(config)) = (&manifest, images.first().and_then(|image| image.config_digest)) {
        build.events.event(Event::Built { manifest: manifest.digest, config });
    }
    Ok(BuildResult { manifest, images })
}

/// The blob that the image has a layer in. One that is in a registry need not be in the store where nothing reads it there.
fn blob_of(build: &Build<'_>, layer: &StackLayer) -> Result<Descriptor, BuildError> {
    let compression = build.options.compression;
    if !keeps_whole_image(build.options)
        && let Some(blob) = build.layers.left_blob(layer, compression)?
    {
        return Ok(blob);
    }
    build.layers.blob(layer, compression)
}

/// Whether all bytes of the image are wanted on this machine: in an output, or under a name that other tools find it by
/// in the store. One that is pushed is found by that name in its registry.
fn keeps_whole_image(options: &BuildOptions) -> bool {
    let is_image = |output: &Output| match output.kind {
        OutputKind::OciArchive | OutputKind::DockerArchive | OutputKind::OciLayout => true,
        OutputKind::Local | OutputKind::Tar => false,
    };
    options.outputs.iter().any(is_image) || (!options.tags.is_empty() && !options.push)
}

/// Whether an index is made of one manifest too: for what BUILDKIT_MULTI_PLATFORM says, or to annotate it.
///
/// # Errors
/// When the argument is no truth value, or forbids the index that several platforms take.
pub(crate) fn makes_index(options: &BuildOptions) -> Result<bool, BuildError> {
    let annotated = options.annotations.iter().any(|annotation| annotation.level.needs_index());
    match truth(options, MULTI_PLATFORM)? {
        Some(false) if options.platforms.len() > 1 => Err(BuildError::usage(
            format!("the build argument {MULTI_PLATFORM} says no to several platforms, and several were asked for"),
            "leave the argument out, or build for one platform",
        )),
        asked => Ok(asked == Some(true) || annotated),
    }
}

fn annotations(build: &Build<'_>, level: AnnotationLevel, platform: &Platform) -> BTreeMap<String, String> {
    image::annotations_of(&build.options.annotations, level, platform)
}

fn index(build: &Build<'_>, manifests: &[Descriptor]) -> Result<Descriptor, BuildError> {
    let platform = build.target_platform();
    let annotations = |level| annotations(build, level, &platform);
    let options = AssembleOptions { annotations: annotations(AnnotationLevel::Index), ..AssembleOptions::default() };
    let mut index = image::assemble_index(build.layers.store(), manifests, &options)
        .during(|| "put the index together".to_owned())?;
    index.annotations = annotations(AnnotationLevel::IndexDescriptor);
    Ok(index)
}

/// Fills in what is known only now: layers, and the times of entries that made no layer.
fn finished_config(build: &Build<'_>, result: &StageResult) -> ImageConfig {
    let mut config = result.config.clone();
    let mut last: Option<String> = None;
    let fallback = config
        .history
        .iter()
        .find_map(|entry: &History| entry.created.clone())
        .unwrap_or_else(|| build.timestamp(build.now()));
    let own = |entry: &History| entry.comment == crate::plan::HISTORY_COMMENT;
    for entry in &mut config.history {
        if entry.created.is_none() && own(entry) {
            let time = if build.epoch.is_some() {
                build.timestamp(0)
            } else {
                last.clone().unwrap_or_else(|| fallback.clone())
            };
            entry.created = Some(time);
        }
        if entry.created.is_some() {
            last.clone_from(&entry.created);
        }
    }
    config.created = if build.epoch.is_some() { Some(build.timestamp(0)) } else { last.or(config.created) };
    config
}

fn name(build: &Build<'_>, manifest: &Descriptor) -> Result<(), BuildError> {
    for tag in &build.options.tags {
        build
            .layers
            .store()
            .tag(&tag.to_string(), manifest)
            .during(|| format!("name the image `{}`", tag.familiar()))?;
    }
    // An image without a name stays findable, and is not cleaned away, until the next build in this place.
    if build.options.tags.is_empty() {
        let bytes = serde_json::to_vec(manifest).expect("a descriptor has string keys only");
        build.layers.store().write_note("unnamed", &build.identity, &bytes).during(|| "keep the image".to_owned())?;
    }
    Ok(())
}

fn write_output(
    build: &Build<'_>,
    output: &Output,
    manifest: Option<&Descriptor>,
    targets: &[StageKey],
) -> Result<(), BuildError> {
    let shown = match &output.destination {
        Destination::Path(path) => format!("`{}`", path.display()),
        Destination::Stdout => "standard output".to_owned(),
    };
    let action = || format!("write the image to {shown}");
    let store = build.layers.store();
    match output.kind {
        OutputKind::OciArchive | OutputKind::DockerArchive | OutputKind::OciLayout => {
            let manifest = manifest.expect("an image is made where one is written");
            let format =
                if output.kind == OutputKind::DockerArchive { ArchiveFormat::Docker } else { ArchiveFormat::Oci };
            let names = build.options.tags.iter().map(ToString::to_string).collect();
            let modified_seconds = build.epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(0);
            let options = ArchiveOptions { format, names, modified_seconds, ..ArchiveOptions::default() };
            match &output.destination {
                Destination::Path(path) if output.kind == OutputKind::OciLayout => {
                    image::export_folder(store, manifest, &options, path).during(action)
                }
                Destination::Path(path) => image::export_archive(store, manifest, &options, path).during(action),
                Destination::Stdout => {
                    image::write_archive(store, manifest, &options, &mut io::stdout().lock()).during(action)
                }
            }
        }
        OutputKind::Local | OutputKind::Tar => {
            for key in targets {
                let result = build.stage_result(key.platform, key.stage)?;
                let view = build.layers.view_with_files(&result.stack)?;
                let split = targets.len() > 1 || truth(build.options, MULTI_PLATFORM)? == Some(true);
                let folder = split.then(|| build.platforms()[key.platform].to_string().replace('/', "_"));
                write_files(output, &view, folder.as_deref()).during(action)?;
            }
            Ok(())
        }
    }
}

fn write_files(output: &Output, view: &crate::tree::MergedTree, folder: Option<&str>) -> Result<(), image::ImageError> {
    match (&output.destination, output.kind) {
        (Destination::Path(path), OutputKind::Local) => {
            let target = folder.map_or_else(|| path.clone(), |folder| path.join(folder));
            image::export_local(view, &target, image::LocalOptions::default()).map(drop)
        }
        (Destination::Path(path), _) => image::export_rootfs_tar(view, path),
        (Destination::Stdout, _) => image::write_rootfs_tar(view, &mut io::stdout().lock()),
    }
}

fn push(build: &Build<'_>, manifest: &Descriptor) -> Result<(), BuildError> {
    if build.options.tags.is_empty() {
        return Err(BuildError::usage("--push needs a name for the image", "name it with -t REGISTRY/NAME:TAG"));
    }
    let client = build.client()?;
    for tag in &build.options.tags {
        left_blobs::push(&build.layers, &client, tag, manifest, Arc::clone(&build.events))?;
    }
    Ok(())
}
