//! Which directories of a folder the build's sources bring, as BuildKit sees it.

use rbuild_dockerfile::mount::MountType;

use super::options::NamedContext;
use super::stage::StageRun;
use crate::context::{CopyError, fruitless_directory, names_something_at};
use crate::plan::{Action, Copy, CopySource, Source, Step};
use crate::tree::TreeView;

impl StageRun<'_, '_> {
    /// Refuses a wildcard without a match in a directory that nothing else in the build names something of.
    ///
    /// # Errors
    /// When `path` is such a source, or the folder can't be read.
    pub(super) fn check_wildcard(&self, copy: &Copy, path: &str, view: &dyn TreeView) -> Result<(), CopyError> {
        if copy.parents || !self.is_local_folder(&copy.from) {
            return Ok(());
        }
        let Some(directory) = fruitless_directory(view, path.as_bytes())? else { return Ok(()) };
        let platform = self.key.platform;
        let plans = self.build.plans().iter().filter(|(key, _)| key.platform == platform);
        for source in plans.flat_map(|(_, plan)| &plan.steps).flat_map(|step| sources_of(step, &copy.from)) {
            if names_something_at(view, source.as_bytes(), &directory)? {
                return Ok(());
            }
        }
        Err(CopyError::NothingMatches { wanted: path.to_owned() })
    }

    /// Whether files come from a folder of this machine, and from no archive, repository or image.
    fn is_local_folder(&self, source: &Source) -> bool {
        match source {
            Source::Context => self.build.context_folder().is_some(),
            Source::Named(name) => {
                matches!(self.build.options.named_contexts.get(name), Some(NamedContext::Directory(_)))
            }
            Source::Scratch | Source::Stage(_) | Source::Image { .. } => false,
        }
    }
}

/// The paths that a step names in `from`.
fn sources_of<'a>(step: &'a Step, from: &'a Source) -> Vec<&'a str> {
    match &step.action {
        Action::Copy(copy) if copy.from == *from => {
            let path = |source: &'a CopySource| match source {
                CopySource::Path(path) => Some(path.as_str()),
                CopySource::Heredoc { .. } | CopySource::Remote(_) => None,
            };
            copy.sources.iter().filter_map(path).collect()
        }
        Action::Run(run) => {
            let mounted = run.mounts.iter().filter(|(mount, source)| match source {
                Some(source) => source == from,
                None => *from == Source::Context && matches!(mount.kind, MountType::Bind),
            });
            mounted.map(|(mount, _)| mount.source.as_str()).collect()
        }
        Action::Copy(_) | Action::MakeDirectory { .. } => Vec::new(),
    }
}
