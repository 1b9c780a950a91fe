//! Manifests and indexes (OCI image spec, "Image Manifest" and "Image Index"; Docker's schema 2).
//!
//! A document must be one of the two and nothing else: one that could be read either way, that contradicts the media
//! type it is announced with, or that has a property twice is refused.

use std::collections::{BTreeMap, HashMap};

use oci_spec::image as spec;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::oci::{Descriptor, Digest, DigestError, Platform, media_type};

use super::ImageError;

/// The largest manifest, index or configuration that is read, in bytes.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

/// The most layers of an image, and the most entries of an index.
const ENTRY_LIMIT: usize = 10_000;

/// How deep indexes may be nested.
const DEPTH_LIMIT: usize = 4;

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type, OCI's or Docker's.
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Annotations of the manifest itself.
    pub annotations: BTreeMap<String, String>,
}

/// An image index, or Docker's manifest list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its media type, OCI's or Docker's.
    pub media_type: String,
    /// The manifests, in their order.
    pub manifests: Vec<Descriptor>,
    /// Annotations of the index itself.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image manifest.
    Manifest(Box<Manifest>),
    /// An image index.
    Index(Index),
}

/// Which properties a document has. Reading it refuses one that is there twice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    #[serde(rename = "fsLayers")]
    schema1_layers: Option<IgnoredAny>,
}

/// Reads a manifest or an index. `announced` is the media type of whoever pointed to it, where that is known.
///
/// # Errors
/// When it is neither, could be both, has another media type than announced, or breaks a limit.
pub fn read_document(bytes: &[u8], announced: Option<&str>) -> Result<Document, ImageError> {
    const KIND: &str = "manifest";
    let invalid = |reason: &str| ImageError::invalid(KIND, reason);
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(ImageError::invalid(KIND, format!("it has more than {DOCUMENT_LIMIT} bytes")));
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| ImageError::invalid(KIND, error.to_string()))?;
    if shape.schema1_layers.is_some() || shape.schema_version == Some(1) {
        return Err(invalid("it is of Docker's schema 1, which is no longer supported"));
    }
    if shape.schema_version != Some(2) {
        return Err(invalid("its `schemaVersion` is not 2"));
    }
    let is_index = match (&shape.manifests, shape.config.is_some() || shape.layers.is_some()) {
        (Some(_), true) => return Err(invalid("it could be read as a manifest and as an index")),
        (Some(_), false) => true,
        (None, true) => false,
        (None, false) => return Err(invalid("it has neither `layers` nor `manifests`")),
    };
    let own = shape.media_type.as_deref();
    // A layout's index.json is often pointed to by nothing, and many manifests leave their type out.
    let announced = announced.filter(|text| text.starts_with("application/vnd."));
    if let (Some(own), Some(announced)) = (own, announced)
        && own != announced
    {
        let reason = format!("it says that it is `{own}` but was announced as `{announced}`");
        return Err(ImageError::invalid(KIND, reason));
    }
    let kind = own.or(announced).unwrap_or(if is_index { media_type::INDEX } else { media_type::MANIFEST });
    let known: &[&str] = match is_index {
        true => &[media_type::INDEX, media_type::DOCKER_INDEX],
        false => &[media_type::MANIFEST, media_type::DOCKER_MANIFEST],
    };
    if !known.contains(&kind) {
        return Err(ImageError::invalid(KIND, format!("its content does not fit its media type `{kind}`")));
    }
    if is_index {
        index(bytes, kind).map(Document::Index)
    } else {
        manifest(bytes, kind).map(|m| Document::Manifest(Box::new(m)))
    }
}

/// Reads an image manifest of OCI's or Docker's kind.
///
/// # Errors
/// When it is none.
pub fn read_manifest(bytes: &[u8]) -> Result<Manifest, ImageError> {
    match read_document(bytes, None)? {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => Err(ImageError::invalid("manifest", "it is an index")),
    }
}

/// Reads an image index or Docker's manifest list.
///
/// # Errors
/// When it is none.
pub fn read_index(bytes: &[u8]) -> Result<Index, ImageError> {
    match read_document(bytes, None)? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err(ImageError::invalid("index", "it is a manifest")),
    }
}

fn manifest(bytes: &[u8], kind: &str) -> Result<Manifest, ImageError> {
    let invalid = |error: serde_json::Error| ImageError::invalid("manifest", error.to_string());
    let document: spec::ImageManifest = serde_json::from_slice(bytes).map_err(invalid)?;
    if document.layers().len() > ENTRY_LIMIT {
        return Err(ImageError::invalid("manifest", format!("it has more than {ENTRY_LIMIT} layers")));
    }
    Ok(Manifest {
        media_type: kind.to_owned(),
        config: descriptor(document.config())?,
        layers: document.layers().iter().map(descriptor).collect::<Result<_, _>>()?,
        annotations: sorted(document.annotations().as_ref()),
    })
}

