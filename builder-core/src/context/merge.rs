//! What several sources bring, in order: each source's own entries are sorted already.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use super::canvas::{Existing, check_placed};
use super::error::CopyError;
use super::place::{Placer, check_replaced, unkept};
use super::select::{ItemKind, Picked};
use crate::tree::{Change, ChangeListBuilder, Content, Entry, Metadata, Node, TreeError, TreePath};

type Source<'a> = Box<dyn Iterator<Item = Result<Picked, TreeError>> + 'a>;

/// What the entries are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Where they go, in the one directory that all go into.
    Target,
    /// Where they are.
    Source,
}

/// Goes through the entries of all sources at once.
pub(super) struct Merged<'a> {
    order: Order,
    sources: Vec<Source<'a>>,
    /// The next entry of each source that has one.
    heads: BinaryHeap<Reverse<Head>>,
}

struct Head {
    order: Order,
    picked: Picked,
    source: usize,
}

impl<'a> Merged<'a> {
    pub(super) const fn new(order: Order) -> Self {
        Self { order, sources: Vec::new(), heads: BinaryHeap::new() }
    }

    /// Adds a source, which wins over those before it.
    pub(super) fn add(
        &mut self,
        source: impl Iterator<Item = Result<Picked, TreeError>> + 'a,
    ) -> Result<(), TreeError> {
        self.sources.push(Box::new(source));
        self.advance(self.sources.len() - 1)
    }

    /// The next path's entries, each with the number of its source, in the sources' order; none at the end.
    pub(super) fn next(&mut self) -> Result<Vec<(usize, Picked)>, TreeError> {
        let mut found: Vec<(usize, Picked)> = Vec::new();
        while let Some(Reverse(head)) = self.heads.peek() {
            let key = |picked| self.order.key(picked);
            if found.first().is_some_and(|(_, first)| key(first) != key(&head.picked)) {
                break;
            }
            let Some(Reverse(Head { picked, source, .. })) = self.heads.pop() else { break };
            found.push((source, picked));
            self.advance(source)?;
        }
        Ok(found)
    }

    fn advance(&mut self, source: usize) -> Result<(), TreeError> {
        if let Some(picked) = self.sources[source].next().transpose()? {
            self.heads.push(Reverse(Head { order: self.order, picked, source }));
        }
        Ok(())
    }
}

impl Order {
    fn key(self, picked: &Picked) -> &TreePath {
        match self {
            Self::Target => &picked.relative,
            Self::Source => &picked.entry.path,
        }
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.order.key(&self.picked), self.source).cmp(&(other.order.key(&other.picked), other.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

/// The contents of the directory that all sources go into, on their way to become changes.
pub(super) struct Contents<'p, 'a> {
    pub(super) placer: &'p mut Placer<'a>,
    target: TreePath,
    existing: Existing<'a>,
    /// The first names of files that have several, by source.
    first_names: HashMap<(usize, u64), TreePath>,
}

impl<'p, 'a> Contents<'p, 'a> {
    pub(super) fn new(placer: &'p mut Placer<'a>, target: TreePath, existing: Existing<'a>) -> Self {
        Self { placer, target, existing, first_names: HashMap::new() }
    }

    /// Adds what the sources bring to one path; paths come in order.
    pub(super) fn add(
        &mut self,
        brought: Vec<(usize, Picked)>,
        changes: &mut ChangeListBuilder,
    ) -> Result<(), CopyError> {
        let Some((_, first)) = brought.first() else { return Ok(()) };
        let (path, depth) = (self.target.join_path(&first.relative), first.relative.components().count());
        let mut there = self.existing.get(&path, depth)?;
        let is_new = there.is_none();
        let (mut content, mut link, mut single) = (Content::None, None, None);
        for (source, picked) in brought {
            let node = picked.entry.node.clone();
            check_placed(&path, &node)?;
            if node.is_directory() {
                let metadata = self.placer.directory_metadata(&path, &picked, there)?;
                there = Some((node, metadata));
                continue;
            }
            check_replaced(&path, there.as_ref())?;
            there = Some((node, self.placer.metadata(&picked.entry)));
            (content, link) = (picked.content, picked.link.map(|link| (source, link)));
            self.note(&mut single, source, &path);
        }
        let Some((node, metadata)) = there else { return Ok(()) };
        if node.is_directory() {
            self.existing.enter(is_new);
        } else if let Some(target) = link.and_then(|link| self.first_names.get(&link)) {
            let node = Node::HardLink { target: target.clone() };
            let change = Change::new(Entry { path, node, metadata: Metadata::default() });
            return Ok(changes.push(change).map_err(unkept)?);
        } else if let Some(link) = link {
            self.first_names.insert(link, path.clone());
        }
        Ok(changes.push(Change { entry: Entry { path, node, metadata }, content }).map_err(unkept)?)
    }

    /// Warns where a source that is itself a file takes the place of another one.
    fn note(&mut self, single: &mut Option<TreePath>, source: usize, path: &TreePath) {
        let item = &self.placer.items[source];
        let is_file = matches!(item.kind, ItemKind::File(_));
        let lost = std::mem::replace(single, is_file.then(|| item.path.clone()));
        if let Some(lost) = lost.filter(|_| is_file) {
            self.placer.warn_of_loss(path.to_string(), &lost, &item.path, false);
        }
    }
}
