//! Putting the record of a layer together; [`super::record`] has the format.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::record::{HEADER_SIZE, MAGIC, VERSION};
use super::record_entry::write_record;
use super::record_file::RecordFile;
use super::spool::{Spool, Spooled};
use super::{Tree, TreeEntry};

/// As much of the table is copied at once.
const TABLE_PIECE: usize = 64 << 10;

/// Puts a record together, entry by entry.
pub struct TreeBuilder {
    records: Spool,
    offsets: Spool,
    record: Vec<u8>,
    count: usize,
}

impl TreeBuilder {
    /// Begins a record. A large one is put into a file in `folder`, if there is one; the file has no name.
    #[must_use]
    pub fn new(folder: Option<&Path>) -> Self {
        Self { records: Spool::new(folder), offsets: Spool::new(folder), record: vec![0; HEADER_SIZE], count: 0 }
    }

    /// Adds an entry, whose path must come behind that of the last one; `has_links` tells whether it is a file with
    /// further names.
    ///
    /// # Errors
    /// When the folder's disk takes no more.
    pub fn add(&mut self, entry: &TreeEntry, has_links: bool) -> io::Result<()> {
        // The header's place goes along with the first record.
        let offset = self.records.len() + self.record.len() as u64;
        self.offsets.push(&offset.to_le_bytes())?;
        write_record(&mut self.record, entry, has_links);
        self.count += 1;
        self.records.push(&self.record)?;
        self.record.clear();
        Ok(())
    }

    /// The record of what was added.
    ///
    /// # Errors
    /// When the folder's disk takes no more, or can't be read.
    pub fn finish(mut self) -> io::Result<Tree> {
        self.records.push(&self.record)?;
        let (count, table) = (self.count, self.records.len() as usize);
        let mut header = [0; HEADER_SIZE];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&(count as u64).to_le_bytes());
        header[24..32].copy_from_slice(&(table as u64).to_le_bytes());
        let offsets = self.offsets.finish()?;
        let mut left = offsets.len() as usize;
        let mut piece = vec![0; TABLE_PIECE.min(left)];
        while left > 0 {
            let length = left.min(piece.len());
            offsets.read_at(offsets.len() - left as u64, &mut piece[..length])?;
            self.records.push(&piece[..length])?;
            left -= length;
        }
        match self.records.finish()? {
            Spooled::Memory(mut bytes) => {
                bytes[..HEADER_SIZE].copy_from_slice(&header);
                let digest = blake3::hash(&bytes);
                bytes.extend_from_slice(digest.as_bytes());
                Ok(Tree::in_memory(bytes, count, table))
            }
            Spooled::File(file, length) => {
                file.write_all_at(&header, 0)?;
                let (scanned, digest) = RecordFile::scan(file, count, table as u64)?;
                scanned.file().write_all_at(digest.as_bytes(), length)?;
                Ok(Tree::in_file(scanned, digest, count, table))
            }
        }
    }
}
