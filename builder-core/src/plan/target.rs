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

/// Finds the stage that was asked for: by name, or by number; the last one where none was.
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
    if let Some(index) = target.parse::<usize>().ok().filter(|index| *index < stages.len()) {
        return Ok(StageIndex(index));
    }
    let error = PlanError::general(code::UNKNOWN_TARGET, format!("target stage `{target}` could not be found"));
    Err(match rbuild_dockerfile::nearest(&name, stages.iter().filter_map(|s| s.name.as_deref())) {
        Some(similar) => error.with_help(format!("did you mean `{similar}`?")),
        None => error.with_help("the stages are: ".to_owned() + &stage_names(stages)),
    })
}

fn stage_names(stages: &[Stage]) -> String {
    stages
        .iter()
        .enumerate()
        .map(|(i, s)| s.name.as_ref().map_or_else(|| i.to_string(), |n| format!("`{n}`")))
        .collect::<Vec<_>>()
        .join(", ")
}
