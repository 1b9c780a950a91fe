//! Which line of a heredoc a shell spoke of last.

use std::ops::Range;

use rbuild_dockerfile::instruction::RunScript;
use rbuild_dockerfile::{HeredocWord, Instruction, parse};

/// The bytes of the line, in the heredoc of the RUN at that place, that the last message of a shell in the output names.
/// `None` for a RUN without a heredoc or with several, and where no message names a line.
pub(super) fn line_of(text: &str, place: &Range<usize>, output: &[Vec<u8>]) -> Option<Range<usize>> {
    let number = output.iter().rev().find_map(|line| named_line(&String::from_utf8_lossy(line)))?;
    let (file, _) = parse(text);
    let node = file.instructions.iter().find(|node| node.span.start == place.start)?;
    let Some(Instruction::Run(run)) = &node.instruction else { return None };
    let ([heredoc], RunScript::Shell(_)) = (run.heredocs.as_slice(), run.script()) else { return None };
    // Where more than the heredoc is on the instruction's line, the shell counts that line too.
    let alone = run.command.arguments(&[]).iter().all(|word| HeredocWord::parse(word).is_some());
    let first = file.lines().line(heredoc.span.start);
    let line = (first + number).checked_sub(if alone { 1 } else { 2 })?;
    let span = file.lines().line_span(line).filter(|span| line >= first && span.start < heredoc.span.end)?;
    let written = span.text(file.source());
    let start = span.start + (written.len() - written.trim_start().len());
    Some(start..start + written.trim().len())
}

/// The number in a shell's message: `/bin/sh: 3: …` of dash, `bash: line 3: …` of bash and busybox.
fn named_line(message: &str) -> Option<usize> {
    let (program, rest) = message.split_once(": ")?;
    let name = program.rsplit('/').next().unwrap_or(program);
    if !name.ends_with("sh") || name.contains(' ') {
        return None;
    }
    let (number, _) = rest.strip_prefix("line ").unwrap_or(rest).split_once(": ")?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_in(text: &str, output: &[&str]) -> Option<String> {
        let start = text.find("RUN").expect("the text has a RUN");
        let output: Vec<Vec<u8>> = output.iter().map(|line| line.as_bytes().to_vec()).collect();
        line_of(text, &(start..start + 3), &output).map(|span| text[span].to_owned())
    }

    #[test]
    fn lines_that_shells_name() {
        let script = "FROM a\nRUN <<EOF\nset -e\n  nothing here\ntrue\nEOF\nRUN x\n";
        for (output, expected) in [
            (&["/bin/sh: 2: nothing: not found"][..], Some("nothing here")),
            (&["bash: line 2: nothing: command not found"], Some("nothing here")),
            (&["/bin/sh: line 1: set: bad", "/bin/sh: line 3: x: not found", "bye"], Some("true")),
            (&["/bin/sh: nothing: not found"], None),
            (&["/bin/sh: 9: nothing: not found"], None),
            (&["make: 2: nothing"], None),
            (&[], None),
        ] {
            assert_eq!(line_in(script, output).as_deref(), expected, "{output:?}");
        }
        let with_command = "FROM a\nRUN cat && sh <<-EOF\n\tone\n\ttwo\n\tEOF\n";
        assert_eq!(line_in(with_command, &["sh: 2: one: not found"]).as_deref(), Some("one"));
        for text in ["FROM a\nRUN x\n", "FROM a\nRUN <<A x <<B\n1\nA\n2\nB\n", "FROM a\nRUN <<E\n#!/bin/sh\n1\nE\n"] {
            assert_eq!(line_in(text, &["/bin/sh: 1: x: not found"]), None, "{text}");
        }
    }
}
