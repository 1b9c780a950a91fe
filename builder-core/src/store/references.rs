//! What texts of the store refer to. Taking any digest in them for a reference errs only towards keeping, and needs no
//! knowledge of what the texts mean.

use std::io::Read;
use std::path::Path;

use super::Store;
use super::file::open_regular;
use crate::oci::Digest;

/// The largest manifest, index or configuration that is searched for digests, in bytes.
const DOCUMENT_LIMIT: u64 = 4 << 20;

impl Store {
    /// Goes through all that a text names, directly or through others, as far as `is_new` says that it was not seen.
    pub(super) fn follow(&self, text: &[u8], mut is_new: impl FnMut(Digest) -> bool) {
        let mut open = digests_in(text);
        while let Some(digest) = open.pop() {
            if is_new(digest) {
                open.extend(digests_in(&read_document(&self.blob_path(&digest))));
                open.extend(digests_in(&read_document(&self.path("layers").join(digest.hex()).join("blobs.json"))));
                open.extend(self.lies_over(&digest));
            }
        }
    }
}

/// The digests that a text names.
pub(super) fn digests_in(text: &[u8]) -> Vec<Digest> {
    const LENGTH: usize = "sha256:".len() + 64;
    let starts = text.windows(7).enumerate().filter(|(_, window)| *window == b"sha256:").map(|(start, _)| start);
    starts.filter_map(|start| std::str::from_utf8(text.get(start..start + LENGTH)?).ok()?.parse().ok()).collect()
}

/// Reads a file if it is small and looks like a JSON object; empty otherwise.
pub(super) fn read_document(path: &Path) -> Vec<u8> {
    let read = || {
        let mut file = open_regular(path).ok()?;
        if file.metadata().ok()?.len() > DOCUMENT_LIMIT {
            return None;
        }
        let mut first = [0];
        file.read_exact(&mut first).ok()?;
        let mut bytes = Vec::new();
        (first == *b"{").then(|| file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes)).transpose().ok()??;
        Some(bytes)
    };
    read().unwrap_or_default()
}
