//! `WorkdirRelativePath`: only the first WORKDIR is looked at, and only those of this file.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "WorkdirRelativePath",
    description: "A relative WORKDIR depends on the base image if no absolute one stands before it",
    url: "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        let (Instruction::Workdir(_), Some(path)) = (&*step.instruction, step.values.first()) else { continue };
        if !step.workdir_set && !path.starts_with('/') {
            findings.at(step.node, format!("where `{path}` lies depends on the base image's working directory"));
        }
    }
}
