//! A layer's blob as a stream of uncompressed pieces, made and hashed by threads of their own.
//!
//! ```text
//! blob --> reading --> decompressing --> hashing (diff ID) --> Pieces
//! ```
//!
//! Every arrow is a short queue, so that little is in memory however large the layer is. A thread ends with an error of
//! the one before it, or when the one after it wants no more.

use std::io::{self, BufRead, Read};
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::bufread::MultiGzDecoder;

use super::gzip::UncheckedGzip;
use super::{LayerError, Limits};
use crate::oci::{DiffId, Hasher};

/// The size of a piece in bytes.
const PIECE: usize = 256 << 10;

/// Pieces that may wait in one queue.
const PIECES: usize = 6;

/// The largest window of zstd data, as a power of two: 128 MiB.
const LARGEST_WINDOW: u32 = 27;

/// How far the first bytes are looked at: one tar block.
const PEEK: usize = 512;

/// The reading end of a decompressed blob.
pub(super) struct Pieces {
    pieces: Receiver<Result<Vec<u8>, LayerError>>,
    used: Sender<Vec<u8>>,
    piece: Arc<Piece>,
    position: usize,
}

/// Decompressed bytes, whose memory is used again when nobody needs them any more.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    used: Option<Sender<Vec<u8>>>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(used) = &self.used {
            // The other end may be done already.
            let _ = used.try_send(std::mem::take(&mut self.bytes));
        }
    }
}

/// A part of a piece, which may be kept.
pub(super) struct Slice {
    piece: Arc<Piece>,
    range: Range<usize>,
}

impl Slice {
    /// Whether both keep the same memory.
    pub(super) fn is_of_same_piece(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.piece, &other.piece)
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.piece.bytes[self.range.clone()]
    }
}

/// Starts to read a blob in threads of `scope`; the last one gives the diff ID and size of what it passed on.
///
/// Who wants a certain diff ID compares it, so that no other checksum is needed then.
pub(super) fn start<'scope, R: Read + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    blob: R,
    media_type: &str,
    want: Option<DiffId>,
    limits: &Limits,
) -> (Pieces, ScopedJoinHandle<'scope, (DiffId, u64)>) {
    let (chunks, coming_chunks) = bounded(PIECES);
    let (used_chunks, empty_chunks) = bounded(PIECES + 2);
    scope.spawn(move || read(blob, &chunks, &empty_chunks));
    let chunks = Chunks { chunks: coming_chunks, used: used_chunks, chunk: Vec::new(), position: 0 };

    let (decoded, coming) = bounded(PIECES);
    let (used, empty) = bounded(2 * PIECES + 2);
    let (media_type, limit) = (media_type.to_owned(), limits.expanded_bytes);
    scope.spawn(move || {
        if let Err(error) = decompress(decoder(chunks, &media_type, want), limit, &decoded, &empty) {
            // Nobody may want the error any more.
            let _ = decoded.send(Err(error));
        }
    });

    let (hashed, pieces) = bounded(PIECES);
    let hashing = scope.spawn(move || hash(&coming, &hashed));
    (Pieces { pieces, used, piece: Arc::default(), position: 0 }, hashing)
}

/// Reads a blob to its end, so that a slow network or disk and the decompression wait for each other as little as can be.
fn read(mut blob: impl Read, chunks: &Sender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(PIECE, 0);
        let filled = fill(&mut blob, &mut chunk);
        let last = !matches!(filled, Ok(1..));
        let sent = chunks.send(filled.map(|count| {
            chunk.truncate(count);
            chunk
        }));
        if last || sent.is_err() {
            return;
        }
    }
}

