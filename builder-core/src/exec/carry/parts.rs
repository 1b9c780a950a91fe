//! Cache mounts in parts, so that only what changed of them is sent.
//!
//! A mount is the compressed archive of its files, cut where the bytes before a place say so (content-defined chunking). The
//! encoder gives the same bytes for the files that are the same, so an edit changes the parts around it and no others. One
//! behind the other, the parts are the archive again.

use std::io::{self, Read, Write};
use std::slice;
use std::sync::LazyLock;

use crate::error::BuildError;
use crate::exec::layers::Origin;
use crate::exec::load::open_origin;
use crate::oci::Descriptor;
use crate::store::{BlobWriter, Store, StoreError};

/// The media type of a part where there are several: alone it can't be unpacked.
pub(super) const PART_TYPE: &str = "application/vnd.rbuild.cache.part.v1";

/// No part but the last is smaller, in bytes.
const SMALLEST: u64 = 4 << 20;

/// No part is larger, in bytes.
const LARGEST: u64 = 64 << 20;

/// A part ends behind one byte of `2^ONE_OF_BITS`.
const ONE_OF_BITS: u32 = 24;

/// How many bytes before a place decide whether a part ends there.
const WINDOW: u64 = u64::BITS as u64;

/// A number for every byte, of which the hash over the window is made.
static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        let hash = blake3::hash(&(byte as u64).to_le_bytes());
        u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    })
});

/// Stores what is written as blobs of a few megabytes each.
pub(super) struct PartWriter<'a> {
    store: &'a Store,
    current: Option<BlobWriter>,
    hash: u64,
    parts: Vec<Descriptor>,
}

impl<'a> PartWriter<'a> {
    pub(super) const fn new(store: &'a Store) -> Self {
        Self { store, current: None, hash: 0, parts: Vec::new() }
    }

    /// The parts in order. A lone one has the media type `whole`.
    pub(super) fn finish(mut self, whole: &str) -> Result<Vec<Descriptor>, StoreError> {
        if let Some(last) = self.current.take() {
            self.parts.push(last.finish(PART_TYPE)?);
        }
        if let [only] = &mut self.parts[..] {
            only.media_type = whole.to_owned();
        }
        Ok(self.parts)
    }

    /// How many of `bytes` still belong to a part of `size` bytes, and whether it ends behind them.
    fn border(&mut self, size: u64, bytes: &[u8]) -> (usize, bool) {
        // What lies more than a window before the first place where the part may end has no say.
        let skipped = (SMALLEST - WINDOW).saturating_sub(size);
        let mut at = usize::try_from(skipped).unwrap_or(usize::MAX).min(bytes.len());
        while at < bytes.len() {
            self.hash = (self.hash << 1).wrapping_add(GEAR[usize::from(bytes[at])]);
            at += 1;
            let size = size + at as u64;
            if size >= LARGEST || size >= SMALLEST && self.hash >> (u64::BITS - ONE_OF_BITS) == 0 {
                self.hash = 0;
                return (at, true);
            }
        }
        (at, false)
    }
}

impl Write for PartWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.store.blob_writer().map_err(io::Error::other)?,
        };
        let (count, ends) = self.border(current.size(), bytes);
        current.write_all(&bytes[..count])?;
        if ends {
            self.parts.push(current.finish(PART_TYPE).map_err(io::Error::other)?);
        } else {
            self.current = Some(current);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads parts one behind the other; each is opened when the one before it is read.
pub(super) struct PartReader<'a> {
    store: &'a Store,
    origin: &'a Origin,
    rest: slice::Iter<'a, Descriptor>,
    current: Option<Box<dyn Read + Send + 'a>>,
}

impl<'a> PartReader<'a> {
    /// Opens the first part.
    pub(super) fn open(store: &'a Store, origin: &'a Origin, parts: &'a [Descriptor]) -> Result<Self, BuildError> {
        let mut rest = parts.iter();
        let current = rest.next().map(|first| open_origin(store, origin, first)).transpose()?;
        Ok(Self { store, origin, rest, current })
    }
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(current) = &mut self.current {
            let count = current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let next = self.rest.next().map(|next| open_origin(self.store, self.origin, next));
            self.current = next.transpose().map_err(io::Error::other)?;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    /// Bytes without any order, the same for the same seed.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn parts(store: &Store, pieces: &[&[u8]]) -> Vec<Descriptor> {
        let mut writer = PartWriter::new(store);
        for piece in pieces {
            writer.write_all(piece).unwrap();
        }
        writer.finish("whole").unwrap()
    }

    #[test]
    fn an_edit_changes_the_parts_around_it() {
        let (_folder, store) = scratch();
        let bytes = noise(1, 100 << 20);
        let before = parts(&store, &[&bytes]);
        assert!(before.len() > 3, "{}", before.len());
        let last = before.len() - 1;
        for (at, part) in before.iter().enumerate() {
            assert!(part.size <= LARGEST && (part.size >= SMALLEST || at == last), "{part:?}");
            assert_eq!(part.media_type, PART_TYPE);
        }
        // However they come, the same bytes give the same parts.
        assert_eq!(parts(&store, &bytes.chunks(77_777).collect::<Vec<_>>()), before);
        let (head, tail) = bytes.split_at(50 << 20);
        let after = parts(&store, &[head, b"something new", tail]);
        let new = after.iter().filter(|part| !before.contains(part)).count();
        assert!((1..=2).contains(&new), "{new} of {} are new", after.len());

        let origin = Origin::Store;
        let mut read = Vec::new();
        PartReader::open(&store, &origin, &after).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == [head, b"something new", tail].concat());
    }

    #[test]
    fn a_lone_part_is_the_whole() {
        let (_folder, store) = scratch();
        let only = parts(&store, &[&noise(2, 1 << 20)]);
        assert_eq!(only.iter().map(|part| part.media_type.as_str()).collect::<Vec<_>>(), ["whole"]);
        assert!(parts(&store, &[]).is_empty());
    }
}
