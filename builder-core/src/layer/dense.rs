//! Finds chunks that compressing would not make smaller, such as archives and pictures: trying takes more time with them
//! than with any others, and gains less than two parts in a hundred.
//!
//! A pure function of the chunk's bytes, in whole numbers: a change here needs a new [`super::ENCODER_VERSION`].

/// Pieces are looked at in as many places, evenly spread.
const PLACES: usize = 16;

/// How many bytes are counted in each place.
const COUNTED: usize = 2 << 10;

/// How many bytes are compressed as a trial in every fourth place.
const TRIED: usize = 16 << 10;

/// No smaller chunk is looked at.
const SMALLEST: usize = PLACES * TRIED;

/// Whether all values of a byte are about equally frequent. It costs little, so it is asked of every chunk.
pub(super) fn is_even(chunk: &[u8]) -> bool {
    if chunk.len() < SMALLEST {
        return false;
    }
    let mut counts = [0_u64; 256];
    for place in places(chunk) {
        for byte in &place[..COUNTED] {
            counts[usize::from(*byte)] += 1;
        }
    }
    // With equal counts the sum of the squares is total² / 256; noise of this length has less than 102 percent of that.
    let total = (PLACES * COUNTED) as u64;
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    squares * 256 * 100 < total * total * 106
}

/// Whether a trial leaves at least 98 percent of some pieces. `compressed_size` compresses one.
pub(super) fn is_dense(chunk: &[u8], mut compressed_size: impl FnMut(&[u8]) -> usize) -> bool {
    let (mut before, mut after) = (0, 0);
    for place in places(chunk).step_by(4) {
        before += TRIED;
        after += compressed_size(&place[..TRIED]);
    }
    after * 100 >= before * 98
}

/// The chunk from each place on.
fn places(chunk: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..PLACES).map(|place| &chunk[chunk.len() / PLACES * place..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn only_noise_is_even() {
        let noise = noise(1 << 20);
        let letters: Vec<u8> = noise.iter().map(|byte| b'a' + byte % 26).collect();
        let digits: Vec<u8> = noise.iter().map(|byte| byte & 0x7f).collect();
        let mut half = noise.clone();
        half[..1 << 19].fill(0);
        for (bytes, want) in [
            (&noise[..], true),
            (&noise[..SMALLEST], true),
            (&noise[..SMALLEST - 1], false),
            (&letters, false),
            (&digits, false),
            (&half, false),
            (&[], false),
        ] {
            assert_eq!(is_even(bytes), want, "{} bytes", bytes.len());
        }
    }

    /// Every value is as frequent as any other, but the bytes repeat.
    #[test]
    fn what_repeats_is_even_but_not_dense() {
        let mut compressor = super::super::Compression::Gzip { level: 1 }.compressor().unwrap();
        let mut size = |bytes: &[u8]| compressor.compress(bytes, false, &mut Vec::new()).unwrap();
        let repeated: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        assert!(is_even(&repeated) && !is_dense(&repeated, &mut size));
        assert!(is_dense(&noise(1 << 20), &mut size));
    }
}
