//! `CopySeveralSourcesToFile`: without the slash the files overwrite one another, and only the last one stays.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "CopySeveralSourcesToFile",
    description: "Several sources should go to a directory, written with a slash at its end",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        let heredocs = match &*step.instruction {
            Instruction::Copy(copy) if !copy.parents => copy.heredocs.len(),
            Instruction::Add(add) => add.heredocs.len(),
            _ => continue,
        };
        let last = step.destination.rsplit('/').next().unwrap_or_default();
        let is_directory = matches!(last, "" | "." | "..");
        if step.values.len() + heredocs > 1 && !is_directory {
            let keyword = step.instruction.keyword();
            let message = format!(
                "unless `{0}` is a directory already, the last source of this {keyword} overwrites the others: write `{0}/`",
                step.destination
            );
            findings.at(step.node, message);
        }
    }
}
