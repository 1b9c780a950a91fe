//! Which line of a heredoc a shell spoke of last.

use std::ops::Range;

use rbuild_dockerfile::instruction::RunScript;
use rbuild_dockerfile::{HeredocWord, Instruction, parse};

/// The bytes of the line, in the heredoc of the RUN at that place, that the last message of a shell in the output is
/// about. `None` for a RUN without a heredoc or with several, and where no message says enough.
pub(super) fn line_of(text: &str, place: &Range<usize>, output: &[Vec<u8>]) -> Option<Range<usize>> {
    let subject = output.iter().rev().find_map(|line| subject(&String::from_utf8_lossy(line)))?;
    let (file, _) = parse(text);
    let node = file.instructions.iter().find(|node| node.span.start == place.start)?;
    let Some(Instruction::Run(run)) = &node.instruction else { return None };
    let ([heredoc], RunScript::Shell(_)) = (run.heredocs.as_slice(), run.script()) else { return None };
    let first = file.lines().line(heredoc.span.start);
    let line = match subject {
        Subject::Line(number) => {
            // Where more than the heredoc is on the instruction's line, the shell counts that line too.
            let alone = run.command.arguments(&[]).iter().all(|word| HeredocWord::parse(word).is_some());
            (first + number).checked_sub(if alone { 1 } else { 2 })?
        }
        Subject::Command(name) => {
            let calls = |line: &&str| line.split_whitespace().next() == Some(name.as_str());
            let mut places = heredoc.body.lines().enumerate().filter(|(_, line)| calls(line));
            let (index, _) = places.next()?;
            // Which of several it is the message does not say.
            places.next().is_none().then_some(first + index)?
        }
    };
    let span = file.lines().line_span(line).filter(|span| line >= first && span.start < heredoc.span.end)?;
    let written = span.text(file.source());
    let start = span.start + (written.len() - written.trim_start().len());
    Some(start..start + written.trim().len())
}

/// What a shell's message is about.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    /// A line of its script: `/bin/sh: 3: …` of dash, `bash: line 3: …` of bash.
    Line(usize),
    /// A command that is not there: `/bin/sh: make: not found` of busybox.
    Command(String),
}

fn subject(message: &str) -> Option<Subject> {
    let (program, rest) = message.trim_end().split_once(": ")?;
    let name = program.rsplit('/').next().unwrap_or(program);
    if !name.ends_with("sh") || name.contains(' ') {
        return None;
    }
    if let Some(command) = rest.strip_suffix(": not found").filter(|command| !command.contains(": ")) {
        return Some(Subject::Command(command.to_owned()));
    }
    let (number, _) = rest.strip_prefix("line ").unwrap_or(rest).split_once(": ")?;
    number.parse().ok().map(Subject::Line)
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
            (&["/bin/sh: nothing: not found"], Some("nothing here")),
            (&["/bin/sh: other: not found"], None),
            (&["/bin/sh: 9: nothing: not found"], None),
            (&["make: 2: nothing"], None),
            (&[], None),
        ] {
            assert_eq!(line_in(script, output).as_deref(), expected, "{output:?}");
        }
        let twice = "FROM a\nRUN <<E\nx 1\nx 2\nE\n";
        assert_eq!(line_in(twice, &["sh: x: not found"]), None);
        let with_command = "FROM a\nRUN cat && sh <<-EOF\n\tone\n\ttwo\n\tEOF\n";
        assert_eq!(line_in(with_command, &["sh: 2: one: not found"]).as_deref(), Some("one"));
        for text in ["FROM a\nRUN x\n", "FROM a\nRUN <<A x <<B\n1\nA\n2\nB\n", "FROM a\nRUN <<E\n#!/bin/sh\n1\nE\n"] {
            assert_eq!(line_in(text, &["/bin/sh: 1: x: not found"]), None, "{text}");
        }
    }
}
