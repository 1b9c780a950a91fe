//! `ConsistentInstructionCasing`: the case that most instructions of the stages have wins, upper case in a draw.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "ConsistentInstructionCasing",
    description: "All instructions should be written in the same case",
    url: "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    let file = evaluation.file;
    let nodes: Vec<_> = file
        .stages
        .iter()
        .flat_map(|stage| std::iter::once(file.from_node(stage)).chain(file.stage_nodes(stage)))
        .collect();
    let is_lower = |keyword: &str| keyword == keyword.to_lowercase();
    let is_upper = |keyword: &str| keyword == keyword.to_uppercase();
    let lower = nodes.iter().filter(|node| is_lower(&node.keyword.text)).count();
    let upper = nodes.iter().filter(|node| is_upper(&node.keyword.text) && !is_lower(&node.keyword.text)).count();
    for node in nodes {
        let keyword = &node.keyword.text;
        let (fits, case) =
            if lower > upper { (is_lower(keyword), "lower case") } else { (is_upper(keyword), "upper case") };
        if !fits {
            findings.at(node, format!("`{keyword}` should be in {case}, as most instructions of this file are"));
        }
    }
}
