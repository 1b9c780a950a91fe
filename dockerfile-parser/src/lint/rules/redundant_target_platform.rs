//! `RedundantTargetPlatform`: stages are built for the target platform unless told otherwise.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "RedundantTargetPlatform",
    description: "`--platform=$TARGETPLATFORM` says what holds anyway",
    url: "https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for facts in &evaluation.stages {
        let (Some(platform), Some(written)) = (&facts.platform, &facts.stage.platform) else { continue };
        let only_target = platform.variables.iter().all(|used| used.name == "TARGETPLATFORM" && used.set);
        let value = findings.context.predefined_args.get("TARGETPLATFORM");
        let same = value.map_or(is_plain(&written.text), |value| *value == platform.text);
        if only_target && !platform.variables.is_empty() && same {
            findings.at(facts.node, format!("`--platform={}` is the default and can be left out", written.text));
        }
    }
}

fn is_plain(text: &str) -> bool {
    matches!(text, "$TARGETPLATFORM" | "${TARGETPLATFORM}")
}