fn index(bytes: &[u8], kind: &str) -> Result<Index, ImageError> {
    let invalid = |error: serde_json::Error| ImageError::invalid("index", error.to_string());
    let document: spec::ImageIndex = serde_json::from_slice(bytes).map_err(invalid)?;
    if document.manifests().len() > ENTRY_LIMIT {
        return Err(ImageError::invalid("index", format!("it has more than {ENTRY_LIMIT} entries")));
    }
    Ok(Index {
        media_type: kind.to_owned(),
        manifests: document.manifests().iter().map(descriptor).collect::<Result<_, _>>()?,
        annotations: sorted(document.annotations().as_ref()),
    })
}

fn descriptor(from: &spec::Descriptor) -> Result<Descriptor, ImageError> {
    let digest = from.digest().to_string().parse();
    let digest: Digest = digest.map_err(|error: DigestError| ImageError::invalid("descriptor", error.to_string()))?;
    let platform = from.platform().as_ref().map(|p| Platform {
        os_version: p.os_version().clone().unwrap_or_default(),
        os_features: p.os_features().clone().unwrap_or_default(),
        ..Platform::new(&p.os().to_string(), &p.architecture().to_string(), p.variant().as_deref().unwrap_or_default())
    });
    Ok(Descriptor {
        annotations: sorted(from.annotations().as_ref()),
        platform,
        ..Descriptor::new(from.media_type().as_ref(), digest, from.size())
    })
}

fn sorted(annotations: Option<&HashMap<String, String>>) -> BTreeMap<String, String> {
    annotations.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether an entry of an index is no image but says something about one, such as its provenance.
#[must_use]
pub fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.contains_key("vnd.docker.reference.type")
        || entry.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
}

/// The entry of an index that serves a platform best: the very variant, else the newest that runs there; the first
/// of equals. Attestations, nested indexes and entries without a platform are not looked at.
#[must_use]
pub fn select_platform<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let serves = |entry: &&Descriptor| {
        !entry.is_index() && !is_attestation(entry) && entry.platform.as_ref().is_some_and(|p| p.satisfies(wanted))
    };
    let rank = |entry: &Descriptor| {
        let variant = entry.platform.as_ref().map(|p| p.variant.clone()).unwrap_or_default();
        // A request without a variant means the plain one where there is one, and any other else.
        (variant == wanted.variant, variant)
    };
    let mut best: Option<&Descriptor> = None;
    for entry in index.manifests.iter().filter(serves) {
        if best.is_none_or(|best| rank(entry) > rank(best)) {
            best = Some(entry);
        }
    }
    best
}

/// Follows a descriptor through indexes to the manifest for a platform. `fetch` gives a document's checked bytes.
///
/// A manifest without an index around it is taken as it is: its platform is known only by its configuration.
///
/// # Errors
/// When `fetch` fails, a document is not valid, indexes are nested too deep, or there is nothing for the platform.
pub fn resolve_manifest<E: From<ImageError>>(
    start: &Descriptor,
    wanted: &Platform,
    fetch: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
) -> Result<(Descriptor, Manifest, Vec<u8>), E> {
    let mut available = Vec::new();
    let found = resolve(start, wanted, fetch, DEPTH_LIMIT, &mut available)?;
    available.sort();
    available.dedup();
    found.ok_or_else(|| ImageError::NoPlatform { wanted: Box::new(wanted.clone()), available }.into())
}

type Resolved = Option<(Descriptor, Manifest, Vec<u8>)>;

