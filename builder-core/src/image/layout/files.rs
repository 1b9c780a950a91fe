//! The files of a layout: in a folder, or as members of a tar file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::super::ImageError;

/// The most members of a tar file that are listed.
const MEMBER_LIMIT: usize = 100_000;

/// Where a layout's files are.
#[derive(Debug)]
pub(super) enum Files {
    /// In a folder.
    Folder(OwnedFd),
    /// In a tar file, by name: start and size in bytes.
    Tar { file: Arc<File>, members: BTreeMap<Vec<u8>, (u64, u64)> },
}

/// A file of a layout, being read.
#[derive(Debug)]
pub struct Member {
    file: Arc<File>,
    position: u64,
    left: u64,
}

impl Member {
    /// How many bytes are left.
    pub(super) const fn size(&self) -> u64 {
        self.left
    }
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read_at(&mut buffer[..most], self.position)?;
        self.position += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Files {
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let error = |action| ImageError::io(action, path);
        // Without waiting for the other end, should it be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| error("open")(errno.into()))?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(error("look at"))?;
        if metadata.is_dir() {
            return Ok(Self::Folder(file.into()));
        }
        let not_a_layout = |reason: &str| ImageError::NotALayout { path: path.to_owned(), reason: reason.to_owned() };
        if !metadata.is_file() {
            return Err(not_a_layout("it is neither a folder nor a file"));
        }
        let mut start = [0; 4];
        let read = file.read_at(&mut start, 0).map_err(error("read"))?;
        if matches!(
            start,
            [0x1f, 0x8b, ..] | [b'B', b'Z', b'h', _] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X']
        ) {
            return Err(not_a_layout("it is compressed; only a plain tar file can be read in place"));
        }
        if read == 0 {
            return Err(not_a_layout("it is empty"));
        }
        let file = Arc::new(file);
        let members = list_members(&file, metadata.len())
            .map_err(|error| not_a_layout(&format!("it can't be read as a tar file: {error}")))?;
        Ok(Self::Tar { file, members })
    }

    /// Opens a regular file by the components of its path. Links are refused, wherever they are.
    pub(super) fn open_member(&self, components: &[&str]) -> io::Result<Member> {
        match self {
            Self::Folder(folder) => {
                let (name, folders) = components.split_last().expect("a member has a name");
                let mut inner: Option<OwnedFd> = None;
                for component in folders {
                    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    inner =
                        Some(rustix::fs::openat(inner.as_ref().unwrap_or(folder), *component, flags, Mode::empty())?);
                }
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file =
                    File::from(rustix::fs::openat(inner.as_ref().unwrap_or(folder), *name, flags, Mode::empty())?);
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
                }
                // One more than its size, so that a file that grows is noticed.
                Ok(Member { file: Arc::new(file), position: 0, left: metadata.len() })
            }
            Self::Tar { file, members } => {
                let (position, left) = members.get(components.join("/").as_bytes()).ok_or(io::ErrorKind::NotFound)?;
                Ok(Member { file: Arc::clone(file), position: *position, left: *left })
            }
        }
    }
}

/// Lists the regular files of a tar file; of several with one name the last counts, as if it were unpacked.
fn list_members(file: &Arc<File>, length: u64) -> io::Result<BTreeMap<Vec<u8>, (u64, u64)>> {
    let mut archive = tar::Archive::new(SeekReader { file: Arc::clone(file), position: 0, length });
    let mut members = BTreeMap::new();
    for (count, entry) in archive.entries_with_seek()?.enumerate() {
        let entry = entry?;
        if count >= MEMBER_LIMIT {
            return Err(io::Error::other(format!("it has more than {MEMBER_LIMIT} members")));
        }
        let path = entry.path_bytes();
        let mut name: &[u8] = &path;
        while let Some(rest) = name.strip_prefix(b"./") {
            name = rest;
        }
        if entry.header().entry_type().is_file() {
            let (start, size) = (entry.raw_file_position(), entry.size());
            if start.checked_add(size).is_none_or(|end| end > length) {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off"));
            }
            members.insert(name.to_vec(), (start, size));
        } else {
            // Neither a link nor anything else stands for a file, also not for one of the same name before.
            members.remove(name);
        }
    }
    Ok(members)
}

/// Reads a file without moving a position that others share.
struct SeekReader {
    file: Arc<File>,
    position: u64,
    length: u64,
}

impl Read for SeekReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl io::Seek for SeekReader {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(position) => Some(position),
            io::SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            io::SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
