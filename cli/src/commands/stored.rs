//! Images of the store as the commands see them: found by name or digest, with manifest and configuration read.

use rbuild_core::oci::{Descriptor, Digest, ImageConfig, Platform};
use rbuild_core::reference::Reference;
use rbuild_core::store::{Store, StoredImage};
use serde_json::Value;

use crate::error::{Failure, Kind};
use crate::settings::GlobalSettings;

/// The largest manifest, index or configuration that is read, in bytes.
const DOCUMENT_LIMIT: u64 = 16 << 20;

/// The fewest hexadecimal digits that may stand for a whole digest.
const LEAST_DIGITS: usize = 6;

/// One platform's image.
pub(super) struct PlatformImage {
    /// Its manifest's descriptor.
    pub(super) descriptor: Descriptor,
    /// Its manifest.
    pub(super) manifest: Value,
    /// Its configuration.
    pub(super) config: ImageConfig,
    /// The configuration as it was written.
    pub(super) config_json: Value,
    /// The configuration's digest.
    pub(super) config_digest: Digest,
}

impl PlatformImage {
    /// The layers' descriptors, lowest first.
    pub(super) fn layers(&self) -> Vec<Descriptor> {
        serde_json::from_value(self.manifest["layers"].clone()).unwrap_or_default()
    }

    /// The size of all layers, compressed, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.layers().iter().map(|layer| layer.size).sum()
    }
}

/// Opens the store.
pub(super) fn open(global: &GlobalSettings) -> Result<Store, Failure> {
    Store::open(&global.root).map_err(|error| {
        Failure::caused(Kind::Environment, format!("cannot open the store `{}`", global.root.display()), &error)
            .hint("name another folder with `--root DIR` or RBUILD_ROOT")
    })
}

/// The image with a name, a digest, or the beginning of one; several when several names have the digest, and one
/// without a name when none has.
pub(super) fn find(store: &Store, text: &str) -> Result<Vec<StoredImage>, Failure> {
    let images = store.images().map_err(|error| Failure::of(Kind::Environment, &error))?;
    let reference = Reference::parse(text).ok();
    if let Some(reference) = &reference {
        let name = reference.to_string();
        let is_named = |image: &&StoredImage| image.reference == name || image.reference == text;
        let named: Vec<_> = images.iter().filter(is_named).cloned().collect();
        if !named.is_empty() {
            return Ok(named);
        }
    }
    let digest = reference.and_then(|reference| reference.digest()).map(|digest| digest.hex());
    let digits = digest.as_deref().unwrap_or_else(|| text.strip_prefix("sha256:").unwrap_or(text));
    if !(LEAST_DIGITS..=64).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(missing(text));
    }
    let mut same: Vec<_> =
        images.into_iter().filter(|image| image.descriptor.digest.hex().starts_with(digits)).collect();
    if same.is_empty() {
        same = without_name(store, digits);
    }
    match same.split_first() {
        None => Err(missing(text)),
        Some((first, others)) if others.iter().any(|other| other.descriptor.digest != first.descriptor.digest) => {
            Err(Failure::new(Kind::Usage, format!("`{text}` is the beginning of several digests"))
                .hint("write more of its digits; `rbuild images --format json` shows them all"))
        }
        Some(_) => Ok(same),
    }
}

/// The manifests and indexes whose digest begins with these digits.
fn without_name(store: &Store, digits: &str) -> Vec<StoredImage> {
    let blobs = std::fs::read_dir(store.root().join("blobs/sha256")).into_iter().flatten();
    blobs
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(digits))
        .filter_map(|name| {
            let digest: Digest = format!("sha256:{name}").parse().ok()?;
            let size = store.blob_size(&digest).filter(|size| *size <= DOCUMENT_LIMIT)?;
            let document = read(store, &Descriptor::new("", digest, size)).ok()?;
            let kind = document["mediaType"].as_str()?;
            let is_image = document["manifests"].is_array() || document["layers"].is_array();
            is_image.then(|| StoredImage { reference: String::new(), descriptor: Descriptor::new(kind, digest, size) })
        })
        .collect()
}

