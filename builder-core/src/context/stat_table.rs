//! The file of a stat cache: entries of directories, sorted, in blocks with a checksum each.
//!
//! Only the index is read at first. A block is read when a directory in it is looked up, and whatever is torn or damaged
//! counts as absent: the index makes the whole file so, a block its own entries.
//!
//! ```text
//! "rbstat2\n" | blocks | index | length of the index u64 | BLAKE3 of the index
//! index, for each block: length u32 | BLAKE3 of the block | length u16, directory | length u8, name    (of the first entry)
//! block: runs of entries, sorted by directory and name; a directory may go on in the next block
//! run:   length u16, directory | age u8 | length of all entries u32 | entries
//! entry: length u8, name | fact (see `super::stat_cache`)                                          (little-endian)
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::stat_cache::FACT_SIZE;
use super::stat_news::Part;

const MAGIC: &[u8; 8] = b"rbstat2\n";

/// The index's length and checksum, at the very end.
const TRAILER_SIZE: usize = 8 + 32;

/// A block is written when it has this many bytes.
const BLOCK_SIZE: usize = 32 * 1024;

/// As many blocks are kept in memory.
const MOST_BLOCKS: usize = 128;

/// What is known of a file, encoded.
pub(super) type Fact = [u8; FACT_SIZE];

/// A table that can be looked into.
#[derive(Debug)]
pub(super) struct StatTable {
    file: File,
    places: Vec<Place>,
    blocks: Mutex<HashMap<usize, Arc<[u8]>>>,
}

/// Where a block is, and with what it begins.
#[derive(Debug)]
struct Place {
    offset: u64,
    length: u32,
    checksum: [u8; 32],
    directory: Box<[u8]>,
    name: Box<[u8]>,
}

/// Entries of one directory in a block.
pub(super) struct Run<'a> {
    pub(super) directory: &'a [u8],
    pub(super) age: u8,
    pub(super) entries: &'a [u8],
    /// Where the entries begin in the block.
    start: usize,
}

impl StatTable {
    /// Opens a table; `None` where there is none, or none that is whole.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let size = file.metadata().ok()?.len();
        let trailer_at = size.checked_sub(TRAILER_SIZE as u64)?;
        let mut trailer = [0; TRAILER_SIZE];
        file.read_exact_at(&mut trailer, trailer_at).ok()?;
        let (length, checksum) = trailer.split_first_chunk::<8>()?;
        let length = u64::from_le_bytes(*length);
        let index_at = trailer_at.checked_sub(length).filter(|at| *at >= MAGIC.len() as u64)?;
        let mut index = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut index, index_at).ok()?;
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).ok()?;
        if magic != *MAGIC || blake3::hash(&index).as_bytes() != checksum {
            return None;
        }
        let places = parse_index(&index)?;
        let end = places.last().map_or(MAGIC.len() as u64, |place| place.offset + u64::from(place.length));
        (end == index_at).then(|| Self { file, places, blocks: Mutex::default() })
    }

    /// How many blocks there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// A block's bytes; `None` where they are damaged.
    pub(super) fn block(&self, number: usize) -> Option<Arc<[u8]>> {
        if let Some(block) = self.blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Some(Arc::clone(block));
        }
        let place = self.places.get(number)?;
        let mut bytes = vec![0; place.length as usize];
        self.file.read_exact_at(&mut bytes, place.offset).ok()?;
        if *blake3::hash(&bytes).as_bytes() != place.checksum {
            return None;
        }
        let block: Arc<[u8]> = bytes.into();
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= MOST_BLOCKS {
            blocks.clear();
        }
        blocks.insert(number, Arc::clone(&block));
        Some(block)
    }

    /// The entries of a directory.
    pub(super) fn directory(&self, directory: &[u8]) -> Cursor<'_> {
        // The block before the first that begins behind the directory's start may hold that start.
        let behind = self.places.partition_point(|place| (&*place.directory, &*place.name) <= (directory, &[][..]));
        let first = behind.checked_sub(1).and_then(|before| self.run(before, directory));
        let (bytes, Range { start: at, end }) = first.unwrap_or_default();
        Cursor { bytes, at, end, further: Further::Blocks { table: self, directory: directory.to_vec(), next: behind } }
    }

    /// The entries of a directory in a block, if it has any, and where.
    fn run(&self, number: usize, directory: &[u8]) -> Option<(Arc<[u8]>, Range<usize>)> {
        let block = self.block(number)?;
        let range =
            runs(&block).find(|run| run.directory == directory).map(|run| run.start..run.start + run.entries.len());
        range.map(|range| (block, range))
    }
}

