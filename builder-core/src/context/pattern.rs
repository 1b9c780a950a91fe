//! Lists of patterns as moby's `patternmatcher` understands them: those of ignore files, of `--exclude` and `--parents`.
//!
//! Patterns are tried in order and the last one that matches decides; `!` makes an exception. A pattern that matches a
//! directory counts for everything in it. `*` and `?` stay within one component, `**` does not.

use super::error::IgnoreError;
use super::glob::Glob;
use super::program::Program;

/// A list of patterns.
#[derive(Default)]
pub(super) struct PatternList {
    patterns: Vec<Pattern>,
}

struct Pattern {
    /// The cleaned text without `!`.
    text: String,
    exception: bool,
    line: usize,
    kind: Kind,
}

enum Kind {
    Exact,
    /// All but the last two characters begin the path.
    Prefix,
    /// All but the first two characters end the path.
    Suffix,
    Program(Program),
}

/// Which patterns matched a directory: what its entries need to be decided.
#[derive(Clone, Default)]
pub(super) struct DirectoryMatch(Vec<bool>);

/// The result for one path.
#[derive(Clone, Copy)]
pub(super) struct Decision {
    /// The number of the pattern that made it match; `None` where it doesn't.
    pub(super) by: Option<usize>,
}

impl Decision {
    pub(super) const fn is_match(self) -> bool {
        self.by.is_some()
    }
}

impl PatternList {
    /// Parses patterns, each with its line number for errors. Blank ones are skipped.
    pub(super) fn parse<'a>(patterns: impl IntoIterator<Item = (usize, &'a str)>) -> Result<Self, IgnoreError> {
        let mut list = Self::default();
        for (line, text) in patterns {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let text = clean(text);
            let (text, exception) = match text.strip_prefix('!') {
                Some("") => return Err(IgnoreError::EmptyException { line }),
                Some(rest) => (rest.to_owned(), true),
                None => (text, false),
            };
            let bad = || IgnoreError::BadPattern { line, pattern: text.clone() };
            Glob::parse(text.as_bytes()).map_err(|_| bad())?;
            let kind = compile(&text).ok_or_else(bad)?;
            list.patterns.push(Pattern { text, exception, line, kind });
        }
        Ok(list)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    pub(super) fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// The line and the text of a pattern.
    pub(super) fn describe(&self, pattern: usize) -> (usize, &str) {
        (self.patterns[pattern].line, &self.patterns[pattern].text)
    }

    /// Decides a path whose parent directory was decided before; the parent of a top-level path is the default value.
    pub(super) fn decide(&self, path: &[u8], parent: &DirectoryMatch) -> Decision {
        self.evaluate(path, parent, |_, _| ())
    }

    /// The same for a directory, with what its entries need.
    pub(super) fn decide_directory(&self, path: &[u8], parent: &DirectoryMatch) -> (Decision, DirectoryMatch) {
        let mut own = vec![false; self.patterns.len()];
        let decision = self.evaluate(path, parent, |index, matched| own[index] = matched);
        (decision, DirectoryMatch(own))
    }

    fn evaluate(&self, path: &[u8], parent: &DirectoryMatch, mut record: impl FnMut(usize, bool)) -> Decision {
        let mut by = None;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let mut matched = parent.0.get(index).copied().unwrap_or(false);
            if !matched {
                // Such a pattern could change nothing, so it is not recorded for the entries below either.
                if pattern.exception != by.is_some() {
                    continue;
                }
                matched = pattern.matches(path);
            }
            record(index, matched);
            if matched {
                by = (!pattern.exception).then_some(index);
            }
        }
        Decision { by }
    }

    /// Whether some entry below a matching directory may be excepted.
    pub(super) fn may_except_below(&self, path: &[u8], directory: &DirectoryMatch) -> bool {
        // A later pattern that matches the directory holds for all of its entries.
        let last =
            self.patterns.iter().zip(&directory.0).rposition(|(pattern, matched)| !pattern.exception && *matched);
        let start = [path, b"/"].concat();
        self.patterns[last.map_or(0, |index| index + 1)..].iter().any(|p| p.exception && p.could_match_after(&start))
    }

    /// Whether some entry below a directory that does not match may match.
    pub(super) fn may_match_below(&self, path: &[u8]) -> bool {
        let start = [path, b"/"].concat();
        self.patterns.iter().any(|p| !p.exception && p.could_match_after(&start))
    }
}

