//! The parsed file.

use std::fmt;

use crate::directive::Directives;
use crate::heredoc::Heredoc;
use crate::instruction::{Arg, Instruction};
use crate::lexer::Word;
use crate::span::{LineIndex, LineRange, Position, Span};
use crate::stage::Stage;

/// A Dockerfile: its text, and what is understood of it.
///
/// Printing it gives back the text that was parsed, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The parser directives.
    pub directives: Directives,
    /// All instructions in order, those before the first FROM included.
    pub instructions: Vec<Node>,
    /// The stages in order.
    pub stages: Vec<Stage>,
    /// Positions in `instructions` of the ARGs before the first FROM.
    pub global_args: Vec<usize>,
    pub(crate) source: String,
    pub(crate) lines: LineIndex,
}

impl Dockerfile {
    /// The text that was parsed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The borders of the lines.
    pub fn lines(&self) -> &LineIndex {
        &self.lines
    }

    /// The escape character.
    pub fn escape(&self) -> char {
        self.directives.escape
    }

    /// The line and column of a byte.
    pub fn position(&self, offset: usize) -> Position {
        self.lines.position(&self.source, offset)
    }

    /// The instructions of a stage without its FROM.
    pub fn stage_nodes(&self, stage: &Stage) -> &[Node] {
        self.instructions.get(stage.first_instruction..stage.end_instruction).unwrap_or_default()
    }

    /// The FROM of a stage.
    pub fn from_node(&self, stage: &Stage) -> &Node {
        &self.instructions[stage.from]
    }

    /// The ARGs before the first FROM.
    pub fn global_arg_nodes(&self) -> impl Iterator<Item = (&Node, &Arg)> {
        self.global_args.iter().filter_map(|at| match &self.instructions[*at] {
            node @ Node { instruction: Some(Instruction::Arg(arg)), .. } => Some((node, arg)),
            _ => None,
        })
    }
}

impl fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// One instruction with its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The keyword as written.
    pub keyword: Word,
    /// From the keyword to the end, heredocs and their closing lines included.
    pub span: Span,
    /// Its lines, heredocs included.
    pub lines: LineRange,
    /// Its lines without heredocs.
    pub own_lines: LineRange,
    /// Its text with continuation lines joined, without heredocs.
    pub text: String,
    /// The flags as written, quotes taken off.
    pub flags: Vec<Word>,
    /// The bodies of its heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// The comment lines right above, without `#`.
    pub comments: Vec<Word>,
    /// Whether an empty line stands inside it.
    pub empty_continuation: bool,
    /// What it means; `None` if it has an error (see the diagnostics).
    pub instruction: Option<Instruction>,
}

impl Node {
    /// The text that follows keyword and blanks: flags and arguments, continuation lines joined.
    pub fn arguments(&self) -> &str {
        let text = self.text.trim();
        text.get(self.keyword.text.len()..).unwrap_or_default().trim_start()
    }
}
