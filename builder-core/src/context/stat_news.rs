//! What a build learnt about the files of directories, until it is written: in memory at first, then in a file without a
//! name, so that the first build of a million files needs no hundred megabytes for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::stat_table::Fact;

/// As many bytes of entries are kept in memory.
const MOST_IN_MEMORY: usize = 8 << 20;

/// What was learnt since the table was written.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The entries of directories that were read whole and were not as the table has them.
    directories: BTreeMap<Vec<u8>, Entries>,
    in_memory: usize,
    spill: Option<Spill>,
    /// Files that were read one by one, by directory.
    pub(super) files: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Fact>>,
    /// Directories of the table that were of use.
    pub(super) visited: BTreeSet<Vec<u8>>,
}

/// The entries of a directory.
#[derive(Debug)]
enum Entries {
    Memory(Arc<[u8]>),
    Spilled { offset: u64, length: usize },
}

#[derive(Debug)]
struct Spill {
    file: File,
    size: u64,
}

impl News {
    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.files.is_empty()
    }

    /// The directories that there are news of, sorted.
    pub(super) fn fresh(&self) -> BTreeSet<&[u8]> {
        self.directories.keys().chain(self.files.keys()).map(Vec::as_slice).collect()
    }

    /// The entries of a directory, if it was read whole. Those that can't be read back are none: their files are hashed
    /// again.
    pub(super) fn entries(&self, directory: &[u8]) -> Option<Arc<[u8]>> {
        match self.directories.get(directory)? {
            Entries::Memory(entries) => Some(Arc::clone(entries)),
            Entries::Spilled { offset, length } => {
                let mut bytes = vec![0; *length];
                let read = self.spill.as_ref().map(|spill| spill.file.read_exact_at(&mut bytes, *offset));
                Some(if matches!(read, Some(Ok(()))) { bytes.into() } else { Arc::default() })
            }
        }
    }

    /// Takes the entries of a directory. `folder` is for what is too much for memory; without one all stays there.
    pub(super) fn insert(&mut self, directory: Vec<u8>, entries: Vec<u8>, folder: Option<&Path>) {
        let mut kept = None;
        if self.in_memory + entries.len() > MOST_IN_MEMORY
            && let Some(folder) = folder
        {
            // What can't be written stays in memory.
            kept = self.write(&entries, folder).ok();
        }
        let kept = kept.unwrap_or_else(|| {
            self.in_memory += entries.len();
            Entries::Memory(entries.into())
        });
        if let Some(Entries::Memory(old)) = self.directories.insert(directory, kept) {
            self.in_memory -= old.len();
        }
    }

    fn write(&mut self, entries: &[u8], folder: &Path) -> io::Result<Entries> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            None => self.spill.insert(Spill { file: tempfile::tempfile_in(folder)?, size: 0 }),
        };
        let offset = spill.size;
        spill.file.write_all_at(entries, offset)?;
        spill.size += entries.len() as u64;
        Ok(Entries::Spilled { offset, length: entries.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_memory_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let entries = |n: u8| vec![n; MOST_IN_MEMORY / 3];
        let name = |n: u8| format!("d{n}").into_bytes();
        let mut news = News::default();
        for n in 0..6 {
            news.insert(name(n), entries(n), Some(folder.path()));
        }
        news.insert(name(1), entries(11), Some(folder.path()));
        news.insert(name(5), entries(15), Some(folder.path()));
        assert!(news.in_memory <= MOST_IN_MEMORY && news.spill.is_some());
        for (n, want) in [(0, 0), (1, 11), (2, 2), (3, 3), (4, 4), (5, 15)] {
            assert!(*news.entries(&name(n)).unwrap() == entries(want), "{n}");
        }
        assert_eq!((news.entries(b"d6"), news.fresh().len()), (None, 6));
        // The file has no name that could be left behind.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_a_folder_all_stays_in_memory() {
        let mut news = News::default();
        for n in 0..3 {
            news.insert(vec![n], vec![n; MOST_IN_MEMORY], Some(Path::new("/nowhere")).filter(|_| n == 1));
        }
        assert!((0..3).all(|n| news.entries(&[n]).is_some_and(|entries| *entries == vec![n; MOST_IN_MEMORY])));
    }
}