fn resolve<E: From<ImageError>>(
    start: &Descriptor,
    wanted: &Platform,
    fetch: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
    depth: usize,
    available: &mut Vec<String>,
) -> Result<Resolved, E> {
    let bytes = fetch(start)?;
    let index = match read_document(&bytes, Some(&start.media_type))? {
        Document::Manifest(manifest) => return Ok(Some((start.clone(), *manifest, bytes))),
        Document::Index(index) => index,
    };
    if depth == 0 {
        let reason = format!("indexes are nested more than {DEPTH_LIMIT} deep");
        return Err(ImageError::invalid("index", reason).into());
    }
    if let Some(entry) = select_platform(&index, wanted) {
        return resolve(&entry.clone(), wanted, fetch, depth - 1, available);
    }
    available.extend(
        index.manifests.iter().filter(|e| !is_attestation(e)).filter_map(|e| Some(e.platform.as_ref()?.to_string())),
    );
    for nested in index.manifests.iter().filter(|entry| entry.is_index()) {
        if let Some(found) = resolve(nested, wanted, fetch, depth - 1, available)? {
            return Ok(Some(found));
        }
    }
    // The only image of an index may come without a platform.
    let mut images = index.manifests.iter().filter(|entry| !is_attestation(entry));
    match (images.next(), images.next()) {
        (Some(only), None) if only.platform.is_none() && !only.is_index() => {
            resolve(only, wanted, fetch, depth - 1, available)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, platform: Option<&str>) -> Descriptor {
        let mut descriptor = Descriptor::new(kind, Digest::of(platform.unwrap_or("none").as_bytes()), 3);
        descriptor.platform = platform.map(|text| {
            let mut parts = text.split('/');
            let mut next = || parts.next().unwrap_or_default();
            Platform::new(next(), next(), next())
        });
        descriptor
    }

    fn index_of(platforms: &[&str]) -> Index {
        let manifests = platforms.iter().map(|p| entry(media_type::MANIFEST, Some(p))).collect();
        Index { media_type: media_type::INDEX.into(), manifests, annotations: BTreeMap::new() }
    }

    #[test]
    fn reads_both_families() {
        let digest = Digest::of(b"x");
        for (kind, layer) in [
            (media_type::MANIFEST, media_type::LAYER_GZIP),
            (media_type::DOCKER_MANIFEST, media_type::DOCKER_LAYER_GZIP),
        ] {
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"c/d","digest":"{digest}","size":1}},
                "layers":[{{"mediaType":"{layer}","digest":"{digest}","size":2}}],"annotations":{{"b":"1","a":"2"}}}}"#
            );
            let manifest = read_manifest(text.as_bytes()).unwrap();
            assert_eq!(manifest.media_type, kind);
            assert_eq!(manifest.layers, [Descriptor::new(layer, digest, 2)]);
            assert_eq!(manifest.annotations.len(), 2);
            assert!(read_index(text.as_bytes()).is_err());
            assert!(read_document(text.as_bytes(), Some(kind)).is_ok());
            assert!(read_document(text.as_bytes(), Some(media_type::INDEX)).is_err());
        }
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        let digest = Digest::of(b"x");
        let config = format!(r#""config":{{"mediaType":"c/d","digest":"{digest}","size":1}}"#);
        for text in [
            "".to_owned(),
            "[]".to_owned(),
            "<html>".to_owned(),
            "{}".to_owned(),
            r#"{"schemaVersion":2}"#.to_owned(),
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,{config},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":2,{config},"layers":[],"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,{config},{config},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"mediaType":"{}",{config},"layers":[]}}"#, media_type::INDEX),
            format!(r#"{{"schemaVersion":2,"mediaType":"text/html",{config},"layers":[]}}"#),
            r#"{"schemaVersion":2,"config":{"mediaType":"c/d","digest":"sha256:../../x","size":1},"layers":[]}"#
                .to_owned(),
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"c/d","digest":"{digest}","size":-1}},"layers":[]}}"#
            ),
        ] {
            assert!(read_document(text.as_bytes(), None).is_err(), "{text}");
        }
    }

    #[test]
    fn chooses_the_best_platform() {
        for (available, wanted, best) in [
            (&["linux/arm64", "linux/amd64"][..], "linux/amd64", Some("linux/amd64")),
            (&["unknown/unknown", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v6", Some("linux/arm/v6")),
            (&["linux/arm/v5", "linux/arm/v6", "linux/arm64"], "linux/arm/v7", Some("linux/arm/v6")),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["windows/amd64"], "linux/amd64", None),
        ] {
            let index = index_of(available);
            let found = select_platform(&index, &wanted.parse().unwrap());
            let found = found.map(|d| d.platform.as_ref().unwrap().to_string());
            assert_eq!(found.as_deref(), best, "{wanted} of {available:?}");
        }
    }

    #[test]
    fn follows_nested_indexes_but_not_for_ever() {
        let digest = Digest::of(b"x");
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"c/d","digest":"{digest}","size":1}},"layers":[]}}"#);
        let nest = |inner: &Descriptor| {
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, serde_json::to_string(inner).unwrap())
        };
        let mut documents = BTreeMap::from([(Digest::of(b"image"), manifest)]);
        let mut top = Descriptor::new(media_type::MANIFEST, Digest::of(b"image"), 1);
        for depth in 0..6_u8 {
            let text = nest(&top);
            top = Descriptor::new(media_type::INDEX, Digest::of(&[depth]), 1);
            documents.insert(top.digest, text);
            let mut fetch = |d: &Descriptor| Ok::<_, ImageError>(documents[&d.digest].clone().into_bytes());
            let found = resolve_manifest(&top, &"linux/amd64".parse().unwrap(), &mut fetch);
            assert_eq!(found.is_ok(), depth < 4, "{depth}");
        }
        let none = nest(&entry(media_type::MANIFEST, Some("linux/s390x")));
        let mut fetch = |_: &Descriptor| Ok::<_, ImageError>(none.clone().into_bytes());
        let error = resolve_manifest(&top, &"linux/amd64".parse().unwrap(), &mut fetch).unwrap_err();
        assert_eq!(error.to_string(), "there is no image for `linux/amd64`, only for `linux/s390x`");
    }
}
