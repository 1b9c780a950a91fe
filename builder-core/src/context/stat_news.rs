//! What a build learnt about the files of directories, until it is written: in memory at first, then in a file without a
//! name, so that the first build of a million files needs no hundred megabytes for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::stat_table::Fact;
use crate::tree::Appended;

/// As many bytes of entries are kept in memory.
const MOST_IN_MEMORY: usize = 8 << 20;

/// What was learnt since the table was written.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The entries of directories that were read whole and were not as the table has them.
    directories: BTreeMap<Vec<u8>, Vec<Part>>,
    in_memory: usize,
    file: Option<Arc<Appended>>,
    /// Files that were read one by one, by directory.
    pub(super) files: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Fact>>,
    /// Directories of the table that were of use.
    pub(super) visited: BTreeSet<Vec<u8>>,
}

/// Some entries of a directory.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Memory(Arc<[u8]>),
    File { file: Arc<Appended>, at: u64, length: usize },
}

impl Part {
    /// The entries. Those that can't be read back are none: their files are hashed again.
    pub(super) fn read(&self) -> Arc<[u8]> {
        match self {
            Self::Memory(entries) => Arc::clone(entries),
            Self::File { file, at, length } => {
                let mut bytes = vec![0; *length];
                file.read_at(*at, &mut bytes).map_or_else(|_| Arc::default(), |()| bytes.into())
            }
        }
    }
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

    /// The entries of a directory, if it was read whole.
    pub(super) fn parts(&self, directory: &[u8]) -> Option<&[Part]> {
        self.directories.get(directory).map(Vec::as_slice)
    }

    /// Takes entries that will be those of a directory, or some of them. `folder` is for what is too much for memory;
    /// without one all stays there.
    pub(super) fn keep(&mut self, entries: Vec<u8>, folder: Option<&Path>) -> Part {
        if self.in_memory + entries.len() > MOST_IN_MEMORY
            && let Some(folder) = folder
            // What can't be written stays in memory.
            && let Ok(part) = self.write(&entries, folder)
        {
            return part;
        }
        self.in_memory += entries.len();
        Part::Memory(entries.into())
    }

    /// Takes all the entries of a directory.
    pub(super) fn insert(&mut self, directory: Vec<u8>, parts: Vec<Part>) {
        for old in self.directories.insert(directory, parts).into_iter().flatten() {
            if let Part::Memory(old) = old {
                self.in_memory -= old.len();
            }
        }
    }

    fn write(&mut self, entries: &[u8], folder: &Path) -> io::Result<Part> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(Arc::new(Appended::new(folder)?)),
        };
        Ok(Part::File { at: file.append(entries)?, length: entries.len(), file: Arc::clone(file) })
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
        for (n, what) in (0..6).map(|n| (n, n)).chain([(1, 11), (5, 15)]) {
            let part = news.keep(entries(what), Some(folder.path()));
            news.insert(name(n), vec![part]);
        }
        assert!(news.in_memory <= MOST_IN_MEMORY && news.file.is_some());
        for (n, want) in [(0, 0), (1, 11), (2, 2), (3, 3), (4, 4), (5, 15)] {
            assert!(*news.parts(&name(n)).unwrap()[0].read() == entries(want), "{n}");
        }
        assert!(news.parts(b"d6").is_none() && news.fresh().len() == 6);
        // The file has no name that could be left behind.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_a_folder_all_stays_in_memory() {
        let mut news = News::default();
        for n in 0..3 {
            let part = news.keep(vec![n; MOST_IN_MEMORY], Some(Path::new("/nowhere")).filter(|_| n == 1));
            assert!(*part.read() == vec![n; MOST_IN_MEMORY] && matches!(part, Part::Memory(_)));
        }
    }
}
