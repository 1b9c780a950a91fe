//! Contents that are on no disk of ours: kept in memory while they are small, in temporary files otherwise.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use crate::tree::{Content, ContentDigest, OpenContent, SourceFile, TreePath};

/// A file of up to this many bytes may be kept in memory.
const SMALL: u64 = 256 * 1024;

/// As many bytes of small files are kept in memory.
const MOST_IN_MEMORY: u64 = 64 * 1024 * 1024;

/// Where the contents of an archive's members are kept. The files go when the last content that is in them goes.
pub(super) struct Spool<'a> {
    folder: &'a Path,
    in_memory: u64,
}

struct Spooled {
    file: tempfile::TempPath,
}

impl OpenContent for Spooled {
    fn open(&self, _: &TreePath, _: u64) -> io::Result<File> {
        File::open(&self.file)
    }
}

impl<'a> Spool<'a> {
    /// `folder` must exist; it is for temporary files.
    pub(super) const fn new(folder: &'a Path) -> Self {
        Self { folder, in_memory: 0 }
    }

    /// Takes exactly `size` bytes.
    pub(super) fn store(&mut self, reader: &mut dyn Read, size: u64) -> Result<Content, SpoolError> {
        if size == 0 {
            return Ok(Content::None);
        }
        if size <= SMALL && self.in_memory + size <= MOST_IN_MEMORY {
            let mut bytes = Vec::new();
            reader.take(size).read_to_end(&mut bytes).map_err(SpoolError::Read)?;
            if bytes.len() as u64 != size {
                return Err(SpoolError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            self.in_memory += size;
            return Ok(Content::Bytes(bytes.into()));
        }
        let mut file = tempfile::NamedTempFile::new_in(self.folder).map_err(SpoolError::Write)?;
        let mut left = size;
        let mut buffer = vec![0; 128 * 1024];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = reader.read(&mut buffer[..most]).map_err(SpoolError::Read)?;
            if count == 0 {
                return Err(SpoolError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            io::Write::write_all(&mut file, &buffer[..count]).map_err(SpoolError::Write)?;
            left -= count as u64;
        }
        file.rewind().map_err(SpoolError::Write)?;
        Ok(Content::Source(SourceFile {
            opener: Arc::new(Spooled { file: file.into_temp_path() }),
            path: TreePath::root(),
            stamp: 0,
        }))
    }
}

/// What failed: the side that is read, or the temporary file.
#[derive(Debug)]
pub(super) enum SpoolError {
    Read(io::Error),
    Write(io::Error),
}

/// Opens a content for reading from its start.
pub(super) fn open_content(content: &Content) -> io::Result<Box<dyn Read + Send>> {
    Ok(match content {
        Content::None => Box::new(io::empty()),
        Content::Bytes(bytes) => Box::new(io::Cursor::new(Arc::clone(bytes))),
        Content::Source(source) => Box::new(source.open()?),
    })
}

/// Computes a content's digest.
pub(super) fn hash_content(content: &Content) -> io::Result<ContentDigest> {
    match content {
        Content::None => Ok(blake3::hash(b"")),
        Content::Bytes(bytes) => Ok(blake3::hash(bytes)),
        Content::Source(source) => hash_reader(source.open()?),
    }
}

/// Computes the digest of all that a reader gives.
pub(super) fn hash_reader(reader: impl Read) -> io::Result<ContentDigest> {
    hash_in_pieces(reader, 128 * 1024)
}

/// The same, of a reader that is read in pieces of so many bytes.
pub(super) fn hash_in_pieces(mut reader: impl Read, size: usize) -> io::Result<ContentDigest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; size];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
