//! A stage while it is planned: what it has so far, and what one built on it begins with.

use std::collections::BTreeMap;

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
}

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
        }
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
