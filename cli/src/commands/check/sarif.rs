//! The report as SARIF 2.1.0 (OASIS "Static Analysis Results Interchange Format").

use std::collections::BTreeSet;
use std::ops::Range;

use rbuild_core::error::{BuildError, ErrorKind};
use rbuild_core::exec::CheckResult;
use rbuild_dockerfile::lint::{FindingFile, LintWarning, RULES};
use rbuild_dockerfile::{Dockerfile, LineRange, Severity};
use serde_json::{Value, json};

use crate::rewrite::edits_for;

/// The whole report.
pub(super) fn report(checked: &CheckResult) -> Value {
    let mut results: Vec<Value> = checked.outcome.warnings.iter().map(|warning| of_warning(warning, checked)).collect();
    results.extend(checked.error.iter().flat_map(|error| of_error(error, checked)));
    if let Some(error) = checked.outcome.error.as_ref().filter(|_| checked.error.is_none()) {
        let lines = error.lines.unwrap_or(LineRange { first: 1, last: 1 });
        results.push(result("build-error", "error", &error.message, &location(&checked.name, lines)));
    }
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "rbuild",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules(checked),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// The rules that something was found by.
fn rules(checked: &CheckResult) -> Vec<Value> {
    let found: BTreeSet<&str> = checked.outcome.warnings.iter().map(|warning| warning.rule).collect();
    let describe = |rule: &rbuild_dockerfile::lint::Rule| {
        let mut value = json!({ "id": rule.name, "shortDescription": { "text": rule.description } });
        if !rule.url.is_empty() {
            value["helpUri"] = rule.url.into();
        }
        value
    };
    RULES.iter().filter(|rule| found.contains(rule.name)).map(describe).collect()
}

fn location(name: &str, lines: LineRange) -> Value {
    json!({ "physicalLocation": {
        "artifactLocation": { "uri": uri(name) },
        "region": { "startLine": lines.first, "endLine": lines.last },
    } })
}

/// A path as a relative or absolute URI: what has a meaning in URIs is encoded.
fn uri(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn result(rule: &str, level: &str, message: &str, location: &Value) -> Value {
    json!({ "ruleId": rule, "level": level, "message": { "text": message }, "locations": [location] })
}

fn of_warning(warning: &LintWarning, checked: &CheckResult) -> Value {
    let name = match (warning.file, &checked.outcome.ignore_file) {
        (FindingFile::IgnoreFile, Some((name, _))) => name,
        _ => &checked.name,
    };
    let mut value = result(warning.rule, "warning", &warning.detail, &location(name, warning.lines));
    let file = &checked.dockerfile;
    let replacements: Vec<Value> = edits_for(file, warning)
        .iter()
        .map(|edit| {
            json!({ "deletedRegion": region(file, edit.start, edit.end), "insertedContent": { "text": edit.text } })
        })
        .collect();
    if !replacements.is_empty() {
        value["fixes"] = json!([{
            "description": { "text": warning.description },
            "artifactChanges": [{
                "artifactLocation": { "uri": uri(&checked.name) },
                "replacements": replacements,
            }],
        }]);
    }
    value
}

/// The results of all that an error tells.
fn of_error(error: &BuildError, checked: &CheckResult) -> Vec<Value> {
    let tell = |code: &str, message: &str, span: Option<Range<usize>>| {
        let mut location = json!({ "physicalLocation": { "artifactLocation": { "uri": uri(&checked.name) } } });
        if let Some(span) = span {
            location["physicalLocation"]["region"] = region(&checked.dockerfile, span.start, span.end);
        }
        result(code, "error", message, &location)
    };
    let of_part = |part: &BuildError| match &part.kind {
        ErrorKind::Dockerfile(diagnostics) => {
            let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error);
            errors.map(|found| tell(found.code, &found.to_string(), Some(found.span.range()))).collect()
        }
        ErrorKind::Plan { code, .. } => vec![tell(code, &part.to_string(), part.span())],
        _ => vec![tell("build-error", &part.to_string(), part.span())],
    };
    error.parts().iter().flat_map(of_part).collect()
}

fn region(file: &Dockerfile, start: usize, end: usize) -> Value {
    let (start, end) = (file.position(start), file.position(end));
    json!({ "startLine": start.line, "startColumn": start.column, "endLine": end.line, "endColumn": end.column })
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_uris() {
        for (path, uri) in [("Dockerfile", "Dockerfile"), ("a b/D%f", "a%20b/D%25f"), ("é", "%C3%A9")] {
            assert_eq!(super::uri(path), uri);
        }
    }
}
