//! From the Dockerfile to the steps of every stage that is needed.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::Dockerfile;

use super::{Build, StageKey};
use crate::error::BuildError;
use crate::exec::options::ExpectCached;
use crate::oci::Platform;
use crate::plan::{self, Outcome, Plan, PlanError, PlanOptions, PlatformChoice, SOURCE_DATE_EPOCH, Source, Stages};
use crate::progress::{Event, StepInfo, Warning};

/// The build argument that names the Dockerfile's language in place of its `# syntax=` line.
const SYNTAX_ARG: &str = "BUILDKIT_SYNTAX";

/// Refuses languages that are not built in.
pub(super) fn check_syntax(dockerfile: &Dockerfile, build_args: &BTreeMap<String, String>) -> Result<(), BuildError> {
    let directive = dockerfile.directives.syntax.as_ref();
    let (image, asked, remedy, span) = match (build_args.get(SYNTAX_ARG), directive) {
        (Some(value), _) => {
            let image = value.split_whitespace().next().unwrap_or_default();
            (image, format!("--build-arg {SYNTAX_ARG}={image}"), "leave the argument out", None)
        }
        (None, Some(directive)) => {
            let image = directive.value.as_str();
            (image, format!("# syntax={image}"), "remove the line", Some(directive.span))
        }
        (None, None) => return Ok(()),
    };
    let name = image.split(['@', ':']).next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    if matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream") {
        return Ok(());
    }
    Err(BuildError::plan(
        "unsupported-syntax",
        format!("`{asked}` asks for another Dockerfile language"),
        format!("rbuild has docker/dockerfile built in and runs no other frontends; {remedy}, or build with BuildKit"),
        span.map(|span| span.start..span.end),
    ))
}

impl From<PlanError> for BuildError {
    fn from(error: PlanError) -> Self {
        Self::plan(error.code, error.message, error.help, error.span.map(|span| span.start..span.end))
    }
}

impl Build<'_> {
    /// What planning is told for a platform.
    pub(crate) fn plan_options(&self, platform: &Platform) -> PlanOptions {
        let mut build_args = self.options.build_args.clone();
        if let (Some(given), Some(found)) = (build_args.get_mut(SOURCE_DATE_EPOCH), &self.epoch_text) {
            given.clone_from(found);
        }
        PlanOptions {
            build_args,
            target: self.options.target.clone(),
            platform: platform.clone(),
            platform_choice: match self.options.platforms.is_empty() {
                true => PlatformChoice::Machine,
                false => PlatformChoice::Asked,
            },
            build_platform: Platform::host(),
            named_contexts: self.options.named_contexts.keys().cloned().collect(),
            labels: self.options.labels.clone(),
            network: self.options.network,
            source_date_epoch: self.epoch_text.clone(),
        }
    }

    /// Plans every platform, fetching the configurations that this takes; gives the target of each.
    pub(super) fn plan(&mut self, dockerfile: &Dockerfile) -> Result<Vec<StageKey>, BuildError> {
        let mut targets = Vec::new();
        let mut unused: Option<BTreeSet<String>> = None;
        let mut errors = Vec::new();
        for number in 0..self.platforms.len() {
            let plan = match self.plan_platform(dockerfile, &self.platforms[number].clone()) {
                Ok(plan) => plan,
                Err(bases) => {
                    errors.extend(bases);
                    errors.extend(self.look_through(dockerfile, number, Stages::Needed));
                    continue;
                }
            };
            targets.push(StageKey { platform: number, stage: plan.target });
            let args: BTreeSet<String> = plan.unused_args.iter().cloned().collect();
            unused = Some(unused.map_or(args.clone(), |before| before.intersection(&args).cloned().collect()));
            for stage in plan.stages {
                self.plans.insert(StageKey { platform: number, stage: stage.index }, stage);
            }
        }
        if !errors.is_empty() {
            errors.extend(self.source_errors());
        }
        BuildError::unless_none(errors)?;
        self.mark_exported(&targets);
        for name in unused.unwrap_or_default() {
            self.events.event(Event::Warning(Warning {
                rule: "unused-build-arg".to_owned(),
                message: format!("the build argument `{name}` is declared nowhere"),
                help: format!("declare it with `ARG {name}`, or leave --build-arg {name} out"),
                span: None,
            }));
        }
        Ok(targets)
    }

    /// Looks for what is wrong with stages of a platform that can't be planned; gives it, and keeps the steps that are
    /// known.
    pub(in crate::exec) fn look_through(
        &mut self,
        dockerfile: &Dockerfile,
        platform: usize,
        stages: Stages,
    ) -> Vec<BuildError> {
        let options = self.plan_options(&self.platforms[platform]);
        let glance = plan::glance(dockerfile, &options, &self.bases.configs(), stages);
        self.plans.extend(glance.stages.into_iter().map(|plan| (StageKey { platform, stage: plan.index }, plan)));
        glance.errors.into_iter().map(BuildError::from).collect()
    }

    /// Plans a platform. Where that is not possible, gives what is wrong with bases, and nothing else.
    fn plan_platform(&self, dockerfile: &Dockerfile, platform: &Platform) -> Result<Plan, Vec<BuildError>> {
        let options = self.plan_options(platform);
        loop {
            match plan::plan(dockerfile, &options, &self.bases.configs()) {
                Ok(Outcome::Plan(plan)) => return Ok(plan),
                Ok(Outcome::Needs(needed)) => {
                    let failed = self.bases.resolve_all(self, &needed);
                    if !failed.is_empty() {
                        return Err(failed.into_iter().map(|error| near_stage(error, dockerfile)).collect());
                    }
                }
                Err(_) => return Err(Vec::new()),
            }
            self.check_cancelled().map_err(|error| vec![error])?;
        }
    }

    /// Notes which stages' layers become part of an image.
    pub(super) fn mark_exported(&mut self, targets: &[StageKey]) {
        if !self.makes_image() {
            return;
        }
        for target in targets {
            let mut key = *target;
            while self.exported.insert(key) {
                let Some(Source::Stage(stage)) = self.plans.get(&key).map(|plan| plan.base.clone()) else { break };
                key.stage = stage;
            }
        }
    }

    /// Tells all steps, numbered.
    pub(in crate::exec) fn announce(&mut self) -> Vec<StepInfo> {
        let several = self.platforms.len() > 1;
        let mut steps = Vec::new();
        for (key, plan) in &self.plans {
            self.first_steps.insert(*key, steps.len());
            let count = plan.steps.len();
            steps.extend(plan.steps.iter().enumerate().map(|(number, step)| StepInfo {
                stage: plan.name.clone(),
                position: Some((number + 1, count)),
                name: step.name.clone(),
                span: step.span.clone(),
                platform: several.then(|| plan.platform.clone()),
            }));
        }
        self.events.event(Event::Planned { steps: steps.clone() });
        steps
    }

    /// Refuses to expect something of stages that are not built.
    pub(in crate::exec) fn check_expectations(&self) -> Result<(), BuildError> {
        let ExpectCached::Stages(names) = &self.options.expect_cached else { return Ok(()) };
        let stages: BTreeSet<&str> = self.plans.values().map(|plan| plan.name.as_str()).collect();
        match names.iter().find(|name| !stages.iter().any(|stage| stage.eq_ignore_ascii_case(name))) {
            None => Ok(()),
            Some(name) => Err(BuildError::usage(
                format!("--expect-cached names the stage `{name}`, which is not part of this build"),
                format!("stages that are: {}", stages.into_iter().collect::<Vec<_>>().join(", ")),
            )),
        }
    }
}

