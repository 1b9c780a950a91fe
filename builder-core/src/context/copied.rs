//! The digests of files that were copied before the context was digested: each is that of a file in the state in which it
//! was opened. Those of many files are in a file without a name, so that the first build of a million takes no memory.
//!
//! ```text
//! file      blocks, each of one directory; a directory may have several
//! block     entries: a digest of path and stamp (16), the file's digest (32)
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::tree::{Appended, ContentDigest, TreePath};

/// As many bytes of entries are kept in memory, where there is a folder for more.
const MOST_IN_MEMORY: usize = 2 << 20;

/// As many bytes of a directory's entries are looked through, so that one of a million files takes no memory either: what
/// is beyond them is read again.
const MOST_OF_DIRECTORY: usize = 8 << 20;

const NAME: usize = 16;

const ENTRY: usize = NAME + 32;

/// The start of a digest.
type Name = [u8; NAME];

/// What is kept of one directory's files.
#[derive(Default)]
pub(super) struct CopiedFiles(HashMap<Name, ContentDigest>);

impl CopiedFiles {
    /// The digest of a file as it was in the state that has this stamp.
    pub(super) fn find(&self, path: impl FnOnce() -> TreePath, stamp: impl FnOnce() -> u64) -> Option<ContentDigest> {
        if self.0.is_empty() { None } else { self.0.get(&name_of(&path(), stamp())).copied() }
    }
}

/// Digests of files that were copied.
#[derive(Default)]
pub(super) struct CopiedDigests {
    /// `None` until somebody wants them.
    kept: RwLock<Option<Kept>>,
    /// The directory that was asked for last.
    last: Mutex<Option<(TreePath, Arc<CopiedFiles>)>>,
}

#[derive(Default)]
struct Kept {
    /// Entries by directory, and their bytes.
    in_memory: HashMap<Name, Vec<u8>>,
    bytes: usize,
    folder: Option<PathBuf>,
    file: Option<Appended>,
    /// The place and length of each block by directory.
    blocks: HashMap<Name, Vec<(u64, usize)>>,
}

impl CopiedDigests {
    /// Keeps what is noted from now on; what is too much for memory in a folder, where there is one.
    pub(super) fn keep_from_now(&self, folder: Option<&Path>) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert_default().folder = folder.map(Path::to_owned);
    }

    pub(super) fn note(&self, path: &TreePath, stamp: u64, digest: ContentDigest) {
        if let Some(kept) = &mut *self.kept.write().unwrap_or_else(PoisonError::into_inner) {
            kept.add(path, stamp, digest);
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// What is kept of the files in a directory. Digests that can't be read back are none: those files are read again.
    pub(super) fn of_directory(&self, directory: &TreePath) -> Arc<CopiedFiles> {
        // In this order, so that nothing is noted between the two.
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, files)) = &*last
            && path == directory
        {
            return Arc::clone(files);
        }
        let files = Arc::new(kept.as_ref().map_or_else(CopiedFiles::default, |kept| kept.files_of(directory)));
        *last = Some((directory.clone(), Arc::clone(&files)));
        files
    }
}

impl Kept {
    fn add(&mut self, path: &TreePath, stamp: u64, digest: ContentDigest) {
        let directory = path.parent().unwrap_or_else(TreePath::root);
        let entries = self.in_memory.entry(directory_name(&directory)).or_default();
        entries.extend_from_slice(&name_of(path, stamp));
        entries.extend_from_slice(digest.as_bytes());
        self.bytes += ENTRY;
        // What can't be written stays in memory.
        if self.bytes > MOST_IN_MEMORY && self.spill().is_err() {
            self.folder = None;
        }
    }

    /// Moves what is in memory to the file, where there is a folder for it.
    fn spill(&mut self) -> io::Result<()> {
        let file = match (&mut self.file, &self.folder) {
            (_, None) => return Ok(()),
            (Some(file), _) => file,
            (none, Some(folder)) => none.insert(Appended::new(folder)?),
        };
        let mut all = Vec::with_capacity(self.bytes);
        let mut blocks = Vec::with_capacity(self.in_memory.len());
        for (directory, entries) in &self.in_memory {
            blocks.push((*directory, all.len() as u64, entries.len()));
            all.extend_from_slice(entries);
        }
        let start = file.append(&all)?;
        for (directory, offset, length) in blocks {
            self.blocks.entry(directory).or_default().push((start + offset, length));
        }
        self.in_memory.clear();
        self.bytes = 0;
        Ok(())
    }

