//! Text to [`Dockerfile`].

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::directive::{Directives, parse_directives};
use crate::dockerfile::{Dockerfile, Node};
use crate::heredoc::{heredoc_words, read_bodies};
use crate::instruction::{Instruction, Parts, parse_instruction, trigger_parts};
use crate::lexer::{Lexer, LogicalLine};
use crate::span::{LineIndex, Span};
use crate::stage::Stage;

/// Parses a Dockerfile. Never stops at an error and never panics; if the diagnostics hold an error, the file must
/// not be built.
pub fn parse(text: &str) -> (Dockerfile, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let directives = parse_directives(text, &mut diagnostics);
    let instructions = parse_nodes(text, &directives, &mut diagnostics);
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        diagnostics.push(Diagnostic::error("empty-file", "the Dockerfile cannot be empty", Span::default()));
    } else if instructions.is_empty() {
        diagnostics.push(Diagnostic::error("no-instructions", "file with no instructions", Span::default()));
    }
    let (stages, global_args) = group(&instructions, &mut diagnostics);
    let lines = LineIndex::new(text);
    (Dockerfile { directives, instructions, stages, global_args, source: text.to_owned(), lines }, diagnostics)
}

/// Parses instructions that stand for themselves, without stages and directives.
pub(crate) fn parse_fragment(text: &str) -> (Vec<Node>, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let nodes = parse_nodes(text, &Directives::default(), &mut diagnostics);
    if nodes.is_empty() {
        diagnostics.push(Diagnostic::error("no-instructions", "no instruction", Span::new(0, text.len())));
    }
    (nodes, diagnostics)
}

fn parse_nodes(text: &str, directives: &Directives, diagnostics: &mut Diagnostics) -> Vec<Node> {
    let mut lexer = Lexer::new(text, directives);
    let mut nodes = Vec::new();
    while let Some(line) = lexer.logical_line(diagnostics) {
        nodes.push(parse_node(&mut lexer, line, directives.escape, diagnostics));
    }
    nodes
}

fn parse_node(lexer: &mut Lexer<'_>, line: LogicalLine, escape: char, diagnostics: &mut Diagnostics) -> Node {
    let parts = Parts::of_line(&line);
    let heredocs = if takes_heredocs(&parts) {
        read_bodies(lexer, heredoc_words(&line.text), &parts.keyword, diagnostics)
    } else {
        Vec::new()
    };
    let instruction = parse_instruction(&parts, heredocs.clone(), escape, &line.text, diagnostics);
    let mut lines = line.lines;
    let mut span = line.span;
    if lexer.lines_read() > lines.last {
        lines.last = lexer.lines_read();
        span.end = lexer.last_line_end().max(span.end);
    }
    Node {
        keyword: parts.keyword,
        span,
        lines,
        own_lines: line.lines,
        flags: parts.flags,
        heredocs,
        empty_continuation: line.empty_continuation,
        instruction,
        comments: line.comments,
        text: line.text,
    }
}

fn takes_heredocs(parts: &Parts<'_>) -> bool {
    match parts.name {
        Some("ONBUILD") => trigger_parts(parts.args).is_some_and(|inner| inner.takes_heredocs()),
        _ => parts.takes_heredocs(),
    }
}

/// Groups instructions into stages; only ARG may stand before the first FROM.
fn group(instructions: &[Node], diagnostics: &mut Diagnostics) -> (Vec<Stage>, Vec<usize>) {
    let mut stages: Vec<Stage> = Vec::new();
    let mut global_args = Vec::new();
    for (at, node) in instructions.iter().enumerate() {
        match &node.instruction {
            Some(Instruction::From(from)) => stages.push(Stage {
                index: stages.len(),
                name: from.name.as_ref().map(|name| name.text.to_lowercase()),
                name_as_written: from.name.clone(),
                base: from.base.clone(),
                platform: from.platform.clone(),
                from: at,
                first_instruction: at + 1,
                end_instruction: at + 1,
            }),
            instruction => match (stages.last_mut(), instruction) {
                (Some(stage), _) => stage.end_instruction = at + 1,
                (None, Some(Instruction::Arg(_))) => global_args.push(at),
                (None, Some(other)) => {
                    let message =
                        format!("no build stage in current context: {} stands before the first FROM", other.keyword());
                    diagnostics.push(
                        Diagnostic::error("instruction-before-from", message, node.keyword.span)
                            .with_help("only ARG may come before FROM"),
                    );
                }
                (None, None) => {}
            },
        }
    }
    let from_failed = instructions.iter().any(|node| node.keyword.text.eq_ignore_ascii_case("FROM"));
    if stages.is_empty() && !instructions.is_empty() && !from_failed {
        let span = instructions.last().map_or(Span::default(), |node| node.keyword.span);
        diagnostics.push(Diagnostic::error("no-stage", "no build stage: the Dockerfile has no FROM", span));
    }
    (stages, global_args)
}
