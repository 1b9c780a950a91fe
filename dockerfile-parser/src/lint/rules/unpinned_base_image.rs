//! `UnpinnedBaseImage`: what `latest` means changes under the build.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::lint::image_name::parse_image_name;

pub(super) const RULE: Rule = Rule {
    name: "UnpinnedBaseImage",
    description: "Base images should have a tag other than `latest`, or a digest",
    url: "",
    phase: Phase::Stages,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for facts in &evaluation.stages {
        if facts.base_stage.is_some()
            || facts.base == "scratch"
            || findings.context.named_contexts.contains(&facts.base)
        {
            continue;
        }
        let Some(name) = parse_image_name(&facts.base) else { continue };
        if name.digest.is_none() && matches!(name.tag, None | Some("latest")) {
            let message = format!("`{}` is another image from day to day: name a version or a digest", facts.base);
            findings.at(facts.node, message);
        }
    }
}
