//! Which files differ between two runs of a step, by the short description of each.

use std::collections::{BTreeMap, HashMap};

use super::files::{Description, Files};
use crate::progress::{ChangedFile, FileChange, MissCause, NAMED_FILES};
use crate::tree::compare_paths;

/// Where more files than this came or went, it is not looked for those that were renamed.
const MOST_PAIRED: usize = 10_000;

/// A description taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Facts<'a> {
    kind: &'a str,
    mode: &'a str,
    owner: &'a str,
    xattrs: Vec<&'a str>,
    mark: Option<[u8; 16]>,
}

impl<'a> Facts<'a> {
    /// Reads from the end: only the kind, which comes first, may hold blanks (where a link leads to).
    fn parse(description: Description<'a>) -> Option<Self> {
        let mut rest = description.facts;
        let mut last = || {
            let (before, word) = rest.rsplit_once(' ')?;
            rest = before;
            Some(word)
        };
        let mut xattrs = Vec::new();
        let mut word = last()?;
        while word.contains('=') {
            xattrs.push(word);
            word = last()?;
        }
        let mode = last()?;
        xattrs.reverse();
        Some(Self { kind: rest, mode, owner: word, xattrs, mark: description.mark })
    }

    fn compare(before: &Self, now: &Self) -> Vec<(FileChange, Option<(String, String)>)> {
        let mut changes = Vec::new();
        let values = |before: &str, now: &str| Some((before.to_owned(), now.to_owned()));
        if before.kind != now.kind {
            changes.push((FileChange::Kind, values(before.kind, now.kind)));
        } else if before.mark != now.mark {
            changes.push((FileChange::Content, None));
        }
        if before.mode != now.mode {
            changes.push((FileChange::Mode, values(before.mode, now.mode)));
        }
        if before.owner != now.owner {
            changes.push((FileChange::Owner, values(before.owner, now.owner)));
        }
        if before.xattrs != now.xattrs {
            let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
            let differing = |a: &[&str], b: &[&str]| a.iter().find(|x| !b.contains(x)).map(|x| name(x));
            let name = differing(&now.xattrs, &before.xattrs).or_else(|| differing(&before.xattrs, &now.xattrs));
            let value = |list: &[&str]| {
                let prefix = format!("{}=", name.as_deref().unwrap_or_default());
                list.iter().find(|x| x.starts_with(&prefix)).map_or_else(|| "unset".to_owned(), |x| (*x).to_owned())
            };
            changes.push((FileChange::Xattr, Some((value(&before.xattrs), value(&now.xattrs)))));
        }
        changes
    }
}

/// The files of each kind of change.
#[derive(Default)]
struct Named(BTreeMap<FileChange, (Vec<ChangedFile>, usize)>);

impl Named {
    /// Counts a file, and names it if not many are named already.
    fn add(&mut self, change: FileChange, path: &str, values: Option<(String, String)>) {
        let (files, count) = self.0.entry(change).or_default();
        *count += 1;
        if files.len() < NAMED_FILES {
            let (before, now) = values.map_or((None, None), |(before, now)| (Some(before), Some(now)));
            files.push(ChangedFile { path: path.to_owned(), before, now });
        }
    }
}

/// Files that only one of two runs has, in order.
#[derive(Default)]
struct OneSided<'a> {
    files: Vec<(String, Description<'a>)>,
    /// How many more there are, without directories.
    more: usize,
}

impl<'a> OneSided<'a> {
    fn add(&mut self, path: &str, description: Description<'a>) {
        if self.files.len() < MOST_PAIRED {
            self.files.push((path.to_owned(), description));
        } else if !is_directory(&description) {
            self.more += 1;
        }
    }
}

fn is_directory(description: &Description<'_>) -> bool {
    description.facts.starts_with("directory ")
}

/// Compares the files of two runs; `mount` is the target of the mount that shows them.
pub(super) fn compare(before: &Files, now: &Files, mount: Option<&str>) -> Vec<MissCause> {
    let mut found = Named::default();
    let (mut removed, mut added) = (OneSided::default(), OneSided::default());
    let (mut before, mut now) = (before.lines(mount), now.lines(mount));
    loop {
        let order = match (before.line(), now.line()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((old, _)), Some((new, _))) => compare_paths(old.as_bytes(), new.as_bytes()),
        };
        match (before.line(), now.line()) {
            (Some((path, old)), Some((_, new))) if order.is_eq() => {
                if old != new {
                    differences(old, new).into_iter().for_each(|(change, values)| found.add(change, path, values));
                }
            }
            (Some((path, old)), _) if order.is_lt() => removed.add(path, old),
            (_, Some((path, new))) => added.add(path, new),
            _ => unreachable!("one of the two is at hand"),
        }
        if order.is_le() {
            before.advance();
        }
        if order.is_ge() {
            now.advance();
        }
    }
    let pairs = if removed.more + added.more == 0 { renames(&removed.files, &added.files) } else { Vec::new() };
    for (from, to) in &pairs {
        let (from, to) = (&removed.files[*from].0, &added.files[*to].0);
        found.add(FileChange::Renamed, to, Some((from.clone(), to.clone())));
    }
    let (from, to): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
    name_one_sided(FileChange::Added, &added, to, &mut found);
    name_one_sided(FileChange::Removed, &removed, from, &mut found);
    let cause = |(change, (files, count))| MissCause::Files { mount: mount.map(str::to_owned), change, files, count };
    found.0.into_iter().map(cause).collect()
}

