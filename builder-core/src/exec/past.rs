//! Builds that are over: which there were of a Dockerfile, and how a step of one differs from the same step of another.

use super::earlier::{explain, read_record, recorded_files};
use super::journal::{builds_of, prefix, read};
use super::options::{BuildOptions, ContextInput, DockerfileInput};
use crate::cache::{BuildRecord, BuiltStep, StepFacts};
use crate::error::{BuildError, During};
use crate::progress::Miss;
use crate::store::Store;

/// How a step of a build compares with the same step of another build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// All inputs are the same.
    Same,
    /// These inputs differ.
    Differs(Miss),
    /// The other build has no such step.
    Absent,
    /// The inputs of one of the two are not on record: it failed, or its result was removed from the store.
    Unknown,
}

/// The builds on record of the Dockerfile that the options name, the newest first.
///
/// # Errors
/// When the store can't be opened or read.
pub fn past_builds(options: &BuildOptions) -> Result<Vec<BuildRecord>, BuildError> {
    let store = open(options)?;
    for name in names(options) {
        let prefix = prefix(&super::build::identity(options, &name));
        let found = builds_of(&store, &prefix).during(|| "list the builds on record".to_owned())?;
        let builds: Vec<BuildRecord> = found.iter().rev().filter_map(|(_, id)| read(&store, id)).collect();
        if !builds.is_empty() {
            return Ok(builds);
        }
    }
    Ok(Vec::new())
}

/// Compares the step at `place` of one build with the same step of an earlier one.
///
/// # Errors
/// When the store can't be opened.
pub fn compare_builds(
    options: &BuildOptions,
    now: &BuildRecord,
    place: usize,
    before: &BuildRecord,
) -> Result<Comparison, BuildError> {
    let store = open(options)?;
    let step = &now.steps[place];
    let of_stage: Vec<&BuiltStep> =
        now.steps.iter().filter(|s| s.stage == step.stage && s.platform == step.platform).collect();
    let texts: Vec<&str> = of_stage.iter().map(|s| s.text.as_str()).collect();
    let counterparts = before.counterparts(&step.stage, &step.platform, &texts);
    let Some(other) = counterparts.get(step.position - 1).copied().flatten() else { return Ok(Comparison::Absent) };
    let (Some(key), Some(other)) = (&step.key, &other.key) else { return Ok(Comparison::Unknown) };
    if key == other {
        return Ok(Comparison::Same);
    }
    let (Some(record), Some(before)) = (read_record(&store, key), read_record(&store, other)) else {
        return Ok(Comparison::Unknown);
    };
    let files = recorded_files(&store, key);
    let now = StepFacts { inputs: &record.inputs, written: &record.written, files: files.as_ref() };
    Ok(explain(&store, &before, now).map_or(Comparison::Same, Comparison::Differs))
}

fn open(options: &BuildOptions) -> Result<Store, BuildError> {
    Store::open(&options.store).during(|| format!("open the store `{}`", options.store.display()))
}

/// The names that the Dockerfile may have had in a build; nothing is read to find out.
fn names(options: &BuildOptions) -> Vec<String> {
    match (&options.dockerfile, &options.context) {
        (DockerfileInput::Text { name, .. } | DockerfileInput::InContext(Some(name)), _) => vec![name.clone()],
        (DockerfileInput::InContext(None), ContextInput::Remote(text)) => {
            vec!["Dockerfile".to_owned(), "dockerfile".to_owned(), text.clone()]
        }
        (DockerfileInput::InContext(None), _) => vec!["Dockerfile".to_owned(), "dockerfile".to_owned()],
    }
}
