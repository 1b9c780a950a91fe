//! Files that change while a build uses them, as they were when the build first looked at them.
//!
//! A folder that a program writes to does not hold still: a step's key would be made of one state and its layer of another.
//! Once that was noticed, whatever has changed since shortly before the build began is copied when it is looked at, and
//! the build uses the copy; where that is not enough, all files are. A copy that is made while the file is written may be
//! torn, as it may be with any other program that reads it; but key and layer are made of the same bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Mode, Stat};

use super::directory::ContextDir;
use super::folder::READ;
use super::stat_cache::FileStatus;
use crate::tree::{ContentDigest, FilePart, TreeError, TreePath};

/// As many bytes are copied at once.
const PIECE: usize = 256 << 10;

/// So many times files that had not changed before did, until all are copied.
const PATIENCE: usize = 3;

/// A file has changed since the build looked at it, or is gone.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` changed while the build used it")]
pub struct ChangedFile {
    /// The file, as a user knows it.
    pub path: String,
}

impl ChangedFile {
    /// As the failure of a system call.
    pub(super) fn error(path: String) -> io::Error {
        io::Error::other(Self { path })
    }
}

/// A copy of a file.
#[derive(Clone)]
pub(super) struct HeldFile {
    /// The file's status, with the copy's size.
    pub(super) stat: Stat,
    pub(super) digest: ContentDigest,
    pub(super) part: FilePart,
}

/// The copies.
#[derive(Default)]
pub(super) struct HeldFiles {
    /// How many times files were found to have changed.
    changes: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_path: HashMap<TreePath, HeldFile>,
    /// A file without a name that holds all copies, and how much is in it.
    copies: Option<Arc<File>>,
    length: u64,
}

impl ContextDir {
    /// Takes notice that files changed while they were used: from now on, uses copies of those that change, after some
    /// times of all, and looks at all anew.
    pub fn hold_changing(&self) {
        self.folder.held.changes.fetch_add(1, Ordering::Relaxed);
        self.forget_listings();
    }

    /// Whether it uses copies of files that change.
    #[must_use]
    pub fn holds_changing(&self) -> bool {
        self.folder.held.changes.load(Ordering::Relaxed) > 0
    }

    /// The copy of a file, where the build uses one.
    pub(super) fn hold(
        &self,
        directory: BorrowedFd<'_>,
        path: &TreePath,
        stat: &Stat,
    ) -> Result<Option<HeldFile>, TreeError> {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let held = &self.folder.held;
        let has_all = held.changes.load(Ordering::Relaxed) > PATIENCE;
        if !is_file || !self.holds_changing() || !has_all && self.cache.is_settled(&FileStatus::of(stat)) {
            return Ok(None);
        }
        let held = held.hold(directory, path, self.cache.folder());
        held.map_err(|error| self.folder.error("read", path, error))
    }
}

impl HeldFiles {
    /// The copy of a file in an open directory, which is made unless there is one; those of many files are in a file in
    /// `folder`. `None` where no regular file can be opened any more, which reading it will tell.
    fn hold(&self, directory: BorrowedFd<'_>, path: &TreePath, folder: Option<&Path>) -> io::Result<Option<HeldFile>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = kept.by_path.get(path) {
            return Ok(Some(held.clone()));
        }
        let name = path.file_name().unwrap_or(b".");
        let Ok(file) = rustix::fs::openat(directory, name, READ, Mode::empty()).map(File::from) else {
            return Ok(None);
        };
        let mut stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let (digest, part) = kept.copy(&file, stat.st_size.unsigned_abs(), folder)?;
        stat.st_size = part.length.cast_signed();
        // Of several names each has a copy of its own.
        stat.st_nlink = 1;
        let held = HeldFile { stat, digest, part };
        kept.by_path.insert(path.clone(), held.clone());
        Ok(Some(held))
    }
}

impl Kept {
    /// Copies a file's first `size` bytes, or what there is of them.
    fn copy(&mut self, file: &File, size: u64, folder: Option<&Path>) -> io::Result<(ContentDigest, FilePart)> {
        // The error of a call for the file itself needs no more words.
        let lost = |error: io::Error| io::Error::new(error.kind(), format!("no copy of it could be made: {error}"));
        let copies = match &self.copies {
            Some(copies) => Arc::clone(copies),
            None => {
                let made = folder.map_or_else(tempfile::tempfile, tempfile::tempfile_in).map_err(lost)?;
                Arc::clone(self.copies.insert(Arc::new(made)))
            }
        };
        let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
        let mut piece = vec![0; usize::try_from(size).unwrap_or(PIECE).clamp(1, PIECE)];
        while length < size {
            let most = usize::try_from(size - length).unwrap_or(PIECE).min(piece.len());
            match file.read_at(&mut piece[..most], length) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&piece[..count]);
                    copies.write_all_at(&piece[..count], self.length + length).map_err(lost)?;
                    length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let part = FilePart { file: copies, start: self.length, length };
        self.length += length;
        Ok((hasher.finalize(), part))
    }
}
