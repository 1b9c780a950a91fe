//! Changes to the text of a Dockerfile that keep what it means: mending findings, and formatting.
//!
//! Both are made of edits of single spans, so that everything else stays as it was written, byte for byte. What an
//! edit changes is proved by parsing the new text: where that gives anything unexpected, the text stays as it was.

mod fix;
mod format;

use std::collections::BTreeSet;

pub(crate) use fix::{edits_for, mend};
pub(crate) use format::format;

/// Another text for some bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edit {
    /// Where the bytes begin.
    pub(crate) start: usize,
    /// Where they end.
    pub(crate) end: usize,
    /// What stands there afterwards.
    pub(crate) text: String,
}

impl Edit {
    fn new(start: usize, end: usize, text: impl Into<String>) -> Self {
        Self { start, end, text: text.into() }
    }
}

/// The text with all edits made; of two that overlap, the one that stands first.
fn apply(text: &str, edits: &BTreeSet<Edit>) -> String {
    let mut changed = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits.iter() {
        if edit.start < at {
            continue;
        }
        changed.push_str(&text[at..edit.start]);
        changed.push_str(&edit.text);
        at = edit.end;
    }
    changed.push_str(&text[at..]);
    changed
}
