//! A layer's blob read: checked, recorded, and unpacked where asked.
//!
//! Differences from what the archive says, all on purpose:
//!
//! - Directories that the archive names only in other entries' paths are not in the record. On disk they are there, with
//!   mode `0755` and owned by root, and so hide a lower layer's metadata of that directory from a mount; their paths are
//!   given in [`ReadLayer::implied_directories`].
//! - A whiteout and something of the same name become that thing, opaque where it is a directory.
//! - Attributes that would steer the host (`trusted.*`, `user.overlay.*`, SELinux and IMA labels) are dropped.
//! - aufs's own files (`.wh..wh.*` in the root) are passed over.
//! - What follows the archive's end mark is hashed and not read; [`ReadLayer::has_trailing_data`] tells of it.

use std::io::Read;
use std::path::Path;
use std::thread;

use rustix::fs::FileType;

use super::blob;
use super::disk::DiskWriter;
use super::files::FileWriters;
use super::member::{Kind, Member, Members, refuse};
use super::state::{Before, LayerState, LinkTarget};
use super::{LayerError, Limits, OPAQUE_MARK, WHITEOUT_PREFIX};
use crate::oci::DiffId;
use crate::tree::{Metadata, Node, Tree, TreePath};

/// What aufs keeps for itself in a layer's root begins so.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// What a layer's blob holds.
#[derive(Debug)]
pub struct ReadLayer {
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// The layer's entries.
    pub tree: Tree,
    /// The size of the uncompressed archive in bytes.
    pub uncompressed_size: u64,
    /// Directories that the archive left out, sorted: on disk they have metadata of our making.
    pub implied_directories: Vec<TreePath>,
    /// Whether more than padding follows the archive's end mark, which other readers may take for entries.
    pub has_trailing_data: bool,
}

/// Reads a layer's blob to its end, and unpacks it into `unpack`, an existing empty folder.
///
/// The blob may be compressed with gzip or zstd; its own digest is for the caller to check. `media_type` must be that of
/// a layer. After an error, what the folder holds is of no use.
///
/// # Errors
/// When the blob can't be read or decompressed, breaks the tar format or a limit, tries to reach outside the layer, has
/// another diff ID than `want_diff_id`, or can't be unpacked.
pub fn read_layer(
    blob: impl Read + Send,
    media_type: &str,
    want_diff_id: Option<DiffId>,
    unpack: Option<&Path>,
    limits: &Limits,
) -> Result<ReadLayer, LayerError> {
    let disk = unpack.map(DiskWriter::open).transpose()?;
    thread::scope(|scope| {
        let (pieces, hashing) = blob::start(scope, blob, media_type, want_diff_id, limits);
        let (members, files) = (Members::new(pieces, limits), FileWriters::new(scope, unpack));
        let mut reader = Reader { members, files, state: LayerState::default(), disk, links: Vec::new() };
        while let Some(member) = reader.members.next()? {
            reader.apply(member)?;
        }
        reader.settle()?;
        let Reader { members, state, disk, .. } = reader;
        let has_trailing_data = members.finish()?;
        let (diff_id, uncompressed_size) = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Some(want) = want_diff_id.filter(|want| *want != diff_id) {
            return Err(LayerError::DiffId { want, found: diff_id });
        }
        if let Some(mut disk) = disk {
            set_directories(&mut disk, &state)?;
        }
        let implied_directories = state.implied_directories().into_iter().collect();
        let tree = state.finish(limits.temporary_folder.as_deref()).map_err(|source| LayerError::Record { source })?;
        Ok(ReadLayer { diff_id, tree, uncompressed_size, implied_directories, has_trailing_data })
    })
}

/// Gives all directories their metadata, the deepest first.
fn set_directories(disk: &mut DiskWriter, state: &LayerState) -> Result<(), LayerError> {
    let implied = Metadata { mode: 0o755, ..Metadata::default() };
    for (path, found) in state.directories().into_iter().rev() {
        let (opaque, metadata) = found.unwrap_or((false, &implied));
        disk.set_directory(&path, opaque, metadata)?;
    }
    Ok(())
}

