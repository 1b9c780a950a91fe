//! The stage that is built, and what its image says of itself.

use rbuild_dockerfile::{Dockerfile, Stage};

use super::error::{PlanError, code};
use super::graph::PlanOptions;
use super::step::StageIndex;
use crate::oci::{ImageConfig, Platform};

/// Makes a configuration say that it is for a platform. Of the same architecture, its own variant and version stay
/// where the platform names none.
pub(super) fn set_platform(config: &mut ImageConfig, platform: &Platform) {
    let same = config.os == platform.os && config.architecture == platform.architecture;
    config.os.clone_from(&platform.os);
    config.architecture.clone_from(&platform.architecture);
    if !same || !platform.variant.is_empty() {
        config.variant.clone_from(&platform.variant);
    }
    if !same || !platform.os_version.is_empty() {
        config.os_version.clone_from(&platform.os_version);
    }
    if !platform.os_features.is_empty() {
        config.os_features.clone_from(&platform.os_features);
    }
}

/// Finds the stage that was asked for, by its name; the last one where none was.
pub(super) fn find_target(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<StageIndex, PlanError> {
    let stages = &dockerfile.stages;
    let Some(last) = stages.len().checked_sub(1) else {
        return Err(
            PlanError::general(code::NO_STAGE, "no build stage in the Dockerfile").with_help("begin with `FROM image`")
        );
    };
    let Some(target) = options.target.as_deref().filter(|t| !t.is_empty()) else { return Ok(StageIndex(last)) };
    let name = target.to_lowercase();
    if let Some(index) = stages.iter().rposition(|s| s.name.as_deref() == Some(&name)) {
        return Ok(StageIndex(index));
    }
    let error = PlanError::general(code::UNKNOWN_TARGET, format!("target stage `{target}` could not be found"));
    // COMPAT(buildkit): only `--from` knows stages by their numbers.
    if let Some(stage) = target.parse::<usize>().ok().and_then(|number| stages.get(number)) {
        return Err(error.with_help(match &stage.name {
            Some(name) => format!("a target is found by its name: this one is `{name}`"),
            None => format!("a target is found by its name: write `FROM {} AS name`", stage.base.text),
        }));
    }
    Err(match rbuild_dockerfile::nearest(&name, stages.iter().filter_map(|s| s.name.as_deref())) {
        Some(similar) => error.with_help(format!("did you mean `{similar}`?")),
        None => error.with_help(named_stages(stages)),
    })
}

fn named_stages(stages: &[Stage]) -> String {
    let names: Vec<String> =
        stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| format!("`{name}`")).collect();
    match names.is_empty() {
        true => "no stage has a name: write `FROM … AS name`, or leave --target out".to_owned(),
        false => format!("the stages are: {}", names.join(", ")),
    }
}
