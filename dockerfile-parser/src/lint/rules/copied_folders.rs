//! The folders of the build context that COPY and ADD take whole.

use super::{Evaluation, Findings};
use crate::instruction::Instruction;
use crate::lexer::Word;
use crate::lint::evaluate::{StageFacts, Step};
use crate::lint::rules::copy_ignored_file::{clean, is_remote};

/// What a COPY or ADD takes from the build context.
pub(super) struct Copied<'e, 'a> {
    pub(super) stage: &'e StageFacts<'a>,
    pub(super) step: &'e Step<'a>,
    /// The source as the instruction names it, after expansion.
    pub(super) source: &'e str,
    /// The same, cleaned: relative to the context, which itself is empty.
    pub(super) path: String,
    /// The patterns of `--exclude`.
    pub(super) exclude: &'e [Word],
}

impl Copied<'_, '_> {
    /// The names in it, if it is a folder.
    pub(super) fn names(&self, findings: &Findings<'_>) -> Option<Vec<String>> {
        findings.context.names.and_then(|names| names(&self.path))
    }

    /// Whether some `--exclude` may leave the name out. Patterns with wildcards may leave out anything.
    pub(super) fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|pattern| pattern.text.contains(name) || pattern.text.contains(['*', '?', '[', '$']))
    }
}

/// Everything that is copied from the build context by name; sources with wildcards are left out.
pub(super) fn copied<'e, 'a>(evaluation: &'e Evaluation<'a>) -> Vec<Copied<'e, 'a>> {
    let mut list = Vec::new();
    for stage in &evaluation.stages {
        for step in &stage.steps {
            let exclude = match &*step.instruction {
                Instruction::Copy(copy) if copy.from.is_none() => &copy.exclude,
                Instruction::Add(add) => &add.exclude,
                _ => continue,
            };
            for source in step.values.iter().filter(|source| !is_remote(source) && !source.contains(['*', '?', '['])) {
                let path = clean(source);
                let path = path.trim_start_matches('/').trim_start_matches("../");
                let path = if matches!(path, "." | "..") { String::new() } else { path.to_owned() };
                list.push(Copied { stage, step, source, path, exclude });
            }
        }
    }
    list
}
