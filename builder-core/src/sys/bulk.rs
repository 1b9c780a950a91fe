//! Large files that are written, and read again, past the page cache where that is faster.
//!
//! A virtual machine may get its memory from its host page by page, at the first use of each. A page of the cache then costs
//! many times what copying its bytes does, and the disk is the faster way. On most machines the cache is. [`Pace`] finds out.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

/// What the places in a file, and the lengths of what is moved past the cache, are multiples of, in bytes.
const PAGE: usize = 4096;

/// The same for places in memory; devices that ask for more refuse, which is noticed.
const MEMORY: usize = 512;

/// Pieces of fewer bytes go through the cache, and tell nothing about speed.
const SMALLEST: usize = 128 << 10;

/// The size of the pieces that a stream is written in.
const PIECE: usize = 1 << 20;

/// How bytes get from memory to a file, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By way of the page cache.
    Cached,
    /// Past it (`O_DIRECT`).
    Direct,
}

/// How fast both ways have been, for whoever has to choose the next one. Clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<Mutex<Speeds>>);

#[derive(Debug, Default)]
struct Speeds {
    /// Nanoseconds for a byte, of late; `None` before the first piece.
    cached: Option<f64>,
    direct: Option<f64>,
    /// Pieces until the way that seems slower is tried again.
    until_trial: u32,
    /// How many there were before the last trial.
    interval: u32,
    /// The file system takes nothing past the cache.
    is_refused: bool,
}

/// Nanoseconds for a byte by which the cache is as fast as one can ask, so that nothing else is tried.
const FAST: f64 = 0.8;

/// How many times as fast the disk must be: what is in the cache may soon be read.
const GAIN: f64 = 2.0;

/// What a new figure counts for.
const NEWEST: f64 = 0.3;

/// The same where the disk was slower than before: a thread that waited for it may wait for a processor too.
const SLOWER: f64 = 0.1;

/// Pieces between two trials, at first and at most.
const INTERVALS: (u32, u32) = (8, 1024);

impl Pace {
    /// Lets one way be the faster one, and nothing else be tried.
    #[cfg(test)]
    pub(crate) fn fix(&self, way: Way) {
        let (cached, direct) = (Some(if way == Way::Cached { 1.0 } else { 1e9 }), Some(1.0));
        *self.speeds() = Speeds { cached, direct, until_trial: u32::MAX, ..Speeds::default() };
    }

    /// The way for the next piece.
    fn choose(&self) -> Way {
        let mut speeds = self.speeds();
        match (speeds.cached, speeds.direct) {
            _ if speeds.is_refused => Way::Cached,
            (None, _) => Way::Cached,
            (Some(cached), _) if cached < FAST => Way::Cached,
            (_, None) => Way::Direct,
            (Some(cached), Some(direct)) => {
                let (better, other) =
                    if direct * GAIN < cached { (Way::Direct, Way::Cached) } else { (Way::Cached, Way::Direct) };
                if speeds.until_trial > 0 {
                    speeds.until_trial -= 1;
                    return better;
                }
                speeds.interval = (2 * speeds.interval).clamp(INTERVALS.0, INTERVALS.1);
                speeds.until_trial = speeds.interval;
                other
            }
        }
    }

    /// Learns from a piece.
    fn note(&self, way: Way, bytes: usize, took: Duration) {
        let new = took.as_nanos() as f64 / bytes as f64;
        let mut speeds = self.speeds();
        let (known, slower) = match way {
            Way::Cached => (&mut speeds.cached, NEWEST),
            Way::Direct => (&mut speeds.direct, SLOWER),
        };
        *known = Some(known.map_or(new, |known| known + if new > known { slower } else { NEWEST } * (new - known)));
    }

    fn refuse(&self) {
        self.speeds().is_refused = true;
    }

    fn speeds(&self) -> std::sync::MutexGuard<'_, Speeds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a piece one way or the other. `by` gives false where the file system refuses the direct one.
    fn go(&self, bytes: usize, mut by: impl FnMut(Way) -> io::Result<bool>) -> io::Result<Way> {
        let way = self.choose();
        let begin = Instant::now();
        if by(way)? {
            self.note(way, bytes, begin.elapsed());
            return Ok(way);
        }
        self.refuse();
        by(Way::Cached).map(|_| Way::Cached)
    }
}

