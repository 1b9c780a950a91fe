//! Putting a selection into a stage's tree.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::canvas::{Canvas, Existing, Implied};
use super::error::CopyError;
use super::extract::{self, ExtractOptions};
use super::links::Last;
use super::memory::MemoryTree;
use super::merge::{Contents, Merged, Order};
use super::mode::ModeChange;
use super::select::{Item, ItemKind, Picked, Selection};
use crate::tree::{ChangeList, ChangeListBuilder, Entry, Metadata, Node, Timestamp, TreeError, TreePath, TreeView};

/// How a selection is placed.
#[derive(Debug, Clone, Copy)]
pub struct PlaceOptions<'a> {
    /// The destination as written, after variables were expanded. A slash at its end makes it a directory.
    pub destination: &'a [u8],
    /// Where a destination that does not begin with a slash counts from; absolute.
    pub working_directory: &'a [u8],
    /// `--chown`: the owner and group of all that is placed and made; `None` keeps those of the source.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`: the mode of all files and directories that are placed.
    pub mode: Option<&'a ModeChange>,
    /// `--link`: the result does not depend on the tree below. It has no effect together with `mode`.
    pub link: bool,
    /// The time of directories that are made because the destination needs them.
    pub implied_time: Timestamp,
    /// A folder for temporary files; the contents of unpacked archives may stay in it as long as the changes live.
    pub temporary_folder: &'a Path,
}

/// The result of placing a selection.
#[derive(Debug)]
pub struct Placement {
    /// What the layer holds.
    pub changes: ChangeList,
    /// What the user should know.
    pub warnings: Vec<PlaceWarning>,
}

/// Something that BuildKit does silently.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlaceWarning {
    /// Two sources became one file, so that one of them is lost.
    SourceLost {
        /// The file in the image.
        destination: String,
        /// The source that is lost.
        lost: String,
        /// The source that is kept.
        kept: String,
        /// Whether the destination is a name without a slash, which several sources can't share.
        renamed: bool,
    },
}

/// Places a selection on the tree of the layers below, and gives the changes.
///
/// # Errors
/// When a file and a directory collide, when a name can't be stored, when an archive is damaged, or when a tree can't
/// be read.
pub fn place(selection: &Selection, below: &dyn TreeView, options: &PlaceOptions<'_>) -> Result<Placement, CopyError> {
    let nothing = MemoryTree::new();
    let mut placer = Placer::new(selection, below, options, &nothing);
    if placer.goes_into_one_directory()? {
        selection.items.iter().try_for_each(|item| placer.merge_item(item))?;
    } else {
        selection.items.iter().try_for_each(|item| placer.place_item(item))?;
    }
    placer.finish()
}

/// The same, with what each source brings gathered before the next is looked at.
#[cfg(test)]
pub(super) fn place_one_by_one(
    selection: &Selection,
    below: &dyn TreeView,
    options: &PlaceOptions<'_>,
) -> Result<Placement, CopyError> {
    let nothing = MemoryTree::new();
    let mut placer = Placer::new(selection, below, options, &nothing);
    selection.items.iter().try_for_each(|item| placer.place_item(item))?;
    placer.finish()
}

/// Makes a directory and those above it where they are missing (mode 0755), as WORKDIR does. Links are followed. There
/// are no changes where it exists.
///
/// # Errors
/// When something in its path is no directory, or the tree can't be read.
pub fn make_directory(
    below: &dyn TreeView,
    path: &[u8],
    owner: (u32, u32),
    modified: Timestamp,
) -> Result<ChangeList, CopyError> {
    let mut canvas = Canvas::new(below);
    let path = canvas.resolve(&TreePath::root(), &TreePath::clean(path), Last::Followed)?;
    canvas.make_directories(&path, Implied { mode: 0o755, owner, modified })?;
    let mut changes = ChangeListBuilder::default();
    canvas.into_changes(None, &mut changes)?;
    Ok(changes.finish().map_err(unkept)?)
}

/// A destination as it was meant.
struct Destination {
    path: TreePath,
    is_directory: bool,
}

impl Destination {
    fn new(text: &[u8], working_directory: &[u8]) -> Self {
        let whole = if text.starts_with(b"/") { text.to_vec() } else { [working_directory, b"/", text].concat() };
        let is_directory = text.ends_with(b"/") || text.ends_with(b"/.") || text == b".";
        Self { path: TreePath::clean(&whole), is_directory }
    }
}

pub(super) struct Placer<'a> {
    canvas: Canvas<'a>,
    destination: Destination,
    options: &'a PlaceOptions<'a>,
    /// The files that single sources became, with these sources.
    files: BTreeMap<TreePath, TreePath>,
    warnings: Vec<PlaceWarning>,
    /// What goes into one directory, and where that is: it need not be gathered first.
    pub(super) merged: Merged<'a>,
    target: Option<TreePath>,
    pub(super) items: &'a [Item],
}

