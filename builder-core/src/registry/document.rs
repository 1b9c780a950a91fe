//! Manifests and indexes: what kind a document is, and its parts.
//!
//! A document must be one thing only. One that is a manifest to one reader and an index to another, or whose body says
//! another type than its header, is refused, because it could be checked as the one and used as the other.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::RegistryError;
use super::transport::excerpt;
use crate::oci::{Descriptor, media_type};

const INDEX_ENTRIES_MAX: usize = 10_000;
const LAYERS_MAX: usize = 1_000;

/// What is asked for when a manifest is fetched.
pub(super) const ACCEPT: &str = concat!(
    "application/vnd.oci.image.index.v1+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, ",
    "application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.docker.distribution.manifest.v2+json"
);

const KNOWN: [&str; 4] =
    [media_type::INDEX, media_type::MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST];

/// An image manifest (OCI image spec, "Image Manifest"), as far as moving an image needs it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index of manifests (OCI image spec, "Image Index"), as far as moving an image needs it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The manifests and indexes.
    pub manifests: Vec<Descriptor>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// When it is no manifest, or has more layers than any image.
    pub fn parse(bytes: &[u8]) -> Result<Self, RegistryError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| malformed("manifest", &error))?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(RegistryError::answer(format!("its manifest has more than {LAYERS_MAX} layers")));
        }
        Ok(manifest)
    }
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    ///
    /// When it is no index, or has more than 10 000 entries.
    pub fn parse(bytes: &[u8]) -> Result<Self, RegistryError> {
        let index: Self = serde_json::from_slice(bytes).map_err(|error| malformed("index", &error))?;
        if index.manifests.len() > INDEX_ENTRIES_MAX {
            return Err(RegistryError::answer(format!("its index has more than {INDEX_ENTRIES_MAX} entries")));
        }
        Ok(index)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Tells the media type of a document, from its header and its body.
pub(super) fn kind(bytes: &[u8], content_type: Option<&str>) -> Result<&'static str, RegistryError> {
    let shape: Shape = match serde_json::from_slice(bytes) {
        Ok(shape) => shape,
        Err(_) if bytes.trim_ascii_start().starts_with(b"<") => {
            return Err(RegistryError::answer("a web page came instead of a manifest"));
        }
        Err(error) => return Err(malformed("manifest", &error)),
    };
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Err(RegistryError::answer(
            "it is a manifest of the old schema 1, which names no digests of layers as stored",
        ));
    }
    let known = |text: &str| KNOWN.into_iter().find(|kind| kind.eq_ignore_ascii_case(text));
    let header = content_type.and_then(|text| known(text.split(';').next().unwrap_or_default().trim()));
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.config.is_some() || shape.layers.is_some();
    let body = match shape.media_type.as_deref() {
        None | Some("") => None,
        Some(text) => match known(text) {
            Some(kind) => Some(kind),
            None => return Err(RegistryError::answer(format!("it is a `{}` and not an image", excerpt(text)))),
        },
    };
    if let (Some(header), Some(body)) = (header, body)
        && header != body
    {
        return Err(RegistryError::answer(format!("its header says `{header}` and its body `{body}`")));
    }
    let kind = match (header.or(body), is_index, is_manifest) {
        (_, true, true) => return Err(RegistryError::answer("it is a manifest and an index at once")),
        (_, false, false) => return Err(RegistryError::answer("it is neither a manifest nor an index")),
        (Some(kind), _, _) => kind,
        (None, true, false) => media_type::INDEX,
        (None, false, true) => media_type::MANIFEST,
    };
    if is_index != matches!(kind, media_type::INDEX | media_type::DOCKER_INDEX) {
        return Err(RegistryError::answer(format!("it says that it is a `{kind}` and is not")));
    }
    Ok(kind)
}

fn malformed(what: &str, error: &serde_json::Error) -> RegistryError {
    RegistryError::answer(format!("the {what} is malformed: {}", excerpt(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_kinds() {
        for (body, header, want) in [
            (r#"{"manifests":[]}"#, None, Ok(media_type::INDEX)),
            (r#"{"manifests":[]}"#, Some(media_type::DOCKER_INDEX), Ok(media_type::DOCKER_INDEX)),
            (r#"{"config":{},"layers":[]}"#, Some("text/plain"), Ok(media_type::MANIFEST)),
            (
                r#"{"config":{},"layers":[]}"#,
                Some("Application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
                Ok(media_type::DOCKER_MANIFEST),
            ),
            (r#"{"config":{},"layers":[],"manifests":[]}"#, None, Err("at once")),
            (r#"{"config":{},"layers":[]}"#, Some(media_type::INDEX), Err("and is not")),
            (
                r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
                Some(media_type::DOCKER_INDEX),
                Err("its body"),
            ),
            (r#"{"mediaType":"a/b","config":{},"layers":[]}"#, None, Err("not an image")),
            (r#"{"manifests":[],"manifests":[]}"#, None, Err("duplicate field")),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, Err("schema 1")),
            ("{}", None, Err("neither")),
            ("<html>", None, Err("web page")),
            ("[", None, Err("malformed")),
        ] {
            match (kind(body.as_bytes(), header), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{body}"),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{body}: {error}"),
                (got, want) => panic!("{body}: {got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn bounds_lists() {
        let digest = crate::oci::Digest::of(b"");
        let entry = format!(r#"{{"mediaType":"a","digest":"{digest}","size":1}}"#);
        let many = vec![entry.clone(); INDEX_ENTRIES_MAX + 1].join(",");
        assert!(Index::parse(format!(r#"{{"manifests":[{many}]}}"#).as_bytes()).is_err());
        assert!(Manifest::parse(format!(r#"{{"config":{entry},"layers":[{many}]}}"#).as_bytes()).is_err());
        assert!(Manifest::parse(format!(r#"{{"config":{entry},"layers":[]}}"#).as_bytes()).is_ok());
        for bad in ["-1", "1e30", "\"1\""] {
            let entry = format!(r#"{{"mediaType":"a","digest":"{digest}","size":{bad}}}"#);
            assert!(Index::parse(format!(r#"{{"manifests":[{entry}]}}"#).as_bytes()).is_err(), "{bad}");
        }
    }
}
