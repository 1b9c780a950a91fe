//! The bytes of one file that goes into a layer.

use std::fs::File;
use std::io::{self, Read};

use super::LayerError;
use crate::tree::{Change, Content, TreePath};

/// Reads exactly as many bytes as the entry says, and notices when there are more.
pub(super) struct ContentReader<'a> {
    path: &'a TreePath,
    size: u64,
    source: Source<'a>,
}

enum Source<'a> {
    Bytes(&'a [u8]),
    File(File),
}

impl<'a> ContentReader<'a> {
    pub(super) fn open(change: &'a Change, size: u64) -> Result<Self, LayerError> {
        let path = &change.entry.path;
        let source = match &change.content {
            Content::None => Source::Bytes(&[]),
            Content::Bytes(bytes) => Source::Bytes(bytes),
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

    /// Fills `buffer`; `left` bytes of the file are to follow.
    pub(super) fn fill(&mut self, buffer: &mut [u8], left: u64) -> Result<(), LayerError> {
        match &mut self.source {
            Source::Bytes(bytes) => {
                let (now, later) = bytes.split_at(buffer.len());
                buffer.copy_from_slice(now);
                *bytes = later;
                Ok(())
            }
            Source::File(file) => {
                let error = |source| LayerError::ReadContent { path: self.path.to_string(), source };
                let mut filled = 0;
                while filled < buffer.len() {
                    match file.read(&mut buffer[filled..]) {
                        Ok(0) => {
                            let found = self.size - left - (buffer.len() - filled) as u64;
                            return Err(changed(self.path, self.size, found.to_string()));
                        }
                        Ok(count) => filled += count,
                        Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                        Err(source) => return Err(error(source)),
                    }
                }
                if left == 0 && file.read(&mut [0]).map_err(error)? > 0 {
                    return Err(changed(self.path, self.size, "more".to_owned()));
                }
                Ok(())
            }
        }
    }
}

fn changed(path: &TreePath, expected: u64, found: String) -> LayerError {
    LayerError::ContentSize { path: path.to_string(), expected, found }
}
