//! Why a source was not found.

use super::directory::ContextDir;
use super::ignore::Verdict;
use crate::tree::{TreePath, TreeView};

/// At most this many similar names are given.
const MOST_SIMILAR: usize = 3;

/// What is known about a source that was not found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingSource {
    /// The line and the pattern of the ignore file that leave it out, when it is in the folder.
    pub ignored_by: Option<(usize, String)>,
    /// Whether it is in the folder that is left out of the context, whatever the rules.
    pub is_hidden: bool,
    /// The first part of its path that does not exist.
    pub missing: String,
    /// Names in the same directory that look alike, the most alike first; whole paths.
    pub similar: Vec<String>,
}

/// Finds out why a source was not found. `context` is the source tree when it is a folder with ignore rules.
#[must_use]
pub fn explain_missing(source: &dyn TreeView, context: Option<&ContextDir>, wanted: &[u8]) -> MissingSource {
    let path = TreePath::clean(wanted);
    let ignored_by = context.and_then(|context| context.ignored(&path)).and_then(|verdict| match verdict {
        Verdict::Ignored { line, pattern } => Some((line, pattern)),
        Verdict::Kept => None,
    });
    let missing = path.ancestors().chain([path.clone()]).find(|path| !matches!(source.get(path), Ok(Some(_))));
    let Some(missing) = missing else { return MissingSource { ignored_by, ..MissingSource::default() } };
    let is_hidden = context.is_some_and(|context| context.hides(&missing));
    let name = String::from_utf8_lossy(missing.file_name().unwrap_or_default()).into_owned();
    let entries = source.read_dir(&missing.parent().unwrap_or_default()).unwrap_or_default();
    let most = (name.chars().count() / 3).max(1);
    let mut similar: Vec<(usize, String)> = entries
        .iter()
        .filter_map(|entry| {
            let other = String::from_utf8_lossy(entry.path.file_name()?).into_owned();
            let distance = distance(&name.to_lowercase(), &other.to_lowercase());
            (distance <= most).then(|| (distance, entry.path.to_string()[1..].to_owned()))
        })
        .collect();
    similar.sort();
    MissingSource {
        ignored_by,
        is_hidden,
        missing: missing.to_string()[1..].to_owned(),
        similar: similar.into_iter().take(MOST_SIMILAR).map(|(_, path)| path).collect(),
    }
}

/// How many characters must be added, removed, replaced or swapped with their neighbour.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1);
            best = best.min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryTree;
    use super::*;
    use crate::tree::Timestamp;

    #[test]
    fn names_that_look_alike() {
        let mut tree = MemoryTree::new();
        for path in ["src/main.rs", "src/lib.rs", "Cargo.toml", "README.md"] {
            tree.add_file(&TreePath::clean(path.as_bytes()), *b"", 0o644, Timestamp::default());
        }
        let explain = |wanted: &str| explain_missing(&tree, None, wanted.as_bytes());
        assert_eq!(explain("cargo.tmol").similar, ["Cargo.toml"]);
        assert_eq!(explain("src/mian.rs").similar, ["src/main.rs"]);
        let missing = explain("scr/main.rs");
        assert_eq!((missing.missing.as_str(), missing.similar), ("scr", vec!["src".to_owned()]));
        assert!(explain("nothing-like-that").similar.is_empty());
    }
}
