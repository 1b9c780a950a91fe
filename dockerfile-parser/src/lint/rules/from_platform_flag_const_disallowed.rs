//! `FromPlatformFlagConstDisallowed`: allowed where the stage's name says so, as in `build-arm64`.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::lint::platform::parse_platform;

pub(super) const RULE: Rule = Rule {
    name: "FromPlatformFlagConstDisallowed",
    description: "FROM `--platform` should not be a fixed value",
    url: "https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for facts in &evaluation.stages {
        let Some(platform) = facts.platform.as_ref().filter(|platform| platform.variables.is_empty()) else { continue };
        let Some(parsed) = parse_platform(&platform.text) else { continue };
        let name = facts.stage.name.as_deref().unwrap_or_default();
        let named = |part: &str| !part.is_empty() && name.contains(part);
        if !named(&parsed.os) && !named(&parsed.architecture) {
            findings.at(facts.node, format!("`--platform={}` builds for one platform only", platform.text));
        }
    }
}
