//! `AptGetCleanup`: package lists are no use in an image, and a later RUN cannot take them out of the layer.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;
use crate::lint::rules::shell_text::{has_command, script_text};

pub(super) const RULE: Rule = Rule {
    name: "AptGetCleanup",
    description: "`apt-get install` should clean up behind itself in the same RUN",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

/// How commands spell the place of the lists: a script that names it cleans it.
const CLEANED: [&str; 3] = ["/var/lib/apt", "/var/lib/{", "/var/lib/*"];

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    // Layers of other stages are no part of the image.
    for step in evaluation.stages.iter().filter(|stage| stage.shipped).flat_map(|stage| &stage.steps) {
        let Instruction::Run(run) = &*step.instruction else { continue };
        let text = script_text(run);
        let kept = !CLEANED.iter().any(|path| text.contains(path));
        let mounted = run.mounts.iter().any(|mount| mount.text.contains("/var/lib/apt"));
        if has_command(&text, "apt-get", "update") && kept && !mounted {
            let message = "the package lists of `apt-get update` stay in the layer: end with `rm -rf /var/lib/apt/lists/*` \
                           or use `--mount=type=cache,target=/var/lib/apt`";
            findings.at(step.node, message.to_owned());
        }
    }
}