struct Reader<'scope, 'env> {
    members: Members<'env>,
    files: FileWriters<'scope, 'env>,
    state: LayerState,
    disk: Option<DiskWriter>,
    /// Further names of files, which are made when these are there: the name, and the file.
    links: Vec<(TreePath, TreePath)>,
}

impl Reader<'_, '_> {
    fn apply(&mut self, member: Member) -> Result<(), LayerError> {
        let Some((parent, name)) = place(&member)? else { return self.root(member) };
        if parent.is_empty() && name.starts_with(AUFS_PREFIX) && name != OPAQUE_MARK || parent.starts_with(AUFS_PREFIX)
        {
            return Ok(());
        }
        if parent.split(|&b| b == b'/').any(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return Err(refuse(&member.name, "it is in a directory with a whiteout's name"));
        }
        let (parent, revived) = self.state.resolve(&parent).map_err(|reason| refuse(&member.name, reason))?;
        for path in revived {
            self.remove(&path)?;
            if let Some(disk) = &mut self.disk {
                disk.directory(&path)?;
            }
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            Some(hidden) => self.whiteout(&member, &parent, hidden),
            None => self.entry(member, &parent.join(&name)),
        }
    }

    fn root(&mut self, member: Member) -> Result<(), LayerError> {
        if member.kind != Kind::Directory {
            return Err(refuse(&member.name, "the root must be a directory"));
        }
        self.state.put_directory(&TreePath::root(), member.metadata);
        Ok(())
    }

    fn whiteout(&mut self, member: &Member, parent: &TreePath, hidden: &[u8]) -> Result<(), LayerError> {
        let opaque = hidden == &OPAQUE_MARK[WHITEOUT_PREFIX.len()..];
        // aufs made its whiteouts hard links of one another.
        if !matches!(member.kind, Kind::File | Kind::HardLink) {
            return Err(refuse(&member.name, "a whiteout must be a regular file"));
        }
        if !opaque && (matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT_PREFIX)) {
            return Err(refuse(&member.name, "it is a whiteout of no name"));
        }
        if opaque {
            if let Some(disk) = &mut self.disk {
                disk.directory(parent)?;
            }
            self.state.put_opaque(parent);
            return Ok(());
        }
        let path = parent.join(hidden);
        self.clear(&path, false)?;
        if let Some(disk) = &mut self.disk {
            disk.whiteout(&path)?;
        }
        self.state.put_other(&path, Node::Whiteout, Metadata::default());
        Ok(())
    }

    fn entry(&mut self, member: Member, path: &TreePath) -> Result<(), LayerError> {
        let Member { name, kind, link, size, device, metadata } = member;
        let refuse = |reason| refuse(&name, reason);
        let node = match kind {
            Kind::Directory => {
                self.clear(path, true)?;
                if let Some(disk) = &mut self.disk {
                    disk.directory(path)?;
                }
                self.state.put_directory(path, metadata);
                return Ok(());
            }
            Kind::File => {
                self.clear(path, false)?;
                return self.file(path, size, metadata);
            }
            Kind::HardLink => return self.hard_link(&name, &link, path),
            Kind::Symlink if link.is_empty() => return Err(refuse("it is a symbolic link to nothing")),
            Kind::Symlink => Node::Symlink { target: link },
            Kind::CharDevice if device == (0, 0) => {
                return Err(refuse("a character device 0:0 would hide files of lower layers"));
            }
            Kind::CharDevice => Node::CharDevice { major: device.0, minor: device.1 },
            Kind::BlockDevice => Node::BlockDevice { major: device.0, minor: device.1 },
            Kind::Fifo => Node::Fifo,
        };
        self.other(path, node, metadata)
    }

    fn other(&mut self, path: &TreePath, node: Node, metadata: Metadata) -> Result<(), LayerError> {
        self.clear(path, false)?;
        if let Some(disk) = &mut self.disk {
            write_special(disk, path, &node, &metadata)?;
        }
        self.state.put_other(path, node, metadata);
        Ok(())
    }

    fn file(&mut self, path: &TreePath, size: u64, metadata: Metadata) -> Result<(), LayerError> {
        let number = self.state.put_file(path, size, metadata.clone());
        self.files.begin(number, path, metadata)?;
        while let Some(slice) = self.members.content()? {
            self.files.bytes(slice)?;
        }
        self.files.end();
        for (number, digest) in self.files.known_digests() {
            self.state.set_digest(number, digest);
        }
        Ok(())
    }

    fn hard_link(&mut self, name: &[u8], link: &[u8], path: &TreePath) -> Result<(), LayerError> {
        let Some((directory, target)) = split(link).map_err(|reason| refuse(name, reason))? else {
            return Err(refuse(name, "it is a hard link to the root"));
        };
        let (directory, revived) = self.state.resolve(&directory).map_err(|reason| refuse(name, reason))?;
        let target = directory.join(&target);
        let found = self.state.link_target(&target).map_err(|reason| refuse(name, reason))?;
        if target == *path || !revived.is_empty() || target.starts_with(path) {
            return Err(refuse(name, "it is a hard link to itself"));
        }
        match found {
            LinkTarget::Copy(node, metadata) => self.other(path, node, metadata),
            LinkTarget::File => {
                self.clear(path, false)?;
                if self.disk.is_some() {
                    self.links.push((path.clone(), target.clone()));
                }
                self.state.put_link(path, &target);
                Ok(())
            }
        }
    }

    /// Removes from the disk what stands where an entry is to be.
    fn clear(&mut self, path: &TreePath, directory: bool) -> Result<(), LayerError> {
        match self.state.before(path, directory) {
            Before::Remove => self.remove(path),
            Before::Free | Before::SameDirectory => Ok(()),
        }
    }

    /// Removes what is at a path from the disk, once it is there.
    fn remove(&mut self, path: &TreePath) -> Result<(), LayerError> {
        if self.disk.is_none() {
            return Ok(());
        }
        self.settle()?;
        self.files.forget_directories();
        self.disk.iter_mut().try_for_each(|disk| disk.remove(path))
    }

    /// Waits for all files, and makes the further names that they have.
    fn settle(&mut self) -> Result<(), LayerError> {
        for (number, digest) in self.files.settle()? {
            self.state.set_digest(number, digest);
        }
        let links = std::mem::take(&mut self.links);
        let Some(disk) = &mut self.disk else { return Ok(()) };
        links.iter().try_for_each(|(path, target)| disk.hard_link(path, target))
    }
}

