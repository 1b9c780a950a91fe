//! An image as an archive or a folder for other tools: `type=oci` and `type=docker`.
//!
//! ```text
//! blobs/  blobs/sha256/  blobs/sha256/<hex>...   what the image consists of
//! index.json                                     the image, once for each name
//! manifest.json                                  for `docker load`: configuration, names and layers by path
//! oci-layout
//! ```
//!
//! A tar file has its members in this order (that of their names), no times, owners or user names, so the same image
//! under the same names gives the same bytes. Blobs are checked while they are copied.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::oci::{Descriptor, Platform, media_type};
use crate::store::{IMAGE_NAME, LAYOUT_FILE, REF_NAME, Store};

use super::manifest::{Document, Manifest, is_attestation, read_document};
use super::stored::read_small;
use super::{ImageError, OutputFile};

mod folder;

pub use folder::export_folder;

/// Whom an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ArchiveFormat {
    /// Every tool that reads OCI layouts.
    #[default]
    Oci,
    /// The same, and `docker load` of any age.
    Docker,
}

/// What an archive says besides the image.
#[derive(Debug, Clone, Default)]
pub struct ArchiveOptions {
    /// Whom it is for.
    pub format: ArchiveFormat,
    /// The image's full references, such as `docker.io/library/app:latest`.
    pub names: Vec<String>,
    /// Further annotations of the image's entries in the index.
    pub annotations: BTreeMap<String, String>,
    /// The modification time of the members, in seconds since the epoch.
    pub modified_seconds: u64,
}

/// Everything that an archive holds.
struct Contents {
    blobs: BTreeMap<String, Descriptor>,
    entries: Vec<Value>,
    docker: Option<Vec<u8>>,
}

/// Writes an image, or the images of an index, as a tar file that appears only when it is complete.
///
/// # Errors
/// When the image is incomplete or damaged, has several platforms but Docker's format was asked for, or the file
/// can't be written.
pub fn export_archive(
    store: &Store,
    image: &Descriptor,
    options: &ArchiveOptions,
    target: &Path,
) -> Result<(), ImageError> {
    let mut file = OutputFile::create(target)?;
    write_archive(store, image, options, &mut file)?;
    file.finish()
}

/// Writes an image, or the images of an index, as a tar stream.
///
/// # Errors
/// As [`export_archive`].
pub fn write_archive(
    store: &Store,
    image: &Descriptor,
    options: &ArchiveOptions,
    out: &mut dyn Write,
) -> Result<(), ImageError> {
    let contents = collect(store, image, options)?;
    let failed = |source| ImageError::Write { what: "archive", source };
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, out));
    let modified = options.modified_seconds;
    for folder in ["blobs/", "blobs/sha256/"] {
        tar.append(&header(folder, 0, modified)?, io::empty()).map_err(failed)?;
    }
    for (hex, blob) in &contents.blobs {
        let reader = store.open_checked_blob(blob).map_err(ImageError::store("open a blob"))?;
        let mut reader = Tracked { inner: reader, failed: false };
        let header = header(&format!("blobs/sha256/{hex}"), blob.size, modified)?;
        tar.append(&header, &mut reader).map_err(|source| match reader.failed {
            true => ImageError::Io { action: "read", path: store.blob_path(&blob.digest), source },
            false => failed(source),
        })?;
    }
    let index = serde_json::to_vec(&index_of(&contents.entries)).expect("a JSON value can always be written");
    let files =
        [("index.json", Some(index)), ("manifest.json", contents.docker), ("oci-layout", Some(LAYOUT_FILE.into()))];
    for (name, bytes) in files {
        let Some(bytes) = bytes else { continue };
        tar.append(&header(name, bytes.len() as u64, modified)?, &bytes[..]).map_err(failed)?;
    }
    let mut out = tar.into_inner().map_err(failed)?;
    out.flush().map_err(failed)
}

/// Tells a blob that can't be read from an output that can't be written.
struct Tracked<R> {
    inner: R,
    failed: bool,
}