impl Pattern {
    fn matches(&self, path: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match &self.kind {
            Kind::Exact => path == text,
            Kind::Prefix => path.starts_with(&text[..text.len() - 2]),
            Kind::Suffix => {
                let suffix = &text[2..];
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            Kind::Program(program) => program.matches(path),
        }
    }

    /// Whether it could match something that begins with `start`.
    fn could_match_after(&self, start: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match &self.kind {
            Kind::Exact => text.starts_with(start),
            Kind::Prefix => {
                let stem = &text[..text.len() - 2];
                stem.starts_with(start) || start.starts_with(stem)
            }
            Kind::Suffix => true,
            Kind::Program(program) => program.could_match_after(start),
        }
    }
}

/// Finds out how a cleaned pattern is matched; `None` where Go would not compile it.
fn compile(text: &str) -> Option<Kind> {
    #[derive(PartialEq)]
    enum Form {
        Exact,
        Prefix,
        Suffix,
        Expression,
    }
    let mut form = Form::Exact;
    let mut expression = String::new();
    let mut characters = text.chars().peekable();
    let mut first = true;
    while let Some(c) = characters.next() {
        match c {
            '*' if characters.next_if_eq(&'*').is_some() => {
                characters.next_if_eq(&'/');
                if characters.peek().is_none() {
                    if form == Form::Exact {
                        form = Form::Prefix;
                    } else {
                        expression.push_str(".*");
                        form = Form::Expression;
                    }
                } else {
                    expression.push_str("(.*/)?");
                    form = Form::Expression;
                }
                if first {
                    form = Form::Suffix;
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                form = Form::Expression;
            }
            '?' => {
                expression.push_str("[^/]");
                form = Form::Expression;
            }
            '.' | '+' | '(' | ')' | '$' => expression.extend(['\\', c]),
            '\\' => {
                expression.push('\\');
                if let Some(escaped) = characters.next() {
                    expression.push(escaped);
                    form = Form::Expression;
                }
            }
            '[' | ']' => {
                expression.push(c);
                form = Form::Expression;
            }
            c => expression.push(c),
        }
        first = false;
    }
    Some(match form {
        Form::Exact => Kind::Exact,
        Form::Prefix => Kind::Prefix,
        Form::Suffix => Kind::Suffix,
        Form::Expression => Kind::Program(Program::compile(&expression)?),
    })
}

/// Cleans a path as Go's `filepath.Clean`: `.`, doubled slashes and inner `..` go; nothing left is `.`.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::{collection, sample};

    use super::super::glob;
    use super::*;

    fn is_match(patterns: &[&str], path: &str) -> bool {
        let list = PatternList::parse(patterns.iter().map(|p| (1, *p))).unwrap();
        let mut parent = DirectoryMatch::default();
        for (index, _) in path.match_indices('/') {
            parent = list.decide_directory(&path.as_bytes()[..index], &parent).1;
        }
        list.decide(path.as_bytes(), &parent).is_match()
    }

    #[test]
    fn matches_as_moby_does() {
        let table: &[(&[&str], &str, bool)] = &[
            (&["**"], "file", true),
            (&["**"], "dir/file", true),
            (&["**/"], "file", true),
            (&["**/**"], "dir/file", true),
            (&["dir/**"], "dir/file", true),
            (&["dir/**"], "dir", false),
            (&["dir/**"], "dirs", false),
            (&["**/dir2/*"], "dir/dir2/file", true),
            (&["**/dir2/*"], "dir/dir2/dir2/file", true),
            (&["**file"], "file", true),
            (&["**file"], "dir/file", true),
            (&["**/file"], "dir/dir/file", true),
            (&["**/file"], "dir/xfile", false),
            (&["**file*"], "dir/file.txt", true),
            (&["**/file*txt"], "dir/dir/file.txt", true),
            (&["a**/*.txt"], "a/file.txt", true),
            (&["a**/*.txt"], "a/dir/dir/file.txt", true),
            (&["a/*.txt"], "a/dir/file.txt", false),
            (&["a/*.txt"], "a/file.txts", false),
            (&["a[b-d]e"], "ae", false),
            (&["a[b-d]e"], "ace", true),
            (&["a[^b-d]e"], "aze", true),
            (&[".*"], ".foo", true),
            (&[".*"], "foo", false),
            (&["abc.def"], "abcZdef", false),
            (&["abc?def"], "abc/def", false),
            (&["a\\*b"], "a*b", true),
            (&["**/foo/bar"], "dir/foo/bar", true),
            (&["abc/**"], "abc/def/ghi", true),
            (&["**/.foo"], "bar.foo", false),
            (&["./bar.*"], "bar.txt", true),
            (&["a(b)c/def"], "a(b)c/def", true),
            (&["a.|)$(}+{bc"], "a.|)$(}+{bc", true),
            (&["dist/*.whl"], "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
            (&["docs", "!docs/README.md"], "docs/README.md", false),
            (&["docs", "!docs/README.md"], "docs/other", true),
            // A later pattern that says nothing new of a directory is not looked at again for what is in it.
            (&["docs/", "!docs/README.md", "docs"], "docs/README.md", false),
            (&["docs/", "!docs/README.md", "docs/*"], "docs/README.md", true),
            (&["*", "!src", "src/**/*.tmp"], "src/deep/x.tmp", true),
            (&["*", "!src", "src/**/*.tmp"], "src/deep/x.go", false),
            (&["**/*.txt", "!docs"], "docs/a.txt", true),
            (&["**/*.txt", "!docs"], "docs/a.md", false),
            (&["a/**/z"], "a/z", true),
            (&["a/**/z"], "a/b/c/z", true),
            (&["a/**/z"], "a/b/zz", false),
            (&["foo"], "a/foo", false),
            (&["foo"], "foo/a/b", true),
            (&["/foo"], "foo", false),
            (&["."], "foo", false),
            (&["../foo"], "foo", false),
            (&["a/b/../c"], "a/c", true),
        ];
        for (patterns, path, want) in table {
            assert_eq!(is_match(patterns, path), *want, "{patterns:?} against {path}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_globs_where_there_is_no_double_star(
            pattern in path_of(&['a', 'b', '*', '?', '.']),
            path in path_of(&['a', 'b', '.', 'c']),
        ) {
            prop_assume!(!pattern.contains("**") && clean(&pattern) == pattern);
            let list = PatternList::parse([(1, pattern.as_str())]).unwrap();
            let matched = list.decide(path.as_bytes(), &DirectoryMatch::default()).is_match();
            prop_assert_eq!(matched, glob::matches(pattern.as_bytes(), path.as_bytes()).unwrap());
        }

        #[test]
        fn never_skips_a_directory_with_matches(
            pattern in path_of(&['a', 'b', '*', '?']),
            path in path_of(&['a', 'b']),
        ) {
            prop_assume!(path.contains('/'));
            let exception = format!("!{pattern}");
            let list = PatternList::parse([(1, "**"), (2, exception.as_str())]).unwrap();
            let mut state = DirectoryMatch::default();
            let mut skipped = false;
            for (index, _) in path.match_indices('/') {
                let directory = &path.as_bytes()[..index];
                state = list.decide_directory(directory, &state).1;
                skipped |= !list.may_except_below(directory, &state);
            }
            let kept = !list.decide(path.as_bytes(), &state).is_match();
            // An exception that already holds for a directory needs no look below it.
            let parent_kept = path.match_indices('/').any(|(index, _)| is_kept(&list, &path[..index]));
            prop_assert!(!(kept && skipped && !parent_kept));
        }
    }

    fn is_kept(list: &PatternList, path: &str) -> bool {
        !list.decide(path.as_bytes(), &DirectoryMatch::default()).is_match()
    }

    /// Up to three components of up to four of these characters.
    fn path_of(characters: &'static [char]) -> impl Strategy<Value = String> {
        let component = collection::vec(sample::select(characters), 1..5).prop_map(String::from_iter);
        collection::vec(component, 1..4).prop_map(|parts| parts.join("/"))
    }

    #[test]
    fn refuses_bad_patterns() {
        for pattern in ["foo[", "a\\", "!", "[]a]", "[x-]"] {
            assert!(PatternList::parse([(3, pattern)]).is_err(), "{pattern}");
        }
        assert_eq!(clean("/a//./b/../c/"), "/a/c");
        assert_eq!(clean("../a/.."), "..");
        assert_eq!(clean("./"), ".");
    }

    #[test]
    fn knows_what_may_lie_below() {
        let list = |patterns: &[&str]| PatternList::parse(patterns.iter().map(|p| (1, *p))).unwrap();
        let may = |patterns: &[&str], path: &str| {
            let list = list(patterns);
            let (_, state) = list.decide_directory(path.as_bytes(), &DirectoryMatch::default());
            list.may_except_below(path.as_bytes(), &state)
        };
        assert!(!may(&["node_modules"], "node_modules"));
        assert!(!may(&["*", "!src"], "other"));
        assert!(may(&["dir", "!dir/sub/keep"], "dir"));
        assert!(!may(&["dir", "!dir/sub/keep"], "dirt"));
        assert!(may(&["**", "!**/keep"], "dir"));
        assert!(!may(&["!dir/keep", "dir"], "dir"));
        assert!(may(&["*", "!d*/x*/y"], "dir"));
        assert!(!may(&["*", "!e*/x*/y"], "dir"));
        assert!(list(&["src/**/*.txt"]).may_match_below(b"src"));
        assert!(!list(&["src/*.txt"]).may_match_below(b"src/deep"));
    }
}
