//! `InvalidDefaultArgInFrom`: a file should build without any `--build-arg`.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::lint::evaluate::global_values;
use crate::lint::image_name::parse_image_name;
use crate::word::expand;

pub(super) const RULE: Rule = Rule {
    name: "InvalidDefaultArgInFrom",
    description: "FROM should be valid with the defaults of its arguments",
    url: "https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/",
    phase: Phase::Stages,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    let file = evaluation.file;
    let Ok(defaults) = global_values(file, findings.context, None) else { return };
    for stage in &file.stages {
        let lookup = |name: &str| defaults.get(name).cloned();
        let Ok(base) = expand(&stage.base.text, file.escape(), &lookup) else { return };
        if parse_image_name(&base.text).is_none() {
            let message = format!(
                "`{}` is no valid image name unless a build argument is given: it becomes `{}`",
                stage.base.text, base.text
            );
            findings.at(file.from_node(stage), message);
        }
    }
}
