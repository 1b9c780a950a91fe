//! Making a manifest of a configuration and layers, and an index of manifests.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::oci::{Descriptor, ImageConfig, media_type};
use crate::store::Store;

use super::ImageError;

/// Whose names the parts of an image have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MediaTypes {
    /// Those of the OCI image specification.
    #[default]
    Oci,
    /// Those of Docker's schema 2, which has no annotations and no zstd.
    Docker,
}

/// How an image is assembled.
#[derive(Debug, Clone, Default)]
pub struct AssembleOptions {
    /// The names of its parts.
    pub media_types: MediaTypes,
    /// Annotations of the manifest or index itself.
    pub annotations: BTreeMap<String, String>,
}

/// Stores an image's configuration and manifest, and gives the manifest's descriptor with the image's platform.
///
/// `layers` are the layers' blobs, lowest first. Their media types are changed to the family asked for; the blobs stay
/// as they are. The bytes are a pure function of the arguments: compact JSON with sorted keys.
///
/// # Errors
/// When there are not as many layers as diff IDs in the configuration, a layer's form does not exist with Docker's
/// media types, or the store can't be written.
pub fn assemble(
    store: &Store,
    config: &ImageConfig,
    layers: &[Descriptor],
    options: &AssembleOptions,
) -> Result<Descriptor, ImageError> {
    let diff_ids = config.rootfs.diff_ids.len();
    if layers.len() != diff_ids {
        return Err(ImageError::LayerCount { layers: layers.len(), diff_ids });
    }
    let (kind, config_kind) = match options.media_types {
        MediaTypes::Oci => (media_type::MANIFEST, media_type::CONFIG),
        MediaTypes::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    let mut named = Vec::new();
    for layer in layers {
        let layer_kind = layer_media_type(&layer.media_type, options.media_types)?;
        named.push(Descriptor::new(layer_kind, layer.digest, layer.size));
    }
    let config_blob =
        store.put_blob(&config.to_json(), config_kind).map_err(ImageError::store("put the configuration"))?;
    let mut document = json!({ "schemaVersion": 2, "mediaType": kind, "config": config_blob, "layers": named });
    add_annotations(&mut document, options);
    let mut manifest = put_document(store, &document, kind)?;
    manifest.platform = Some(config.platform());
    Ok(manifest)
}

/// Stores an index of manifests, which keep their order and their platforms.
///
/// # Errors
/// When the store can't be written.
pub fn assemble_index(
    store: &Store,
    manifests: &[Descriptor],
    options: &AssembleOptions,
) -> Result<Descriptor, ImageError> {
    let kind = match options.media_types {
        MediaTypes::Oci => media_type::INDEX,
        MediaTypes::Docker => media_type::DOCKER_INDEX,
    };
    let mut document = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
    add_annotations(&mut document, options);
    put_document(store, &document, kind)
}

fn add_annotations(document: &mut Value, options: &AssembleOptions) {
    if !options.annotations.is_empty() && options.media_types == MediaTypes::Oci {
        document["annotations"] = json!(options.annotations);
    }
}

fn put_document(store: &Store, document: &Value, kind: &str) -> Result<Descriptor, ImageError> {
    let bytes = serde_json::to_vec(document).expect("a JSON value can always be written");
    store.put_blob(&bytes, kind).map_err(ImageError::store("put the manifest"))
}

/// The name of a layer's form in a family of media types; an unknown form keeps its name in OCI's.
fn layer_media_type(name: &str, family: MediaTypes) -> Result<&str, ImageError> {
    const FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    const NON_DISTRIBUTABLE_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let pairs = [
        (media_type::LAYER, media_type::DOCKER_LAYER),
        (media_type::LAYER_GZIP, media_type::DOCKER_LAYER_GZIP),
        (NON_DISTRIBUTABLE_GZIP, FOREIGN_GZIP),
    ];
    let pair = pairs.into_iter().find(|(oci, docker)| [*oci, *docker].contains(&name));
    match (pair, family) {
        (Some((oci, _)), MediaTypes::Oci) => Ok(oci),
        (Some((_, docker)), MediaTypes::Docker) => Ok(docker),
        (None, MediaTypes::Oci) => Ok(name),
        (None, MediaTypes::Docker) => Err(ImageError::NotInDockerFormat { media_type: name.to_owned() }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::image::{read_index, read_manifest};
    use crate::oci::{DiffId, Digest, Platform};

    /// A store with an image of two layers, the second of them twice.
    pub(in crate::image) fn small_image(media_types: MediaTypes) -> (tempfile::TempDir, Store, Descriptor) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let first = store.put_blob(b"first layer", media_type::DOCKER_LAYER_GZIP).unwrap();
        let second = store.put_blob(b"second layer", media_type::LAYER_GZIP).unwrap();
        let mut config = ImageConfig::empty(&Platform::new("linux", "amd64", ""));
        config.config.env.push("A=1".into());
        config.rootfs.diff_ids = vec![DiffId(Digest::of(b"1")), DiffId(Digest::of(b"2")), DiffId(Digest::of(b"2"))];
        let options = AssembleOptions { media_types, annotations: BTreeMap::new() };
        let image = assemble(&store, &config, &[first, second.clone(), second], &options).unwrap();
        (dir, store, image)
    }

    #[test]
    fn the_bytes_never_change() {
        let (_dir, store, image) = small_image(MediaTypes::Oci);
        assert_eq!(image.digest.to_string(), "sha256:4198a578127720241f47e81de5fad1d9959f38a68b28e8eeb5e7ee3e7a8bd76e");
        let text = String::from_utf8(store.read_blob(&image, 10_000).unwrap()).unwrap();
        let start =
            "{\"config\":{\"digest\":\"sha256:be871dca0a54b2faedd7ebdd145e0498230f9d3585d391b93c7dbf0e9ab91821\",";
        assert!(text.starts_with(start) && text.ends_with(",\"schemaVersion\":2}"), "{text}");
        assert_eq!(image.platform, Some(Platform::new("linux", "amd64", "")));
    }

    #[test]
    fn changes_media_types_to_one_family() {
        for (family, want) in
            [(MediaTypes::Oci, media_type::LAYER_GZIP), (MediaTypes::Docker, media_type::DOCKER_LAYER_GZIP)]
        {
            let (_dir, store, image) = small_image(family);
            let manifest = read_manifest(&store.read_blob(&image, 10_000).unwrap()).unwrap();
            assert_eq!(manifest.media_type, image.media_type);
            assert!(manifest.layers.iter().all(|layer| layer.media_type == want));
        }
        assert!(layer_media_type(media_type::LAYER_ZSTD, MediaTypes::Docker).is_err());
        assert_eq!(layer_media_type("x/y", MediaTypes::Oci).unwrap(), "x/y");
    }

    #[test]
    fn counts_layers() {
        let (_dir, store, _) = small_image(MediaTypes::Oci);
        let config = ImageConfig::empty(&Platform::new("linux", "amd64", ""));
        let layer = Descriptor::new(media_type::LAYER, Digest::of(b""), 0);
        let error = assemble(&store, &config, &[layer], &AssembleOptions::default()).unwrap_err();
        assert!(matches!(error, ImageError::LayerCount { layers: 1, diff_ids: 0 }));
    }

    #[test]
    fn indexes_keep_platforms() {
        let (_dir, store, image) = small_image(MediaTypes::Oci);
        let options = AssembleOptions { annotations: [("k".into(), "v".into())].into(), ..Default::default() };
        let index = assemble_index(&store, std::slice::from_ref(&image), &options).unwrap();
        let index = read_index(&store.read_blob(&index, 10_000).unwrap()).unwrap();
        assert_eq!(index.manifests, [image]);
        assert_eq!(index.annotations["k"], "v");
    }
}
