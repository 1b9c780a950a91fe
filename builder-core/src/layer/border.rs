//! Where one compressed chunk of a layer ends and the next begins.
//!
//! The borders depend on the tree alone, and mostly on the path at the border, so that an edit moves none but those
//! next to it:
//!
//! - a chunk never grows beyond [`LARGEST`];
//! - once it has [`SMALLEST`] bytes, it ends before the first entry whose path is chosen by its digest;
//! - a file of more than [`BIG_FILE`] bytes begins a chunk, and its content is cut at every multiple of that.
//!
//! A change here needs a new [`super::ENCODER_VERSION`].

/// Below this size in bytes no path ends a chunk.
pub(super) const SMALLEST: u64 = 768 << 10;

/// No chunk is larger than this, in bytes, but for a header that can't be parted from its content.
pub(super) const LARGEST: u64 = 2 << 20;

/// Files of more bytes than this are cut inside.
pub(super) const BIG_FILE: u64 = 1 << 20;

/// One path of this many ends a chunk.
const ONE_OF: u8 = 16;

/// Whether a chunk of `filled` bytes ends before an entry that takes `size` bytes with its header.
pub(super) fn ends_before(path: &[u8], filled: u64, size: u64) -> bool {
    filled > 0 && (size > BIG_FILE || filled + size > LARGEST || filled >= SMALLEST && is_chosen(path))
}

fn is_chosen(path: &[u8]) -> bool {
    blake3::hash(path).as_bytes()[0].is_multiple_of(ONE_OF)
}
