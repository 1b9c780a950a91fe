//! Blobs: files named by the SHA-256 digest of their bytes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::oci::{Descriptor, Digest, Hasher};
use crate::sys::bulk::BulkWriter;

use super::claim::Claimed;
use super::file::open_regular;
use super::seal::{is_sealed_blob, seal_blob};
use super::{Store, StoreError, VerifiedReader};

impl Store {
    /// Starts a blob whose bytes are hashed while they are written.
    ///
    /// # Errors
    /// When no file can be made in the store.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter { file: self.unfinished_blob()?, hasher: Hasher::new() })
    }

    /// Starts a blob for a writer that computes the digest itself.
    ///
    /// # Errors
    /// When no file can be made in the store.
    pub fn hashed_blob_writer(&self) -> Result<HashedBlobWriter, StoreError> {
        Ok(HashedBlobWriter { file: self.unfinished_blob()? })
    }

    /// Stores a blob that is in memory.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put_blob(&self, bytes: &[u8], media_type: &str) -> Result<Descriptor, StoreError> {
        let digest = Digest::of(bytes);
        let mut file = self.unfinished_blob()?;
        file.write_all(bytes).map_err(StoreError::io("write", &self.blob_path(&digest)))?;
        file.commit(digest, bytes.len() as u64)?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// Whether the store has a blob of that digest and size in bytes. Its bytes are checked when they are read.
    ///
    /// What is there then stays as long as this handle, unless it turns out to be damaged.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        self.claim(Claimed::blob(digest));
        let Ok(metadata) = fs::symlink_metadata(self.blob_path(digest)) else { return false };
        metadata.is_file() && metadata.len() == size && (is_sealed_blob(&metadata) || self.check_unsealed(digest, size))
    }

    /// The size in bytes of a blob, if the store has it.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::symlink_metadata(self.blob_path(digest)).ok().filter(fs::Metadata::is_file).map(|m| m.len())
    }

    /// Opens a blob. A damaged one is removed from the store as soon as the reader notices.
    ///
    /// # Errors
    /// When the store has no such blob, or it can't be opened.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<VerifiedReader<File>, StoreError> {
        self.claim(Claimed::blob(&descriptor.digest));
        let path = self.blob_path(&descriptor.digest);
        let file = open_regular(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::BlobMissing { digest: descriptor.digest },
            _ => StoreError::io("open", &path)(error),
        })?;
        Ok(VerifiedReader::new(file, descriptor).with_quarantine(path))
    }

    /// As [`Self::open_blob`], but a blob that this process wrote or checked is not hashed again.
    ///
    /// # Errors
    /// As [`Self::open_blob`].
    pub fn open_checked_blob(&self, descriptor: &Descriptor) -> Result<VerifiedReader<File>, StoreError> {
        let reader = self.open_blob(descriptor)?;
        Ok(if self.is_known_good(&descriptor.digest) { reader.without_hashing() } else { reader })
    }

    /// Reads a whole blob of at most `limit` bytes into memory.
    ///
    /// # Errors
    /// When the store has no such blob, it is damaged, or it is larger than `limit`.
    pub fn read_blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, StoreError> {
        let (digest, size) = (descriptor.digest, descriptor.size);
        if size > limit {
            return Err(StoreError::BlobTooLarge { digest, size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut reader = self.open_blob(descriptor)?;
        reader.read_to_end(&mut bytes).map_err(|error| self.read_error(digest, error))?;
        self.remember_good(digest);
        Ok(bytes)
    }

    /// Checks that a blob is there and undamaged; one that this process wrote or checked is not read again.
    ///
    /// # Errors
    /// When the store has no such blob, or it is damaged.
    pub fn verify_blob(&self, descriptor: &Descriptor) -> Result<(), StoreError> {
        let digest = descriptor.digest;
        if self.is_known_good(&digest) && self.has_blob(&digest, descriptor.size) {
            return Ok(());
        }
        self.open_blob(descriptor)?.finish().map_err(|error| self.read_error(digest, error))?;
        self.remember_good(digest);
        Ok(())
    }

    /// Removes a blob; whether there was one.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.forget_good(digest);
        super::file::remove(&self.blob_path(digest))
    }

    /// Where a blob is, or would be. What is read there directly is not checked.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    /// Reads a blob that somebody else wrote or wrote to, and removes it where it is not what its name says.
    fn check_unsealed(&self, digest: &Digest, size: u64) -> bool {
        let descriptor = Descriptor::new("", *digest, size);
        let Ok(reader) = self.open_blob(&descriptor) else { return false };
        let is_sound = reader.finish().is_ok();
        if is_sound {
            self.remember_good(*digest);
            if let Ok(file) = open_regular(&self.blob_path(digest)) {
                seal_blob(file);
            }
        } else {
            self.note_damage(format!("the blob `{digest}` was damaged"));
        }
        is_sound
    }

    fn read_error(&self, digest: Digest, error: io::Error) -> StoreError {
        self.forget_good(&digest);
        let lost = error.raw_os_error() == Some(libc::EIO);
        match error.kind() {
            _ if lost => StoreError::BlobCorrupt { digest, source: error },
            io::ErrorKind::InvalidData => StoreError::BlobCorrupt { digest, source: error },
            _ => StoreError::io("read", &self.blob_path(&digest))(error),
        }
    }

    fn unfinished_blob(&self) -> Result<UnfinishedBlob, StoreError> {
        self.make_room_when_due();
        let (file, path) = self.temp_file()?;
        let file = BulkWriter::new(file, self.pace().clone());
        Ok(UnfinishedBlob { store: self.clone(), file, path: Some(path), size: 0 })
    }
}

/// A file under `tmp/` that becomes a blob, or goes when it is dropped.
#[derive(Debug)]
struct UnfinishedBlob {
    store: Store,
    file: BulkWriter,
    path: Option<PathBuf>,
    size: u64,
}

impl UnfinishedBlob {
    fn commit(mut self, digest: Digest, size: u64) -> Result<(), StoreError> {
        self.file.flush().map_err(StoreError::io("write", self.path()))?;
        let path = self.path();
        if self.file.file().metadata().map_err(StoreError::io("look at", path))?.len() != size {
            return Err(StoreError::BlobMismatch { digest, size });
        }
        self.store.claim(Claimed::blob(&digest));
        seal_blob(self.file.file());
        let target = self.store.blob_path(&digest);
        if let Ok(old) = fs::symlink_metadata(&target)
            && !(is_sealed_blob(&old) && old.len() == size)
        {
            // Only to tell of damage.
            let _is_sound = self.store.check_unsealed(&digest, size);
        }
        // Replacing a blob that is there already heals it, should it be damaged.
        fs::rename(path, &target).map_err(StoreError::io("put in place", &target))?;
        self.path = None;
        self.store.remember_good(digest);
        Ok(())
    }

    fn path(&self) -> &Path {
        self.path.as_deref().expect("the path is taken only when the value is consumed")
    }
}

impl Write for UnfinishedBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.size += count as u64;
        if self.store.wrote(count as u64) {
            self.store.make_room_when_due();
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for UnfinishedBlob {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = fs::remove_file(path);
        }
    }
}

