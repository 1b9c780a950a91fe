//! Lines of an ignore file that do nothing, though they seem to be meant for something.
//!
//! That a pattern matches nothing says little by itself: what it names may be made later, as by a build. So there must be
//! a sign of what it is meant for: the same name deeper down, a name that looks alike, a comment at the line's end.

use rbuild_dockerfile::lint::{IdlePattern, IdleReason};

use super::glob::has_wildcards;
use super::ignore::{IgnoreRules, normalize, pattern_lines};
use super::pattern::{DirectoryMatch, PatternList};
use super::suggest::distance;
use crate::tree::{Entry, Node, TreeError, TreePath, TreeView};

/// In a context with more entries patterns are not looked for, but lines that can never do anything are.
const MOST_ENTRIES: usize = 100_000;

/// Shorter names look alike too often.
const LEAST_ALIKE: usize = 5;

/// Names that only tools make, so that one of them deeper down is what a pattern of that name is meant for.
const GENERATED: [&str; 13] = [
    ".DS_Store",
    ".git",
    ".gradle",
    ".idea",
    ".mypy_cache",
    ".pytest_cache",
    ".svn",
    ".terraform",
    ".venv",
    ".vs",
    ".vscode",
    "__pycache__",
    "node_modules",
];

/// A line whose pattern is held against the context.
struct Candidate {
    line: usize,
    written: String,
    /// The pattern without `!`, cleaned.
    pattern: String,
    exact: PatternList,
    /// The pattern at any depth, where such a match would be a sign.
    anywhere: Option<PatternList>,
    found: bool,
    deeper: Option<String>,
}

/// The lines of an ignore file that do nothing. `rules` are those of the text; `view` is the context with everything in
/// it, ignored or not. What can't be read counts as unknown, and then no pattern is said to match nothing.
#[must_use]
pub fn idle_patterns(text: &str, rules: &IgnoreRules, view: &dyn TreeView) -> Vec<IdlePattern> {
    let mut idle = Vec::new();
    let mut candidates = Vec::new();
    let mut something_ignored = false;
    for (line, written) in pattern_lines(text) {
        let cleaned = normalize(written);
        let is_exception = cleaned.starts_with('!');
        if is_exception && !something_ignored {
            idle.push(IdlePattern { line, pattern: written.to_owned(), reason: IdleReason::NothingToExcept });
            continue;
        }
        something_ignored |= !is_exception;
        candidates.extend(Candidate::new(line, written, cleaned.trim_start_matches('!')));
    }
    if walk(&mut candidates, rules, view).unwrap_or(false) {
        for candidate in candidates.iter_mut().filter(|candidate| !candidate.found) {
            let reason = candidate.reason(rules, view);
            let pattern = candidate.written.clone();
            idle.extend(reason.map(|reason| IdlePattern { line: candidate.line, pattern, reason }));
        }
    }
    idle.sort_by_key(|found| found.line);
    idle
}

/// Looks for what the patterns match; gives whether everything was looked at.
fn walk(candidates: &mut [Candidate], rules: &IgnoreRules, view: &dyn TreeView) -> Result<bool, TreeError> {
    let mut open = vec![TreePath::root()];
    let mut entries = 0;
    while let Some(folder) = open.pop() {
        let children = view.read_dir(&folder)?;
        entries += children.len();
        if entries > MOST_ENTRIES {
            return Ok(false);
        }
        for Entry { path, node, .. } in children {
            candidates.iter_mut().for_each(|candidate| candidate.look_at(&path));
            if matches!(node, Node::Directory { .. }) && !rules.can_skip_directory(&path) {
                open.push(path);
            }
        }
        if candidates.iter().all(|candidate| candidate.found) {
            break;
        }
    }
    Ok(true)
}

impl Candidate {
    /// `None` for a pattern that no path of the context can be compared with.
    fn new(line: usize, written: &str, pattern: &str) -> Option<Self> {
        let exact = PatternList::parse([(line, pattern)]).ok()?;
        let is_sign = has_wildcards(pattern.as_bytes()) || GENERATED.contains(&pattern);
        let anywhere = (is_sign && !pattern.contains('/') && !pattern.starts_with("**"))
            .then(|| PatternList::parse([(line, format!("**/{pattern}").as_str())]).ok())
            .flatten();
        let (written, pattern) = (written.to_owned(), pattern.to_owned());
        Some(Self { line, written, pattern, exact, anywhere, found: false, deeper: None })
    }