/// Goes through the entries of a directory, in order.
#[derive(Default)]
pub(super) struct Cursor<'t> {
    bytes: Arc<[u8]>,
    at: usize,
    end: usize,
    further: Further<'t>,
}

/// Where a cursor goes on when the entries at hand are at their end.
enum Further<'t> {
    Blocks { table: &'t StatTable, directory: Vec<u8>, next: usize },
    Parts(std::vec::IntoIter<Part>),
}

impl Default for Further<'_> {
    fn default() -> Self {
        Self::Parts(Vec::new().into_iter())
    }
}

impl Cursor<'_> {
    /// Goes through entries that were learnt.
    pub(super) fn of(parts: Vec<Part>) -> Self {
        Self { further: Further::Parts(parts.into_iter()), ..Self::default() }
    }

    /// The entry that comes next.
    pub(super) fn entry(&mut self) -> Option<(&[u8], &Fact)> {
        while self.at == self.end {
            let (bytes, range) = self.more()?;
            (self.at, self.end, self.bytes) = (range.start, range.end, bytes);
        }
        split_entry(&self.bytes[self.at..self.end]).map(|(name, fact, _)| (name, fact))
    }

    /// Leaves that entry behind.
    pub(super) fn advance(&mut self) {
        let rest = split_entry(&self.bytes[self.at..self.end]).map_or(0, |(_, _, rest)| rest.len());
        self.at = self.end - rest;
    }

    /// Further entries; `None` at the end. Of a damaged block there are none.
    fn more(&mut self) -> Option<(Arc<[u8]>, Range<usize>)> {
        match &mut self.further {
            Further::Parts(parts) => {
                let bytes = parts.next()?.read();
                let all = 0..bytes.len();
                Some((bytes, all))
            }
            Further::Blocks { table, directory, next } => {
                let number = *next;
                *next += 1;
                let goes_on = table.places.get(number).is_some_and(|place| *place.directory == **directory);
                goes_on.then(|| table.run(number, directory).unwrap_or_default())
            }
        }
    }
}

/// The runs of a block.
pub(super) fn runs(block: &[u8]) -> impl Iterator<Item = Run<'_>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (directory, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (age, after) = after.split_first()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let start = block.len() - after.len();
        let (entries, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        Some(Run { directory, age: *age, entries, start })
    })
}

/// Splits entries into the first one's name and fact, and the rest.
pub(super) fn split_entry(entries: &[u8]) -> Option<(&[u8], &Fact, &[u8])> {
    let (length, rest) = entries.split_first()?;
    let (name, rest) = rest.split_at_checked((*length).into())?;
    let (fact, rest) = rest.split_first_chunk()?;
    Some((name, fact, rest))
}

/// Appends an entry; one whose name is too long for any file system is left out.
pub(super) fn push_entry(entries: &mut Vec<u8>, name: &[u8], fact: &Fact) {
    if let Ok(length) = u8::try_from(name.len()) {
        entries.push(length);
        entries.extend_from_slice(name);
        entries.extend_from_slice(fact);
    }
}

