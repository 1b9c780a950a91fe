//! The bytes of the files that go into a layer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::LayerError;
use crate::sys::bulk::{self, Way};
use crate::tree::{Change, Content, FilePart, TreePath};

/// Reads exactly as many bytes of a file as its entry says, from anywhere in it, and notices when there are more.
pub(super) struct ContentReader<'a> {
    path: &'a TreePath,
    size: u64,
    source: Source<'a>,
}

enum Source<'a> {
    Bytes(&'a [u8]),
    File(File),
    Part(&'a FilePart),
}

impl<'a> ContentReader<'a> {
    /// Opens the content of a file of `size` bytes.
    pub(super) fn open(change: &'a Change, size: u64) -> Result<Self, LayerError> {
        let path = &change.entry.path;
        let source = match &change.content {
            Content::None => Source::Bytes(&[]),
            Content::Bytes(bytes) => Source::Bytes(bytes),
            Content::Part(part) if part.length != size => return Err(changed(path, size, part.length.to_string())),
            Content::Part(part) => Source::Part(part),
            Content::Source(content) => Source::File(
                content.open().map_err(|source| LayerError::ReadContent { path: path.to_string(), source })?,
            ),
        };
        if let Source::Bytes(bytes) = source
            && bytes.len() as u64 != size
        {
            return Err(changed(path, size, bytes.len().to_string()));
        }
        Ok(Self { path, size, source })
    }

    /// Fills `buffer` from `offset` on, which must not lead beyond the size.
    pub(super) fn fill(&self, buffer: &mut [u8], offset: u64) -> Result<(), LayerError> {
        self.fill_by(Way::Cached, buffer, offset)
    }

    /// As [`Self::fill`], for a file that was written so.
    pub(super) fn fill_by(&self, way: Way, buffer: &mut [u8], offset: u64) -> Result<(), LayerError> {
        match &self.source {
            Source::Bytes(bytes) => {
                let start = offset as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
            Source::File(file) => self.fill_from(file, way, buffer, offset),
            Source::Part(FilePart { file, start, .. }) => {
                let error = |source| LayerError::ReadContent { path: self.path.to_string(), source };
                file.read_exact_at(buffer, start + offset).map_err(error)
            }
        }
    }

    fn fill_from(&self, file: &File, way: Way, buffer: &mut [u8], offset: u64) -> Result<(), LayerError> {
        let error = |source| LayerError::ReadContent { path: self.path.to_string(), source };
        let mut filled = 0;
        while filled < buffer.len() {
            match bulk::read_at(file, way, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => return Err(changed(self.path, self.size, (offset + filled as u64).to_string())),
                Ok(count) => filled += count,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(error(source)),
            }
        }
        let end = offset + filled as u64;
        if end == self.size && file.read_at(&mut [0], end).map_err(error)? > 0 {
            return Err(changed(self.path, self.size, "more".to_owned()));
        }
        Ok(())
    }
}

fn changed(path: &TreePath, expected: u64, found: String) -> LayerError {
    LayerError::ContentSize { path: path.to_string(), expected, found }
}