impl<R: Read> Read for Tracked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        self.failed |= result.is_err();
        result
    }
}

fn header(name: &str, size: u64, modified: u64) -> Result<tar::Header, ImageError> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(|source| ImageError::Write { what: "archive", source })?;
    let folder = name.ends_with('/');
    header.set_entry_type(if folder { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_mode(if folder { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(modified);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// Finds all blobs of an image and makes the documents around them.
fn collect(store: &Store, image: &Descriptor, options: &ArchiveOptions) -> Result<Contents, ImageError> {
    let mut blobs = BTreeMap::new();
    let mut images = Vec::new();
    walk(store, image, &mut blobs, &mut images)?;
    let entries = match &options.names[..] {
        [] => vec![entry(image, None, options)],
        names => names.iter().map(|name| entry(image, Some(name), options)).collect(),
    };
    let docker = match options.format {
        ArchiveFormat::Oci => None,
        ArchiveFormat::Docker => Some(docker_manifest(&images, options)?),
    };
    Ok(Contents { blobs, entries, docker })
}

type PlatformManifest = (Option<Platform>, Manifest);

fn walk(
    store: &Store,
    descriptor: &Descriptor,
    blobs: &mut BTreeMap<String, Descriptor>,
    images: &mut Vec<PlatformManifest>,
) -> Result<(), ImageError> {
    let mut add = |blob: &Descriptor| blobs.insert(blob.digest.hex(), blob.clone()).is_none();
    if !add(descriptor) {
        return Ok(());
    }
    match read_document(&read_small(store, descriptor, "manifest")?, Some(&descriptor.media_type))? {
        Document::Manifest(manifest) => {
            add(&manifest.config);
            for layer in &manifest.layers {
                add(layer);
            }
            if !is_attestation(descriptor) {
                images.push((descriptor.platform.clone(), *manifest));
            }
        }
        Document::Index(index) => {
            for entry in &index.manifests {
                walk(store, entry, blobs, images)?;
            }
        }
    }
    Ok(())
}

/// The image's entry in an index under one of its names.
fn entry(image: &Descriptor, name: Option<&String>, options: &ArchiveOptions) -> Value {
    let mut entry = image.clone();
    // Names that it has elsewhere.
    entry.annotations.retain(|key, _| ![IMAGE_NAME, REF_NAME].contains(&key.as_str()));
    entry.annotations.extend(options.annotations.clone());
    if let Some(name) = name {
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.clone());
        entry.annotations.insert(REF_NAME.to_owned(), tag_of(name).to_owned());
    }
    json!(entry)
}

fn index_of(entries: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries })
}

/// The `manifest.json` that `docker load` reads (Docker image spec v1.2).
fn docker_manifest(images: &[PlatformManifest], options: &ArchiveOptions) -> Result<Vec<u8>, ImageError> {
    let [(_, manifest)] = images else {
        let platforms = images.iter().filter_map(|(platform, _)| Some(platform.as_ref()?.to_string())).collect();
        return Err(ImageError::SeveralPlatforms { platforms });
    };
    let path = |blob: &Descriptor| format!("blobs/sha256/{}", blob.digest.hex());
    let names: Vec<&str> = options.names.iter().map(|name| familiar(name)).collect();
    let layers: Vec<String> = manifest.layers.iter().map(path).collect();
    let document = json!([{ "Config": path(&manifest.config), "RepoTags": names, "Layers": layers }]);
    Ok(serde_json::to_vec(&document).expect("a JSON value can always be written"))
}

/// The tag of a full reference.
fn tag_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    name.rsplit_once(':').map_or("latest", |(_, tag)| if tag.contains('/') { "latest" } else { tag })
}

/// A reference as Docker's tools show it, without the default registry.
fn familiar(name: &str) -> &str {
    let Some(rest) = name.strip_prefix("docker.io/") else { return name };
    rest.strip_prefix("library/").unwrap_or(rest)
}

#[cfg(test)]
mod tests;