fn parse_index(index: &[u8]) -> Option<Vec<Place>> {
    let (mut rest, mut offset) = (index, MAGIC.len() as u64);
    let mut places = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        let (checksum, after) = after.split_first_chunk::<32>()?;
        let (size, after) = after.split_first_chunk::<2>()?;
        let (directory, after) = after.split_at_checked(u16::from_le_bytes(*size).into())?;
        let (size, after) = after.split_first()?;
        let (name, after) = after.split_at_checked((*size).into())?;
        places.push(Place { offset, length, checksum: *checksum, directory: directory.into(), name: name.into() });
        offset += u64::from(length);
        rest = after;
    }
    Some(places)
}

/// Writes a table. Directories must come sorted, and the entries of each too.
pub(super) struct TableWriter {
    file: BufWriter<tempfile::NamedTempFile>,
    block: Vec<u8>,
    index: Vec<u8>,
    /// The directory and the name that the block begins with.
    first: Option<(Vec<u8>, Vec<u8>)>,
    /// The directory of the run that is open, and where its length stands.
    run: Option<(Vec<u8>, usize)>,
}

impl TableWriter {
    /// Starts a table that will replace a file in `folder`.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(tempfile::NamedTempFile::new_in(folder)?);
        file.write_all(MAGIC)?;
        Ok(Self { file, block: Vec::new(), index: Vec::new(), first: None, run: None })
    }

    /// Adds entries of a directory.
    pub(super) fn push(&mut self, directory: &[u8], age: u8, mut entries: &[u8]) -> io::Result<()> {
        while let Some((name, fact, rest)) = split_entry(entries) {
            self.push_entry(directory, age, name, fact)?;
            entries = rest;
        }
        Ok(())
    }

    /// Adds an entry of a directory.
    pub(super) fn push_entry(&mut self, directory: &[u8], age: u8, name: &[u8], fact: &Fact) -> io::Result<()> {
        // No path that a system call takes is that long.
        let Ok(directory_length) = u16::try_from(directory.len()) else { return Ok(()) };
        if self.block.len() >= BLOCK_SIZE {
            self.end_block()?;
        }
        if self.first.is_none() {
            self.first = Some((directory.to_vec(), name.to_vec()));
        }
        if self.run.as_ref().is_none_or(|(open, _)| open != directory) {
            self.end_run();
            self.block.extend_from_slice(&directory_length.to_le_bytes());
            self.block.extend_from_slice(directory);
            self.block.push(age);
            self.run = Some((directory.to_vec(), self.block.len()));
            self.block.extend_from_slice(&[0; 4]);
        }
        push_entry(&mut self.block, name, fact);
        Ok(())
    }

    /// Ends the table and puts it in the file's place at once, so that a reader sees either.
    pub(super) fn finish(mut self, file: &Path) -> io::Result<()> {
        self.end_block()?;
        self.file.write_all(&self.index)?;
        self.file.write_all(&(self.index.len() as u64).to_le_bytes())?;
        self.file.write_all(blake3::hash(&self.index).as_bytes())?;
        let temporary = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        temporary.persist(file).map_err(|error| error.error)?;
        Ok(())
    }

    fn end_run(&mut self) {
        if let Some((_, at)) = self.run.take() {
            let length = u32::try_from(self.block.len() - at - 4).expect("blocks are small");
            self.block[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.end_run();
        let Some((directory, name)) = self.first.take() else { return Ok(()) };
        let number = |length: usize| io::Result::Ok(u16::try_from(length).map_err(io::Error::other)?.to_le_bytes());
        self.file.write_all(&self.block)?;
        self.index.extend_from_slice(&u32::try_from(self.block.len()).map_err(io::Error::other)?.to_le_bytes());
        self.index.extend_from_slice(blake3::hash(&self.block).as_bytes());
        self.index.extend_from_slice(&number(directory.len())?);
        self.index.extend_from_slice(&directory);
        self.index.push(u8::try_from(name.len()).map_err(io::Error::other)?);
        self.index.extend_from_slice(&name);
        self.block.clear();
        Ok(())
    }
}