impl<'a> Placer<'a> {
    fn new(
        selection: &'a Selection,
        below: &'a dyn TreeView,
        options: &'a PlaceOptions<'a>,
        nothing: &'a MemoryTree,
    ) -> Self {
        // COMPAT(buildkit): `--chmod` turns `--link` off.
        let below = if options.link && options.mode.is_none() { nothing } else { below };
        Self {
            canvas: Canvas::new(below),
            destination: Destination::new(options.destination, options.working_directory),
            options,
            files: BTreeMap::new(),
            warnings: Vec::new(),
            merged: Merged::new(Order::Target),
            target: None,
            items: &selection.items,
        }
    }

    /// The changes of all that was placed.
    fn finish(mut self) -> Result<Placement, CopyError> {
        let mut changes = ChangeListBuilder::in_folder(self.options.temporary_folder);
        let mut first = self.merged.next()?;
        let canvas = Canvas::new(self.canvas.below());
        if let Some(target) = self.target.take() {
            let existing = Existing { below: self.canvas.below(), fresh: vec![self.canvas.is_fresh(&target)?] };
            let canvas = std::mem::replace(&mut self.canvas, canvas);
            canvas.into_changes(Some(&target).filter(|_| !first.is_empty()), &mut changes)?;
            let mut contents = Contents::new(&mut self, target, existing);
            while !first.is_empty() {
                contents.add(first, &mut changes)?;
                first = contents.placer.merged.next()?;
            }
        } else {
            std::mem::replace(&mut self.canvas, canvas).into_changes(None, &mut changes)?;
        }
        Ok(Placement { changes: changes.finish().map_err(unkept)?, warnings: self.warnings })
    }

    /// Whether all sources go into one directory, which is known without placing any.
    fn goes_into_one_directory(&self) -> Result<bool, TreeError> {
        if self.items.iter().any(|item| matches!(item.kind, ItemKind::Archive(_))) {
            return Ok(false);
        }
        if self.destination.is_directory
            || matches!(self.items.first(), Some(Item { kind: ItemKind::Directory { .. }, .. }))
        {
            return Ok(true);
        }
        let named = self.canvas.resolve(&TreePath::root(), &self.destination.path, Last::Followed)?;
        Ok(self.canvas.get(&named)?.is_some_and(|(node, _)| node.is_directory()))
    }

    /// Adds a source to those that go into one directory.
    fn merge_item(&mut self, item: &'a Item) -> Result<(), CopyError> {
        let (target, is_there) = self.make_target(item)?;
        match &item.kind {
            ItemKind::Directory { entry, contents } => {
                self.make_directory(&target, is_there, entry.metadata.modified)?;
                self.merged.add(contents.iter(&entry.path))?;
            }
            ItemKind::File(picked) => {
                let relative = TreePath::root().join(item.path.file_name().unwrap_or(b"unnamed"));
                self.merged.add(std::iter::once(Ok(Picked { relative, ..picked.clone() })))?;
            }
            ItemKind::Archive(_) => unreachable!("archives are placed one by one"),
        }
        self.target = Some(target);
        Ok(())
    }

    fn place_item(&mut self, item: &'a Item) -> Result<(), CopyError> {
        if let ItemKind::Archive(picked) = &item.kind {
            return self.extract(item, picked);
        }
        let (mut target, existing) = self.make_target(item)?;
        let is_directory = existing == Some(true);
        match &item.kind {
            ItemKind::File(picked) => {
                if is_directory {
                    target = target.join(item.path.file_name().unwrap_or(b"unnamed"));
                }
                let parent = target.parent().unwrap_or_default();
                self.canvas.make_directories(&parent, self.implied())?;
                self.place_file(&target, picked, None)?;
                self.note_file(target, item, !is_directory);
            }
            ItemKind::Directory { entry, contents } => {
                self.make_directory(&target, existing, entry.metadata.modified)?;
                self.place_contents(&target, contents.iter(&entry.path))?;
            }
            ItemKind::Archive(_) => unreachable!("archives were handled above"),
        }
        Ok(())
    }

    /// Makes the directories that a source's destination needs; where it is then, without links, and whether that is a
    /// directory, if anything is there.
    fn make_target(&mut self, item: &Item) -> Result<(TreePath, Option<bool>), CopyError> {
        debug_assert!(!matches!(item.kind, ItemKind::Archive(_)), "archives are unpacked in their own way");
        let root = TreePath::root();
        let named = self.destination.path.clone();
        let needed = if self.destination.is_directory { named.clone() } else { named.parent().unwrap_or_default() };
        let needed = self.canvas.resolve(&root, &needed, Last::Followed)?;
        self.canvas.make_directories(&needed, self.implied())?;
        let target = self.canvas.resolve(&root, &named, Last::Followed)?;
        let existing = self.canvas.get(&target)?.map(|(node, _)| node.is_directory());
        Ok((target, existing))
    }

    /// Makes the directory that a source directory becomes, where nothing is there.
    fn make_directory(
        &mut self,
        target: &TreePath,
        existing: Option<bool>,
        modified: Timestamp,
    ) -> Result<(), CopyError> {
        match existing {
            Some(true) => Ok(()),
            Some(false) => Err(CopyError::NotADirectory { path: target.to_string() }),
            None => {
                let parent = target.parent().unwrap_or_default();
                self.canvas.make_directories(&parent, self.implied())?;
                self.canvas.make_directories(target, Implied { modified, ..self.implied() })
            }
        }
    }

