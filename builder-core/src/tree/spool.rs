//! Bytes that are kept until they are read again: in memory while they are few, in a temporary file of a folder then.
//! [`Appended`] is such a file for those who read it while it grows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// As many bytes are in memory at most, where there is a folder for more.
pub(crate) const MOST_IN_MEMORY: usize = 1 << 20;

/// Takes bytes, one piece after another.
#[derive(Default)]
pub(crate) struct Spool {
    folder: Option<PathBuf>,
    memory: Vec<u8>,
    file: Option<File>,
    written: u64,
}

/// What a [`Spool`] took.
#[derive(Debug, Clone)]
pub(crate) enum Spooled {
    Memory(Vec<u8>),
    /// A file without a name, and its length.
    File(Arc<File>, u64),
}

impl Spool {
    /// Keeps everything in memory where there is no folder.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), ..Self::default() }
    }

    /// How many bytes it took.
    pub(crate) const fn len(&self) -> u64 {
        self.written + self.memory.len() as u64
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > MOST_IN_MEMORY { self.spill() } else { Ok(()) }
    }

    /// What it took.
    pub(crate) fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(match self.file {
            Some(file) => Spooled::File(Arc::new(file), self.written),
            None => Spooled::Memory(self.memory),
        })
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match (&mut self.file, &self.folder) {
            (Some(file), _) => file,
            (none, Some(folder)) => none.insert(tempfile::tempfile_in(folder)?),
            (None, None) => return Ok(()),
        };
        file.write_all_at(&self.memory, self.written)?;
        self.written += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }
}

impl Default for Spooled {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Spooled {
    /// The number of bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    /// Reads bytes that begin at a place; all of them are there.
    pub(crate) fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(all) => {
                let found = usize::try_from(at).ok().and_then(|at| all.get(at..at.checked_add(bytes.len())?));
                bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::File(file, _) => file.read_exact_at(bytes, at),
        }
    }
}

/// A file without a name, which threads append to and read from.
#[derive(Debug)]
pub(crate) struct Appended {
    file: File,
    length: AtomicU64,
}

impl Appended {
    /// An empty one in a folder.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, length: AtomicU64::new(0) })
    }

    /// Adds bytes, and gives their place.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.length.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(bytes, at)?;
        Ok(at)
    }

    /// Reads as many bytes as there is room for.
    pub(crate) fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_it_took_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for (folder, count, in_file) in
            [(None, 300_000, false), (Some(folder.path()), 1000, false), (Some(folder.path()), 300_000, true)]
        {
            let mut spool = Spool::new(folder);
            for number in 0..count {
                spool.push(&u64::to_le_bytes(number)).unwrap();
            }
            let length = spool.len();
            let spooled = spool.finish().unwrap();
            assert_eq!((spooled.len(), length), (8 * count, 8 * count));
            assert_eq!(matches!(spooled, Spooled::File(..)), in_file);
            for number in (0..count).step_by(999) {
                let mut bytes = [0; 8];
                spooled.read_at(8 * number, &mut bytes).unwrap();
                assert_eq!(u64::from_le_bytes(bytes), number);
            }
            assert!(spooled.read_at(8 * count - 7, &mut [0; 8]).is_err());
        }
    }
}
