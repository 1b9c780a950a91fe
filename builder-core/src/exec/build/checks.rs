//! What can be found wrong before the first step is done: all of it is told at once.

use std::sync::Arc;

use rbuild_dockerfile::mount::MountType;

use super::Build;
use crate::context::{CopyError, check_source, explain_missing};
use crate::error::{BuildError, FailedStep};
use crate::exec::bases::Resolved;
use crate::exec::selection::select_options;
use crate::plan::{Action, Copy, CopySource, NetworkChoice, Run, Source, StagePlan, Step};
use crate::tree::{FollowLast, TreeView, resolve};

/// The number of a platform, and a source of a step of it.
type PlacedSource<'a> = (usize, &'a Source);

impl Build<'_> {
    /// Refuses what can't be done, whether or not there are earlier results.
    ///
    /// # Errors
    /// Permissions that steps need and were not given, devices and emulators that are not there, and sources that the
    /// build context lacks.
    pub(in crate::exec) fn check_steps(&self) -> Result<(), BuildError> {
        let mut errors = self.entitlement_errors();
        errors.extend(self.device_errors());
        errors.extend(self.emulator_errors());
        errors.extend(self.source_errors());
        BuildError::unless_none(errors)
    }

    /// Looks at every command; an error says which step it belongs to.
    pub(in crate::exec) fn check_runs(&self, check: impl Fn(&Run) -> Result<(), BuildError>) -> Vec<BuildError> {
        let check = |plan: &StagePlan, step: &Step| match &step.action {
            Action::Run(run) => check(run).err().map(|error| in_step(error, plan, step)).into_iter().collect(),
            Action::Copy(_) | Action::MakeDirectory { .. } => Vec::new(),
        };
        self.check_each_step(check)
    }

    fn check_each_step(&self, check: impl Fn(&StagePlan, &Step) -> Vec<BuildError>) -> Vec<BuildError> {
        let steps = self.plans.values().flat_map(|plan| plan.steps.iter().map(move |step| (plan, step)));
        steps.flat_map(|(plan, step)| check(plan, step)).collect()
    }

    fn entitlement_errors(&self) -> Vec<BuildError> {
        self.check_runs(|run| {
            let host = run.network == NetworkChoice::Host && self.options.network != NetworkChoice::Host;
            for (needed, name) in [(host, "network.host"), (run.insecure, "security.insecure")] {
                if needed && !self.options.allow.contains(name) {
                    return Err(BuildError::plan(
                        "entitlement-needed",
                        format!("the step needs the entitlement `{name}`, which was not granted"),
                        format!("allow it with --allow {name}"),
                        None,
                    ));
                }
            }
            Ok(())
        })
    }

    /// Refuses sources that the folders which they are to come from lack. What stages and images hold is not looked at:
    /// that may take a fetch, or a step.
    ///
    /// # Errors
    /// All of them.
    pub(in crate::exec) fn check_sources(&self) -> Result<(), BuildError> {
        BuildError::unless_none(self.source_errors())
    }

    pub(in crate::exec) fn source_errors(&self) -> Vec<BuildError> {
        self.check_each_step(|plan, step| {
            let errors = match &step.action {
                Action::Copy(copy) => self.missing_sources(copy),
                Action::Run(run) => self.missing_mounts(run),
                Action::MakeDirectory { .. } => Vec::new(),
            };
            errors.into_iter().map(|error| in_step(error, plan, step)).collect()
        })
    }

    fn missing_sources(&self, copy: &Copy) -> Vec<BuildError> {
        let Some(view) = self.folder_view(&copy.from) else { return Vec::new() };
        let paths = copy.sources.iter().filter_map(|source| match source {
            CopySource::Path(path) => Some(path),
            CopySource::Heredoc { .. } | CopySource::Remote(_) => None,
        });
        let wrong = paths.filter_map(|path| {
            let error = check_source(&*view, &select_options(copy, path)).err()?;
            Some(self.unusable_source(error, &*view, (0, &copy.from), path).at(copy.place_of(path)))
        });
        wrong.collect()
    }

    fn missing_mounts(&self, run: &Run) -> Vec<BuildError> {
        let wrong = run.mounts.iter().filter_map(|(mount, from)| {
            let from = from.as_ref().or((mount.kind == MountType::Bind).then_some(&Source::Context))?;
            let view = self.folder_view(from)?;
            let path = resolve(&*view, mount.source.as_bytes(), FollowLast::Yes).ok()?;
            let missing = matches!(view.get(&path), Ok(None));
            missing.then(|| self.missing_mount(&*view, (0, from), &mount.source).at(run.place_of(mount)))
        });
        wrong.collect()
    }

    /// A source that is a folder of files, and no image.
    fn folder_view(&self, source: &Source) -> Option<Arc<dyn TreeView>> {
        match source {
            Source::Context => Some(self.context_view()),
            Source::Named(_) => match self.bases.resolved(source)? {
                Resolved::Folder(view) => Some(view),
                Resolved::Image(_) => None,
            },
            Source::Stage(_) | Source::Image { .. } | Source::Scratch => None,
        }
    }

    /// What is attempted with a mount.
    pub(in crate::exec) fn mounting(&self, from: PlacedSource<'_>, path: &str) -> String {
        let shown = if path.is_empty() { "/" } else { path };
        format!("mount `{shown}` from {}", self.describe_source(from))
    }

    /// The error of a mount of what is not there.
    pub(in crate::exec) fn missing_mount(&self, view: &dyn TreeView, from: PlacedSource<'_>, path: &str) -> BuildError {
        let failed = BuildError::failed(self.mounting(from, path), format!("`{path}` was not found"));
        failed.with_help(self.missing_help(view, from.1, path))
    }

    /// The error of a source of COPY or ADD that can't be copied.
    pub(in crate::exec) fn unusable_source(
        &self,
        error: CopyError,
        view: &dyn TreeView,
        from: PlacedSource<'_>,
        path: &str,
    ) -> BuildError {
        let is_missing = matches!(error, CopyError::SourceNotFound { .. });
        let failed = BuildError::failed(format!("copy `{path}` from {}", self.describe_source(from)), error);
        if is_missing { failed.with_help(self.missing_help(view, from.1, path)) } else { failed }
    }

    fn describe_source(&self, (platform, from): PlacedSource<'_>) -> String {
        match from {
            Source::Context => "the build context".to_owned(),
            Source::Stage(index) => format!("the stage `{}`", self.stage_name(platform, *index)),
            Source::Named(name) => format!("the build context `{name}`"),
            Source::Image { reference, .. } => format!("the image `{reference}`"),
            Source::Scratch => "the empty image".to_owned(),
        }
    }

    /// More about a path that is missing: the ignore pattern that hides it, or names like it.
    fn missing_help(&self, view: &dyn TreeView, from: &Source, path: &str) -> String {
        let from_context = matches!(from, Source::Context);
        let folder = self.context_folder().filter(|_| from_context);
        let hint = explain_missing(view, folder.map(|(folder, _)| &**folder), path.as_bytes());
        if let (Some((line, pattern)), Some((_, file))) = (&hint.ignored_by, folder) {
            return format!("it is excluded by {file}:{line} (`{pattern}`)");
        }
        if hint.is_hidden {
            return "rbuild keeps its store there, which is no part of a build context".to_owned();
        }
        if let Some(similar) = hint.similar.first() {
            return format!("did you mean `{similar}`?");
        }
        if from_context && path.split('/').any(|part| part == "..") {
            // COMPAT(buildkit): such a path is taken as one from the context's top.
            return "`..` does not lead out of the build context: give a larger folder as the context, or another one with \
                    --build-context and COPY --from"
                .to_owned();
        }
        String::new()
    }
}

/// Says which step an error belongs to.
pub(in crate::exec) fn in_step(error: BuildError, plan: &StagePlan, step: &Step) -> BuildError {
    error.in_step(|| FailedStep { name: step.name.clone(), stage: plan.name.clone(), span: step.span.clone() })
}