    fn place_contents(
        &mut self,
        target: &TreePath,
        contents: impl Iterator<Item = Result<Picked, TreeError>>,
    ) -> Result<(), CopyError> {
        let mut groups = BTreeMap::new();
        for picked in contents {
            let picked = picked?;
            let path = target.join_path(&picked.relative);
            if picked.entry.node.is_directory() {
                let metadata = self.directory_metadata(&path, &picked, self.canvas.get(&path)?)?;
                self.canvas.set_directory(&path, metadata)?;
            } else {
                let group = picked.link.map(|link| *groups.entry(link).or_insert_with(|| self.canvas.new_group()));
                self.place_file(&path, &picked, group)?;
                self.files.remove(&path);
            }
        }
        Ok(())
    }

    /// The metadata of a directory that is placed where `old` is.
    pub(super) fn directory_metadata(
        &self,
        path: &TreePath,
        picked: &Picked,
        old: Option<(Node, Metadata)>,
    ) -> Result<Metadata, CopyError> {
        let mut metadata = self.metadata(&picked.entry);
        match old {
            None => {}
            Some((Node::Directory { .. }, mut old)) if picked.only_on_the_way => {
                // COMPAT(buildkit): of such a directory only the mode is taken over, and that without `--chmod`.
                old.mode = picked.entry.metadata.mode;
                metadata = old;
            }
            Some((Node::Directory { .. }, old)) => {
                for (name, value) in old.xattrs {
                    metadata.xattrs.entry(name).or_insert(value);
                }
            }
            Some(_) => return Err(CopyError::NotADirectory { path: path.to_string() }),
        }
        Ok(metadata)
    }

    fn place_file(&mut self, path: &TreePath, picked: &Picked, group: Option<u64>) -> Result<(), CopyError> {
        check_replaced(path, self.canvas.get(path)?.as_ref())?;
        let metadata = self.metadata(&picked.entry);
        self.canvas.set(path, picked.entry.node.clone(), metadata, picked.content.clone(), group)
    }

    fn extract(&mut self, item: &Item, picked: &Picked) -> Result<(), CopyError> {
        let target = self.canvas.resolve(&TreePath::root(), &self.destination.path, Last::Followed)?;
        // COMPAT(buildkit): `--chmod` has no effect on archives and on what is made for them.
        self.canvas.make_directories(&target, Implied { mode: 0o755, ..self.implied() })?;
        let options = ExtractOptions {
            owner: self.options.owner,
            implied_time: self.options.implied_time,
            temporary_folder: self.options.temporary_folder,
        };
        extract::extract(&mut self.canvas, &target, &picked.content, &options).map_err(|error| error.of(&item.path))
    }

    fn note_file(&mut self, target: TreePath, item: &Item, renamed: bool) {
        let destination = target.to_string();
        if let Some(lost) = self.files.insert(target, item.path.clone()) {
            // The first source may itself have been what made the name a file.
            let renamed = renamed || self.destination_is(&destination);
            self.warn_of_loss(destination, &lost, &item.path, renamed);
        }
    }

    pub(super) fn warn_of_loss(&mut self, destination: String, lost: &TreePath, kept: &TreePath, renamed: bool) {
        let (lost, kept) = (lost.to_string()[1..].to_owned(), kept.to_string()[1..].to_owned());
        self.warnings.push(PlaceWarning::SourceLost { destination, lost, kept, renamed });
    }

    fn destination_is(&self, path: &str) -> bool {
        !self.destination.is_directory && self.destination.path.to_string() == path
    }

    fn implied(&self) -> Implied {
        let mode = match self.options.mode {
            // COMPAT(buildkit): a numeric `--chmod` holds for directories that are made, a symbolic one doesn't.
            Some(ModeChange::Octal(mode)) => mode & 0o777,
            _ => 0o755,
        };
        Implied { mode, owner: self.options.owner.unwrap_or_default(), modified: self.options.implied_time }
    }

    pub(super) fn metadata(&self, entry: &Entry) -> Metadata {
        let mut metadata = entry.metadata.clone();
        if let Some((uid, gid)) = self.options.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        if let Some(change) = self.options.mode.filter(|_| !matches!(entry.node, Node::Symlink { .. })) {
            metadata.mode = change.apply(metadata.mode, entry.node.is_directory());
        }
        metadata
    }
}

/// The error of changes that can't be put by.
pub(super) fn unkept(source: io::Error) -> TreeError {
    TreeError::Io { action: "keep", path: "the list of changes".to_owned(), source }
}

/// Refuses a directory where something that is none is to be.
pub(super) fn check_replaced(path: &TreePath, old: Option<&(Node, Metadata)>) -> Result<(), CopyError> {
    match old {
        Some((Node::Directory { .. }, _)) => Err(CopyError::IsADirectory { path: path.to_string() }),
        _ => Ok(()),
    }
}
