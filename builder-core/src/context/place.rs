//! Putting a selection into a stage's tree.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::canvas::{Canvas, Existing, Implied, check_placed};
use super::error::CopyError;
use super::extract::{self, ExtractOptions};
use super::links::Last;
use super::memory::MemoryTree;
use super::mode::ModeChange;
use super::select::{Item, ItemKind, Picked, Selection};
use crate::tree::{Change, ChangeList, ChangeListBuilder, Entry, Metadata, Node, Timestamp, TreePath, TreeView};

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
    // COMPAT(buildkit): `--chmod` turns `--link` off.
    let below = if options.link && options.mode.is_none() { &nothing } else { below };
    let mut placer = Placer {
        canvas: Canvas::new(below),
        destination: Destination::new(options.destination, options.working_directory),
        options,
        files: BTreeMap::new(),
        warnings: Vec::new(),
        alone: selection.items.len() == 1,
        rest: None,
    };
    for item in &selection.items {
        placer.place_item(item)?;
    }
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
    Ok(changes.finish())
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

struct Placer<'a> {
    canvas: Canvas<'a>,
    destination: Destination,
    options: &'a PlaceOptions<'a>,
    /// The files that single sources became, with these sources.
    files: BTreeMap<TreePath, TreePath>,
    warnings: Vec<PlaceWarning>,
    /// Whether there is a single source.
    alone: bool,
    /// A directory's contents that go where nothing else does, and where that is: they need not be gathered first.
    rest: Option<(TreePath, &'a Item)>,
}

impl<'a> Placer<'a> {
    /// The changes of all that was placed.
    fn finish(mut self) -> Result<Placement, CopyError> {
        let mut changes = ChangeListBuilder::default();
        if let Some((target, Item { kind: ItemKind::Directory { entry, contents }, .. })) = self.rest.take() {
            let directory = Existing { below: self.canvas.below(), fresh: vec![self.canvas.is_fresh(&target)?] };
            let canvas = std::mem::replace(&mut self.canvas, Canvas::new(directory.below));
            canvas.into_changes(Some(&target).filter(|_| !contents.is_empty()), &mut changes)?;
            self.add_contents(&target, contents.iter(&entry.path), directory, &mut changes)?;
        } else {
            self.canvas.into_changes(None, &mut changes)?;
        }
        Ok(Placement { changes: changes.finish(), warnings: self.warnings })
    }

    /// Adds the contents of a directory, in order, where nothing else was placed.
    fn add_contents(
        &self,
        target: &TreePath,
        contents: impl Iterator<Item = Picked>,
        mut existing: Existing<'_>,
        changes: &mut ChangeListBuilder,
    ) -> Result<(), CopyError> {
        let mut first_names: HashMap<u64, TreePath> = HashMap::new();
        for picked in contents {
            let path = target.join_path(&picked.relative);
            let old = existing.get(&path, picked.relative.components().count())?;
            let node = picked.entry.node.clone();
            check_placed(&path, &node)?;
            if node.is_directory() {
                existing.enter(old.is_none());
                let metadata = self.directory_metadata(&path, &picked, old)?;
                changes.push(Change::new(Entry { path, node, metadata }));
                continue;
            }
            check_replaced(&path, old.as_ref())?;
            if let Some(target) = picked.link.and_then(|link| first_names.get(&link)) {
                let node = Node::HardLink { target: target.clone() };
                changes.push(Change::new(Entry { path, node, metadata: Metadata::default() }));
                continue;
            }
            if let Some(link) = picked.link {
                first_names.insert(link, path.clone());
            }
            let metadata = self.metadata(&picked.entry);
            changes.push(Change { entry: Entry { path, node, metadata }, content: picked.content });
        }
        Ok(())
    }

    fn place_item(&mut self, item: &'a Item) -> Result<(), CopyError> {
        let (is_file, time) = match &item.kind {
            ItemKind::Archive(picked) => return self.extract(item, picked),
            ItemKind::File(_) => (true, self.options.implied_time),
            ItemKind::Directory { entry, .. } => (false, entry.metadata.modified),
        };
        let root = TreePath::root();
        let named = self.destination.path.clone();
        let needed = if self.destination.is_directory { named.clone() } else { named.parent().unwrap_or_default() };
        let needed = self.canvas.resolve(&root, &needed, Last::Followed)?;
        self.canvas.make_directories(&needed, self.implied())?;
        let mut target = self.canvas.resolve(&root, &named, Last::Followed)?;
        let existing = self.canvas.get(&target)?;
        let is_directory = existing.as_ref().is_some_and(|(node, _)| node.is_directory());
        let renamed = !is_directory;
        match &item.kind {
            ItemKind::File(picked) => {
                if is_directory {
                    target = target.join(item.path.file_name().unwrap_or(b"unnamed"));
                }
                let parent = target.parent().unwrap_or_default();
                self.canvas.make_directories(&parent, self.implied())?;
                self.place_file(&target, picked, None)?;
                self.note_file(target, item, renamed);
            }
            ItemKind::Directory { entry, contents } => {
                if existing.is_none() {
                    let implied = Implied { modified: time, ..self.implied() };
                    let parent = target.parent().unwrap_or_default();
                    self.canvas.make_directories(&parent, self.implied())?;
                    self.canvas.make_directories(&target, implied)?;
                } else if !is_directory {
                    return Err(CopyError::NotADirectory { path: target.to_string() });
                }
                if self.alone {
                    self.rest = Some((target, item));
                } else {
                    self.place_contents(&target, contents.iter(&entry.path))?;
                }
            }
            ItemKind::Archive(_) => debug_assert!(!is_file, "archives were handled above"),
        }
        Ok(())
    }

    fn place_contents(&mut self, target: &TreePath, contents: impl Iterator<Item = Picked>) -> Result<(), CopyError> {
        let mut groups = BTreeMap::new();
        for picked in contents {
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
    fn directory_metadata(
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
            let (lost, kept) = (lost.to_string(), item.path.to_string());
            let name = |path: &str| path[1..].to_owned();
            // The first source may itself have been what made the name a file.
            let renamed = renamed || self.destination_is(&destination);
            self.warnings.push(PlaceWarning::SourceLost { destination, lost: name(&lost), kept: name(&kept), renamed });
        }
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

    fn metadata(&self, entry: &Entry) -> Metadata {
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

/// Refuses a directory where something that is none is to be.
fn check_replaced(path: &TreePath, old: Option<&(Node, Metadata)>) -> Result<(), CopyError> {
    match old {
        Some((Node::Directory { .. }, _)) => Err(CopyError::IsADirectory { path: path.to_string() }),
        _ => Ok(()),
    }
}
