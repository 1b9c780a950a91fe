//! `SecretsUsedInArgOrEnv`: values stay in the image or its history; `RUN --mount=type=secret` leaves nothing.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;

pub(super) const RULE: Rule = Rule {
    name: "SecretsUsedInArgOrEnv",
    description: "ARG and ENV are no place for secrets",
    url: "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "passwd", "password", "pword", "secret", "token"];
const HARMLESS: [&str; 3] = ["file", "public", "version"];

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        if !matches!(&*step.instruction, Instruction::Arg(_) | Instruction::Env(_)) {
            continue;
        }
        let keyword = step.instruction.keyword();
        for name in step.values.iter().filter(|name| is_secret(name)) {
            let message =
                format!("{keyword} `{name}` looks like a secret, and everybody who has the image can read it");
            findings.at(step.node, message);
        }
    }
}

/// Whether one of the words between underscores names a secret, and none says that it is harmless.
pub(in crate::lint) fn is_secret(name: &str) -> bool {
    let lower = name.to_lowercase();
    let has = |list: &[&str]| lower.split('_').any(|word| list.contains(&word));
    has(&SECRET) && !has(&HARMLESS)
}