/// Makes anything but directories, regular files and hard links.
pub(super) fn write_special(
    disk: &mut DiskWriter,
    path: &TreePath,
    node: &Node,
    metadata: &Metadata,
) -> Result<(), LayerError> {
    match node {
        Node::Symlink { target } => disk.symlink(path, target, metadata),
        Node::Fifo => disk.fifo(path, metadata),
        Node::CharDevice { major, minor } => disk.device(path, FileType::CharacterDevice, (*major, *minor), metadata),
        Node::BlockDevice { major, minor } => disk.device(path, FileType::BlockDevice, (*major, *minor), metadata),
        Node::Whiteout => disk.whiteout(path),
        Node::Directory { .. } | Node::File { .. } | Node::HardLink { .. } => {
            unreachable!("the callers treat these kinds themselves")
        }
    }
}

/// The parent's and the own name of a member; `None` for the root.
fn place(member: &Member) -> Result<Parted, LayerError> {
    split(&member.name).map_err(|reason| refuse(&member.name, reason))
}

/// A path in an archive, parted before its last name.
type Parted = Option<(Vec<u8>, Vec<u8>)>;

fn split(path: &[u8]) -> Result<Parted, &'static str> {
    let mut names: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if path.is_empty() {
        return Err("it has no name");
    }
    if path.contains(&0) {
        return Err("its name holds a NUL byte");
    }
    if names.contains(&b"..".as_slice()) {
        return Err("its path has a `..`");
    }
    let Some(name) = names.pop() else { return Ok(None) };
    Ok(Some((names.join(&b'/'), name.to_vec())))
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod apply_tests;
#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
