//! `StageNameCasing`: stages are found without regard to case, so one spelling should do.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "StageNameCasing",
    description: "Stage names should be lower-case",
    url: "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
    phase: Phase::Parse,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for stage in &evaluation.file.stages {
        if let Some(name) = &stage.name_as_written
            && name.text != name.text.to_lowercase()
        {
            findings
                .at(evaluation.file.from_node(stage), format!("the stage name `{}` should be lower-case", name.text));
        }
    }
}
