//! `MultipleInstructionsDisallowed`: only the last one counts; the ones without effect are reported.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::dockerfile::Node;
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "MultipleInstructionsDisallowed",
    description: "CMD, ENTRYPOINT and HEALTHCHECK should stand once in a stage",
    url: "https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for stage in &evaluation.stages {
        let mut last: [Option<&Node>; 3] = [None; 3];
        for step in &stage.steps {
            let slot = match &*step.instruction {
                Instruction::Cmd(_) => 0,
                Instruction::Entrypoint(_) => 1,
                Instruction::Healthcheck(_) => 2,
                _ => continue,
            };
            if let Some(earlier) = last[slot].replace(step.node) {
                let keyword = step.instruction.keyword();
                findings.at(earlier, format!("this {keyword} has no effect: a later {keyword} replaces it"));
            }
        }
    }
}
