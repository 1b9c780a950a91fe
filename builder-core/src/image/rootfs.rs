//! An image's file tree as a tar stream: `type=tar`.

use std::io::{self, Write};
use std::path::Path;

use crate::layer::{Compression, encode};
use crate::tree::{MergedTree, flatten};

use super::{ImageError, OutputFile};

/// Writes the whole tree as one uncompressed tar stream: sorted, without whiteouts, owners by number only.
///
/// # Errors
/// When the tree can't be read or `out` not be written.
pub fn write_rootfs_tar(tree: &MergedTree, out: &mut dyn Write) -> Result<(), ImageError> {
    let changes = flatten(tree)?;
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    encode(&changes, Compression::Uncompressed, &mut out).map_err(|source| ImageError::Encode { source })?;
    out.flush().map_err(|source| ImageError::Write { what: "archive", source })
}

/// Writes the whole tree as a tar file that appears only when it is complete.
///
/// # Errors
/// When the tree can't be read or the file not be written.
pub fn export_rootfs_tar(tree: &MergedTree, target: &Path) -> Result<(), ImageError> {
    let mut file = OutputFile::create(target)?;
    write_rootfs_tar(tree, &mut file)?;
    file.finish()
}