/// Memory for large pieces: it begins where a page does.
#[derive(Debug, Default)]
pub(crate) struct PageBuffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl PageBuffer {
    /// Makes it at least this long. What it held is lost when it grows.
    pub(crate) fn grow(&mut self, length: usize) {
        if self.length < length {
            self.bytes = Vec::new();
            self.bytes = vec![0; length + PAGE];
            self.start = self.bytes.as_ptr().addr().wrapping_neg() % PAGE;
            self.length = length;
        }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// A new file that large pieces are written to.
#[derive(Debug)]
pub(crate) struct BulkFile {
    file: File,
    direct: OnceLock<Option<File>>,
    pace: Option<Pace>,
    /// Threads that write to the same file wait here and not in the kernel, which lets them spin.
    turn: Mutex<()>,
}

impl BulkFile {
    /// With no pace all goes through the cache.
    pub(crate) const fn new(file: File, pace: Option<Pace>) -> Self {
        Self { file, direct: OnceLock::new(), pace, turn: Mutex::new(()) }
    }

    /// The file itself.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Writes a piece, from any thread; tells which way.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<Way> {
        let cached = || {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.file.write_all_at(bytes, offset)
        };
        let Some(pace) = self.pace.as_ref().filter(|_| is_movable(bytes, offset)) else {
            return cached().map(|()| Way::Cached);
        };
        let (pages, rest) = bytes.split_at(bytes.len() / PAGE * PAGE);
        let direct = || {
            let Some(direct) = self.direct.get_or_init(|| reopen(&self.file, OFlags::WRONLY)) else { return Ok(false) };
            match direct.write_all_at(pages, offset) {
                Err(error) if is_refusal(&error) => return Ok(false),
                result => result?,
            }
            self.file.write_all_at(rest, offset + pages.len() as u64).map(|()| true)
        };
        pace.go(bytes.len(), |way| match way {
            Way::Cached => cached().map(|()| true),
            Way::Direct => direct(),
        })
    }
}

/// Reads a piece of a file, past the cache where it was written so. Gives the number of bytes, as [`FileExt::read_at`] does.
pub(crate) fn read_at(file: &File, way: Way, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    if way == Way::Direct
        && is_movable(buffer, offset)
        && let Some(direct) = reopen(file, OFlags::RDONLY)
    {
        let pages = buffer.len() / PAGE * PAGE;
        match direct.read_at(&mut buffer[..pages], offset) {
            Err(error) if is_refusal(&error) => {}
            result => return result,
        }
    }
    file.read_at(buffer, offset)
}

/// Fills `buffer` from anywhere in a file, the faster way. `pages` is memory for the other one.
pub(crate) fn read_exact_at(
    file: &File,
    pace: &Pace,
    buffer: &mut [u8],
    offset: u64,
    pages: &mut PageBuffer,
) -> io::Result<()> {
    let size = buffer.len();
    if size < SMALLEST {
        return file.read_exact_at(buffer, offset);
    }
    let by = |way| {
        if way == Way::Cached {
            return file.read_exact_at(buffer, offset).map(|()| true);
        }
        let Some(direct) = reopen(file, OFlags::RDONLY) else { return Ok(false) };
        let before = (offset % PAGE as u64) as usize;
        let length = (before + size).next_multiple_of(PAGE);
        pages.grow(length);
        match fill(&direct, &mut pages[..length], offset - before as u64) {
            Err(error) if is_refusal(&error) => return Ok(false),
            Ok(count) if count < before + size => return Err(io::ErrorKind::UnexpectedEof.into()),
            result => result?,
        };
        buffer.copy_from_slice(&pages[before..before + size]);
        Ok(true)
    };
    pace.go(size, by).map(drop)
}

/// Reads until the buffer is full, or to the end of the file, past the cache; gives the number of bytes.
fn fill(direct: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match direct.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !filled.is_multiple_of(PAGE) {
            // That was the end: nothing can begin there.
            break;
        }
    }
    Ok(filled)
}

/// Whether a piece can go past the cache, all but its last bytes.
fn is_movable(bytes: &[u8], offset: u64) -> bool {
    bytes.len() >= SMALLEST && offset.is_multiple_of(PAGE as u64) && bytes.as_ptr().addr().is_multiple_of(MEMORY)
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Opens a file once more, for transfers past the cache.
fn reopen(file: &File, flags: OFlags) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}

/// A new file that is written from its start to its end, in large pieces.
#[derive(Debug)]
pub(crate) struct BulkWriter {
    file: BulkFile,
    /// What is not in the file yet.
    piece: PageBuffer,
    filled: usize,
    written: u64,
}

impl BulkWriter {
    pub(crate) fn new(file: File, pace: Pace) -> Self {
        Self { file: BulkFile::new(file, Some(pace)), piece: PageBuffer::default(), filled: 0, written: 0 }
    }

    /// The file, which has all bytes only after [`io::Write::flush`].
    pub(crate) const fn file(&self) -> &File {
        self.file.file()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

impl io::Write for BulkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written + ((self.filled + bytes.len()) as u64) < PIECE as u64 && self.filled == 0 {
            // A file that may stay small needs no memory.
            self.put(bytes)?;
            return Ok(bytes.len());
        }
        self.piece.grow(PIECE);
        // The first pieces end where the later ones can begin at a page.
        let end = PIECE - (self.written % PIECE as u64) as usize;
        let count = bytes.len().min(end - self.filled);
        self.piece[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        if self.filled == end {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        let piece = std::mem::take(&mut self.piece);
        let result = self.put(&piece[..filled]);
        self.piece = piece;
        result
    }
}

#[cfg(test)]
#[path = "bulk_tests.rs"]
mod tests;
