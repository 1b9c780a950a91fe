//! `UndefinedArgInFrom`: also where a default stands in for it.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "UndefinedArgInFrom",
    description: "FROM should use declared arguments only",
    url: "https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for facts in &evaluation.stages {
        for unset in &facts.undeclared {
            let hint = unset.suggestion.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default();
            findings.at(facts.node, format!("FROM uses `{}`, which no ARG before it declares{hint}", unset.name));
        }
    }
}
