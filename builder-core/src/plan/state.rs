//! A stage while it is planned: what it has so far, and what one built on it begins with.

use std::collections::{BTreeMap, BTreeSet};

use super::step::{Source, StageIndex, StagePlan};
use super::variables::Variables;
use crate::oci::{ImageConfig, Platform};

/// A stage while its instructions are walked, and what a stage built on it goes on with.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) plan: StagePlan,
    /// ENV and ARG together: what is expanded, and the environment of RUN.
    pub(super) variables: Variables,
    /// Declared build arguments in order, with their values, for RUN's history text.
    pub(super) declared: Vec<(String, Option<String>)>,
    /// What is not known of it, because something is wrong or nobody looked yet.
    doubt: Doubt,
}

/// What is not known of a stage. Faults that depend on it may be none, so they are not told.
#[derive(Debug, Clone, Default)]
struct Doubt {
    /// Nothing is known of what the base image sets.
    base: bool,
    /// Variables whose value is not known, because what should give it is wrong.
    variables: BTreeSet<String>,
}

/// Stands for the working directory of a base of which nothing is known.
const UNKNOWN_DIRECTORY: &str = "/unknown";

impl StageState {
    fn new(config: ImageConfig, platform: &Platform) -> Self {
        let variables = Variables::from_texts(&config.config.env);
        Self {
            plan: StagePlan {
                index: StageIndex(0),
                name: String::new(),
                base: Source::Scratch,
                platform: platform.clone(),
                steps: Vec::new(),
                config,
                history: Vec::new(),
                declared_args: BTreeMap::new(),
            },
            variables,
            declared: Vec::new(),
            doubt: Doubt::default(),
        }
    }

    /// A stage on a base of which nothing is known.
    pub(super) fn unknown(platform: &Platform) -> Self {
        let mut state = Self::scratch(platform);
        state.plan.config.config.working_dir = UNKNOWN_DIRECTORY.to_owned();
        state.doubt.base = true;
        state
    }

    /// Whether the value that a variable has, or has not, may be wrong.
    pub(super) fn is_doubtful(&self, name: &str) -> bool {
        self.doubt.variables.contains(name) || (self.doubt.base && self.variables.value(name).is_none())
    }

    /// Notes whether the values of variables that were set are known.
    pub(super) fn note_doubt<'n>(&mut self, names: impl Iterator<Item = &'n str>, is_doubtful: bool) {
        for name in names {
            match is_doubtful {
                true => self.doubt.variables.insert(name.to_owned()),
                false => self.doubt.variables.remove(name),
            };
        }
    }

    /// Whether nothing is known of what the base image sets.
    pub(super) const fn has_unknown_base(&self) -> bool {
        self.doubt.base
    }

    /// A stage from nothing.
    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig::empty(platform);
        config.config.working_dir = "/".to_owned();
        Self::new(config, platform)
    }

    /// A stage from an image, or from a folder, whose configuration names no platform.
    pub(super) fn from_image(config: &ImageConfig, platform: &Platform) -> Self {
        if config.os.is_empty() && config.architecture.is_empty() {
            return Self::scratch(platform);
        }
        Self::new(config.clone(), &config.platform())
    }

    /// What a stage that starts from this one begins with.
    pub(super) fn child(&self) -> Self {
        let mut child = self.clone();
        child.plan.steps.clear();
        child.plan.history.clear();
        child
    }
}
