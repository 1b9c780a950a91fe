//! An OCI layout as a source of images: `oci-layout://PATH[:TAG][@DIGEST]`, PATH being a folder or a tar file.
//!
//! A layout may come from anyone. Its files are opened one component at a time without following links, must be
//! regular files, and every blob is checked against its digest and size. A tar file is not unpacked: its members are
//! listed once, and read where they are (OCI image spec, "Image Layout").

mod address;
mod files;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::oci::{Descriptor, Digest, Platform, media_type};
use crate::store::{IMAGE_NAME, REF_NAME, Store, VerifiedReader};

pub use address::{LayoutAddress, LayoutImage};
use files::Files;
pub use files::Member;

use super::manifest::{DOCUMENT_LIMIT, Document, Index, read_document, read_index, resolve_manifest};
use super::stored::check_size;
use super::{Image, ImageError};

/// Reads a blob of a layout and checks it.
pub type LayoutReader = VerifiedReader<Member>;

/// An open layout.
#[derive(Debug)]
pub struct LayoutSource {
    path: PathBuf,
    files: Files,
    index: Index,
}

impl LayoutSource {
    /// Opens a layout in a folder or a tar file.
    ///
    /// # Errors
    /// When it can't be opened or is no layout.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let not_a_layout = |reason: &str| ImageError::NotALayout { path: path.to_owned(), reason: reason.to_owned() };
        let files = Files::open(path)?;
        let read = |name: &str, limit: u64| -> Result<Vec<u8>, ImageError> {
            let member = files.open_member(&[name]).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => not_a_layout(&format!("it has no `{name}`")),
                _ => ImageError::io("open", &path.join(name))(error),
            })?;
            let mut bytes = Vec::new();
            member.take(limit + 1).read_to_end(&mut bytes).map_err(ImageError::io("read", &path.join(name)))?;
            if bytes.len() as u64 > limit {
                return Err(not_a_layout(&format!("its `{name}` has more than {limit} bytes")));
            }
            Ok(bytes)
        };
        let marker: serde_json::Value = serde_json::from_slice(&read("oci-layout", 4096)?).unwrap_or_default();
        match marker["imageLayoutVersion"].as_str() {
            Some(version) if version.starts_with("1.") => {}
            _ => return Err(not_a_layout("its `oci-layout` names no version 1 of the format")),
        }
        let index = read_index(&read("index.json", DOCUMENT_LIMIT)?)?;
        Ok(Self { path: path.to_owned(), files, index })
    }

    /// Where the layout is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the layout's index names.
    #[must_use]
    pub fn entries(&self) -> &[Descriptor] {
        &self.index.manifests
    }

    /// Finds an image's manifest or index by tag or digest.
    ///
    /// A tag is compared with the name that the layout's index gives an image, and with the tag of its full reference.
    /// Without a tag, the only image is taken, else the one named `latest`.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn find(&self, image: &LayoutImage) -> Result<Descriptor, ImageError> {
        let entries = &self.index.manifests;
        let found = match image {
            LayoutImage::Digest(digest) => match entries.iter().find(|entry| entry.digest == *digest) {
                Some(entry) => Some(entry.clone()),
                None => self.describe(*digest)?,
            },
            LayoutImage::Tag(tag) => by_tag(entries, tag).cloned(),
            LayoutImage::Default => match &entries[..] {
                [only] => Some(only.clone()),
                entries => by_tag(entries, "latest").cloned(),
            },
        };
        found.ok_or_else(|| ImageError::NoSuchImage {
            path: self.path.clone(),
            name: image.to_string(),
            available: entries.iter().map(name_of).collect(),
        })
    }

    /// Reads the manifest and configuration of an image, and none of its layers.
    ///
    /// # Errors
    /// When there is no such image, none for the platform, or a part is missing, damaged or not valid.
    pub fn image(&self, image: &LayoutImage, platform: &Platform) -> Result<Image, ImageError> {
        let start = self.find(image)?;
        let mut fetch = |descriptor: &Descriptor| self.read_small(descriptor, "manifest");
        let (descriptor, manifest, _) = resolve_manifest(&start, platform, &mut fetch)?;
        let config = self.read_small(&manifest.config, "image configuration")?;
        Image::new(descriptor, manifest, &config)
    }

    /// Opens a blob; the reader checks digest and size.
    ///
    /// # Errors
    /// When the layout has no such regular file.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<LayoutReader, ImageError> {
        let hex = descriptor.digest.hex();
        let member = self.files.open_member(&["blobs", "sha256", &hex]);
        Ok(VerifiedReader::new(member.map_err(self.blob_error(descriptor.digest))?, descriptor))
    }

    /// Whether there is a blob of that digest and size. Its bytes are checked when they are read.
    #[must_use]
    pub fn has_blob(&self, descriptor: &Descriptor) -> bool {
        let member = self.files.open_member(&["blobs", "sha256", &descriptor.digest.hex()]);
        member.is_ok_and(|member| member.size() == descriptor.size)
    }

    /// Copies a blob into a store that does not have it yet.
    ///
    /// # Errors
    /// When it is missing or damaged, or can't be written.
    pub fn copy_blob(&self, store: &Store, descriptor: &Descriptor) -> Result<(), ImageError> {
        if store.has_blob(&descriptor.digest, descriptor.size) {
            return Ok(());
        }
        let mut reader = self.open_blob(descriptor)?;
        // The reader hashes already.
        let mut writer = store.hashed_blob_writer().map_err(ImageError::store("start a blob"))?;
        io::copy(&mut reader, &mut writer).map_err(self.blob_error(descriptor.digest))?;
        let (kind, digest, size) = (&descriptor.media_type, descriptor.digest, descriptor.size);
        writer.finish_with(kind, digest, size).map_err(ImageError::store("finish a blob"))?;
        Ok(())
    }

    /// Copies an image into a store: manifest, configuration and layers.
    ///
    /// # Errors
    /// As [`Self::image`] and [`Self::copy_blob`].
    pub fn import(&self, image: &LayoutImage, platform: &Platform, store: &Store) -> Result<Image, ImageError> {
        let image = self.image(image, platform)?;
        for blob in image.manifest.layers.iter().chain([&image.manifest.config, &image.descriptor]) {
            self.copy_blob(store, blob)?;
        }
        Ok(image)
    }

    fn read_small(&self, descriptor: &Descriptor, kind: &'static str) -> Result<Vec<u8>, ImageError> {
        check_size(descriptor, kind)?;
        let mut bytes = Vec::new();
        let mut reader = self.open_blob(descriptor)?;
        reader.read_to_end(&mut bytes).map_err(self.blob_error(descriptor.digest))?;
        Ok(bytes)
    }

    /// Describes a manifest that the index does not name itself, such as one of a nested index.
    fn describe(&self, digest: Digest) -> Result<Option<Descriptor>, ImageError> {
        let member = match self.files.open_member(&["blobs", "sha256", &digest.hex()]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(self.blob_error(digest))?,
        };
        let mut descriptor = Descriptor::new(media_type::MANIFEST, digest, member.size());
        let bytes = self.read_small(&descriptor, "manifest")?;
        descriptor.media_type = match read_document(&bytes, None)? {
            Document::Manifest(manifest) => manifest.media_type,
            Document::Index(index) => index.media_type,
        };
        Ok(Some(descriptor))
    }

    fn blob_error(&self, digest: Digest) -> impl FnOnce(io::Error) -> ImageError {
        let path = self.path.clone();
        move |source| ImageError::LayoutBlob { path, digest, source }
    }
}

fn by_tag<'a>(entries: &'a [Descriptor], tag: &str) -> Option<&'a Descriptor> {
    let named = |key: &str, test: &dyn Fn(&str) -> bool| {
        entries.iter().find(|entry| entry.annotations.get(key).is_some_and(|name| test(name)))
    };
    let suffix = format!(":{tag}");
    named(REF_NAME, &|name| name == tag)
        .or_else(|| named(IMAGE_NAME, &|name| name == tag || name.ends_with(&suffix)))
        .or_else(|| named(REF_NAME, &|name| name.ends_with(&suffix)))
}

fn name_of(entry: &Descriptor) -> String {
    entry.annotations.get(REF_NAME).cloned().unwrap_or_else(|| entry.digest.to_string())
}

#[cfg(test)]
mod tests;
