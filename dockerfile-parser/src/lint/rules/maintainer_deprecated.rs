//! `MaintainerDeprecated`: a label does the same and can be read by tools.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "MaintainerDeprecated",
    description: "MAINTAINER is deprecated, a label names the author",
    url: "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
    phase: Phase::Parse,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for node in &evaluation.file.instructions {
        if let Some(Instruction::Maintainer(_)) = &node.instruction {
            let message = "MAINTAINER is deprecated: use `LABEL org.opencontainers.image.authors=…`".to_owned();
            findings.at(node, message);
        }
    }
}
