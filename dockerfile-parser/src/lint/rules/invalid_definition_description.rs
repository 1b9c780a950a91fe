//! `InvalidDefinitionDescription`: such comments are shown as the description of a stage or an argument.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "InvalidDefinitionDescription",
    description: "A comment above ARG or FROM should begin with the name that it describes",
    url: "https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/",
    phase: Phase::Parse,
    group: RuleGroup::BuildKit,
    experimental: true,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for node in &evaluation.file.instructions {
        let names: Vec<String> = match &node.instruction {
            Some(Instruction::From(from)) => from.name.iter().map(|name| name.text.to_lowercase()).collect(),
            Some(Instruction::Arg(arg)) => {
                arg.declarations.iter().map(|declaration| declaration.name.text.clone()).collect()
            }
            _ => continue,
        };
        let Some(comment) = node.comments.last() else { continue };
        let first = comment.text.split(' ').next().unwrap_or_default();
        let (Some(name), false) = (names.first(), names.iter().any(|name| name == first)) else { continue };
        let example = if names.len() > 1 { "<name>" } else { name };
        findings.at(node, format!("the comment above should read `# {example} <description>`, or be set apart"));
    }
}