    fn look_at(&mut self, path: &TreePath) {
        // What is in a folder that matches needs no look: the folder came first.
        let matches = |list: &PatternList| list.decide(path.as_bytes(), &DirectoryMatch::default()).is_match();
        self.found = self.found || matches(&self.exact);
        if !self.found && self.deeper.is_none() && self.anywhere.as_ref().is_some_and(matches) {
            self.deeper = Some(shown(path));
        }
    }

    /// What the pattern, which matches nothing, seems to be meant for.
    fn reason(&mut self, rules: &IgnoreRules, view: &dyn TreeView) -> Option<IdleReason> {
        if self.written.contains(" #") {
            return Some(IdleReason::Comment);
        }
        if let Some(deeper) = self.deeper.take() {
            return Some(IdleReason::Deeper(deeper));
        }
        let path = TreePath::clean(self.pattern.as_bytes());
        let name = String::from_utf8_lossy(path.file_name()?).into_owned();
        if has_wildcards(self.pattern.as_bytes()) || name.chars().count() < LEAST_ALIKE {
            return None;
        }
        let siblings = view.read_dir(&path.parent().unwrap_or_default()).ok()?;
        let is_meant = |entry: &&Entry| {
            let other = String::from_utf8_lossy(entry.path.file_name().unwrap_or_default()).into_owned();
            looks_alike(&name, &other) && rules.verdict(&entry.path) == super::ignore::Verdict::Kept
        };
        siblings.iter().find(is_meant).map(|entry| IdleReason::Similar(shown(&entry.path)))
    }
}

/// Whether one name is the other, mistyped; names that differ in a number are two names.
fn looks_alike(name: &str, other: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|letter| !letter.is_ascii_digit()).collect::<String>();
    letters(name) != letters(other) && distance(&name.to_lowercase(), &other.to_lowercase()) <= 1
}

fn shown(path: &TreePath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryTree;
    use super::*;
    use crate::tree::Timestamp;

    fn idle(text: &str, files: &[&str]) -> Vec<(usize, String)> {
        let mut tree = MemoryTree::new();
        for path in files {
            tree.add_file(&TreePath::clean(path.as_bytes()), *b"", 0o644, Timestamp::default());
        }
        let rules = IgnoreRules::parse(text.as_bytes()).unwrap();
        idle_patterns(text, &rules, &tree).iter().map(|found| (found.line, found.to_string())).collect()
    }

    #[test]
    fn patterns_that_are_meant_for_something() {
        for (text, files, line, expected) in [
            ("*.pyc\n", &["a/b.pyc"][..], 1, "`*.pyc` matches nothing: for `a/b.pyc` it must be `**/*.pyc`"),
            (
                "# all\n/node_modules\n",
                &["web/node_modules/x/y.js"],
                2,
                "`/node_modules` matches nothing: for `web/node_modules` it must be `**/node_modules`",
            ),
            ("dist # made\n", &["dist/a"], 1, "`dist # made` matches nothing: a comment must be a line of its own"),
            ("!a\nb\n", &["a", "b"], 1, "`!a` does nothing: no line before it leaves anything out"),
            (
                "docker-compose.yml\n",
                &["docker-compose.yaml"],
                1,
                "`docker-compose.yml` matches nothing: there is `docker-compose.yaml`",
            ),
            ("readme.md\n", &["README.md"], 1, "`readme.md` matches nothing: there is `README.md`"),
            ("src/tests\n", &["src/test/a"], 1, "`src/tests` matches nothing: there is `src/test`"),
        ] {
            assert_eq!(idle(text, files), [(line, expected.to_owned())], "{text}");
        }
    }

    #[test]
    fn patterns_that_may_come_to_match() {
        for (text, files) in [
            ("dist\nbuild\n*.log\n", &["src/build/a.c", "src/dist/b.c", "Makefile"][..]),
            ("node_modules\n", &["package.json"]),
            ("**/*.pyc\n**/node_modules\n", &["a"]),
            ("*.pyc\n", &["a.pyc", "b/c.pyc"]),
            ("node_modules\nweb\n", &["web/node_modules/x"]),
            ("*\n!src\n!README.md\n", &["src/a"]),
            ("part1\n", &["part2/a"]),
            ("a#b\n", &["a#b"]),
            ("readme.md\n*.md\n", &["README.md"]),
            ("test\n", &["tent/a"]),
            ("", &["a"]),
        ] {
            assert_eq!(idle(text, files), [], "{text}");
        }
    }
}
