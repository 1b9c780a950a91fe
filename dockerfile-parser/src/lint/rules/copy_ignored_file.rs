//! `CopyIgnoredFile`: such a file is not found. Turned off where `.dockerignore` holds exceptions.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "CopyIgnoredFile",
    description: "COPY and ADD should not name files that `.dockerignore` excludes",
    url: "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    let Some(ignored) = findings.context.ignored else { return };
    for step in evaluation.steps() {
        match &*step.instruction {
            Instruction::Copy(copy) if copy.from.is_none() => {}
            Instruction::Add(_) => {}
            _ => continue,
        }
        let keyword = step.instruction.keyword();
        for source in step.values.iter().filter(|source| !is_remote(source)) {
            let path = clean(source);
            if ignored(&path) {
                findings.at(step.node, format!("{keyword} names `{path}`, which `.dockerignore` excludes"));
            }
        }
    }
}

pub(super) fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|prefix| source.starts_with(prefix))
}

/// The path without `.`, doubled slashes and `..` that can be resolved.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}