fn missing(text: &str) -> Failure {
    Failure::new(Kind::Build, format!("there is no image `{text}`"))
        .hint("`rbuild images` lists the images that there are")
}

/// The images behind a descriptor: one for a manifest, one for each platform for an index.
pub(super) fn platforms(store: &Store, descriptor: &Descriptor) -> Result<Vec<PlatformImage>, Failure> {
    let document = read(store, descriptor)?;
    let Some(manifests) = document["manifests"].as_array() else {
        return Ok(vec![platform_image(store, descriptor, document)?]);
    };
    let mut images = Vec::new();
    for entry in manifests {
        let descriptor: Descriptor = serde_json::from_value(entry.clone()).map_err(|error| {
            Failure::caused(Kind::Build, format!("cannot read the index `{}`", descriptor.digest), &error)
        })?;
        // Attestations have no platform; other platforms of a pulled base need not be here.
        let known = descriptor.platform.as_ref().is_some_and(|platform| platform.os != "unknown");
        if known && store.has_blob(&descriptor.digest, descriptor.size) {
            let manifest = read(store, &descriptor)?;
            images.push(platform_image(store, &descriptor, manifest)?);
        }
    }
    Ok(images)
}

/// Of several platforms' images the one for this machine, or else the first.
pub(super) fn for_this_machine(images: Vec<PlatformImage>) -> Option<PlatformImage> {
    let host = Platform::host();
    let mut images = images;
    let place = images.iter().position(|image| image.config.platform().satisfies(&host)).unwrap_or_default();
    (place < images.len()).then(|| images.swap_remove(place))
}

fn platform_image(store: &Store, descriptor: &Descriptor, manifest: Value) -> Result<PlatformImage, Failure> {
    let unreadable = |error: serde_json::Error| {
        Failure::caused(Kind::Build, format!("cannot read the image `{}`", descriptor.digest), &error)
    };
    let config: Descriptor = serde_json::from_value(manifest["config"].clone()).map_err(unreadable)?;
    let config_json = read(store, &config)?;
    Ok(PlatformImage {
        descriptor: descriptor.clone(),
        manifest,
        config: serde_json::from_value(config_json.clone()).map_err(unreadable)?,
        config_json,
        config_digest: config.digest,
    })
}

fn read(store: &Store, descriptor: &Descriptor) -> Result<Value, Failure> {
    let bytes = store.read_blob(descriptor, DOCUMENT_LIMIT).map_err(|error| Failure::of(Kind::Build, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::caused(Kind::Build, format!("cannot read `{}`", descriptor.digest), &error))
}

/// A name as people write it: without what is there by default.
pub(super) fn familiar(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| reference.to_owned(), |reference| reference.familiar())
}

/// How long ago a time was, in words.
pub(super) fn age(created: Option<&str>, now: std::time::SystemTime) -> String {
    let (Some(created), Ok(now)) =
        (created.and_then(|text| text.parse::<jiff::Timestamp>().ok()), jiff::Timestamp::try_from(now))
    else {
        return String::new();
    };
    let seconds = now.as_second() - created.as_second();
    let (number, unit) = match seconds {
        ..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..31_536_000 => (seconds / 86_400, "day"),
        _ => (seconds / 31_536_000, "year"),
    };
    let number = usize::try_from(number).expect("the negative numbers were handled first");
    format!("{} ago", crate::output::count(number, unit))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::age;

    #[test]
    fn ages_are_words() {
        let now = UNIX_EPOCH + Duration::from_secs(400 * 86_400);
        for (created, want) in [
            ("1970-01-01T00:00:00Z", "1 year ago"),
            ("1971-02-04T23:00:00Z", "1 hour ago"),
            ("1971-02-02T00:00:00Z", "3 days ago"),
            ("1971-02-05T00:00:00Z", "just now"),
            ("2040-01-01T00:00:00Z", "just now"),
            ("yesterday", ""),
        ] {
            assert_eq!(age(Some(created), now), want, "{created}");
        }
        assert_eq!(age(None, now), "");
    }
}
