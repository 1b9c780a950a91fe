//! A layer's blob as a stream of uncompressed pieces, made and hashed by threads of their own.
//!
//! ```text
//! blob --> reading --> decompressing --> hashing (diff ID) --> Pieces
//! ```
//!
//! Every arrow is a short queue, so that little is in memory however large the layer is. A thread ends with an error of
//! the one before it, or when the one after it wants no more.

use std::io::{self, BufRead, Read};
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::bufread::MultiGzDecoder;

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
    piece: Vec<u8>,
    position: usize,
}

/// Starts to read a blob in threads of `scope`; the last one gives the diff ID and size of what it passed on.
pub(super) fn start<'scope, R: Read + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    blob: R,
    media_type: &str,
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
        if let Err(error) = decompress(chunks, &media_type, limit, &decoded, &empty) {
            // Nobody may want the error any more.
            let _ = decoded.send(Err(error));
        }
    });

    let (hashed, pieces) = bounded(PIECES);
    let hashing = scope.spawn(move || hash(&coming, &hashed));
    (Pieces { pieces, used, piece: Vec::new(), position: 0 }, hashing)
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
    chunks: Chunks,
    media_type: &str,
    limit: u64,
    pieces: &Sender<Result<Vec<u8>, LayerError>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), LayerError> {
    let (mut decoder, compression) = decoder(chunks, media_type)?;
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
        while self.position == self.piece.len() {
            let Ok(piece) = self.pieces.recv() else { return Ok(&[]) };
            let used = std::mem::replace(&mut self.piece, piece?);
            // The other end may be done already.
            let _ = self.used.try_send(used);
            self.position = 0;
        }
        let start = self.position;
        let available = self.piece.len() - start;
        self.position += usize::try_from(most).map_or(available, |most| most.min(available));
        Ok(&self.piece[start..self.position])
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

fn decoder(mut blob: Chunks, media_type: &str) -> Result<(Box<dyn Read>, &'static str), LayerError> {
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