    fn files_of(&self, directory: &TreePath) -> CopiedFiles {
        let directory = directory_name(directory);
        let mut bytes = self.in_memory.get(&directory).cloned().unwrap_or_default();
        for (offset, length) in self.blocks.get(&directory).into_iter().flatten() {
            if bytes.len() + length > MOST_OF_DIRECTORY {
                break;
            }
            let mut block = vec![0; *length];
            if self.file.as_ref().is_some_and(|file| file.read_at(*offset, &mut block).is_ok()) {
                bytes.extend(block);
            }
        }
        let (entries, _) = bytes.as_chunks::<ENTRY>();
        let entry = |entry: &[u8; ENTRY]| {
            let (name, digest) = (entry.first_chunk()?, entry.last_chunk()?);
            Some((*name, ContentDigest::from_bytes(*digest)))
        };
        CopiedFiles(entries.iter().filter_map(entry).collect())
    }
}

fn name_of(path: &TreePath, stamp: u64) -> Name {
    start_of(blake3::Hasher::new().update(&stamp.to_le_bytes()).update(path.as_bytes()).finalize())
}

fn directory_name(path: &TreePath) -> Name {
    start_of(blake3::hash(path.as_bytes()))
}

fn start_of(digest: blake3::Hash) -> Name {
    *digest.as_bytes().first_chunk().expect("a digest has more bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: usize = 500;
    const DIRECTORIES: usize = 700;

    fn directory(number: usize) -> TreePath {
        TreePath::new(format!("d{number}").as_bytes()).unwrap()
    }

    fn file(directory: &TreePath, number: usize) -> (TreePath, u64, ContentDigest) {
        (directory.join(format!("f{number}").as_bytes()), number as u64, blake3::hash(&number.to_le_bytes()))
    }

    /// More than memory is for, whatever the order, with and without a folder.
    #[test]
    fn all_are_found_in_the_state_they_had() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = Path::new("/nowhere");
        for (place, has_file) in [(Some(folder.path()), true), (None, false), (Some(nowhere), false)] {
            let copied = CopiedDigests::default();
            copied.keep_from_now(place);
            // The first files of all directories, then the others.
            for part in [0..FILES / 3, FILES / 3..FILES] {
                for directory in (0..DIRECTORIES).map(directory) {
                    for (path, stamp, digest) in part.clone().map(|number| file(&directory, number)) {
                        copied.note(&path, stamp, digest);
                    }
                }
            }
            for directory in (0..DIRECTORIES).map(directory) {
                let files = copied.of_directory(&directory);
                assert_eq!(files.0.len(), FILES);
                for (path, stamp, digest) in [0, FILES / 2, FILES - 1].map(|number| file(&directory, number)) {
                    assert_eq!(files.find(|| path.clone(), || stamp), Some(digest));
                    assert_eq!(files.find(|| path.clone(), || stamp + 1), None);
                }
            }
            assert_eq!(copied.of_directory(&TreePath::default()).0.len(), 0);
            let kept = copied.kept.read().unwrap();
            assert_eq!(kept.as_ref().unwrap().file.is_some(), has_file);
            assert!(!has_file || kept.as_ref().unwrap().bytes <= MOST_IN_MEMORY);
        }
    }

    #[test]
    fn of_a_directory_of_very_many_files_some_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let copied = CopiedDigests::default();
        copied.keep_from_now(Some(folder.path()));
        for (path, stamp, digest) in (0..400_000).map(|number| file(&directory(1), number)) {
            copied.note(&path, stamp, digest);
        }
        let files = copied.of_directory(&directory(1));
        assert!((MOST_OF_DIRECTORY * 2 / 3..=MOST_OF_DIRECTORY).contains(&(files.0.len() * ENTRY)));
        let (path, stamp, digest) = file(&directory(1), 1);
        assert_eq!(files.find(|| path, || stamp), Some(digest));
    }

    #[test]
    fn nothing_is_kept_unasked() {
        let copied = CopiedDigests::default();
        let (path, stamp, digest) = file(&directory(1), 1);
        copied.note(&path, stamp, digest);
        copied.keep_from_now(None);
        assert_eq!(copied.of_directory(&directory(1)).find(|| path, || stamp), None);
    }
}
