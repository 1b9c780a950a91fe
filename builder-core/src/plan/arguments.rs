//! Build arguments: those that every FROM knows, those that stand above it, and those that nothing declares.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Dockerfile, Instruction};

use super::error::{PlanError, code};
use super::graph::PlanOptions;
use super::variables::{PROXY_ARGS, Variables};
use crate::oci::Platform;

/// The argument that names the time of what is made.
pub(crate) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The arguments that every FROM knows, such as `TARGETPLATFORM`, those that the user overrides included.
pub(crate) fn predefined_args(dockerfile: &Dockerfile, options: &PlanOptions) -> BTreeMap<String, String> {
    predefined_variables(dockerfile, options).iter().cloned().collect()
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
pub(super) fn global_variables(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<Variables, PlanError> {
    let mut globals = predefined_variables(dockerfile, options);
    let declarations = dockerfile.global_arg_nodes().flat_map(|(_, arg)| &arg.declarations);
    for declaration in declarations {
        let name = &declaration.name.text;
        let value = match (options.build_args.get(name), &declaration.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => {
                let lookup = |name: &str| globals.value(name).map(str::to_owned);
                let expanded = expand(&default.text, dockerfile.escape(), &lookup);
                Some(expanded.map_err(|e| PlanError::new(code::EXPANSION, e.to_string(), default.span))?.text)
            }
            (None, None) => None,
        };
        if let Some(value) = value {
            globals.set(name, &value);
        }
    }
    if let Some(found) = options.source_date_epoch.as_ref().filter(|_| globals.value(SOURCE_DATE_EPOCH).is_some()) {
        globals.set(SOURCE_DATE_EPOCH, found);
    }
    Ok(globals)
}

/// `SOURCE_DATE_EPOCH` as a build argument or a global ARG has it.
pub(crate) fn source_date_epoch(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<Option<String>, PlanError> {
    if let Some(given) = options.build_args.get(SOURCE_DATE_EPOCH) {
        return Ok(Some(given.clone()));
    }
    Ok(global_variables(dockerfile, options)?.value(SOURCE_DATE_EPOCH).map(str::to_owned))
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
