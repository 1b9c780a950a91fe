//! `InvalidBaseImagePlatform`: an image of another platform was all the registry had.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::lint::platform::parse_platform;

pub(super) const RULE: Rule = Rule {
    name: "InvalidBaseImagePlatform",
    description: "The base image should have the platform that is built for",
    url: "https://docs.docker.com/go/dockerfile/rule/invalid-base-image-platform/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for facts in evaluation.stages.iter().filter(|facts| facts.needed) {
        let Some(actual) = facts.facts.as_ref().and_then(|facts| facts.platform.as_deref()) else { continue };
        let expected = facts.platform.as_ref().map_or(findings.context.target_platform, |wanted| &wanted.text);
        let (Some(have), Some(want)) = (parse_platform(actual), parse_platform(expected)) else { continue };
        let differs = |have: &str, want: &str| !have.is_empty() && !want.is_empty() && have != want;
        if differs(&have.os, &want.os) || differs(&have.architecture, &want.architecture) {
            let message = format!("the base image `{}` is for {actual}, but {expected} is built for", facts.base);
            findings.at(facts.node, message);
        }
    }
}
