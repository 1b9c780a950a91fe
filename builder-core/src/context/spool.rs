//! Contents that are on no disk of ours: kept in memory while they are few, in a temporary file otherwise.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::tree::{Content, ContentDigest, FilePart};

/// A file of up to this many bytes may be kept in memory.
const SMALL: u64 = 64 * 1024;

/// As many bytes of small files are kept in memory.
const MOST_IN_MEMORY: u64 = 4 * 1024 * 1024;

/// As many bytes are copied at once.
const PIECE: u64 = 128 * 1024;

/// Where the contents of an archive's members are kept: all that are not in memory in one file without a name, which
/// goes with the last content that is in it.
pub(super) struct Spool<'a> {
    folder: &'a Path,
    in_memory: u64,
    file: Option<Arc<File>>,
    length: u64,
    buffer: Vec<u8>,
}

impl<'a> Spool<'a> {
    /// `folder` must exist; it is for the temporary file.
    pub(super) const fn new(folder: &'a Path) -> Self {
        Self { folder, in_memory: 0, file: None, length: 0, buffer: Vec::new() }
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
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(tempfile::tempfile_in(self.folder).map_err(SpoolError::Write)?);
                Arc::clone(self.file.insert(file))
            }
        };
        let start = self.length;
        self.buffer.resize(PIECE as usize, 0);
        while self.length < start + size {
            let most = (start + size - self.length).min(PIECE) as usize;
            let piece = &mut self.buffer[..most];
            reader.read_exact(piece).map_err(SpoolError::Read)?;
            file.write_all_at(piece, self.length).map_err(SpoolError::Write)?;
            self.length += most as u64;
        }
        Ok(Content::Part(FilePart { file, start, length: size }))
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
        Content::Part(part) => Box::new(part.reader()),
    })
}

/// Computes a content's digest.
pub(super) fn hash_content(content: &Content) -> io::Result<ContentDigest> {
    match content {
        Content::None => Ok(blake3::hash(b"")),
        Content::Bytes(bytes) => Ok(blake3::hash(bytes)),
        Content::Source(source) => hash_reader(source.open()?),
        Content::Part(part) => hash_reader(part.reader()),
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