/// Decompresses to the end, or until nobody reads any more.
fn decompress(
    decoder: Result<Decoder, LayerError>,
    limit: u64,
    pieces: &Sender<Result<Vec<u8>, LayerError>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), LayerError> {
    let (mut decoder, compression) = decoder?;
    let mut size = 0;
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let filled =
            fill(&mut *decoder, &mut piece).map_err(|source| LayerError::Decompress { compression, source })?;
        piece.truncate(filled);
        size += filled as u64;
        if size > limit {
            return Err(LayerError::Limit { what: "bytes once it is decompressed", limit });
        }
        if filled == 0 || pieces.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

/// Hashes what it passes on.
fn hash(coming: &Receiver<Result<Vec<u8>, LayerError>>, pieces: &Sender<Result<Vec<u8>, LayerError>>) -> (DiffId, u64) {
    let mut hasher = Hasher::new();
    let mut size = 0;
    for piece in coming {
        if let Ok(piece) = &piece {
            hasher.update(piece);
            size += piece.len() as u64;
        }
        if pieces.send(piece).is_err() {
            break;
        }
    }
    (DiffId(hasher.finish()), size)
}

/// The blob's bytes, as they come from the thread that reads it.
struct Chunks {
    chunks: Receiver<io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    position: usize,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.chunk.len() {
            let Ok(chunk) = self.chunks.recv() else { return Ok(&[]) };
            let used = std::mem::replace(&mut self.chunk, chunk?);
            // The other end may be done already.
            let _ = self.used.try_send(used);
            self.position = 0;
        }
        Ok(&self.chunk[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Pieces {
    /// The next bytes, at most `most` of them; empty at the end.
    pub(super) fn next(&mut self, most: u64) -> Result<&[u8], LayerError> {
        let range = self.next_range(most)?;
        Ok(&self.piece.bytes[range])
    }

    /// As [`Self::next`], for whoever keeps the bytes.
    pub(super) fn next_slice(&mut self, most: u64) -> Result<Slice, LayerError> {
        let range = self.next_range(most)?;
        Ok(Slice { piece: Arc::clone(&self.piece), range })
    }

    fn next_range(&mut self, most: u64) -> Result<Range<usize>, LayerError> {
        while self.position == self.piece.bytes.len() {
            let Ok(piece) = self.pieces.recv() else { break };
            self.piece = Arc::new(Piece { bytes: piece?, used: Some(self.used.clone()) });
            self.position = 0;
        }
        let start = self.position;
        let available = self.piece.bytes.len() - start;
        self.position += usize::try_from(most).map_or(available, |most| most.min(available));
        Ok(start..self.position)
    }

    /// Fills a buffer; the number of bytes is smaller only at the end.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let piece = self.next((buffer.len() - filled) as u64)?;
            if piece.is_empty() {
                break;
            }
            buffer[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Ok(filled)
    }
}

/// Decompressed bytes, and what they were compressed with.
type Decoder = (Box<dyn Read>, &'static str);

fn decoder(mut blob: Chunks, media_type: &str, want: Option<DiffId>) -> Result<Decoder, LayerError> {
    let error = |compression| move |source| LayerError::Decompress { compression, source };
    let mut start = vec![0; PEEK];
    let length = fill(&mut blob, &mut start).map_err(error("compressed"))?;
    start.truncate(length);
    let name = media_type.split(';').next().unwrap_or_default().trim_end();
    let is_layer = ["tar", "tar+gzip", "tar.gzip", "tar+zstd", "tar.zstd"].iter().any(|end| name.ends_with(end));
    let found = compression_of(&start);
    if !is_layer || found == "unknown" {
        return Err(LayerError::MediaType { media_type: media_type.to_owned(), found });
    }
    let blob: Box<dyn BufRead> = Box::new(io::Cursor::new(start).chain(blob));
    // COMPAT(buildkit): the first bytes decide, and not the media type; the diff ID is checked either way.
    Ok(match found {
        "gzip" if want.is_some() => (Box::new(UncheckedGzip::new(blob)), found),
        "gzip" => (Box::new(MultiGzDecoder::new(blob)), found),
        "zstd" => {
            let mut decoder = zstd::Decoder::with_buffer(blob).map_err(error(found))?;
            decoder.window_log_max(LARGEST_WINDOW).map_err(error(found))?;
            (Box::new(decoder), found)
        }
        _ => (Box::new(blob), found),
    })
}

fn compression_of(start: &[u8]) -> &'static str {
    // The last one is zstd's skippable frame, whose first half byte is free.
    match start {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => "zstd",
        start if start.len() < PEEK || start.get(257..262) == Some(b"ustar") => "uncompressed",
        start if start.iter().all(|&b| b == 0) || super::member::checksum_matches(start) => "uncompressed",
        _ => "unknown",
    }
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
