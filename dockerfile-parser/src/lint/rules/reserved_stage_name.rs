//! `ReservedStageName`: `scratch` and `context` mean something else.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "ReservedStageName",
    description: "Reserved words should not be stage names",
    url: "https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for stage in &evaluation.file.stages {
        if let Some(name @ ("scratch" | "context")) = stage.name.as_deref() {
            findings
                .at(evaluation.file.from_node(stage), format!("`{name}` is a reserved word and no good stage name"));
        }
    }
}
