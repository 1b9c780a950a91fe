//! `LegacyKeyValueFormat`: the old form of ENV and LABEL takes the rest of the line as one value.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "LegacyKeyValueFormat",
    description: "`key=value` should be written instead of `key value`",
    url: "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        let legacy = match &*step.instruction {
            Instruction::Env(env) => env.legacy,
            Instruction::Label(label) => label.legacy,
            _ => false,
        };
        if legacy {
            let keyword = step.instruction.keyword();
            findings.at(step.node, format!("`{keyword} key=value` should be written instead of `{keyword} key value`"));
        }
    }
}
