//! Changes unpacked as they are, without an archive between.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::LayerError;
use super::content::ContentReader;
use super::disk::DiskWriter;
use super::read::write_special;
use crate::tree::{Change, Metadata, Node, TreePath};

const BUFFER: usize = 256 << 10;

/// Writes sorted changes into `root`, an existing empty folder, in the form that overlayfs takes as a lower directory.
///
/// Directories that no change names get mode `0755` and belong to root. The disk keeps nanoseconds, which an encoded
/// layer does not.
///
/// # Errors
/// When a file can't be read or changed its size, or the folder can't be written. What it then holds is of no use.
pub fn unpack_changes(changes: &[Change], root: &Path) -> Result<(), LayerError> {
    let mut disk = DiskWriter::open(root)?;
    let mut buffer = vec![0; BUFFER];
    let implied = Metadata { mode: 0o755, ..Metadata::default() };
    let mut directories: BTreeMap<TreePath, (bool, &Metadata)> =
        BTreeMap::from([(TreePath::root(), (false, &implied))]);
    for change in changes {
        let entry = &change.entry;
        let path = &entry.path;
        for ancestor in path.ancestors() {
            directories.entry(ancestor).or_insert((false, &implied));
        }
        match &entry.node {
            Node::Directory { opaque } => {
                disk.directory(path)?;
                directories.insert(path.clone(), (*opaque, &entry.metadata));
            }
            Node::File { size } => {
                disk.file(path, &entry.metadata, |file| write_content(change, *size, &mut buffer, file))?;
            }
            Node::HardLink { target } => disk.hard_link(path, target)?,
            node => write_special(&mut disk, path, node, &entry.metadata)?,
        }
    }
    for (path, (opaque, metadata)) in directories.into_iter().rev() {
        disk.set_directory(&path, opaque, metadata)?;
    }
    Ok(())
}

fn write_content(change: &Change, size: u64, buffer: &mut [u8], file: &mut File) -> Result<(), LayerError> {
    let path = || change.entry.path.to_string();
    let mut reader = ContentReader::open(change, size)?;
    let mut left = size;
    loop {
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        left -= length as u64;
        reader.fill(&mut buffer[..length], left)?;
        let written = file.write_all(&buffer[..length]);
        written.map_err(|source| LayerError::Unpack { action: "write", path: path(), source })?;
        if left == 0 {
            return Ok(());
        }
    }
}
