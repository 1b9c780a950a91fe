//! Checking every object of a store.

use std::path::PathBuf;

use rayon::prelude::*;

use crate::oci::{Descriptor, DiffId, Digest};

use super::file::{self, open_regular};
use super::record::{Looked, look_at_record};
use super::{Store, StoreError, VerifiedReader};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// How many objects were read.
    pub objects: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A damaged object. Removing it is always safe: it is made or fetched again when it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A blob's bytes are not what its name says, or it can't be read.
    Blob {
        /// Its digest.
        digest: Digest,
    },
    /// A record is torn, or can't be read.
    Record {
        /// Its file.
        path: PathBuf,
    },
    /// An unpacked layer's files are not what they were.
    Unpacked {
        /// The layer.
        diff_id: DiffId,
        /// The first file that is wrong, where it is known.
        file: String,
    },
    /// A named image's manifest is missing.
    Image {
        /// The name.
        reference: String,
    },
}

impl Store {
    /// Reads every blob and record, and looks for the manifests of named images. Unpacked layers are not read, which
    /// [`crate::exec::check_store`] does.
    ///
    /// # Errors
    /// When the store's folders can't be listed.
    pub fn check(&self) -> Result<CheckReport, StoreError> {
        let blobs: Vec<Digest> =
            file::list(&self.path("blobs/sha256"))?.iter().filter_map(|n| format!("sha256:{n}").parse().ok()).collect();
        let mut records = self.record_files("steps")?;
        for kind in file::list(&self.path("notes"))? {
            records.extend(self.record_files(&format!("notes/{kind}"))?);
        }
        for layer in self.layer_names()? {
            let folder = self.path("layers").join(layer);
            records.extend(["tree", "blobs.json", "unpacked"].map(|name| folder.join(name)));
            let chunks = file::list(&folder)?.into_iter().filter(|name| name.starts_with("chunks-"));
            records.extend(chunks.map(|name| folder.join(name)));
            let chunks = file::list(&folder)?.into_iter().filter(|name| name.starts_with(super::layer::CHUNKS));
            records.extend(chunks.map(|name| folder.join(name)));
        }
        records.extend(["names", "limit"].map(|name| self.path(name)));
        records.retain(|path| path.exists());
        let mut problems: Vec<Problem> = blobs
            .par_iter()
            .filter(|digest| !self.is_sound(digest))
            .map(|digest| Problem::Blob { digest: *digest })
            .collect();
        // One that is gone by now was removed by another process.
        let is_torn = |path: &&PathBuf| !matches!(look_at_record(path), Ok(Looked::Good(_) | Looked::Missing));
        let torn = records.par_iter().filter(is_torn);
        problems.extend(torn.map(|path| Problem::Record { path: path.clone() }).collect::<Vec<_>>());
        for image in self.images()? {
            if !self.has_blob(&image.descriptor.digest, image.descriptor.size) {
                problems.push(Problem::Image { reference: image.reference });
            }
        }
        Ok(CheckReport { objects: (blobs.len() + records.len()) as u64, problems })
    }

    /// Removes damaged objects that a check found.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn repair(&self, problems: &[Problem]) -> Result<(), StoreError> {
        for problem in problems {
            match problem {
                Problem::Blob { digest } => self.remove_blob(digest).map(|_| ())?,
                Problem::Record { path } => file::remove(path).map(|_| ())?,
                Problem::Unpacked { diff_id, .. } => self.discard_unpacked(*diff_id)?,
                Problem::Image { reference } => self.untag(reference).map(|_| ())?,
            }
        }
        Ok(())
    }

    fn record_files(&self, folder: &str) -> Result<Vec<PathBuf>, StoreError> {
        Ok(file::list(&self.path(folder))?.iter().map(|name| self.path(folder).join(name)).collect())
    }

    fn is_sound(&self, digest: &Digest) -> bool {
        let check = || {
            let blob = open_regular(&self.blob_path(digest))?;
            let size = blob.metadata()?.len();
            VerifiedReader::new(blob, &Descriptor::new("", *digest, size)).finish()
        };
        // One that is gone by now was removed by another process.
        check().map_or_else(|error| error.kind() == std::io::ErrorKind::NotFound, |()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use crate::oci::DiffId;

    #[test]
    fn finds_and_repairs_damage() {
        let (_dir, store) = scratch();
        let good = store.put_blob(b"good", "x/y").unwrap();
        let bad = store.put_blob(b"bad", "x/y").unwrap();
        let gone = store.put_blob(b"gone", "x/y").unwrap();
        let layer = DiffId(good.digest);
        store.add_layer_tree(layer, &mut &b"tree"[..]).unwrap();
        store.write_step("step", b"record").unwrap();
        store.write_note("kind", "name", b"note").unwrap();
        store.tag("a:good", &good).unwrap();
        store.tag("a:gone", &gone).unwrap();
        store.remove_blob(&gone.digest).unwrap();
        let tree = store.path("layers").join(layer.0.hex()).join("tree");
        std::fs::write(store.blob_path(&bad.digest), "bat").unwrap();
        std::fs::write(&tree, "torn").unwrap();
        let report = store.check().unwrap();
        assert_eq!(report.objects, 6);
        let image = Problem::Image { reference: "a:gone".to_owned() };
        assert_eq!(report.problems, [Problem::Blob { digest: bad.digest }, Problem::Record { path: tree }, image]);
        store.repair(&report.problems).unwrap();
        assert_eq!(store.check().unwrap().problems, []);
        assert_eq!(store.read_blob(&good, 10).unwrap(), b"good");
    }
}