/// A blob being written and hashed. Dropped before [`Self::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    file: UnfinishedBlob,
    hasher: Hasher,
}

impl BlobWriter {
    /// The bytes written so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.file.size
    }

    /// Puts the blob into the store.
    ///
    /// # Errors
    /// When the file can't be put in place.
    pub fn finish(self, media_type: &str) -> Result<Descriptor, StoreError> {
        let (digest, size) = (self.hasher.finish(), self.file.size);
        self.file.commit(digest, size)?;
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// Puts the blob into the store if it is the announced one.
    ///
    /// # Errors
    /// When digest or size differ, or the file can't be put in place.
    pub fn finish_expecting(self, expected: &Descriptor) -> Result<(), StoreError> {
        let (digest, size) = (expected.digest, expected.size);
        if self.hasher.finish() != digest {
            return Err(StoreError::BlobMismatch { digest, size });
        }
        self.file.commit(digest, size)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A blob whose writer computes the digest. Dropped before [`Self::finish_with`], it leaves nothing.
#[derive(Debug)]
pub struct HashedBlobWriter {
    file: UnfinishedBlob,
}

impl HashedBlobWriter {
    /// Puts the blob into the store under the digest that its writer computed from the same bytes.
    ///
    /// # Errors
    /// When another number of bytes was written, or the file can't be put in place.
    pub fn finish_with(self, media_type: &str, digest: Digest, size: u64) -> Result<Descriptor, StoreError> {
        self.file.commit(digest, size)?;
        Ok(Descriptor::new(media_type, digest, size))
    }
}

impl Write for HashedBlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;

    fn temp_files(store: &Store) -> usize {
        let dirs = fs::read_dir(store.path("tmp")).unwrap().map(|d| d.unwrap().path());
        dirs.flat_map(|d| fs::read_dir(d).unwrap()).filter(|e| e.as_ref().unwrap().file_name() != "lock").count()
    }

    #[test]
    fn stores_and_reads_back() {
        let (_dir, store) = scratch();
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"hello ").unwrap();
        writer.write_all(b"blob").unwrap();
        let descriptor = writer.finish("x/y").unwrap();
        assert_eq!(descriptor, Descriptor::new("x/y", Digest::of(b"hello blob"), 10));
        assert_eq!(store.put_blob(b"hello blob", "x/y").unwrap(), descriptor);
        let mut writer = store.hashed_blob_writer().unwrap();
        writer.write_all(b"hello blob").unwrap();
        assert_eq!(writer.finish_with("x/y", descriptor.digest, 10).unwrap(), descriptor);
        assert_eq!(store.read_blob(&descriptor, 100).unwrap(), b"hello blob");
        assert!(store.has_blob(&descriptor.digest, 10) && !store.has_blob(&descriptor.digest, 9));
        assert!(matches!(store.read_blob(&descriptor, 9), Err(StoreError::BlobTooLarge { .. })));
        assert!(store.remove_blob(&descriptor.digest).unwrap());
        assert!(matches!(store.read_blob(&descriptor, 100), Err(StoreError::BlobMissing { .. })));
        assert_eq!(temp_files(&store), 0);
    }

    #[test]
    fn leaves_nothing_of_an_unfinished_or_wrong_blob() {
        let (_dir, store) = scratch();
        store.blob_writer().unwrap().write_all(b"half").unwrap();
        let expected = Descriptor::new("x/y", Digest::of(b"other"), 4);
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"half").unwrap();
        assert!(matches!(writer.finish_expecting(&expected), Err(StoreError::BlobMismatch { .. })));
        let mut writer = store.hashed_blob_writer().unwrap();
        writer.write_all(b"half").unwrap();
        assert!(writer.finish_with("x/y", expected.digest, 5).is_err());
        assert!(!store.blob_path(&expected.digest).exists());
        assert_eq!(temp_files(&store), 0);
    }

    #[test]
    fn a_damaged_blob_is_noticed_removed_and_made_again() {
        let (_dir, store) = scratch();
        let descriptor = store.put_blob(b"0123456789", "x/y").unwrap();
        for damaged in [&b"0123456788"[..], b"01234", b"", b"0123456789x"] {
            fs::write(store.blob_path(&descriptor.digest), damaged).unwrap();
            let error = store.read_blob(&descriptor, 100).unwrap_err();
            assert!(matches!(error, StoreError::BlobCorrupt { .. }), "{error}");
            assert!(!store.blob_path(&descriptor.digest).exists());
            store.put_blob(b"0123456789", "x/y").unwrap();
            assert_eq!(store.read_blob(&descriptor, 100).unwrap(), b"0123456789");
        }
    }

    #[test]
    fn a_blob_of_this_process_is_not_hashed_again() {
        let (_dir, store) = scratch();
        let descriptor = store.put_blob(b"0123456789", "x/y").unwrap();
        let read = |store: &Store| io::copy(&mut store.open_checked_blob(&descriptor).unwrap(), &mut io::sink());
        fs::write(store.blob_path(&descriptor.digest), b"9876543210").unwrap();
        assert_eq!(read(&store).unwrap(), 10);
        assert!(read(&Store::open(store.root()).unwrap()).is_err());
        store.put_blob(b"0123456789", "x/y").unwrap();
        fs::write(store.blob_path(&descriptor.digest), b"98765432101").unwrap();
        assert!(read(&store).is_err());
    }

    #[test]
    fn a_link_in_place_of_a_blob_is_not_followed() {
        let (dir, store) = scratch();
        let descriptor = Descriptor::new("x/y", Digest::of(b"secret"), 6);
        fs::write(dir.path().join("canary"), b"secret").unwrap();
        std::os::unix::fs::symlink(dir.path().join("canary"), store.blob_path(&descriptor.digest)).unwrap();
        assert!(!store.has_blob(&descriptor.digest, 6));
        assert!(store.read_blob(&descriptor, 100).is_err());
    }

    #[test]
    fn many_threads_write_the_same_blobs() {
        let (_dir, store) = scratch();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..50_u32 {
                        let bytes = n.to_le_bytes().repeat(100);
                        let descriptor = store.put_blob(&bytes, "x/y").unwrap();
                        assert_eq!(store.read_blob(&descriptor, 1000).unwrap(), bytes);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(store.path("blobs/sha256")).unwrap().count(), 50);
        assert_eq!(temp_files(&store), 0);
    }
}
