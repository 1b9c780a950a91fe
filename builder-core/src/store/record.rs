//! Records: small files with a checksum, so that a torn or damaged one counts as absent.
//!
//! ```text
//! <the record's bytes> "\n# blake3 " <64 hex digits of the bytes' BLAKE3> "\n"
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::file::{self, Durability};
use super::{Store, StoreError};

const MARK: &[u8] = b"\n# blake3 ";
const FOOTER_LENGTH: usize = MARK.len() + 64 + 1;

/// The largest record that is read at once, in bytes.
const RECORD_LIMIT: u64 = 4 << 30;

/// As many bytes of a record that is not read at once are in memory.
const PIECE: usize = 64 << 10;

impl Store {
    /// Reads the record of a finished step; `None` when there is none, or only a damaged one.
    ///
    /// Reading it counts as a use, for [`Store::prune`].
    ///
    /// # Errors
    /// When `key` can't be a file name, or the file can't be read.
    pub fn read_step(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_used_record(&self.step_path(key)?)
    }

    /// Writes the record of a finished step, at once.
    ///
    /// Every digest that the record's text names as `sha256:<hex>`, be it of a blob or a diff ID, is kept by
    /// [`Store::prune`] as long as the record.
    ///
    /// # Errors
    /// When `key` can't be a file name, or the file can't be written.
    pub fn write_step(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_record(&self.step_path(key)?, bytes)
    }

    /// Removes the record of a step; whether there was one.
    ///
    /// # Errors
    /// When `key` can't be a file name, or the file can't be removed.
    pub fn remove_step(&self, key: &str) -> Result<bool, StoreError> {
        file::remove(&self.step_path(key)?)
    }

    /// Reads a small record by kind and name; the name may be any text. `None` when there is none, or a damaged one.
    ///
    /// # Errors
    /// When `kind` can't be a file name, or the file can't be read.
    pub fn read_note(&self, kind: &str, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_used_record(&self.note_path(kind, name)?)
    }

    /// Writes a small record by kind and name, at once. It keeps objects as [`Store::write_step`] says.
    ///
    /// # Errors
    /// When `kind` can't be a file name, or the file can't be written.
    pub fn write_note(&self, kind: &str, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.note_path(kind, name)?;
        file::create_dir(path.parent().expect("a note lies in the folder of its kind"))?;
        self.write_record(&path, bytes)
    }

    /// The keys of all finished steps; `None` where there are more than `most`.
    ///
    /// # Errors
    /// When the records can't be listed.
    pub fn step_keys(&self, most: usize) -> Result<Option<Vec<String>>, StoreError> {
        let names = file::list(&self.path("steps"))?;
        Ok(Some(names).filter(|names| names.len() <= most))
    }

    /// Reads a step's record without that counting as a use.
    ///
    /// # Errors
    /// As [`Self::read_step`].
    pub fn peek_step(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read_record(&self.step_path(key)?)
    }

    /// As [`read_record`], and removes and tells of a damaged one.
    pub(super) fn read_noted(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        self.note(path, look_at_record(path)?)
    }

    /// Opens a record of any size, whose bytes begin the file that is given; `None` as for [`Self::read_noted`].
    pub(super) fn open_noted(&self, path: &Path) -> Result<Option<RecordFile>, StoreError> {
        self.note(path, check_record(path)?)
    }

    fn note<T>(&self, path: &Path, looked: Looked<T>) -> Result<Option<T>, StoreError> {
        match looked {
            Looked::Good(record) => Ok(Some(record)),
            Looked::Missing => Ok(None),
            Looked::Damaged => {
                file::remove(path)?;
                let shown = path.strip_prefix(self.root()).unwrap_or(path);
                self.note_damage(format!("the record `{}` was damaged", shown.display()));
                Ok(None)
            }
        }
    }

    fn read_used_record(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let record = self.read_noted(path)?;
        if record.is_some() {
            file::touch(path);
        }
        Ok(record)
    }

    /// Writes a file that [`read_record`] reads.
    pub(super) fn write_record(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let hash = blake3::hash(bytes).to_hex();
        self.write_file(path, &[bytes, MARK, hash.as_bytes(), b"\n"], Durability::Checked)
    }

    /// The same, of all that a reader gives.
    pub(super) fn write_record_from(&self, path: &Path, bytes: &mut dyn Read) -> Result<(), StoreError> {
        self.write_file_with(path, Durability::Checked, |file| {
            let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE]);
            loop {
                let count = match bytes.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    count => count?,
                };
                if count == 0 {
                    break;
                }
                hasher.update(&piece[..count]);
                file.write_all(&piece[..count])?;
                self.wrote(count as u64);
            }
            file.write_all(&[MARK, hasher.finalize().to_hex().as_bytes(), b"\n"].concat())
        })
    }

    fn step_path(&self, key: &str) -> Result<PathBuf, StoreError> {
        Ok(self.path("steps").join(file::name("step", key)?))
    }

    fn note_path(&self, kind: &str, name: &str) -> Result<PathBuf, StoreError> {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        Ok(self.path("notes").join(file::name("note", kind)?).join(hash.as_str()))
    }
}

