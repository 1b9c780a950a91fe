//! Stages: what stands from one FROM to the next.

use crate::lexer::Word;

/// A stage of a Dockerfile. Its instructions are at `first_instruction..end_instruction` of
/// [`crate::Dockerfile::instructions`]; [`crate::Dockerfile::stage_nodes`] gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Number of the stage, from 0.
    pub index: usize,
    /// The name in lower case.
    pub name: Option<String>,
    /// The name as written.
    pub name_as_written: Option<Word>,
    /// What it is built on, not expanded.
    pub base: Word,
    /// `--platform`, not expanded.
    pub platform: Option<Word>,
    /// Position of its FROM among the file's instructions.
    pub from: usize,
    /// Position of its first instruction behind FROM.
    pub first_instruction: usize,
    /// Position behind its last instruction.
    pub end_instruction: usize,
}

impl Stage {
    /// The name, or `stage-` and the number, as BuildKit calls it in its output.
    pub fn display_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("stage-{}", self.index))
    }
}

/// The stage that `reference` (`--from`, `--target`, a mount's `from`) means: a number, or a name without regard to
/// case, of which the last one before `before` counts. `None` if there is no such stage.
///
/// A number at or beyond `before` gives `None` too: stages cannot be used before they are built.
pub fn find_stage<'a>(stages: &'a [Stage], reference: &str, before: usize) -> Option<&'a Stage> {
    let earlier = &stages[..before.min(stages.len())];
    if let Ok(number) = reference.parse::<usize>() {
        return earlier.get(number);
    }
    let wanted = reference.to_lowercase();
    earlier.iter().rfind(|stage| stage.name.as_deref() == Some(wanted.as_str()))
}
