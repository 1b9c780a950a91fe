//! Formats a Dockerfile: few rules, none of which changes what is built.
//!
//! ```text
//! from  alpine:3 as a␠␠        FROM alpine:3 AS a
//!   run make \␠                RUN make \
//!         all            ->            all          what is behind the keyword keeps its indentation
//!
//!
//! from scratch                                      at most one empty line, and one before each stage
//!                              FROM scratch
//! ```
//!
//! Heredocs are copied as they are. The new text is parsed again, and where anything but case and blanks is another
//! than before, the file is left as it was.

use std::collections::BTreeSet;

use rbuild_dockerfile::{Diagnostics, Directive, Dockerfile, Instruction, Node, parse};

use super::{Edit, apply};

/// The text, formatted.
///
/// # Errors
/// The errors of a text that cannot be parsed.
pub(crate) fn format(text: &str) -> Result<String, Diagnostics> {
    let (file, diagnostics) = parse(text);
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    let edits: BTreeSet<Edit> = file.instructions.iter().flat_map(|node| keyword_edits(&file, node)).collect();
    let (edited, _) = parse(&apply(text, &edits));
    let formatted = lay_out(&edited);
    let (after, diagnostics) = parse(&formatted);
    let kept = !diagnostics.has_errors() && means_the_same(&file, &after);
    Ok(if kept { formatted } else { text.to_owned() })
}

/// Keywords in upper case, nothing in front of them, and one blank behind.
fn keyword_edits(file: &Dockerfile, node: &Node) -> Vec<Edit> {
    let source = file.source();
    let keyword = node.keyword.span;
    if keyword.text(source) != node.keyword.text {
        // A keyword that goes over two lines stays a riddle.
        return Vec::new();
    }
    let is_blank = |text: &str| text.chars().all(|letter| matches!(letter, ' ' | '\t'));
    let line = file.lines().line_span(file.lines().line(keyword.start)).map_or(keyword.start, |span| span.start);
    let start = if is_blank(&source[line..keyword.start]) { line } else { keyword.start };
    let rest = &source[keyword.end..];
    let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
    let gap = if blanks == 0 { "" } else { " " };
    let mut edits = vec![Edit::new(start, keyword.end + blanks, format!("{}{gap}", node.keyword.text.to_uppercase()))];
    if let Some(Instruction::From(from)) = &node.instruction
        && let (Some(word), Some(name)) = (&from.as_keyword, &from.name)
        && word.span.text(source) == word.text
    {
        edits.push(Edit::new(word.span.start, word.span.end, "AS"));
        for (start, end) in [(from.base.span.end, word.span.start), (word.span.end, name.span.start)] {
            if is_blank(&source[start..end]) {
                edits.push(Edit::new(start, end, " "));
            }
        }
    }
    edits
}

/// What a line of the file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing: it is empty.
    Empty,
    /// Comments outside of instructions.
    Comment,
    /// An instruction.
    Instruction,
    /// The first line of a stage other than the first.
    Stage,
    /// A heredoc, copied as it is.
    Heredoc,
}

/// Puts lines in order: no blanks at their ends, empty ones where they belong, one line end at the end of the file.
fn lay_out(file: &Dockerfile) -> String {
    let source = file.source();
    let line_end = if source.split_once('\n').is_some_and(|(first, _)| first.ends_with('\r')) { "\r\n" } else { "\n" };
    let mut lines: Vec<(Kind, &str, &str)> = Vec::new();
    let mut was_empty = false;
    for (number, kind) in kinds(file).into_iter().enumerate() {
        let Some(span) = file.lines().line_span(number + 1) else { break };
        let (content, end) = split_line_end(span.text(source));
        if kind == Kind::Heredoc {
            lines.push((kind, content, end));
            continue;
        }
        if kind == Kind::Empty {
            was_empty = true;
            continue;
        }
        // A comment that stood apart from the top might become a directive there.
        let belongs = if lines.is_empty() { kind == Kind::Comment } else { true };
        if was_empty && belongs {
            lines.push((Kind::Empty, "", line_end));
        }
        was_empty = false;
        if kind == Kind::Stage {
            let comments = lines.iter().rev().take_while(|(kind, ..)| *kind == Kind::Comment).count();
            let place = lines.len() - comments;
            if place > 0 && lines[place - 1].0 != Kind::Empty {
                lines.insert(place, (Kind::Empty, "", line_end));
            }
        }
        lines.push((kind, content.trim_end_matches([' ', '\t']), end));
    }
    let mut text = String::with_capacity(source.len() + 2);
    for (_, content, end) in lines {
        text.push_str(content);
        text.push_str(if end.is_empty() { line_end } else { end });
    }
    text
}

/// What each line belongs to; empty lines and comments inside of an instruction belong to it, but for the empty ones.
fn kinds(file: &Dockerfile) -> Vec<Kind> {
    let text_of = |line: usize| file.lines().line_span(line).map_or("", |span| span.text(file.source()).trim());
    let mut kinds: Vec<Kind> = (1..=file.lines().count())
        .map(|line| if text_of(line).is_empty() { Kind::Empty } else { Kind::Comment })
        .collect();
    for node in &file.instructions {
        for line in node.lines.first..=node.lines.last {
            let Some(kind) = kinds.get_mut(line - 1) else { break };
            *kind = if line > node.own_lines.last { Kind::Heredoc } else { Kind::Instruction };
        }
    }
    for node in file.stages.iter().skip(1).map(|stage| file.from_node(stage)) {
        kinds[node.lines.first - 1] = Kind::Stage;
    }
    kinds
}

