//! Any text is parsed and checked: it prints back, every span lies in it, and nothing panics.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::lint::{JsonReport, LintContext, LintOptions, TextReport, lint};
use rbuild_dockerfile::{Dockerfile, parse, parse_trigger};

/// Where a span begins in the form that `{:?}` gives, whatever it is part of.
const SPAN: &str = "Span { start: ";

fuzz_target!(|text: &str| {
    let (file, diagnostics) = parse(text);
    assert_eq!(file.to_string(), text);
    check_spans(&format!("{file:?}"), text);
    for diagnostic in &diagnostics {
        assert!(text.get(diagnostic.span.range()).is_some(), "{diagnostic:?}");
        assert!(!diagnostic.message.is_empty() && !diagnostic.code.is_empty());
    }
    check_order(&file, text);
    let arguments = BTreeMap::from([("A".to_owned(), "v a/l".to_owned())]);
    let mut context = LintContext::new(&arguments);
    context.all_stages = true;
    context.ignored = Some(&|path| path.contains('i'));
    context.options = LintOptions { experimental: rbuild_dockerfile::lint::RuleSelection::All, ..context.options };
    let outcome = lint(&file, &diagnostics, &context);
    for warning in &outcome.warnings {
        assert!(file.lines().line_span(warning.lines.first).is_some(), "{warning:?}");
        assert!(warning.lines.first <= warning.lines.last && warning.lines.last <= file.lines().count(), "{warning:?}");
    }
    assert!(!diagnostics.has_errors() || outcome.error.is_some());
    let report = JsonReport::new(&outcome, &file, "Dockerfile");
    serde_json::to_string(&report).expect("a report is JSON");
    TextReport { outcome: &outcome, file: &file, filename: "Dockerfile" }.to_string();
    if let Err(diagnostics) = parse_trigger(text) {
        assert!(diagnostics.has_errors());
    }
});

/// Every span that is printed somewhere in `debug` can be cut out of the text.
fn check_spans(debug: &str, text: &str) {
    for (at, _) in debug.match_indices(SPAN) {
        let numbers = &debug[at + SPAN.len()..];
        let Some((start, rest)) = numbers.split_once(", end: ") else { continue };
        let Some((end, _)) = rest.split_once(" }") else { continue };
        // The text itself may hold what looks like a span.
        let (Ok(start), Ok(end)) = (start.parse::<usize>(), end.parse::<usize>()) else { continue };
        let quoted = text.contains(SPAN);
        assert!(quoted || text.get(start..end).is_some(), "no span of the text: {start}..{end}");
    }
}

/// Instructions follow one another, and each begins at its keyword.
fn check_order(file: &Dockerfile, text: &str) {
    let mut end = 0;
    for node in &file.instructions {
        assert!(node.span.start >= end, "instructions overlap at {:?}", node.span);
        assert!(node.keyword.span.start >= node.span.start && node.keyword.span.end <= node.span.end);
        assert_eq!(file.lines().line(node.span.start), node.lines.first);
        assert!(node.lines.first <= node.own_lines.last && node.own_lines.last <= node.lines.last);
        for heredoc in &node.heredocs {
            assert_eq!(heredoc.span.text(text), heredoc.body);
        }
        end = node.span.end;
    }
    for stage in &file.stages {
        assert_eq!(file.instructions[stage.from].instruction.as_ref().map(|i| i.keyword()), Some("FROM"));
        assert!(stage.first_instruction <= stage.end_instruction && stage.end_instruction <= file.instructions.len());
    }
}
