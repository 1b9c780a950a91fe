//! `UndefinedVar`: ARG without a value counts as set; in a stage whose base image is not known nothing is reported.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "UndefinedVar",
    description: "Variables should be set before they are used",
    url: "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        for unset in &step.unset {
            let hint = unset.suggestion.as_ref().map(|name| format!(" (did you mean `${name}`?)")).unwrap_or_default();
            findings.at(step.node, format!("the variable `${}` is not set{hint}", unset.name));
        }
    }
}
