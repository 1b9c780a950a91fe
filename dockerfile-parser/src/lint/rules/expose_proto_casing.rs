//! `ExposeProtoCasing`: other spellings work, but are not what is recorded.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;
use crate::port::parse_port;

pub(super) const RULE: Rule = Rule {
    name: "ExposeProtoCasing",
    description: "Protocols in EXPOSE should be lower-case",
    url: "https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        if !matches!(&*step.instruction, Instruction::Expose(_)) {
            continue;
        }
        for port in &step.values {
            if parse_port(port).is_ok_and(|spec| spec.odd_protocol_case) {
                findings.at(step.node, format!("the protocol in `{port}` should be lower-case"));
            }
        }
    }
}
