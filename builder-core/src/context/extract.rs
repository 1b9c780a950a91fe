//! Unpacking archives into a tree, as a process would whose root directory is the destination.
//!
//! Names and links of an archive can't lead out of the destination: `..` stops there and absolute links begin there.

use std::io::Read;
use std::path::Path;

use super::archive::{Member, MemberError, MemberKind, read_members};
use super::canvas::{Canvas, Implied};
use super::error::{ArchiveError, CopyError};
use super::links::Last;
use super::memory::MemoryTree;
use super::spool::{Spool, open_content};
use crate::tree::{Content, Entry, Metadata, Node, Timestamp, TreePath};

/// How an archive is unpacked.
pub(super) struct ExtractOptions<'a> {
    /// Replaces the owners of the archive.
    pub(super) owner: Option<(u32, u32)>,
    /// The time of directories that the archive does not name.
    pub(super) implied_time: Timestamp,
    /// A folder for temporary files.
    pub(super) temporary_folder: &'a Path,
}

/// Reads an archive, plain or compressed, as a tree of its own: a build context, or a download that is unpacked.
///
/// Contents that are large are kept in files of `temporary_folder` for as long as something refers to them.
///
/// # Errors
/// When the archive is damaged or holds what no layer can hold.
pub fn read_archive_tree(
    reader: Box<dyn Read + Send>,
    temporary_folder: &Path,
    implied_time: Timestamp,
) -> Result<MemoryTree, CopyError> {
    let nothing = MemoryTree::new();
    let mut canvas = Canvas::new(&nothing);
    let options = ExtractOptions { owner: None, implied_time, temporary_folder };
    extract_stream(&mut canvas, &TreePath::root(), reader, &options).map_err(|error| error.of(&TreePath::root()))?;
    let mut tree = MemoryTree::new();
    for (path, placed) in canvas.into_placed() {
        tree.add(Entry { path, node: placed.node, metadata: placed.metadata }, placed.content, placed.group);
    }
    Ok(tree)
}

/// Unpacks an archive into an existing directory.
pub(super) fn extract(
    canvas: &mut Canvas<'_>,
    target: &TreePath,
    archive: &Content,
    options: &ExtractOptions<'_>,
) -> Result<(), MemberError> {
    let reader = open_content(archive).map_err(|source| ArchiveError::Read { source })?;
    extract_stream(canvas, target, reader, options)
}

fn extract_stream(
    canvas: &mut Canvas<'_>,
    target: &TreePath,
    reader: Box<dyn Read + Send>,
    options: &ExtractOptions<'_>,
) -> Result<(), MemberError> {
    let mut spool = Spool::new(options.temporary_folder);
    read_members(reader, &mut spool, |member| extract_member(canvas, target, member, options))
}

fn extract_member(
    canvas: &mut Canvas<'_>,
    target: &TreePath,
    mut member: Member,
    options: &ExtractOptions<'_>,
) -> Result<(), MemberError> {
    // COMPAT(buildkit): the entry of the archive's own root changes nothing.
    let Some(name) = member.path.file_name() else { return Ok(()) };
    if let Some((uid, gid)) = options.owner {
        (member.metadata.uid, member.metadata.gid) = (uid, gid);
    }
    let named = member.path.parent().unwrap_or_default();
    let parent = canvas.resolve(target, &named, Last::Followed)?;
    if canvas.get(&parent)?.is_none() {
        refuse_dangling(canvas, target, &named, &member)?;
    }
    // COMPAT(buildkit): directories that the archive does not name are root's, whatever `--chown` says.
    let implied = Implied { mode: 0o755, owner: (0, 0), modified: options.implied_time };
    canvas.make_directories(&parent, implied)?;
    let path = parent.join(name);
    let old = canvas.get(&path)?;
    if let MemberKind::HardLink(original) = &member.kind {
        let original = canvas.resolve(target, original, Last::Kept)?;
        return link(canvas, &path, &original, &member);
    }
    let MemberKind::Node(node) = member.kind else { return Ok(()) };
    if node.is_directory() {
        match old {
            Some((Node::Directory { .. }, old)) => {
                for (name, value) in old.xattrs {
                    member.metadata.xattrs.entry(name).or_insert(value);
                }
            }
            Some(_) => canvas.remove(&path)?,
            None => {}
        }
        return Ok(canvas.set_directory(&path, member.metadata)?);
    }
    if old.is_some() {
        canvas.remove(&path)?;
    }
    Ok(canvas.set(&path, node, member.metadata, member.content, None)?)
}

/// Refuses a member that lies behind a symbolic link to nowhere.
fn refuse_dangling(
    canvas: &Canvas<'_>,
    target: &TreePath,
    directory: &TreePath,
    member: &Member,
) -> Result<(), MemberError> {
    for path in directory.ancestors().chain([directory.clone()]) {
        let link = canvas.get(&canvas.resolve(target, &path, Last::Kept)?)?;
        let followed = canvas.resolve(target, &path, Last::Followed)?;
        if matches!(link, Some((Node::Symlink { .. }, _))) && canvas.get(&followed)?.is_none() {
            let reason = format!("it lies behind the symbolic link `{path}`, which leads nowhere");
            return Err(ArchiveError::Member { member: member.path.to_string(), reason }.into());
        }
    }
    Ok(())
}

/// Makes a further name of a file.
fn link(canvas: &mut Canvas<'_>, path: &TreePath, original: &TreePath, member: &Member) -> Result<(), MemberError> {
    let refuse = |reason: &str| ArchiveError::Member { member: member.path.to_string(), reason: reason.to_owned() };
    if path == original {
        return Err(refuse("it is a hard link to itself").into());
    }
    let Some(placed) = canvas.share(original)? else {
        return Err(refuse(&format!("it is a hard link to `{original}`, which does not exist")).into());
    };
    if placed.node.is_directory() {
        return Err(refuse(&format!("it is a hard link to the directory `{original}`")).into());
    }
    if canvas.get(path)?.is_some() {
        canvas.remove(path)?;
    }
    let is_file = placed.group.is_some();
    // The link's own header counts for the file, as it is applied last.
    let xattrs =
        if member.metadata.xattrs.is_empty() { placed.metadata.xattrs } else { member.metadata.xattrs.clone() };
    // A symbolic link has no mode that could be changed.
    let is_symlink = matches!(placed.node, Node::Symlink { .. });
    let mode = if is_symlink { placed.metadata.mode } else { member.metadata.mode };
    let metadata = Metadata { mode, xattrs, ..member.metadata.clone() };
    canvas.set(path, placed.node, metadata.clone(), placed.content, placed.group)?;
    if let Some(group) = placed.group.filter(|_| is_file) {
        canvas.set_group_metadata(group, metadata);
    }
    Ok(())
}
