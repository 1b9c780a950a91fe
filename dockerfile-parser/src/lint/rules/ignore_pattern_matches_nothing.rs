//! `IgnorePatternMatchesNothing`: a line of the ignore file without effect, though it seems to be meant for something.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "IgnorePatternMatchesNothing",
    description: "Patterns of `.dockerignore` should match what they are meant for",
    url: "",
    phase: Phase::Lines,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(_: &Evaluation<'_>, findings: &mut Findings<'_>) {
    let Some(file) = findings.context.ignore_file else { return };
    for idle in &file.idle {
        findings.at_ignore_line(idle.line, idle.to_string());
    }
}
