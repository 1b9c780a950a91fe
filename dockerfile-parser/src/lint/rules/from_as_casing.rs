//! `FromAsCasing`: one instruction, one case.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::{From, Instruction};

pub(super) const RULE: Rule = Rule {
    name: "FromAsCasing",
    description: "`AS` should be written in the case of `FROM`",
    url: "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
    phase: Phase::Parse,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for node in &evaluation.file.instructions {
        let Some(Instruction::From(From { as_keyword: Some(word), .. })) = &node.instruction else { continue };
        let from = &node.keyword.text;
        let fits = match (from.to_lowercase() == *from, from.to_uppercase() == *from) {
            (true, _) => word.text == word.text.to_lowercase(),
            (false, true) => word.text == word.text.to_uppercase(),
            // A mixed case is the business of ConsistentInstructionCasing.
            (false, false) => true,
        };
        if !fits {
            findings.at(node, format!("`{}` is written in another case than `{from}`", word.text));
        }
    }
}
