//! The report for people.
//!
//! ```text
//! warning[StageNameCasing]: the stage name `Build` should be lower-case
//!  --> Dockerfile:1:1
//!   |
//! 1 | FROM scratch AS Build
//!   | ^^^^^^^^^^^^^^^^^^^^^
//!   |
//!   = help: https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
//!
//! 1 warning in Dockerfile, which `--fix` mends
//! ```

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use rbuild_core::exec::CheckResult;
use rbuild_dockerfile::lint::{FindingFile, LintWarning};
use rbuild_dockerfile::{LineIndex, LineRange};

use super::mendable;
use crate::error::{self, Failure, Kind, Look, Place};
use crate::output::{Source, count, lines_of, visible};
use crate::settings::Environment;

/// The width of reports that are not made for a terminal, in columns.
const WIDTH: usize = 120;

/// The longest instruction that is shown whole, in lines.
const SHOWN_LINES: usize = 8;

/// How a report on standard output looks.
pub(super) fn look(environment: &Environment) -> Look {
    Look { colours: environment.colours(environment.stdout_is_terminal), width: WIDTH }
}

/// All findings and errors, and how many there are.
pub(super) fn render(checked: &CheckResult, mended: usize, look: Look) -> String {
    let mut text = String::new();
    for warning in &checked.outcome.warnings {
        text.push_str(&finding(warning, checked, look));
        text.push('\n');
    }
    let errors = failure(checked);
    if let Some(failure) = &errors {
        text.push_str(&error::render(failure, look));
        text.push('\n');
    }
    text.push_str(&summary(checked, errors.map_or(0, |failure| failure.problems.len()), mended));
    text
}

/// The bytes of some lines, without blanks at both ends; of many lines those of the first.
fn span(source: &str, borders: &LineIndex, lines: LineRange) -> std::ops::Range<usize> {
    let last = if lines.last - lines.first < SHOWN_LINES { lines.last } else { lines.first };
    let start = borders.line_span(lines.first).map_or(0, |span| span.start);
    let end = borders.line_span(last).map_or(start, |span| span.end);
    let covered = &source[start..end];
    let blanks = covered.len() - covered.trim_start().len();
    start + blanks..(start + covered.trim_end().len()).max(start + blanks)
}

fn finding(warning: &LintWarning, checked: &CheckResult, look: Look) -> String {
    let file = &checked.dockerfile;
    let index;
    let (name, source, borders) = match (warning.file, &checked.outcome.ignore_file) {
        (FindingFile::IgnoreFile, Some((name, text))) => {
            index = LineIndex::new(text);
            (name.as_str(), text.as_str(), &index)
        }
        _ => (checked.name.as_str(), file.source(), file.lines()),
    };
    let span = span(source, borders, warning.lines);
    let lines = lines_of(source, &span);
    let annotation = AnnotationKind::Primary.span(span.start - lines.start..span.end - lines.start);
    let snippet = Snippet::source(&source[lines.clone()]).line_start(borders.line(lines.start));
    let page = if warning.url.is_empty() {
        format!("{}: docs/rules/{}.md", warning.description, warning.rule)
    } else {
        warning.url.to_owned()
    };
    let detail = visible(&warning.detail);
    let group = Level::WARNING
        .primary_title(detail.as_str())
        .id(warning.rule)
        .element(snippet.path(name).annotation(annotation))
        .element(Level::HELP.message(page.as_str()));
    let renderer = if look.colours { Renderer::styled() } else { Renderer::plain() };
    let rendered = renderer.decor_style(DecorStyle::Ascii).term_width(look.width).render(&[group]);
    format!("{}\n", rendered.trim_end_matches('\n'))
}

/// The errors: all that a build would tell, or the one that the linter came to.
fn failure(checked: &CheckResult) -> Option<Failure> {
    if let Some(error) = &checked.error {
        return Some(error::of_core(error));
    }
    let found = checked.outcome.error.as_ref()?;
    let file = &checked.dockerfile;
    let source = Source::new(&checked.name, file.source());
    let mut failure = Failure::new(Kind::Build, found.message.clone());
    failure.problems[0].place =
        found.lines.map(|lines| Place { source, span: span(file.source(), file.lines(), lines), label: String::new() });
    Some(failure)
}

fn summary(checked: &CheckResult, errors: usize, mended: usize) -> String {
    let mut name = visible(&checked.name).to_string();
    if let Some((ignore_file, _)) = &checked.outcome.ignore_file {
        name.push_str(&format!(" and {}", visible(ignore_file)));
    }
    let warnings = checked.outcome.warnings.len();
    let mut parts = Vec::new();
    if warnings > 0 {
        parts.push(count(warnings, "warning"));
    }
    if errors > 0 {
        parts.push(count(errors, "error"));
    }
    let mut line = match parts.is_empty() {
        true => format!("nothing to report in {name}"),
        false => format!("{} in {name}", parts.join(" and ")),
    };
    if mended > 0 {
        line.push_str(&format!("; {mended} mended"));
    }
    match mendable(checked) {
        0 => {}
        some => line.push_str(&format!("; `rbuild check --fix` mends {some}")),
    }
    format!("{line}\n")
}
