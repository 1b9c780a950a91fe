//! Records of builds: what each step came to, and why it was done.

use serde::{Deserialize, Serialize};

use crate::oci::DiffId;
use crate::progress::{Miss, StepEnd};

/// One build of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Names the build: what its Dockerfile is, in a few digits, and a number that grows.
    pub id: String,
    /// The build context, as far as it has a place.
    pub context: String,
    /// The Dockerfile's path.
    pub dockerfile: String,
    /// When it began: seconds since 1970.
    pub started: i64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// How it ended.
    pub end: BuildEnd,
    /// The steps in the order of the plan.
    pub steps: Vec<BuiltStep>,
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildEnd {
    /// There is an image.
    Done,
    /// There is none.
    Failed,
    /// The caller asked to stop.
    Cancelled,
}

/// A step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltStep {
    /// Its stage's name, or number where it has none.
    pub stage: String,
    /// The platform that it was done for.
    pub platform: String,
    /// Its place in the stage, counted from 1.
    pub position: usize,
    /// The instruction, variables expanded.
    pub name: String,
    /// The instruction's text on one line, variables not expanded.
    pub text: String,
    /// Its key; `None` where the build ended before that was known.
    pub key: Option<String>,
    /// The layer that it gave.
    pub result: Option<DiffId>,
    /// How it ended; `None` where it was not come to.
    pub end: Option<StepEnd>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Why it was done; `None` for a step whose earlier result was used.
    pub miss: Option<Miss>,
    /// The build whose step the causes are found by comparing with.
    #[serde(default)]
    pub against: Option<String>,
    /// When it was last done before this build, as far as builds are recorded.
    #[serde(default)]
    pub last_run: Option<LastRun>,
}

/// An earlier time that a step was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The build.
    pub build: String,
    /// When that build began: seconds since 1970.
    pub started: i64,
    /// How long the step took, milliseconds.
    pub took_ms: u64,
    /// Why it was done.
    pub miss: Option<Miss>,
}

impl BuildRecord {
    /// Writes the record.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has string keys only")
    }

    /// Reads a record; `None` when it is damaged, which counts as none at all.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The counterparts of a later build's steps, whose texts `steps` are, in one of its stages.
    #[must_use]
    pub fn counterparts(&self, stage: &str, platform: &str, steps: &[&str]) -> Vec<Option<&BuiltStep>> {
        let of_stage: Vec<&BuiltStep> =
            self.steps.iter().filter(|step| step.stage == stage && step.platform == platform).collect();
        let texts: Vec<&str> = of_stage.iter().map(|step| step.text.as_str()).collect();
        super::align(&texts, steps).into_iter().map(|place| Some(of_stage[place?])).collect()
    }
}

impl BuiltStep {
    /// When it was last done, be it in the build `record` itself.
    #[must_use]
    pub fn last_done(&self, record: &BuildRecord) -> Option<LastRun> {
        match self.end {
            Some(StepEnd::Done | StepEnd::Unchanged) => Some(LastRun {
                build: record.id.clone(),
                started: record.started,
                took_ms: self.took_ms,
                miss: self.miss.clone(),
            }),
            _ => self.last_run.clone(),
        }
    }
}
