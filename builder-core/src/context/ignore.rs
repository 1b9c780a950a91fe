//! Ignore files: `.dockerignore` and `<Dockerfile>.dockerignore`.
//!
//! One pattern a line. A `#` in the first column makes a comment; spaces around a pattern and one leading slash are
//! dropped; `!` makes an exception. What patterns mean is told in [`super::pattern`].

use super::error::IgnoreError;
use super::pattern::{DirectoryMatch, PatternList, clean};
use crate::tree::TreePath;

/// The rules of an ignore file.
#[derive(Default)]
pub struct IgnoreRules {
    patterns: PatternList,
}

/// Whether a path belongs to the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Kept,
    /// It does not.
    Ignored {
        /// The line of the ignore file that decided, from 1.
        line: usize,
        /// The pattern of that line.
        pattern: String,
    },
}

impl IgnoreRules {
    /// Parses the contents of an ignore file.
    ///
    /// # Errors
    /// When a line is no pattern, with the line's number.
    pub fn parse(bytes: &[u8]) -> Result<Self, IgnoreError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let patterns: Vec<(usize, String)> =
            pattern_lines(&text).map(|(line, pattern)| (line, normalize(pattern))).collect();
        Ok(Self { patterns: PatternList::parse(patterns.iter().map(|(line, text)| (*line, text.as_str())))? })
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a line makes an exception, so that an ignored folder may hold something that is kept.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.has_exceptions()
    }

    /// Decides a path. An ignored directory may still hold entries that are kept; it then belongs to the context too.
    #[must_use]
    pub fn verdict(&self, path: &TreePath) -> Verdict {
        if path.is_root() {
            return Verdict::Kept;
        }
        let parent = self.directory_state(&path.parent().unwrap_or_default());
        self.verdict_of(self.patterns.decide(path.as_bytes(), &parent))
    }

    /// Whether nothing in a directory belongs to the context, so that it need not be read.
    #[must_use]
    pub fn can_skip_directory(&self, path: &TreePath) -> bool {
        if path.is_root() {
            return false;
        }
        let parent = self.directory_state(&path.parent().unwrap_or_default());
        let (decision, own) = self.patterns.decide_directory(path.as_bytes(), &parent);
        decision.is_match() && !self.patterns.may_except_below(path.as_bytes(), &own)
    }

    pub(super) fn patterns(&self) -> &PatternList {
        &self.patterns
    }

    /// What the entries of a directory need to be decided.
    pub(super) fn directory_state(&self, directory: &TreePath) -> DirectoryMatch {
        let mut state = DirectoryMatch::default();
        if directory.is_root() {
            return state;
        }
        for path in directory.ancestors().chain([directory.clone()]) {
            state = self.patterns.decide_directory(path.as_bytes(), &state).1;
        }
        state
    }

    fn verdict_of(&self, decision: super::pattern::Decision) -> Verdict {
        decision.by.map_or(Verdict::Kept, |index| {
            let (line, pattern) = self.patterns.describe(index);
            Verdict::Ignored { line, pattern: pattern.to_owned() }
        })
    }
}

/// The lines that hold patterns, each with its number and without blanks around.
pub(super) fn pattern_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.split('\n').enumerate();
    let patterns = lines.filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty());
    patterns.map(|(index, line)| (index + 1, line.trim()))
}

/// Brings a trimmed line into the form that patterns have.
pub(super) fn normalize(line: &str) -> String {
    let (mark, pattern) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if pattern.is_empty() {
        return mark.to_owned();
    }
    let cleaned = clean(pattern);
    let relative = cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned);
    format!("{mark}{relative}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored_by(rules: &str, path: &str) -> Option<usize> {
        match IgnoreRules::parse(rules.as_bytes()).unwrap().verdict(&TreePath::clean(path.as_bytes())) {
            Verdict::Kept => None,
            Verdict::Ignored { line, .. } => Some(line),
        }
    }

    #[test]
    fn reads_lines() {
        let rules = "\u{feff}foo\r\n# comment\r\n\n  #b  \n! in keep\n/rooted/\n\tin ner \r\n";
        assert_eq!(ignored_by(rules, "foo"), Some(1));
        assert_eq!(ignored_by(rules, "# comment"), None);
        assert_eq!(ignored_by(rules, "#b"), Some(4));
        assert_eq!(ignored_by(rules, "rooted"), Some(6));
        assert_eq!(ignored_by(rules, "rooted/x/y"), Some(6));
        assert_eq!(ignored_by(rules, "in ner"), Some(7));
        assert_eq!(ignored_by(rules, "other"), None);
    }

    #[test]
    fn the_last_match_decides() {
        let rules = "*.svg\n!icon*.svg\nicon-old.svg\n!a.txt\na.txt\n";
        for (path, want) in
            [("icon.svg", None), ("icon-old.svg", Some(3)), ("other.svg", Some(1)), ("a.txt", Some(5)), ("b", None)]
        {
            assert_eq!(ignored_by(rules, path), want, "{path}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        assert!(matches!(IgnoreRules::parse(b"a\n!\n"), Err(IgnoreError::EmptyException { line: 2 })));
        assert!(matches!(IgnoreRules::parse(b"a\n\nfoo[\n"), Err(IgnoreError::BadPattern { line: 3, .. })));
    }

    #[test]
    fn directories_that_can_be_skipped() {
        let rules = IgnoreRules::parse(b"dir\n!dir/sub/keep\nnode_modules\n").unwrap();
        let can = |path: &str| rules.can_skip_directory(&TreePath::clean(path.as_bytes()));
        assert!(!can("dir") && !can("dir/sub") && can("dir/other") && can("node_modules") && !can("src") && !can(""));
    }
}
