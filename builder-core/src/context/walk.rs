//! Walking a source directory, narrowed by `--parents` and `--exclude` patterns.

use rayon::prelude::*;

use super::pattern::{DirectoryMatch, PatternList};
use crate::tree::{Entry, TreeError, TreePath, TreeView};

/// Which entries below a directory are wanted.
pub(super) struct Filter<'a> {
    /// Only what one of these matches, if there are any.
    pub(super) include: Option<&'a PatternList>,
    /// Nothing that these match.
    pub(super) exclude: Option<&'a PatternList>,
}

/// An entry that was found.
pub(super) struct Found {
    pub(super) relative: TreePath,
    pub(super) entry: Entry,
    /// Whether the directory was not wanted itself, only something in it.
    pub(super) only_on_the_way: bool,
}

#[derive(Clone, Default)]
struct State {
    include: DirectoryMatch,
    exclude: DirectoryMatch,
}

/// Finds all wanted entries below a directory, each directory before what is in it.
pub(super) fn walk(source: &dyn TreeView, directory: &TreePath, filter: &Filter<'_>) -> Result<Vec<Found>, TreeError> {
    walk_directory(source, directory, &TreePath::root(), filter, &State::default())
}

fn walk_directory(
    source: &dyn TreeView,
    directory: &TreePath,
    relative: &TreePath,
    filter: &Filter<'_>,
    state: &State,
) -> Result<Vec<Found>, TreeError> {
    let entries = source.read_dir(directory)?;
    let directories = entries.iter().filter(|entry| entry.node.is_directory()).count();
    let visit = |entry: Entry| visit(source, entry, relative, filter, state);
    let found: Vec<Vec<Found>> = if directories > 1 {
        entries.into_par_iter().map(visit).collect::<Result<_, _>>()?
    } else {
        entries.into_iter().map(visit).collect::<Result<_, _>>()?
    };
    Ok(found.into_iter().flatten().collect())
}

fn visit(
    source: &dyn TreeView,
    entry: Entry,
    relative: &TreePath,
    filter: &Filter<'_>,
    state: &State,
) -> Result<Vec<Found>, TreeError> {
    let relative = relative.join(entry.path.file_name().unwrap_or_default());
    let path = relative.as_bytes();
    if !entry.node.is_directory() {
        let wanted = filter.include.is_none_or(|list| list.decide(path, &state.include).is_match())
            && !filter.exclude.is_some_and(|list| list.decide(path, &state.exclude).is_match());
        return Ok(if wanted { vec![Found { relative, entry, only_on_the_way: false }] } else { Vec::new() });
    }
    let mut own = State::default();
    let (mut wanted, mut enter) = (true, true);
    if let Some(list) = filter.include {
        let (decision, matched) = list.decide_directory(path, &state.include);
        own.include = matched;
        wanted = decision.is_match();
        enter = wanted || list.may_match_below(path);
    }
    if let Some(list) = filter.exclude {
        let (decision, matched) = list.decide_directory(path, &state.exclude);
        if decision.is_match() {
            wanted = false;
            enter &= list.may_except_below(path, &matched);
        }
        own.exclude = matched;
    }
    let below = if enter { walk_directory(source, &entry.path, &relative, filter, &own)? } else { Vec::new() };
    if !wanted && below.is_empty() {
        return Ok(below);
    }
    let mut found = Vec::with_capacity(below.len() + 1);
    found.push(Found { relative, entry, only_on_the_way: !wanted });
    found.extend(below);
    Ok(found)
}
