//! A layer's blob as a stream of uncompressed pieces, decompressed and hashed on a thread of its own.

use std::io::{self, BufRead, BufReader, Read};

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::bufread::MultiGzDecoder;

use super::{LayerError, Limits};
use crate::oci::{DiffId, Hasher};

/// The size of a piece in bytes.
const PIECE: usize = 256 << 10;

/// Pieces that may wait to be read.
const PIECES: usize = 8;

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

/// The decompressing end.
pub(super) struct Source<R> {
    blob: R,
    media_type: String,
    limit: u64,
    pieces: Sender<Result<Vec<u8>, LayerError>>,
    used: Receiver<Vec<u8>>,
}

/// Connects a blob that one thread decompresses with the pieces that another one reads.
pub(super) fn open<R: Read>(blob: R, media_type: &str, limits: &Limits) -> (Source<R>, Pieces) {
    let (pieces, coming) = bounded(PIECES);
    let (used, empty) = bounded(PIECES + 2);
    let source = Source { blob, media_type: media_type.to_owned(), limit: limits.expanded_bytes, pieces, used: empty };
    (source, Pieces { pieces: coming, used, piece: Vec::new(), position: 0 })
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

impl<R: Read> Source<R> {
    /// Decompresses to the end, or until nobody reads any more; the diff ID and size of what was given.
    pub(super) fn run(self) -> (DiffId, u64) {
        let Self { blob, media_type, limit, pieces, used } = self;
        let mut hasher = Hasher::new();
        let mut size = 0;
        let result = decoder(blob, &media_type).and_then(|(mut decoder, compression)| {
            loop {
                let mut piece = used.try_recv().unwrap_or_default();
                piece.resize(PIECE, 0);
                let filled =
                    fill(&mut *decoder, &mut piece).map_err(|source| LayerError::Decompress { compression, source })?;
                piece.truncate(filled);
                hasher.update(&piece);
                size += filled as u64;
                if size > limit {
                    return Err(LayerError::Limit { what: "bytes once it is decompressed", limit });
                }
                if filled == 0 || pieces.send(Ok(piece)).is_err() {
                    return Ok(());
                }
            }
        });
        if let Err(error) = result {
            let _ = pieces.send(Err(error));
        }
        (DiffId(hasher.finish()), size)
    }
}

fn decoder<'a>(blob: impl Read + 'a, media_type: &str) -> Result<(Box<dyn Read + 'a>, &'static str), LayerError> {
    let error = |compression| move |source| LayerError::Decompress { compression, source };
    let mut start = vec![0; PEEK];
    let mut blob = BufReader::with_capacity(PIECE, blob);
    let length = fill(&mut blob, &mut start).map_err(error("compressed"))?;
    start.truncate(length);
    let name = media_type.split(';').next().unwrap_or_default().trim_end();
    let is_layer = ["tar", "tar+gzip", "tar.gzip", "tar+zstd", "tar.zstd"].iter().any(|end| name.ends_with(end));
    let found = compression_of(&start);
    if !is_layer || found == "unknown" {
        return Err(LayerError::MediaType { media_type: media_type.to_owned(), found });
    }
    let blob: Box<dyn BufRead + 'a> = Box::new(io::Cursor::new(start).chain(blob));
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
