//! `DuplicateStageName`: of two stages with one name only the later can be reached by name.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use std::collections::BTreeSet;

pub(super) const RULE: Rule = Rule {
    name: "DuplicateStageName",
    description: "Stage names should be unique",
    url: "https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for stage in &evaluation.file.stages {
        if let Some(name) = &stage.name
            && !seen.insert(name)
        {
            findings.at(evaluation.file.from_node(stage), format!("an earlier stage is called `{name}` too"));
        }
    }
}
