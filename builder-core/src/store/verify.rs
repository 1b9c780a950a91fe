//! Readers that check what they read.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use crate::oci::{Descriptor, Digest, Hasher};

/// The bytes read are not those that a descriptor promises.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyError {
    /// There were other bytes.
    #[error("the content of `{expected}` has the digest `{found}`")]
    Digest {
        /// The digest promised.
        expected: Digest,
        /// The digest of what was read.
        found: Digest,
    },
    /// There were fewer bytes.
    #[error("`{expected}` ends after {found} bytes instead of {size}")]
    TooShort {
        /// The digest promised.
        expected: Digest,
        /// The size promised, in bytes.
        size: u64,
        /// The bytes read.
        found: u64,
    },
    /// There were more bytes.
    #[error("`{expected}` has more than its {size} bytes")]
    TooLong {
        /// The digest promised.
        expected: Digest,
        /// The size promised, in bytes.
        size: u64,
    },
}

/// Reads a blob and fails, instead of giving its last bytes, when its digest or its size differs.
///
/// A reader that stops early has seen unchecked bytes: call [`Self::finish`] before trusting them. The errors have
/// the kind [`io::ErrorKind::InvalidData`] and hold a [`VerifyError`].
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    digest: Digest,
    size: u64,
    read: u64,
    ended: bool,
    quarantine: Option<PathBuf>,
}

impl<R: Read> VerifiedReader<R> {
    /// Wraps a reader of the blob that a descriptor describes.
    #[must_use]
    pub fn new(inner: R, descriptor: &Descriptor) -> Self {
        Self {
            inner,
            hasher: Some(Hasher::new()),
            digest: descriptor.digest,
            size: descriptor.size,
            read: 0,
            ended: false,
            quarantine: None,
        }
    }

    /// Checks the size only, for bytes whose digest this process checked before.
    pub(super) fn without_hashing(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// Removes the file when its bytes turn out to be wrong, so that it is made again.
    pub(super) fn with_quarantine(mut self, path: PathBuf) -> Self {
        self.quarantine = Some(path);
        self
    }

    /// Reads what is left and checks all of it.
    ///
    /// # Errors
    /// When reading fails, or digest or size differ.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(|_| ())
    }

    fn fail(&mut self, error: VerifyError) -> io::Error {
        self.discard();
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The disk lost the bytes, so the file is of no more use than one of other bytes.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    self.discard();
                    return Err(error);
                }
                other => return other,
            }
        }
    }

    fn discard(&mut self) {
        if let Some(path) = self.quarantine.take() {
            let _ = super::file::remove(&path);
        }
    }

    /// Called when all bytes that should be there were read.
    fn check_end(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        if let Some(found) = self.hasher.take().map(Hasher::finish)
            && found != self.digest
        {
            return Err(self.fail(VerifyError::Digest { expected: self.digest, found }));
        }
        let mut beyond = [0];
        if self.read_some(&mut beyond)? != 0 {
            return Err(self.fail(VerifyError::TooLong { expected: self.digest, size: self.size }));
        }
        self.ended = true;
        Ok(())
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size - self.read;
        if left == 0 {
            return self.check_end().map(|()| 0);
        }
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..most])?;
        if count == 0 {
            let error = VerifyError::TooShort { expected: self.digest, size: self.size, found: self.read };
            return Err(self.fail(error));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.read += count as u64;
        if self.read == self.size {
            self.check_end()?;
        }
        Ok(count)
    }
}

impl<R> fmt::Debug for VerifiedReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedReader").field("digest", &self.digest).field("read", &self.read).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], expected: &[u8], size: u64) -> Result<Vec<u8>, VerifyError> {
        let descriptor = Descriptor::new("x/y", Digest::of(expected), size);
        let mut out = Vec::new();
        match VerifiedReader::new(bytes, &descriptor).read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(error) => Err(error.downcast::<VerifyError>().unwrap()),
        }
    }

    #[test]
    fn gives_only_what_was_promised() {
        assert_eq!(read(b"hello", b"hello", 5), Ok(b"hello".to_vec()));
        assert_eq!(read(b"", b"", 0), Ok(Vec::new()));
        assert!(matches!(read(b"hellO", b"hello", 5), Err(VerifyError::Digest { .. })));
        assert!(matches!(read(b"hell", b"hello", 5), Err(VerifyError::TooShort { found: 4, .. })));
        assert!(matches!(read(b"hello!", b"hello", 5), Err(VerifyError::TooLong { .. })));
        assert!(matches!(read(b"x", b"", 0), Err(VerifyError::TooLong { .. })));
        assert!(matches!(read(b"hello", b"hello", u64::MAX), Err(VerifyError::TooShort { .. })));
    }

    #[test]
    fn checks_what_an_early_stop_left() {
        let descriptor = Descriptor::new("x/y", Digest::of(b"hello"), 5);
        let mut reader = VerifiedReader::new(&b"helxx"[..], &descriptor);
        reader.read_exact(&mut [0; 3]).unwrap();
        assert!(reader.finish().is_err());
    }
}