/// An image that can't be had may be a stage's name, mistyped, or that of no stage.
fn near_stage(error: BuildError, dockerfile: &Dockerfile) -> BuildError {
    let Some(place) = error.span() else { return error };
    let named = dockerfile.source().get(place.clone()).unwrap_or_default().to_lowercase();
    let stages = dockerfile.stages.iter().filter_map(|stage| stage.name.as_deref());
    if let Some(stage) = rbuild_dockerfile::nearest(&named, stages) {
        // This is more likely than that the image is private, or was not fetched.
        return error.with_help(format!("did you mean the stage `{stage}`?"));
    }
    // FROM takes images, but --from mostly stages.
    let is_base = dockerfile.stages.iter().any(|stage| stage.base.span.range() == place);
    if is_base || named.contains(['/', ':', '@']) {
        return error;
    }
    let no_stage = "no stage and no --build-context has this name, so it was taken for an image's";
    let help = match error.help() {
        "" => no_stage.to_owned(),
        help => format!("{no_stage}; {help}"),
    };
    error.with_help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_cannot_be_had_may_be_a_stage() {
        let help = |name: &str| {
            let text = format!("FROM busybox AS builder\nFROM scratch\nCOPY --from={name} /a /a\n");
            let at = text.find(&format!("={name}")).expect("it is in the text") + 1;
            let error = BuildError::failed("load", "missing").at(at..at + name.len());
            near_stage(error, &rbuild_dockerfile::parse(&text).0).help().to_owned()
        };
        assert_eq!(help("bulider"), "did you mean the stage `builder`?");
        assert!(help("assets").starts_with("no stage and no --build-context has this name"));
        assert_eq!(help("ghcr.io/some/image:1"), "");

        let text = "FROM nowhere AS builder\n";
        let error = BuildError::failed("load", "missing").at(5..12);
        assert_eq!(near_stage(error, &rbuild_dockerfile::parse(text).0).help(), "");

        let text = "FROM busybox AS builder\nFROM scratch\nCOPY --from=bulider /a /a\n";
        let error = BuildError::failed("load", "missing").with_help("log in").at(49..56);
        assert_eq!(near_stage(error, &rbuild_dockerfile::parse(text).0).help(), "did you mean the stage `builder`?");
    }
}
