//! What reading one layer may cost.

use std::path::PathBuf;

/// Limits on one layer; exceeding one is an error. All can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of one path or link target.
    pub path_bytes: usize,
    /// Bytes of one extended header (PAX, or GNU's long names).
    pub extension_bytes: u64,
    /// Extended headers before one entry.
    pub extensions: u32,
    /// Bytes of the archive once it is decompressed.
    pub expanded_bytes: u64,
    /// Extended attributes of one entry.
    pub xattrs: usize,
    /// Bytes of one extended attribute's value.
    pub xattr_bytes: usize,
    /// A folder for temporary files, which keep what is in memory small for a layer of many entries.
    pub temporary_folder: Option<PathBuf>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 20_000_000,
            path_bytes: 4096,
            extension_bytes: 1 << 20,
            extensions: 16,
            expanded_bytes: 64 << 30,
            xattrs: 256,
            xattr_bytes: 64 << 10,
            temporary_folder: None,
        }
    }
}
