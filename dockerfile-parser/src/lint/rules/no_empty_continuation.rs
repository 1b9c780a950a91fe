//! `NoEmptyContinuation`: an empty line does not end a continued instruction, which readers expect. The line reported is the instruction's last.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::span::LineRange;

pub(super) const RULE: Rule = Rule {
    name: "NoEmptyContinuation",
    description: "Empty lines inside an instruction will become an error",
    url: "https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/",
    phase: Phase::Lines,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for node in evaluation.file.instructions.iter().filter(|node| node.empty_continuation) {
        let last = node.own_lines.last;
        let message = "an empty line stands inside a continued instruction".to_owned();
        findings.at_lines(node, LineRange { first: last, last }, message);
    }
}
