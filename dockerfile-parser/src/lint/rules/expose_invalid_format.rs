//! `ExposeInvalidFormat`: addresses and host ports are chosen when a container is started.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;
use crate::port::parse_port;

pub(super) const RULE: Rule = Rule {
    name: "ExposeInvalidFormat",
    description: "EXPOSE should name ports of the container only",
    url: "https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/",
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
            if parse_port(port).is_ok_and(|spec| spec.host_part) {
                findings.at(step.node, format!("`{port}` names an address or a port of the host, which is dropped"));
            }
        }
    }
}
