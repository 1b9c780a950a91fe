//! `SecretFileCopied`: keys and passwords stay in the layer, whoever has the image can read them.

use std::collections::BTreeSet;

use super::copied_folders::{Copied, copied};
use super::{Evaluation, Findings, Phase, Rule, RuleGroup};

pub(super) const RULE: Rule = Rule {
    name: "SecretFileCopied",
    description: "Files that hold keys or passwords should not be copied",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

/// Names of files that hold nothing but what must not be known.
const SECRET: [&str; 9] =
    [".git-credentials", ".netrc", ".pypirc", "_netrc", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_rsa"];

/// Names of files that often do. Somebody who names one of them in a COPY knows that it is there; with a whole folder
/// it comes along unseen.
const OFTEN_SECRET: [&str; 3] = [".env", ".env.local", ".env.production.local"];

/// Files in folders of a user's that hold secrets.
const IN_FOLDERS: [(&str, &str); 3] = [(".aws", "credentials"), (".docker", "config.json"), (".kube", "config")];

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    let mut told = BTreeSet::new();
    for copied in copied(evaluation) {
        let found = secrets(&copied, findings);
        if found.is_empty() || !told.insert((copied.step.node.span, copied.source)) {
            continue;
        }
        let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
        let keyword = copied.step.instruction.keyword();
        let message = format!(
            "{keyword} of `{}` puts {} into a layer, and whoever gets that can read it: \
             use `RUN --mount=type=secret`, or name it in `.dockerignore`",
            copied.source,
            names.join(" and ")
        );
        findings.at(copied.step.node, message);
    }
}

/// The secrets that are copied, by their paths in the context.
fn secrets(copied: &Copied<'_, '_>, findings: &Findings<'_>) -> Vec<String> {
    let own_name = copied.path.rsplit('/').next().unwrap_or_default();
    let Some(names) = copied.names(findings) else {
        return if SECRET.contains(&own_name) { vec![copied.path.clone()] } else { Vec::new() };
    };
    let within = |name: &str| {
        if copied.path.is_empty() { name.to_owned() } else { format!("{}/{name}", copied.path) }
    };
    let is_secret = |name: &str| SECRET.contains(&name) || OFTEN_SECRET.contains(&name);
    let mut found: Vec<String> =
        names.iter().filter(|name| is_secret(name) && !copied.excludes(name)).map(|name| within(name)).collect();
    for (folder, name) in IN_FOLDERS {
        let is_there = names.iter().any(|found| found == folder) && !copied.excludes(folder);
        let inner = within(folder);
        let held = findings.context.names.filter(|_| is_there).and_then(|names| names(&inner));
        if held.is_some_and(|held| held.iter().any(|found| found == name)) {
            found.push(format!("{inner}/{name}"));
        }
    }
    found
}
