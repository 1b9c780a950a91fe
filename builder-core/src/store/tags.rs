//! The index of the layout: which images the store has, by their full reference.
//!
//! An image is an entry of `index.json` with the annotations `org.opencontainers.image.ref.name`, which other tools
//! match exactly, and `io.containerd.image.name`; both hold the full reference (OCI image spec, "index.json file").
//! Entries and properties that other tools wrote are kept.

use std::path::Path;

use serde_json::{Value, json};

use crate::oci::{Descriptor, media_type};

use super::file::{self, Durability};
use super::record::read_record;
use super::{Store, StoreError};

/// The annotation that names an image in a layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation in which containerd and BuildKit keep an image's full reference.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

/// The file that keeps what rbuild wrote into the index.
const NAMES: &str = "names";

/// An index that differs in no more bytes from what rbuild wrote was changed by a fault: no other tool changes so little.
const FEW_BYTES: usize = 4;

/// The largest index that is read, in bytes.
const INDEX_LIMIT: u64 = 64 << 20;

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its full reference, such as `docker.io/library/app:latest`.
    pub reference: String,
    /// Its manifest or index.
    pub descriptor: Descriptor,
}

impl Store {
    /// Names an image; another one of that name loses it. The index is on disk when this returns.
    ///
    /// # Errors
    /// When the index can't be written.
    pub fn tag(&self, reference: &str, descriptor: &Descriptor) -> Result<(), StoreError> {
        let mut named = descriptor.clone();
        for key in [REF_NAME, IMAGE_NAME] {
            named.annotations.insert(key.to_owned(), reference.to_owned());
        }
        let named = serde_json::to_value(named).expect("a descriptor has string keys only");
        self.change_index(|entries| {
            let old = entries.iter().position(|entry| name_of(entry) == Some(reference));
            if old.is_some_and(|i| entries[i] == named) {
                return false;
            }
            entries.retain(|entry| name_of(entry) != Some(reference));
            entries.push(named);
            entries.sort_by(|a, b| name_of(a).cmp(&name_of(b)));
            true
        })
        .map(|_| ())
    }

    /// Removes a name; whether there was one. The image's objects stay until the next [`Store::prune`].
    ///
    /// # Errors
    /// When the index can't be written.
    pub fn untag(&self, reference: &str) -> Result<bool, StoreError> {
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| name_of(entry) != Some(reference));
            entries.len() != before
        })
    }

    /// The manifest or index of the image with that full reference.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn resolve_tag(&self, reference: &str) -> Result<Option<Descriptor>, StoreError> {
        Ok(self.images()?.into_iter().find(|image| image.reference == reference).map(|image| image.descriptor))
    }

    /// All images that have a name, sorted by it.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let index = self.read_index()?;
        let image = |entry: &Value| {
            let reference = name_of(entry)?.to_owned();
            let mut descriptor: Descriptor = serde_json::from_value(entry.clone()).ok()?;
            descriptor.annotations.retain(|key, _| ![REF_NAME, IMAGE_NAME].contains(&key.as_str()));
            Some(StoredImage { reference, descriptor })
        };
        let mut images: Vec<StoredImage> = entries_of(&index).iter().filter_map(image).collect();
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// The index as it is written.
    pub(super) fn index_bytes(&self) -> Result<Vec<u8>, StoreError> {
        Ok(file::read(&self.path("index.json"), INDEX_LIMIT)?.unwrap_or_default())
    }

    /// The index as JSON; one that can't be understood counts as empty.
    pub(super) fn read_index(&self) -> Result<Value, StoreError> {
        let bytes = self.index_bytes()?;
        let index = serde_json::from_slice(&bytes).ok();
        Ok(index.filter(|index: &Value| index["manifests"].is_array()).unwrap_or_else(empty_index))
    }

    /// Mends the files that other tools read, as far as they are damaged. The index is taken for damaged where it is
    /// gone or no index, and where it differs from what rbuild wrote last only in a few bytes.
    pub(super) fn mend_names(&self) -> Result<(), StoreError> {
        let layout = self.path("oci-layout");
        if file::read(&layout, INDEX_LIMIT)?.as_deref() != Some(super::LAYOUT_FILE.as_bytes())
            && self.mend(&layout, super::LAYOUT_FILE.as_bytes())
        {
            self.note_damage("the file `oci-layout` was damaged".to_owned());
        }
        let index = self.path("index.json");
        let found = self.index_bytes()?;
        let names = self.path(NAMES);
        let Some(written) = read_record(&names)?.filter(|written| *written != found) else { return Ok(()) };
        let _lock = self.lock("index")?;
        // Another process may have changed both meanwhile.
        let (found, written) = (self.index_bytes()?, read_record(&names)?.unwrap_or(written));
        if found != written && is_damaged(&found, &written) && self.mend(&index, &written) {
            self.note_damage("the list of images `index.json` was damaged".to_owned());
        }
        Ok(())
    }

    /// Writes a file anew, unless the store can't be written; whether it did.
    fn mend(&self, path: &Path, bytes: &[u8]) -> bool {
        self.write_file(path, &[bytes], Durability::Checked).is_ok()
    }

    /// Changes the index's entries, and writes it when `change` says that it changed something.
    fn change_index(&self, change: impl FnOnce(&mut Vec<Value>) -> bool) -> Result<bool, StoreError> {
        let _lock = self.lock("index")?;
        let mut index = self.read_index()?;
        let entries = index["manifests"].as_array_mut().expect("the index was read with a list of manifests");
        if !change(entries) {
            return Ok(false);
        }
        let bytes = serde_json::to_vec(&index).expect("a JSON value can always be written");
        self.write_file(&self.path("index.json"), &[&bytes], Durability::Flushed)?;
        self.write_record(&self.path(NAMES), &bytes)?;
        Ok(true)
    }
}

