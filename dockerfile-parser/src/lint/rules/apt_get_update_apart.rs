//! `AptGetUpdateApart`: a cached `update` makes a later `install` ask for packages that are gone.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;
use crate::lint::rules::shell_text::{has_command, script_text};

pub(super) const RULE: Rule = Rule {
    name: "AptGetUpdateApart",
    description: "`apt-get update` and `apt-get install` should be one RUN",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        let Instruction::Run(run) = &*step.instruction else { continue };
        let text = script_text(run);
        for tool in ["apt-get", "apt"] {
            if has_command(&text, tool, "update") && !installs(&text) {
                let message =
                    format!("the package lists of this `{tool} update` get old in the cache: install in the same RUN");
                findings.at(step.node, message);
            }
        }
    }
}

fn installs(text: &str) -> bool {
    let install = ["install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep", "satisfy"];
    let tools = ["apt-get", "apt", "aptitude"];
    tools.iter().any(|tool| install.iter().any(|command| has_command(text, tool, command)))
}
