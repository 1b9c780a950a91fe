//! Errors as text: the message, the Dockerfile's lines with a caret, the step, the command's last output, the
//! causes, and what to do.
//!
//! ```text
//! error: the command ended with exit status 2
//!  --> Dockerfile:5:1
//!   |
//! 5 | RUN make
//!   | ^^^^^^^^ exit status 2
//!   |
//!   = step: [build 2/5] RUN make
//! the last lines of its output:
//!     make: *** No targets.  Stop.
//! caused by: …
//! hint: …
//! ```

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::{Failure, Place, Problem};
use crate::output::{Colours, lines_of, sanitise, visible};

/// How errors look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Whether colours are used.
    pub(crate) colours: bool,
    /// How wide a line may be, in columns.
    pub(crate) width: usize,
}

/// The longest span that is shown whole, in lines; of a longer one only its first line is marked.
const MARKED_LINES: usize = 12;

/// Writes the failure for people.
pub(crate) fn render(failure: &Failure, look: Look) -> String {
    let mut text = String::new();
    for problem in &failure.problems {
        if !text.is_empty() {
            text.push('\n');
        }
        push_problem(&mut text, problem, look);
    }
    text
}

fn push_problem(text: &mut String, problem: &Problem, look: Look) {
    let mut line = |label: &str, code: &str, value: &str| {
        let label = if look.colours { format!("\x1b[{code}m{label}\x1b[0m") } else { label.to_owned() };
        text.push_str(&format!("{label} {value}\n"));
    };
    match &problem.place {
        Some(place) => text.push_str(&snippet(problem, place, look)),
        None => {
            line("error:", "1;31", &visible(&problem.message));
            if let Some(step) = &problem.step {
                line("step:", "1", step);
            }
        }
    }
    if !problem.output.is_empty() {
        text.push_str("the last lines of its output:\n");
        let colours = if look.colours { Colours::Keep } else { Colours::Drop };
        for line in &problem.output {
            text.push_str(&format!("    {}\n", sanitise(line, colours)));
        }
    }
    let mut line = |label: &str, code: &str, value: &str| {
        let label = if look.colours { format!("\x1b[{code}m{label}\x1b[0m") } else { label.to_owned() };
        text.push_str(&format!("{label} {value}\n"));
    };
    for cause in &problem.causes {
        line("caused by:", "1", &visible(cause));
    }
    for hint in &problem.hints {
        line("hint:", "1;36", &visible(hint));
    }
}

