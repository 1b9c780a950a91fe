//! Which files differ between two runs of a step, by the short description of each.
//!
//! ```text
//! <kind> <mode> <uid>:<gid>[ <attribute>=<digest>]…[ <digest of the content>]
//! ```

use std::collections::BTreeMap;

use crate::progress::{ChangedFile, FileChange, MissCause, NAMED_FILES};

/// The descriptions of files by their paths.
pub type Files = BTreeMap<String, String>;

/// A description taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Facts<'a> {
    kind: &'a str,
    mode: &'a str,
    owner: &'a str,
    xattrs: Vec<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// Reads from the end: only the kind, which comes first, may hold blanks (where a link leads to).
    fn parse(text: &'a str) -> Option<Self> {
        let mut rest = text;
        let mut last = || {
            let (before, word) = rest.rsplit_once(' ')?;
            rest = before;
            Some(word)
        };
        let (mut digest, mut xattrs) = (None, Vec::new());
        let mut word = last()?;
        if !word.contains(['=', ':']) {
            digest = Some(word);
            word = last()?;
        }
        while word.contains('=') {
            xattrs.push(word);
            word = last()?;
        }
        let mode = last()?;
        xattrs.reverse();
        Some(Self { kind: rest, mode, owner: word, xattrs, digest })
    }

    fn compare(before: &Self, now: &Self) -> Vec<(FileChange, Option<(String, String)>)> {
        let mut changes = Vec::new();
        let values = |before: &str, now: &str| Some((before.to_owned(), now.to_owned()));
        if before.kind != now.kind {
            changes.push((FileChange::Kind, values(before.kind, now.kind)));
        } else if before.digest != now.digest {
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

/// Compares the files of two runs; `mount` is the target of the mount that shows them.
pub(super) fn compare(before: &Files, now: &Files, mount: Option<&str>) -> Vec<MissCause> {
    let mut found: BTreeMap<FileChange, Vec<ChangedFile>> = BTreeMap::new();
    let mut add = |change, path: &str, values: Option<(String, String)>| {
        let (before, now) = values.map_or((None, None), |(before, now)| (Some(before), Some(now)));
        found.entry(change).or_default().push(ChangedFile { path: path.to_owned(), before, now });
    };
    let mut removed: BTreeMap<&str, &str> = BTreeMap::new();
    let mut added: BTreeMap<&str, &str> = BTreeMap::new();
    for (path, facts) in before {
        match now.get(path) {
            None => drop(removed.insert(path, facts)),
            Some(other) if other != facts => match (Facts::parse(facts), Facts::parse(other)) {
                (Some(before), Some(now)) => {
                    Facts::compare(&before, &now).into_iter().for_each(|(change, values)| add(change, path, values));
                }
                _ => add(FileChange::Content, path, None),
            },
            Some(_) => {}
        }
    }
    added.extend(now.iter().filter(|(path, _)| !before.contains_key(*path)).map(|(p, f)| (p.as_str(), f.as_str())));
    let pairs = renames(&removed, &added);
    for (from, to) in &pairs {
        removed.remove(from);
        added.remove(to);
        add(FileChange::Renamed, to, Some(((*from).to_owned(), (*to).to_owned())));
    }
    let (from, to): (Vec<&str>, Vec<&str>) = pairs.into_iter().unzip();
    for (change, list, moved) in [(FileChange::Added, &added, &to), (FileChange::Removed, &removed, &from)] {
        // A directory that came or went with its files is told by them.
        let told = |path: &str| {
            let below = format!("{path}/");
            list.keys().chain(moved).any(|other| other.starts_with(&below))
        };
        for (path, facts) in list {
            if !(facts.starts_with("directory ") && told(path)) {
                add(change, path, None);
            }
        }
    }
    let cause = |(change, mut files): (FileChange, Vec<ChangedFile>)| {
        let count = files.len();
        files.truncate(NAMED_FILES);
        MissCause::Files { mount: mount.map(str::to_owned), change, files, count }
    };
    found.into_iter().map(cause).collect()
}

/// Files that went and came with the same content, mode and owner; of several the one with the same last name.
fn renames<'a>(removed: &BTreeMap<&'a str, &'a str>, added: &BTreeMap<&'a str, &'a str>) -> Vec<(&'a str, &'a str)> {
    let mut by_facts: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    for (&path, &facts) in added {
        by_facts.entry(facts).or_default().push(path);
    }
    let last = |path: &'a str| path.rsplit('/').next().unwrap_or(path);
    let mut pairs = Vec::new();
    for (&from, facts) in removed {
        if facts.starts_with("directory ") {
            continue;
        }
        let Some(candidates) = by_facts.get_mut(facts).filter(|paths| !paths.is_empty()) else { continue };
        let best = candidates.iter().position(|to| last(to) == last(from)).unwrap_or(0);
        pairs.push((from, candidates.remove(best)));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Miss;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter().map(|(path, facts)| ((*path).to_owned(), (*facts).to_owned())).collect()
    }

    fn text(before: &[(&str, &str)], now: &[(&str, &str)]) -> String {
        Miss { causes: compare(&files(before), &files(now), None) }.to_string()
    }

    #[test]
    fn each_difference_has_its_name() {
        let before = [("a", "file 0644 0:0 aa"), ("l", "link to x y 0777 0:0")];
        for (now, want) in [
            (("a", "file 0644 0:0 bb"), "content of `a`"),
            (("a", "file 0755 0:0 aa"), "mode of `a` 0644 -> 0755"),
            (("a", "file 0644 1:2 aa"), "owner of `a` 0:0 -> 1:2"),
            (("a", "file 0644 0:0 user.x=11 aa"), "extended attributes of `a` unset -> user.x=11"),
            (("a", "directory 0644 0:0"), "kind of `a` file -> directory"),
            (("l", "link to z 0777 0:0"), "kind of `l` link to x y -> link to z"),
        ] {
            let mut other = files(&before);
            other.insert(now.0.to_owned(), now.1.to_owned());
            assert_eq!(Miss { causes: compare(&files(&before), &other, None) }.to_string(), want);
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
        assert_eq!(text(&[], &[("d", directory)]), "added: `d`");
    }

    #[test]
    fn many_files_are_counted() {
        let now: Vec<(String, String)> = (10..40).map(|n| (format!("f{n}"), format!("file 0644 0:0 {n}"))).collect();
        let now: Vec<(&str, &str)> = now.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(text(&[], &now), "added: `f10`, `f11`, `f12` and 27 more");
    }
}