fn split_line_end(line: &str) -> (&str, &str) {
    let content = line.strip_suffix('\n').unwrap_or(line);
    let content = if content.len() < line.len() { content.strip_suffix('\r').unwrap_or(content) } else { content };
    (content, &line[content.len()..])
}

/// Whether two files build the same: all but case of keywords, blanks and empty lines is equal.
fn means_the_same(before: &Dockerfile, after: &Dockerfile) -> bool {
    let value = |directive: &Option<Directive>| directive.as_ref().map(|directive| directive.value.clone());
    let directives = |file: &Dockerfile| (value(&file.directives.syntax), value(&file.directives.check), file.escape());
    directives(before) == directives(after)
        && before.instructions.len() == after.instructions.len()
        && before.instructions.iter().zip(&after.instructions).all(|(left, right)| same_node(left, right))
}

fn same_node(left: &Node, right: &Node) -> bool {
    let words = |list: &[rbuild_dockerfile::Word]| list.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    let bodies = |node: &Node| {
        node.heredocs.iter().map(|heredoc| (heredoc.word.clone(), heredoc.body.clone())).collect::<Vec<_>>()
    };
    let arguments = match (&left.instruction, &right.instruction) {
        (Some(Instruction::From(left)), Some(Instruction::From(right))) => {
            let text = |word: &Option<rbuild_dockerfile::Word>| word.as_ref().map(|word| word.text.clone());
            left.base.text == right.base.text
                && text(&left.name) == text(&right.name)
                && text(&left.platform) == text(&right.platform)
        }
        _ => left.arguments() == right.arguments(),
    };
    arguments
        && left.keyword.text.eq_ignore_ascii_case(&right.keyword.text)
        && words(&left.flags) == words(&right.flags)
        && words(&left.comments) == words(&right.comments)
        && bodies(left) == bodies(right)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn formatted(text: &str) -> String {
        format(text).unwrap_or_else(|errors| panic!("{text:?}: {errors:?}"))
    }

    #[test]
    fn rules() {
        for (text, expected) in [
            ("from  a  as\tb \n  run x \\ \n      y\n", "FROM a AS b\nRUN x \\\n      y\n"),
            ("FROM a\n\n\n\nRUN b\n\n\n", "FROM a\n\nRUN b\n"),
            ("FROM a\nRUN b\n# c is\n# last\nFROM d AS c", "FROM a\nRUN b\n\n# c is\n# last\nFROM d AS c\n"),
            ("ARG A=1\nFROM $A", "ARG A=1\nFROM $A\n"),
            ("\n\nFROM a\n", "FROM a\n"),
            ("\n\n# escape=`\nFROM a\n", "\n# escape=`\nFROM a\n"),
            ("# escape=`\nfrom a\nrun b ` \n c\n", "# escape=`\nFROM a\nRUN b `\n c\n"),
            ("FROM a\r\nrun b\t\r\n", "FROM a\r\nRUN b\r\n"),
            ("FROM a\r\nrun b", "FROM a\r\nRUN b\r\n"),
            ("FROM a\nrun <<E\n  keep \n\n\n  this\t\nE\nrun b", "FROM a\nRUN <<E\n  keep \n\n\n  this\t\nE\nRUN b\n"),
            ("FROM a\nonbuild  run x\n", "FROM a\nONBUILD run x\n"),
            ("FROM a\nRUN a \\\n  # why  \n\n  && b\n", "FROM a\nRUN a \\\n  # why\n\n  && b\n"),
            ("FROM a\nENV a=b\\ c d=e\n", "FROM a\nENV a=b\\ c d=e\n"),
            ("FROM a\nHEALTHCHECK   none\n", "FROM a\nHEALTHCHECK none\n"),
        ] {
            assert_eq!(formatted(text), expected, "{text:?}");
            assert_eq!(formatted(expected), expected, "again: {text:?}");
        }
        assert!(format("FROM a\nFETCH b\n").is_err());
    }

    /// Lines that a Dockerfile may be made of, well-formed and odd.
    fn line() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(vec![
            "",
            " ",
            "\t",
            "# note ",
            "#check=skip=all",
            "from a",
            "FROM b AS c",
            "from  d  As e ",
            "run  x \\ ",
            "  && y",
            "RUN a\\",
            "copy  <<E /x",
            "E",
            "body  ",
            "ENV a=\"b  \\",
            "c\"",
            "arg A = 1",
            "ARG B=2 \\",
            "\\",
            "run echo \\\\ ",
            "ONBUILD copy a b ",
            "  LABEL a=b",
            "# escape=`",
            "run x `",
            "shell [\"a\"] ",
            "RUN <<-F",
            "\tF",
            "cmd a\r",
            "\u{a0}run z\u{a0}",
            "USER \u{2003}u ",
        ]);
        prop_oneof![8 => odd.prop_map(str::to_owned), 1 => "[ -~]{0,12}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn meaning_is_kept_and_twice_is_once(lines in prop::collection::vec(line(), 1..12), last in "\n?") {
            let text = format!("FROM x\n{}{last}", lines.join("\n"));
            if let Ok(once) = format(&text) {
                let (before, _) = parse(&text);
                let (after, diagnostics) = parse(&once);
                prop_assert!(!diagnostics.has_errors());
                prop_assert!(means_the_same(&before, &after), "{text:?} {once:?}");
                prop_assert_eq!(&format(&once).expect("formatted text has no errors"), &once, "{:?}", text);
            }
        }
    }
}