/// A record's file, and how many bytes of it are the record.
#[derive(Debug)]
pub struct RecordFile {
    /// The file; nobody writes to it.
    pub file: File,
    /// The length of the record.
    pub length: u64,
}

/// What a look at a record's file gave.
#[derive(Debug, PartialEq)]
pub(super) enum Looked<T> {
    Good(T),
    Missing,
    Damaged,
}

/// Reads a record's bytes; `None` when the file is missing, torn or damaged.
pub(super) fn read_record(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(match look_at_record(path)? {
        Looked::Good(bytes) => Some(bytes),
        Looked::Missing | Looked::Damaged => None,
    })
}

/// Reads a record's bytes.
pub(super) fn look_at_record(path: &Path) -> Result<Looked<Vec<u8>>, StoreError> {
    let mut bytes = match file::read(path, RECORD_LIMIT) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Looked::Missing),
        // The disk lost the bytes.
        Err(StoreError::Io { source, .. }) if source.raw_os_error() == Some(libc::EIO) => Vec::new(),
        Err(error) => return Err(error),
    };
    let length = bytes.len().saturating_sub(FOOTER_LENGTH);
    let (content, footer) = bytes.split_at(length);
    if !is_footer(footer, &blake3::hash(content)) {
        return Ok(damaged(path));
    }
    bytes.truncate(length);
    Ok(Looked::Good(bytes))
}

/// As [`look_at_record`], with a piece of the record in memory at a time.
fn check_record(path: &Path) -> Result<Looked<RecordFile>, StoreError> {
    let checked = file::open_regular(path).and_then(|file| {
        let length = file.metadata()?.len().saturating_sub(FOOTER_LENGTH as u64);
        let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE.min(length as usize)]);
        let mut place = 0;
        while place < length {
            let count = (length - place).min(PIECE as u64) as usize;
            file.read_exact_at(&mut piece[..count], place)?;
            hasher.update(&piece[..count]);
            place += count as u64;
        }
        let mut footer = [0; FOOTER_LENGTH];
        file.read_exact_at(&mut footer, length)?;
        Ok(is_footer(&footer, &hasher.finalize()).then_some(RecordFile { file, length }))
    });
    match checked {
        Ok(Some(record)) => Ok(Looked::Good(record)),
        Ok(None) => Ok(damaged(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Looked::Missing),
        // It is shorter than a footer, or the disk lost the bytes.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(damaged(path)),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(damaged(path)),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

fn is_footer(footer: &[u8], hash: &blake3::Hash) -> bool {
    footer.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(b"\n")) == Some(hash.to_hex().as_bytes())
}

fn damaged<T>(path: &Path) -> Looked<T> {
    tracing::warn!(path = %path.display(), "a damaged record counts as absent");
    Looked::Damaged
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;

    #[test]
    fn round_trips() {
        let (_dir, store) = scratch();
        for bytes in [&b""[..], b"one", b"two\n# blake3 \n", &[0, 255, 10]] {
            store.write_step("abc123", bytes).unwrap();
            assert_eq!(store.read_step("abc123").unwrap().as_deref(), Some(bytes));
            store.write_note("tags", "docker.io/library/a:b", bytes).unwrap();
            assert_eq!(store.read_note("tags", "docker.io/library/a:b").unwrap().as_deref(), Some(bytes));
        }
        assert_eq!(store.read_step("abc124").unwrap(), None);
        assert!(store.remove_step("abc123").unwrap());
        assert_eq!(store.read_step("abc123").unwrap(), None);
        for bad in ["", "..", "a/b", ".hidden", "a\0"] {
            assert!(store.read_step(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_record_written_piece_by_piece_is_the_same_file() {
        let (_dir, store) = scratch();
        for length in [0, 1, super::PIECE, 3 * super::PIECE + 5] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let (whole, pieces) = (store.path("steps/whole"), store.path("steps/pieces"));
            store.write_record(&whole, &bytes).unwrap();
            store.write_record_from(&pieces, &mut bytes.as_slice()).unwrap();
            assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&pieces).unwrap());
            assert_eq!(store.open_noted(&pieces).unwrap().unwrap().length, length as u64);
        }
        assert!(store.open_noted(&store.path("steps/none")).unwrap().is_none());
    }

    #[test]
    fn every_torn_or_flipped_record_counts_as_absent() {
        let (_dir, store) = scratch();
        store.write_step("abc", b"a record of a step").unwrap();
        let path = store.path("steps/abc");
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(store.open_noted(&path).unwrap().is_none(), "{length} bytes");
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.read_step("abc").unwrap(), None, "{length} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            assert!(store.open_noted(&path).unwrap().is_none(), "bit {bit}");
            std::fs::write(&path, &flipped).unwrap();
            assert_eq!(store.read_step("abc").unwrap(), None, "bit {bit}");
        }
        store.write_step("abc", b"again").unwrap();
        assert_eq!(store.read_step("abc").unwrap().as_deref(), Some(&b"again"[..]));
    }
}