/// Whether an index is what rbuild wrote, but for damage. Other tools may have changed it as they like.
fn is_damaged(found: &[u8], written: &[u8]) -> bool {
    let is_index = serde_json::from_slice(found).is_ok_and(|index: Value| index["manifests"].is_array());
    let differing = found.iter().zip(written).filter(|(a, b)| a != b).count();
    !is_index || found.len() == written.len() && differing <= FEW_BYTES
}

/// An index without images.
pub(super) fn empty_index() -> Value {
    json!({ "manifests": [], "mediaType": media_type::INDEX, "schemaVersion": 2 })
}

fn entries_of(index: &Value) -> &[Value] {
    index["manifests"].as_array().map_or(&[], Vec::as_slice)
}

fn name_of(entry: &Value) -> Option<&str> {
    entry["annotations"][REF_NAME].as_str()
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use crate::oci::Digest;

    fn image(name: &str) -> Descriptor {
        Descriptor::new(media_type::MANIFEST, Digest::of(name.as_bytes()), 7)
    }

    #[test]
    fn names_and_forgets_images() {
        let (_dir, store) = scratch();
        store.tag("docker.io/library/b:latest", &image("one")).unwrap();
        store.tag("docker.io/library/a:1", &image("one")).unwrap();
        store.tag("docker.io/library/b:latest", &image("two")).unwrap();
        let found = store.resolve_tag("docker.io/library/b:latest").unwrap().unwrap();
        assert_eq!(found, image("two"));
        assert_eq!(store.resolve_tag("docker.io/library/b").unwrap(), None);
        let names: Vec<_> = store.images().unwrap().into_iter().map(|i| i.reference).collect();
        assert_eq!(names, ["docker.io/library/a:1", "docker.io/library/b:latest"]);
        assert!(store.untag("docker.io/library/a:1").unwrap());
        assert!(!store.untag("docker.io/library/a:1").unwrap());
        let text = std::fs::read_to_string(store.path("index.json")).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\"manifests\":[{{\"annotations\":{{\"io.containerd.image.name\":\"docker.io/library/b:latest\",\
                 \"org.opencontainers.image.ref.name\":\"docker.io/library/b:latest\"}},\"digest\":\"{}\",\
                 \"mediaType\":\"{}\",\"size\":7}}],\"mediaType\":\"{}\",\"schemaVersion\":2}}",
                image("two").digest,
                media_type::MANIFEST,
                media_type::INDEX
            )
        );
    }

    #[test]
    fn keeps_what_other_tools_wrote_and_survives_nonsense() {
        let (_dir, store) = scratch();
        let path = store.path("index.json");
        std::fs::write(&path, r#"{"schemaVersion":2,"x":1,"manifests":[{"digest":"sha512:y","z":2}]}"#).unwrap();
        store.tag("a:b", &image("one")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""x":1"#) && text.contains(r#"{"digest":"sha512:y","z":2}"#), "{text}");
        assert_eq!(store.images().unwrap().len(), 1);
        for nonsense in ["", "{", "[]", r#"{"manifests":3}"#] {
            std::fs::write(&path, nonsense).unwrap();
            assert_eq!(store.images().unwrap(), []);
            store.tag("a:b", &image("one")).unwrap();
            assert_eq!(store.images().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_damaged_index_is_mended_and_one_of_other_tools_is_not() {
        let (_dir, store) = scratch();
        store.tag("a:b", &image("one")).unwrap();
        let path = store.path("index.json");
        let good = std::fs::read(&path).unwrap();
        let after = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let opened = Store::open(store.root()).unwrap();
            (std::fs::read(&path).unwrap(), opened.take_damage().len())
        };
        for place in 0..good.len() {
            let mut flipped = good.clone();
            flipped[place] ^= 1;
            assert_eq!(after(&flipped), (good.clone(), 1), "byte {place}");
            assert_eq!(after(&good[..place]), (good.clone(), 1), "{place} bytes");
        }
        let other = String::from_utf8(good.clone()).unwrap().replace("a:b", "a:bc").into_bytes();
        assert_eq!(after(&other), (other.clone(), 0));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Store::open(store.root()).unwrap().images().unwrap().len(), 1);
    }

    #[test]
    fn many_threads_name_images() {
        let (_dir, store) = scratch();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let store = &store;
                scope.spawn(move || store.tag(&format!("app:{n}"), &image("one")).unwrap());
            }
        });
        assert_eq!(store.images().unwrap().len(), 8);
    }
}
