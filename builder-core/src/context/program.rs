//! Patterns of ignore files that need more than a comparison of texts, as small automata.
//!
//! moby's matcher turns such a pattern into a regular expression. Only a few forms can arise: characters, classes,
//! `[^/]*` for `*`, `.*` for a final `**`, and `(.*/)?` for any other `**`. All states are advanced together, so time
//! is bounded by the length of the pattern times the length of the path, whatever stands in either.

use super::glob::first_character;

/// What one step of a program takes.
enum Set {
    Character(char),
    NotSlash,
    /// Anything but a line feed, as `.` in Go's regular expressions.
    Dot,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

enum Step {
    One(Set),
    Star(Set),
    /// May go on after the next two steps at once.
    SkipTwo,
    /// Leads nowhere: an anchor in the middle of a text.
    Never,
}

/// A compiled pattern.
pub(super) struct Program {
    steps: Vec<Step>,
    /// Characters that every match begins with; the first steps stand for them.
    prefix: String,
    /// Characters that every match ends with.
    suffix: String,
}

impl Program {
    /// Compiles the text of a regular expression, without its anchors; `None` where Go would refuse it.
    pub(super) fn compile(expression: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = expression;
        while let Some(c) = rest.chars().next() {
            if let Some(tail) = rest.strip_prefix("(.*/)?") {
                steps.extend([Step::SkipTwo, Step::Star(Set::Dot), Step::One(Set::Character('/'))]);
                rest = tail;
                continue;
            }
            rest = &rest[c.len_utf8()..];
            let set = match c {
                '^' => {
                    steps.push(Step::Never);
                    continue;
                }
                '.' => Set::Dot,
                '[' if rest.starts_with("^/]") => {
                    rest = &rest[3..];
                    Set::NotSlash
                }
                '[' => {
                    let (set, tail) = parse_class(rest)?;
                    rest = tail;
                    set
                }
                '\\' => {
                    let escaped = rest.chars().next()?;
                    rest = &rest[escaped.len_utf8()..];
                    escape(escaped)?
                }
                c => Set::Character(c),
            };
            if let Some(tail) = rest.strip_prefix('*') {
                rest = tail;
                steps.push(Step::Star(set));
            } else {
                steps.push(Step::One(set));
            }
        }
        let literal = |step: &Step| match step {
            Step::One(Set::Character(c)) => Some(*c),
            _ => None,
        };
        let prefix = steps.iter().map_while(literal).collect();
        // A step that `SkipTwo` may leave out is no certain end.
        let mut suffix: Vec<char> = Vec::new();
        for (index, step) in steps.iter().enumerate().rev() {
            match literal(step) {
                Some(c) if index < 2 || !matches!(steps[index - 2], Step::SkipTwo) => suffix.push(c),
                _ => break,
            }
        }
        Some(Self { steps, prefix, suffix: suffix.iter().rev().collect() })
    }

    /// Whether it matches the whole path.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        path.starts_with(self.prefix.as_bytes())
            && path.ends_with(self.suffix.as_bytes())
            && self.run(path).is_some_and(|states| states.contains(self.steps.len()))
    }

    /// Whether it could match something that begins with `start`.
    pub(super) fn could_match_after(&self, start: &[u8]) -> bool {
        let common = start.len().min(self.prefix.len());
        start[..common] == self.prefix.as_bytes()[..common] && self.run(start).is_some()
    }

    /// The states after all of `text`; `None` when none is left.
    fn run(&self, text: &[u8]) -> Option<States> {
        let mut now = States::new(self.steps.len() + 1);
        self.enter(&mut now, 0);
        let mut at = 0;
        while let Some((c, width)) = first_character(&text[at..]) {
            let mut next = States::new(self.steps.len() + 1);
            for state in now.iter() {
                match self.steps.get(state) {
                    Some(Step::One(set)) if set.contains(c) => self.enter(&mut next, state + 1),
                    Some(Step::Star(set)) if set.contains(c) => self.enter(&mut next, state),
                    _ => {}
                }
            }
            if next.is_empty() {
                return None;
            }
            now = next;
            at += width;
        }
        Some(now)
    }

    /// Adds a state and those that are reached from it without a character.
    fn enter(&self, states: &mut States, state: usize) {
        if states.contains(state) {
            return;
        }
        states.insert(state);
        match self.steps.get(state) {
            Some(Step::Star(_)) => self.enter(states, state + 1),
            Some(Step::SkipTwo) => {
                self.enter(states, state + 1);
                self.enter(states, state + 3);
            }
            _ => {}
        }
    }
}

impl Set {
    fn contains(&self, c: char) -> bool {
        match self {
            Self::Character(own) => *own == c,
            Self::NotSlash => c != '/',
            Self::Dot => c != '\n',
            Self::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

/// A set of small numbers.
struct States(Vec<u64>);

impl States {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn contains(&self, state: usize) -> bool {
        self.0[state / 64] & 1 << (state % 64) != 0
    }

    fn insert(&mut self, state: usize) {
        self.0[state / 64] |= 1 << (state % 64);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                (word != 0).then(|| {
                    let bit = word.trailing_zeros() as usize;
                    word &= word - 1;
                    index * 64 + bit
                })
            })
        })
    }
}

/// What a backslash and a character stand for in a regular expression; `None` where Go refuses them.
fn escape(c: char) -> Option<Set> {
    let class = |negated, ranges: &[(char, char)]| Set::Class { negated, ranges: ranges.to_vec() };
    const DIGITS: &[(char, char)] = &[('0', '9')];
    const SPACES: &[(char, char)] = &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
    const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
    Some(match c {
        'd' => class(false, DIGITS),
        'D' => class(true, DIGITS),
        's' => class(false, SPACES),
        'S' => class(true, SPACES),
        'w' => class(false, WORD),
        'W' => class(true, WORD),
        c => Set::Character(escaped_character(c)?),
    })
}

/// The single character that a backslash and `c` stand for.
fn escaped_character(c: char) -> Option<char> {
    match c {
        'a' => Some('\u{7}'),
        'f' => Some('\u{c}'),
        't' => Some('\t'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        'v' => Some('\u{b}'),
        c if c.is_ascii_alphanumeric() || !c.is_ascii() => None,
        c => Some(c),
    }
}

/// Parses what follows a `[` of a regular expression.
fn parse_class(mut rest: &str) -> Option<(Set, &str)> {
    let negated = rest.starts_with('^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    let mut first = true;
    loop {
        if let Some(tail) = rest.strip_prefix(']').filter(|_| !first) {
            return Some((Set::Class { negated, ranges }, tail));
        }
        first = false;
        let (low, tail) = class_character(rest)?;
        rest = tail;
        let mut high = low;
        if let Some(tail) = rest.strip_prefix('-').filter(|tail| !tail.starts_with(']')) {
            (high, rest) = class_character(tail)?;
        }
        if high < low {
            return None;
        }
        ranges.push((low, high));
    }
}

fn class_character(rest: &str) -> Option<(char, &str)> {
    let c = rest.chars().next()?;
    let rest = &rest[c.len_utf8()..];
    if c != '\\' {
        return Some((c, rest));
    }
    let escaped = rest.chars().next()?;
    Some((escaped_character(escaped)?, &rest[escaped.len_utf8()..]))
}
