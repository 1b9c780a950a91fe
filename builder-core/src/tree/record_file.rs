//! The record of a large layer, read from its file piece by piece: only the path of every 128th entry is in memory.
//!
//! The whole file is checked when it is taken over, and again each block of it that is read later: a block that is not
//! what it was is an error, and no entry counts as absent for it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::record::HEADER_SIZE;
use super::record_entry::{FIXED_SIZE, Record, u64_at};

/// How many entries are read at once.
pub(super) const BLOCK: usize = 128;

/// How many blocks stay in memory.
const RECENT: usize = 16;

/// As much of the table is read at once where all of it is.
const TABLE_PIECE: usize = 64 << 10;

/// The file of a record.
pub(super) struct RecordFile {
    file: Arc<File>,
    count: usize,
    table: u64,
    /// The path that each block begins with.
    firsts: Vec<Box<[u8]>>,
    sums: Vec<u64>,
    /// The blocks that were asked for last, the latest at the end.
    recent: Mutex<Vec<(usize, Arc<Block>)>>,
}

/// Neighbouring entries.
pub(super) struct Block {
    /// The end of each record in the bytes.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl Block {
    /// Where a record is in the bytes; `None` where it is too short to be one.
    pub(super) fn range(&self, number: usize) -> Option<Range<usize>> {
        let start = if number == 0 { 0 } else { *self.ends.get(number - 1)? };
        let end = *self.ends.get(number)?;
        (end - start >= FIXED_SIZE).then_some(start..end)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn sum(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.bytes);
        self.ends.iter().for_each(|end| {
            hasher.update(&(*end as u64).to_le_bytes());
        });
        u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }
}

impl RecordFile {
    /// Goes through a file whose header says these things; gives the digest of everything up to the end of the table too.
    pub(super) fn scan(file: Arc<File>, count: usize, table: u64) -> io::Result<(Self, blake3::Hash)> {
        let mut scanned = Self { file, count, table, firsts: Vec::new(), sums: Vec::new(), recent: Mutex::default() };
        let mut hasher = blake3::Hasher::new();
        let mut header = [0; HEADER_SIZE];
        scanned.file.read_exact_at(&mut header, 0)?;
        hasher.update(&header);
        let mut place = HEADER_SIZE as u64;
        for number in 0..count.div_ceil(BLOCK) {
            let (start, block) = scanned.read(number)?;
            if start != place {
                return Err(damaged());
            }
            place += block.bytes.len() as u64;
            hasher.update(&block.bytes);
            let first = block.range(0).map(|range| Record::borrowed(&block.bytes[range]).path().into());
            scanned.firsts.push(first.ok_or_else(damaged)?);
            scanned.sums.push(block.sum());
        }
        if place != table {
            return Err(damaged());
        }
        let mut left = 8 * count;
        let mut piece = vec![0; TABLE_PIECE.min(left)];
        while left > 0 {
            let length = left.min(piece.len());
            scanned.file.read_exact_at(&mut piece[..length], place)?;
            hasher.update(&piece[..length]);
            place += length as u64;
            left -= length;
        }
        Ok((scanned, hasher.finalize()))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The block with a number, as it was when the file was taken over.
    pub(super) fn block(&self, number: usize) -> io::Result<Arc<Block>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = recent.iter().rposition(|(known, _)| *known == number) {
            let known = recent.remove(at);
            let block = Arc::clone(&known.1);
            recent.push(known);
            return Ok(block);
        }
        drop(recent);
        let (_, block) = self.read(number)?;
        if self.sums.get(number) != Some(&block.sum()) {
            return Err(damaged());
        }
        let block = Arc::new(block);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.remove(0);
        }
        recent.push((number, Arc::clone(&block)));
        Ok(block)
    }

    /// Narrows the range in which the first entry is whose path fulfils a condition that holds for all paths after it
    /// too: the rest is in one block, or nearly.
    pub(super) fn narrow(&self, range: Range<usize>, condition: impl Fn(&[u8]) -> bool) -> Range<usize> {
        let blocks = range.start.div_ceil(BLOCK)..range.end.div_ceil(BLOCK);
        let Some(firsts) = self.firsts.get(blocks.clone()) else { return range };
        let before = firsts.partition_point(|first| !condition(first));
        let start = if before > 0 { (blocks.start + before - 1) * BLOCK + 1 } else { range.start };
        let end = if before < firsts.len() { (blocks.start + before) * BLOCK } else { range.end };
        start..end
    }

    /// Where a block begins in the file, and the block.
    fn read(&self, number: usize) -> io::Result<(u64, Block)> {
        let first = number * BLOCK;
        let count = self.count.saturating_sub(first).min(BLOCK);
        // The record after the block begins where the block ends; after the last record, that is the table.
        let is_last = first + count == self.count;
        let mut table = vec![0; 8 * (count + usize::from(!is_last))];
        self.file.read_exact_at(&mut table, self.table + 8 * first as u64)?;
        let mut starts =
            table.chunks_exact(8).filter_map(|bytes| u64_at(bytes, 0)).chain(is_last.then_some(self.table));
        let start = starts.next().ok_or_else(damaged)?;
        let mut ends = Vec::with_capacity(count);
        let mut last = 0;
        for place in starts {
            // The file can't be longer than its table's place says.
            let end = place.checked_sub(start).filter(|end| *end >= last && place <= self.table).ok_or_else(damaged)?;
            ends.push(usize::try_from(end).map_err(|_| damaged())?);
            last = end;
        }
        let mut bytes = vec![0; ends.last().copied().unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok((start, Block { ends, bytes }))
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of a layer's tree is damaged")
}
