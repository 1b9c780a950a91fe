//! Build arguments: those that every FROM knows, those that stand above it, and those that nothing declares.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Dockerfile, Instruction, Word};

use super::error::{PlanError, PlanErrors, code};
use super::graph::PlanOptions;
use super::variables::{PROXY_ARGS, Variables};
use crate::oci::Platform;

/// The argument that names the time of what is made.
pub(crate) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The arguments that every FROM knows, such as `TARGETPLATFORM`, those that the user overrides included.
pub(crate) fn predefined_args(dockerfile: &Dockerfile, options: &PlanOptions) -> BTreeMap<String, String> {
    predefined_variables(dockerfile, options).pairs().collect()
}

fn predefined_variables(dockerfile: &Dockerfile, options: &PlanOptions) -> Variables {
    let mut globals = Variables::default();
    let last_stage = || dockerfile.stages.last().and_then(|stage| stage.name.clone());
    let target = options.target.clone().filter(|target| !target.is_empty()).or_else(last_stage);
    let target_stage = target.unwrap_or_else(|| "default".to_owned());
    let mut platform = |prefix: &str, p: &Platform| {
        globals.set(&format!("{prefix}PLATFORM"), &p.with_os_version());
        globals.set(&format!("{prefix}OS"), &p.os);
        globals.set(&format!("{prefix}OSVERSION"), &p.os_version);
        globals.set(&format!("{prefix}ARCH"), &p.architecture);
        globals.set(&format!("{prefix}VARIANT"), &p.variant);
    };
    platform("BUILD", &options.build_platform);
    platform("TARGET", &options.platform);
    globals.set("TARGETSTAGE", &target_stage);
    for (name, value) in &options.build_args {
        if globals.value(name).is_some() {
            globals.set(name, value);
        }
    }
    globals
}

/// The variables of FROM lines, and defaults of what stages declare: platforms, then global ARGs.
#[derive(Debug, Clone, Default)]
pub(super) struct Globals {
    pub(super) variables: Variables,
    /// Those whose value is not known, because its default is wrong or holds another such one.
    pub(super) doubtful: BTreeSet<String>,
    /// What is wrong with defaults.
    pub(super) errors: PlanErrors,
}

impl Globals {
    pub(super) fn new(dockerfile: &Dockerfile, options: &PlanOptions) -> Self {
        let mut globals = Self { variables: predefined_variables(dockerfile, options), ..Self::default() };
        for declaration in dockerfile.global_arg_nodes().flat_map(|(_, arg)| &arg.declarations) {
            let name = &declaration.name.text;
            let value = match (options.build_args.get(name), &declaration.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => match globals.expanded(default, dockerfile.escape()) {
                    Ok(Some(value)) => Some(value),
                    unknown => {
                        globals.doubtful.insert(name.clone());
                        unknown.err().into_iter().for_each(|error| globals.errors.push(error));
                        continue;
                    }
                },
                (None, None) => None,
            };
            if let Some(value) = value {
                globals.variables.set(name, &value);
                globals.doubtful.remove(name);
            }
        }
        let found = options.source_date_epoch.as_ref();
        if let Some(found) = found.filter(|_| globals.variables.value(SOURCE_DATE_EPOCH).is_some()) {
            globals.variables.set(SOURCE_DATE_EPOCH, found);
        }
        globals
    }

    /// Expands a word; `None` where that depends on a value that is not known.
    pub(super) fn expanded(&self, word: &Word, escape: char) -> Result<Option<String>, PlanError> {
        let doubt = Cell::new(false);
        let lookup = |name: &str| {
            doubt.set(doubt.get() || self.doubtful.contains(name));
            self.variables.value(name).map(str::to_owned)
        };
        let expanded = expand(&word.text, escape, &lookup);
        if doubt.get() {
            return Ok(None);
        }
        let expanded = expanded.map_err(|e| PlanError::new(code::EXPANSION, e.to_string(), word.span))?;
        Ok(Some(expanded.text))
    }
}

/// `SOURCE_DATE_EPOCH` as a build argument or a global ARG has it.
pub(crate) fn source_date_epoch(dockerfile: &Dockerfile, options: &PlanOptions) -> Option<String> {
    let given = options.build_args.get(SOURCE_DATE_EPOCH).cloned();
    given.or_else(|| Globals::new(dockerfile, options).variables.value(SOURCE_DATE_EPOCH).map(str::to_owned))
}

/// Build arguments that no ARG of the whole file declares and that nothing knows by itself.
pub(super) fn unused_args(dockerfile: &Dockerfile, options: &PlanOptions) -> Vec<String> {
    let declared: BTreeSet<&str> = dockerfile
        .instructions
        .iter()
        .filter_map(|node| match &node.instruction {
            Some(Instruction::Arg(arg)) => Some(arg),
            _ => None,
        })
        .flat_map(|arg| arg.declarations.iter().map(|declaration| declaration.name.text.as_str()))
        .collect();
    let known = |name: &str| {
        PROXY_ARGS.contains(&name)
            || name.starts_with("BUILDKIT_")
            || name == SOURCE_DATE_EPOCH
            || ["TARGET", "BUILD"].iter().any(|p| {
                name.strip_prefix(p)
                    .is_some_and(|rest| ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT", "STAGE"].contains(&rest))
            })
    };
    options.build_args.keys().filter(|name| !declared.contains(name.as_str()) && !known(name)).cloned().collect()
}
