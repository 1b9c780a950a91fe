//! Whether the commands of a build can run on this machine's processor, found out before the first step.

use super::bases::Resolved;
use super::build::{Build, StageKey};
use crate::error::BuildError;
use crate::oci::Platform;
use crate::plan::{Action, Source, StagePlan};
use crate::sys::emulation::{Emulator, emulator};

impl Build<'_> {
    /// Commands for another processor for which there is no emulator, by their stages.
    ///
    /// What counts is the base image that a stage goes back to, not what was asked for: an image for this processor
    /// runs, whatever it is used for. What comes from `scratch` is anyone's guess and is tried.
    pub(crate) fn emulator_errors(&self) -> Vec<BuildError> {
        self.plans().iter().filter_map(|(key, plan)| self.emulator_error(*key, plan)).collect()
    }

    fn emulator_error(&self, key: StageKey, plan: &StagePlan) -> Option<BuildError> {
        let host = Platform::host();
        let step = plan.steps.iter().find(|step| matches!(step.action, Action::Run(_)))?;
        let platform = self.platform_of_root(key, plan).filter(|platform| !platform.runs_natively_on(&host))?;
        let name = &plan.name;
        let Some(emulator) = emulator(&platform.architecture) else {
            return Some(BuildError::plan(
                "emulator-missing",
                format!("the stage `{name}` runs commands for {platform}, and this machine runs programs for {host}"),
                format!(
                    "install an emulator (Debian: apt-get install qemu-user-static), or run the command in a stage \
                     `FROM --platform=$BUILDPLATFORM` that makes files for {platform}"
                ),
                step.span.clone(),
            ));
        };
        let why = unusable(&emulator)?;
        Some(BuildError::plan(
            "emulator-unusable",
            format!(
                "the stage `{name}` runs commands for {platform}, and the emulator `{}` can't run in a step: {why}",
                emulator.interpreter.display()
            ),
            "register it with the flag F, or install a static one (Debian: apt-get install qemu-user-static)",
            step.span.clone(),
        ))
    }

    /// The emulator that a stage's commands need in their own root directory: one that the kernel looks up by its path.
    pub(crate) fn emulator_to_show(&self, key: StageKey, plan: &StagePlan) -> Option<Emulator> {
        let platform = self.platform_of_root(key, plan).unwrap_or_else(|| plan.platform.clone());
        if platform.runs_natively_on(&Platform::host()) {
            return None;
        }
        emulator(&platform.architecture).filter(|emulator| !emulator.is_open && unusable(emulator).is_none())
    }

    /// The platform of the base image below a stage; none where it has none.
    fn platform_of_root<'a>(&'a self, mut key: StageKey, mut plan: &'a StagePlan) -> Option<Platform> {
        while let Source::Stage(stage) = plan.base {
            key.stage = stage;
            plan = self.plans().get(&key)?;
        }
        match self.bases.resolved(&plan.base)? {
            Resolved::Image(base) if !base.config.architecture.is_empty() => {
                Some(Platform::new(&base.config.os, &base.config.architecture, &base.config.variant))
            }
            Resolved::Image(_) | Resolved::Folder(_) => None,
        }
    }
}

/// Why an emulator that is looked up by its path can't run in a step.
fn unusable(emulator: &Emulator) -> Option<String> {
    if emulator.is_open {
        return None;
    }
    match emulator.needs_libraries() {
        Ok(false) => None,
        Ok(true) => Some("it needs libraries of this machine".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
