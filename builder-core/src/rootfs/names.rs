//! The names in a directory, without a look at what has them: a million of them take some twenty megabytes.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir};

use super::root::{DIRECTORY, is_absent};
use super::{Root, Status};
use crate::tree::{TreeError, TreePath};

/// Sorted names, one after another in few allocations.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    places: Vec<Range<u32>>,
}

impl Names {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The name with a number.
    #[must_use]
    pub fn name(&self, number: usize) -> &[u8] {
        let place = &self.places[number];
        &self.bytes[place.start as usize..place.end as usize]
    }

    fn push(&mut self, name: &[u8]) -> io::Result<()> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let place = u32::try_from(start).ok().zip(u32::try_from(self.bytes.len()).ok());
        let (start, end) = place.ok_or_else(|| io::Error::other("its names have more than 4 GiB"))?;
        self.places.push(start..end);
        Ok(())
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |place: &Range<u32>| &bytes[place.start as usize..place.end as usize];
        self.places.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    }
}

impl Root {
    /// The names in a directory; sockets are left out where the directory tells them. None where the path is no
    /// directory.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn names(&self, path: &TreePath) -> Result<Names, TreeError> {
        let read = || {
            let directory = self.open_at(path, DIRECTORY)?;
            let mut names = Names::default();
            let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
            let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") && entry.file_type() != FileType::Socket {
                    names.push(name)?;
                }
            }
            names.sort();
            Ok(names)
        };
        match read() {
            Err(error) if is_absent(&error) => Ok(Names::default()),
            result => result.map_err(|error| self.error("list", path, error)),
        }
    }

    /// What has some of the names in a directory; `None` for sockets.
    ///
    /// # Errors
    /// When the tree can't be read, or something is gone meanwhile.
    pub fn statuses<'a>(
        &self,
        path: &TreePath,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Option<Status>>, TreeError> {
        let directory = self.open_at(path, DIRECTORY).map_err(|error| self.error("list", path, error))?;
        let read = names.map(|name| Status::read(directory.as_fd(), name, path.join(name)));
        read.collect::<Result<_, _>>().map_err(|error| self.error("list", path, error.into()))
    }
}