fn differences(before: Description<'_>, now: Description<'_>) -> Vec<(FileChange, Option<(String, String)>)> {
    match (Facts::parse(before), Facts::parse(now)) {
        (Some(before), Some(now)) => Facts::compare(&before, &now),
        _ => vec![(FileChange::Content, None)],
    }
}

/// Names what came or went and was not `moved`.
fn name_one_sided(change: FileChange, side: &OneSided<'_>, mut moved: Vec<usize>, found: &mut Named) {
    moved.sort_unstable();
    for (index, (path, description)) in side.files.iter().enumerate() {
        // A directory that came or went with its files is told by them; they follow it.
        let told = || side.files.get(index + 1).is_some_and(|(next, _)| is_below(next, path));
        if moved.binary_search(&index).is_err() && !(is_directory(description) && told()) {
            found.add(change, path, None);
        }
    }
    if side.more > 0
        && let Some((_, count)) = found.0.get_mut(&change)
    {
        *count += side.more;
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Files that went and came with the same content, mode and owner, by their places in the two lists; of several the one
/// with the same last name.
fn renames(removed: &[(String, Description<'_>)], added: &[(String, Description<'_>)]) -> Vec<(usize, usize)> {
    let mut by_description: HashMap<Description<'_>, Vec<usize>> = HashMap::new();
    for (index, (_, description)) in added.iter().enumerate() {
        by_description.entry(*description).or_default().push(index);
    }
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut pairs = Vec::new();
    for (index, (from, description)) in removed.iter().enumerate() {
        if is_directory(description) {
            continue;
        }
        let Some(candidates) = by_description.get_mut(description).filter(|to| !to.is_empty()) else { continue };
        let best = candidates.iter().position(|to| last(&added[*to].0) == last(from)).unwrap_or(0);
        pairs.push((index, candidates.remove(best)));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::files::FilesBuilder;
    use super::*;
    use crate::progress::Miss;

    /// Files by path and description; a last word of two letters is the content.
    fn files(list: &[(&str, &str)]) -> Files {
        let mut files = FilesBuilder::default();
        for (path, text) in list {
            match text.rsplit_once(' ') {
                Some((facts, mark)) if mark.len() == 2 => files.add(path, facts, Some([mark.as_bytes()[0]; 16])),
                _ => files.add(path, text, None),
            }
        }
        files.finish()
    }

    fn text(before: &[(&str, &str)], now: &[(&str, &str)]) -> String {
        Miss { causes: compare(&files(before), &files(now), None) }.to_string()
    }

    #[test]
    fn each_difference_has_its_name() {
        let link = ("l", "link to x y 0777 0:0");
        let before = [("a", "file 0644 0:0 aa"), link];
        for (now, want) in [
            ([("a", "file 0644 0:0 bb"), link], "content of `a`"),
            ([("a", "file 0755 0:0 aa"), link], "mode of `a` 0644 -> 0755"),
            ([("a", "file 0644 1:2 aa"), link], "owner of `a` 0:0 -> 1:2"),
            ([("a", "file 0644 0:0 user.x=11 aa"), link], "extended attributes of `a` unset -> user.x=11"),
            ([("a", "directory 0644 0:0"), link], "kind of `a` file -> directory"),
            ([before[0], ("l", "link to z 0777 0:0")], "kind of `l` link to x y -> link to z"),
        ] {
            assert_eq!(text(&before, &now), want);
        }
        assert_eq!(compare(&files(&before), &files(&before), None), []);
    }

    #[test]
    fn files_come_go_and_move() {
        let (a, b) = ("file 0644 0:0 aa", "file 0644 0:0 bb");
        assert_eq!(text(&[("a", a)], &[("a", a), ("b", b)]), "added: `b`");
        assert_eq!(text(&[("a", a), ("b", b)], &[("a", a)]), "removed: `b`");
        assert_eq!(text(&[("a", a)], &[("c", a)]), "renamed: `a` -> `c`");
        let directory = "directory 0755 0:0";
        assert_eq!(
            text(&[("d", directory), ("d/a", a), ("d/b", a)], &[("e", directory), ("e/b", a), ("e/a", a)]),
            "renamed: `d/a` -> `e/a`, `d/b` -> `e/b`"
        );
        assert_eq!(text(&[], &[("d", directory), ("d/a", a)]), "added: `d/a`");
        assert_eq!(text(&[], &[("d", directory), ("d-x", a)]), "added: `d`, `d-x`");
        assert_eq!(text(&[], &[("d", directory)]), "added: `d`");
    }

    #[test]
    fn many_files_are_counted() {
        let made = |count: usize, facts: &str| -> Vec<(String, String)> {
            (0..count).map(|n| (format!("f{n:05}"), format!("{facts} {:02}", n % 90 + 10))).collect()
        };
        let list =
            |made: &[(String, String)]| files(&made.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>());
        let text = |before: &Files, now: &Files| Miss { causes: compare(before, now, None) }.to_string();
        let (none, some) = (list(&[]), list(&made(30, "file 0644 0:0")));
        assert_eq!(text(&none, &some), "added: `f00000`, `f00001`, `f00002` and 27 more");
        let many = list(&made(MOST_PAIRED + 500, "file 0644 0:0"));
        assert_eq!(text(&many, &none), "removed: `f00000`, `f00001`, `f00002` and 10497 more");
        let others = list(&made(MOST_PAIRED + 500, "file 0600 0:0"));
        assert_eq!(
            text(&many, &others),
            "mode of `f00000` 0644 -> 0600, `f00001` 0644 -> 0600, `f00002` 0644 -> 0600 and 10497 more"
        );
    }
}
