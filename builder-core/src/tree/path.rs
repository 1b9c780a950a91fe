//! Paths inside a file tree.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A text is not a path inside a tree.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("`{path}` is not a path inside a file tree: {reason}")]
pub struct TreePathError {
    path: String,
    reason: &'static str,
}

/// A path relative to a tree's root: components joined by `/`, none of them empty, `.` or `..`; the root is empty.
///
/// The order is by components, so a directory's contents follow it directly: `a` < `a/b` < `a.c`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// The tree's root.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Takes a path that is already in normal form.
    ///
    /// # Errors
    /// When a component is empty, `.` or `..`, or holds a NUL byte.
    pub fn new(path: &[u8]) -> Result<Self, TreePathError> {
        let error = |reason| TreePathError { path: String::from_utf8_lossy(path).into_owned(), reason };
        if path.is_empty() {
            return Ok(Self::root());
        }
        if path.contains(&0) {
            return Err(error("it holds a NUL byte"));
        }
        if path.split(|&b| b == b'/').any(|c| matches!(c, b"" | b"." | b"..")) {
            return Err(error("it has an empty, `.` or `..` component"));
        }
        Ok(Self(path.to_vec()))
    }

    /// Takes bytes that were a path before.
    pub(crate) fn from_checked(path: Vec<u8>) -> Self {
        debug_assert!(Self::new(&path).is_ok());
        Self(path)
    }

    /// Cleans a path as if the tree's root were `/`: `.` and empty components go, `..` never leaves the root.
    ///
    /// Purely lexical: symbolic links are not looked at. NUL bytes are dropped.
    #[must_use]
    pub fn clean(path: &[u8]) -> Self {
        // They go first: a component may be empty, `.` or `..` without them.
        let path: Cow<'_, [u8]> = match path.contains(&0) {
            true => path.iter().copied().filter(|&byte| byte != 0).collect(),
            false => path.into(),
        };
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        Self(parts.join(&b'/'))
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for file-system calls relative to an open root directory; `.` for the root.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }

    /// The path without its last component; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(Self(self.0.iter().rposition(|&b| b == b'/').map_or(Vec::new(), |i| self.0[..i].to_vec())))
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        if self.is_root() { None } else { self.0.rsplit(|&b| b == b'/').next() }
    }

    /// The path of an entry of this directory. `name` must be one component.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/'));
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    /// The path of `relative` below this directory.
    #[must_use]
    pub fn join_path(&self, relative: &Self) -> Self {
        match (self.0.as_slice(), relative.as_bytes()) {
            (path, b"") | (b"", path) => Self(path.to_vec()),
            (directory, below) => Self([directory, b"/", below].concat()),
        }
    }

    /// Whether this is the path of an entry of a directory.
    pub(crate) fn is_in(&self, directory: &Self, name: &[u8]) -> bool {
        let rest = match directory.as_bytes() {
            b"" => Some(self.as_bytes()),
            above => self.0.strip_prefix(above).and_then(|rest| rest.strip_prefix(b"/")),
        };
        rest == Some(name)
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// Every directory above this path from the root's child down, without the root and the path itself.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| Self(self.0[..i].to_vec()))
    }

    /// What is left of this path below `base`; `None` when it is not `base` or in it.
    #[must_use]
    pub fn strip_prefix(&self, base: &Self) -> Option<Self> {
        if base.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(base.as_bytes())? {
            [] => Some(Self::root()),
            [b'/', rest @ ..] => Some(Self(rest.to_vec())),
            _ => None,
        }
    }

    /// Whether this path is `base` or in it.
    #[must_use]
    pub fn starts_with(&self, base: &Self) -> bool {
        base.is_root() || (self.0.starts_with(&base.0) && matches!(self.0.get(base.0.len()), None | Some(b'/')))
    }
}

/// The order of [`TreePath`]s, for paths that are still raw bytes.
pub(crate) fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    // The slash sorts below every other byte, so contents follow their directory.
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((&a, &b)) => rank(a).cmp(&rank(b)),
        None => a.len().cmp(&b.len()),
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_paths(&self.0, &other.0)
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    /// Writes an absolute path; bytes that are not UTF-8 and control characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/")?;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_follow_their_directory() {
        let mut paths: Vec<_> =
            ["a.c", "a/b", "a", "b", "a/b/c", "a/b.d"].iter().map(|p| TreePath::clean(p.as_bytes())).collect();
        paths.sort();
        let texts: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["/a", "/a/b", "/a/b/c", "/a/b.d", "/a.c", "/b"]);
    }

    #[test]
    fn clean_never_leaves_the_root() {
        for (path, want) in [("/../../x", "x"), ("a/./b//../c/", "a/c"), ("/", ""), ("..", "")] {
            assert_eq!(TreePath::clean(path.as_bytes()).as_bytes(), want.as_bytes());
        }
    }

    #[test]
    fn parts() {
        let path = TreePath::clean(b"a/b/c");
        assert_eq!(path.parent().map(|p| p.to_string()), Some("/a/b".to_owned()));
        assert_eq!(path.ancestors().map(|p| p.to_string()).collect::<Vec<_>>(), ["/a", "/a/b"]);
        for (directory, below) in [("", "x/y"), ("x", ""), ("x/y", "z/u"), ("", "")] {
            let [directory, below] = [directory, below].map(|text| TreePath::clean(text.as_bytes()));
            let want: Vec<_> = directory.components().chain(below.components()).collect();
            assert_eq!(directory.join_path(&below).components().collect::<Vec<_>>(), want);
        }
        for (text, directory, name, want) in
            [("a", "", "a", true), ("a/b", "a", "b", true), ("a/bc", "a", "b", false), ("ab", "a", "b", false)]
        {
            let [path, directory] = [text, directory].map(|text| TreePath::clean(text.as_bytes()));
            assert_eq!(path.is_in(&directory, name.as_bytes()), want, "{text}");
        }
        assert_eq!(path.strip_prefix(&TreePath::clean(b"a")), Some(TreePath::clean(b"b/c")));
        assert_eq!(path.strip_prefix(&TreePath::clean(b"a/bb")), None);
        for (path, cleaned) in [(&b"\0/a/\0"[..], &b"a"[..]), (b"a/.\0./b", b"b"), (b"a\0b/\0.", b"ab")] {
            assert_eq!(TreePath::clean(path).as_bytes(), cleaned, "{path:?}");
        }
        assert!(TreePath::new(b"a/../b").is_err() && TreePath::new(b"/a").is_err());
    }
}
