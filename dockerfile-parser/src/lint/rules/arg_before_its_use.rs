//! `ArgBeforeItsUse`: every RUN behind an ARG sees its value, so a new value repeats them all.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;
use crate::lint::evaluate::Step;

pub(super) const RULE: Rule = Rule {
    name: "ArgBeforeItsUse",
    description: "ARG should stand right before the first instruction that uses it",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for stage in &evaluation.stages {
        for (at, step) in stage.steps.iter().enumerate() {
            let Instruction::Arg(_) = &*step.instruction else { continue };
            for name in &step.values {
                let later = &stage.steps[at + 1..];
                let Some(used) = later.iter().position(|step| mentions(&step.node.text, step, name)) else { continue };
                let runs =
                    later[..used].iter().filter(|step| matches!(&*step.instruction, Instruction::Run(_))).count();
                if runs > 0 {
                    let message = format!(
                        "a new value of `{name}` repeats {runs} RUN that do not use it: declare it behind them"
                    );
                    findings.at(step.node, message);
                }
            }
        }
    }
}

/// Whether the instruction's text or one of its heredocs holds `$name` or `${name`.
fn mentions(text: &str, step: &Step<'_>, name: &str) -> bool {
    let holds = |text: &str| {
        text.match_indices('$').any(|(at, _)| {
            let rest = text[at + 1..].trim_start_matches('{');
            rest.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|ch: char| ch.is_alphanumeric() || ch == '_'))
        })
    };
    holds(text) || step.node.heredocs.iter().any(|heredoc| holds(&heredoc.body))
}
