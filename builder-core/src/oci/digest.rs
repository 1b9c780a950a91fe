//! Digests of stored blobs, of uncompressed layers, and of chains of layers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};

/// A text is not a digest that rbuild can check.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("`{text}` is not a digest: {reason}")]
pub struct DigestError {
    text: String,
    reason: &'static str,
}

/// The SHA-256 digest of a stored blob, written `sha256:<64 hex digits>` (OCI image spec, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Computes the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Takes the 32 bytes of a finished SHA-256.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the SHA-256.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 lower-case hexadecimal digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(DIGITS[usize::from(n)])).collect()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let error = |reason| DigestError { text: text.chars().take(100).collect(), reason };
        let hex = text.strip_prefix("sha256:").ok_or_else(|| error("only sha256 is supported"))?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(error("want 64 lower-case hexadecimal digits"));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let value = |c: u8| if c.is_ascii_digit() { c - b'0' } else { c - b'a' + 10 };
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running SHA-256 that ends in a [`Digest`].
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts an empty hash.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the hash.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// A running SHA-256 of whole blocks of 64 bytes, whose state can be kept and taken up again (FIPS 180-4, section 6.2).
#[derive(Debug, Clone)]
pub struct BlockHasher {
    state: [u32; 8],
    length: u64,
}

/// The state of a [`BlockHasher`]: eight words, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockState(pub [u8; 32]);

impl Default for BlockHasher {
    fn default() -> Self {
        // FIPS 180-4, section 5.3.3.
        let state =
            [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
        Self { state, length: 0 }
    }
}

impl BlockHasher {
    /// Adds bytes.
    ///
    /// # Panics
    /// When they are no whole blocks.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks();
        assert!(rest.is_empty(), "{} bytes are no whole blocks", bytes.len());
        compress256(&mut self.state, blocks);
        self.length += bytes.len() as u64;
    }

    /// Goes on as if as many more bytes had been added, after which the state was this.
    pub fn skip(&mut self, length: u64, state: BlockState) {
        let (words, _) = state.0.as_chunks();
        for (word, bytes) in self.state.iter_mut().zip(words) {
            *word = u32::from_be_bytes(*bytes);
        }
        self.length += length;
    }

    /// The state after all bytes so far.
    #[must_use]
    pub fn state(&self) -> BlockState {
        let mut state = [0; 32];
        state.as_chunks_mut().0.iter_mut().zip(self.state).for_each(|(bytes, word)| *bytes = word.to_be_bytes());
        BlockState(state)
    }

    /// The number of bytes so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Ends the hash.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        let mut last = [0; 64];
        last[0] = 0x80;
        last[56..].copy_from_slice(&(self.length * 8).to_be_bytes());
        compress256(&mut self.state, &[last]);
        Digest(self.state().0)
    }
}

/// The digest of a layer's uncompressed tar stream (OCI image spec, "Layer DiffID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest that names a stack of layers (OCI image spec, "Layer ChainID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// Computes the chain ID of layers given from the lowest up; `None` for no layers.
    #[must_use]
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        layers.iter().fold(None, |chain, layer| Some(Self::with(chain, *layer)))
    }

    /// Computes the chain ID of layers and one on top of them.
    #[must_use]
    pub fn with(below: Option<Self>, layer: DiffId) -> Self {
        Self(below.map_or(layer.0, |chain| Digest::of(format!("{chain} {layer}").as_bytes())))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_text_round_trip() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn a_kept_state_is_taken_up_again() {
        let bytes: Vec<u8> = (0..64 * 9).map(|n| (n % 251) as u8).collect();
        for blocks in 0..9 {
            let (first, rest) = bytes.split_at(64 * blocks);
            let mut hasher = BlockHasher::default();
            hasher.update(first);
            let state = hasher.state();
            assert_eq!(hasher.finish(), Digest::of(first));
            let mut hasher = BlockHasher::default();
            hasher.skip(first.len() as u64, state);
            hasher.update(rest);
            assert_eq!((hasher.length(), hasher.finish()), (bytes.len() as u64, Digest::of(&bytes)));
        }
    }

    #[test]
    #[should_panic(expected = "65 bytes are no whole blocks")]
    fn only_whole_blocks_have_a_state() {
        BlockHasher::default().update(&[0; 65]);
    }

    #[test]
    fn refuses_other_texts() {
        for text in
            ["", "sha256:", "sha512:aa", "sha256:E3B0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_id_of_two_layers() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
        assert_eq!(ChainId::of(&[a, b]), Some(ChainId(Digest::of(format!("{a} {b}").as_bytes()))));
    }
}