fn snippet(problem: &Problem, place: &Place, look: Look) -> String {
    let source = &place.source;
    let mut span = source.clamp(&place.span);
    let covered = &source.text[span.clone()];
    let trimmed = covered.trim_end();
    span.end = span.start + trimmed.len();
    if trimmed.lines().count() > MARKED_LINES {
        let first = trimmed.find('\n').unwrap_or(trimmed.len());
        span.end = span.start + trimmed[..first].trim_end().len();
    }
    let lines = lines_of(&source.text, &span);
    let mut annotation = AnnotationKind::Primary.span(span.start - lines.start..span.end - lines.start);
    if !place.label.is_empty() {
        annotation = annotation.label(place.label.as_str());
    }
    let title = Level::ERROR.primary_title(problem.message.as_str());
    let title = if problem.code.is_empty() { title } else { title.id(problem.code.as_str()) };
    let snippet = Snippet::source(&source.text[lines.clone()]).line_start(source.line(lines.start));
    let mut group: Group<'_> = title.element(snippet.path(&*source.name).annotation(annotation));
    if let Some(step) = &problem.step {
        group = group.element(Level::NOTE.with_name("step").message(step.as_str()));
    }
    let renderer = if look.colours { Renderer::styled() } else { Renderer::plain() };
    let report = [group];
    let rendered = renderer.decor_style(DecorStyle::Ascii).term_width(look.width.max(40)).render(&report);
    format!("{}\n", rendered.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use snapbox::IntoData;

    use super::super::Kind;
    use super::*;
    use crate::output::Source;

    const LOOK: Look = Look { colours: false, width: 100 };

    fn place(text: &str, part: &str, label: &str) -> Option<Place> {
        let start = text.find(part).unwrap();
        let span = start..start + part.len();
        Some(Place { source: Source::new("Dockerfile", text), span, label: label.to_owned() })
    }

    #[test]
    fn failed_command_shows_all_there_is() {
        let mut problem = Problem::new("the command ended with exit status 2");
        problem.place =
            place("FROM base AS build\n\tRUN make \\\n  all\nCOPY . .\n", "RUN make \\\n  all", "exit status 2");
        problem.step = Some("[build 2/3] RUN make all".to_owned());
        problem.output = vec![b"\x1b[31mmake\x1b[0m: *** no rule".to_vec(), b"caf\xe9".to_vec()];
        problem.hints = vec!["look at the rule".to_owned()];
        let failure = Failure { kind: Kind::Command(2), problems: vec![problem] };
        snapbox::assert_data_eq!(
            render(&failure, LOOK),
            snapbox::str![[r#"
error: the command ended with exit status 2
 --> Dockerfile:2:2
  |
2 | /     RUN make \
3 | |   all
  | |_____^ exit status 2
  |
  = step: [build 2/3] RUN make all
the last lines of its output:
    make: *** no rule
    caf\xe9
hint: look at the rule

"#]]
            .raw()
        );
        let coloured = render(&failure, Look { colours: true, ..LOOK });
        assert!(coloured.contains("\x1b[31mmake\x1b[0m: ***"));
    }

    #[test]
    fn every_parse_error_is_shown() {
        let text = "FROM a\nRUNN x\nADD\n";
        let problems = [("RUNN", "unknown instruction `RUNN`"), ("ADD", "`ADD` needs a source and a destination")].map(
            |(part, message)| {
                let mut problem = Problem::new(message);
                problem.code = "some-rule".to_owned();
                problem.place = place(text, part, "");
                problem
            },
        );
        let failure = Failure { kind: Kind::Build, problems: problems.to_vec() };
        snapbox::assert_data_eq!(
            render(&failure, LOOK),
            snapbox::str![[r#"
error[some-rule]: unknown instruction `RUNN`
 --> Dockerfile:2:1
  |
2 | RUNN x
  | ^^^^

error[some-rule]: `ADD` needs a source and a destination
 --> Dockerfile:3:1
  |
3 | ADD
  | ^^^

"#]]
            .raw()
        );
    }

    #[test]
    fn failure_without_a_place_is_a_line_with_causes() {
        let mut failure = Failure::new(Kind::Environment, "cannot open the store `/x\u{1b}[2J`").hint("make room");
        failure.problems[0].causes = vec!["no space left on device".to_owned()];
        snapbox::assert_data_eq!(
            render(&failure, LOOK),
            snapbox::str![[r#"
error: cannot open the store `/x\x1b[2J`
caused by: no space left on device
hint: make room

"#]]
            .raw()
        );
    }

    #[test]
    fn long_spans_are_marked_by_their_first_line() {
        let text = format!("FROM a\nRUN <<EOF\n{}EOF\n", "line\n".repeat(50));
        let mut problem = Problem::new("the command ended with exit status 1");
        problem.place = Some(Place { source: Source::new("D", &text), span: 7..text.len(), label: String::new() });
        let shown = render(&Failure { kind: Kind::Command(1), problems: vec![problem] }, LOOK);
        assert!(shown.contains("RUN <<EOF") && shown.lines().count() < 8, "{shown}");
    }

    #[test]
    fn spans_outside_the_text_do_no_harm() {
        for span in [0..0, 3..3, 5..100, 100..200] {
            let mut problem = Problem::new("odd");
            problem.place = Some(Place { source: Source::new("D", "FROM ü\n"), span, label: String::new() });
            assert!(render(&Failure { kind: Kind::Build, problems: vec![problem] }, LOOK).contains("odd"));
        }
        let mut problem = Problem::new("empty");
        problem.place = Some(Place { source: Source::new("D", ""), span: 0..0, label: String::new() });
        assert!(render(&Failure { kind: Kind::Build, problems: vec![problem] }, LOOK).contains("empty"));
    }
}
