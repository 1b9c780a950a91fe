//! Steps whose files change while they are used.
//!
//! A step's key says what its files hold, so a layer of anything else is none of that step's. Where a file of a folder turns
//! out to be another than the one that was looked at, the step begins anew; from then on the build uses copies of files that
//! change (`context/held.rs`), so that a folder that a program writes to all the time can be built too.

use std::error::Error;
use std::io;

use super::build::Build;
use crate::context::ChangedFile;
use crate::error::{BuildError, ErrorKind};
use crate::layer::LayerError;
use crate::plan::{Action, Source, Step};
use crate::progress::{Event, Miss, StepId};

/// How many times a step begins before its files are said to change too much.
const MOST_BEGINNINGS: usize = 10;

/// Files changed while the build used them.
#[derive(Debug, thiserror::Error)]
#[error("its files changed while the build used them")]
pub(crate) struct ChangedFiles;

/// A step that may have to begin anew.
pub(crate) struct Beginning {
    count: usize,
    is_told: bool,
}

impl Beginning {
    /// Says that the step is begun, unless that was said before.
    pub(crate) fn tell(&mut self, build: &Build<'_>, step: StepId, miss: Option<Miss>) {
        if !std::mem::replace(&mut self.is_told, true) {
            build.events.event(Event::StepStarted { step, miss });
        }
    }

    /// Whether a step that failed begins anew.
    pub(crate) fn is_again(&self, step: &Step, error: &BuildError) -> bool {
        self.count < MOST_BEGINNINGS && takes_from_folder(step) && tells_change(error)
    }
}

impl Build<'_> {
    /// Does a step, which may begin anew where files of a folder changed.
    pub(crate) fn with_steady_files<T>(
        &self,
        step: &Step,
        mut perform: impl FnMut(&mut Beginning) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        let mut beginning = Beginning { count: 1, is_told: false };
        loop {
            match perform(&mut beginning) {
                Err(error) if beginning.is_again(step, &error) => {
                    beginning.count += 1;
                    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                    self.events
                        .event(Event::Note(format!("the step begins anew, with copies of files that change: {cause}")));
                    self.hold_changing_files();
                }
                Err(error) if tells_change(&error) => {
                    return Err(error.with_help("build again when nothing writes to the files"));
                }
                result => return result,
            }
        }
    }

    /// Uses copies of files that change, from now on.
    fn hold_changing_files(&self) {
        self.context().forget();
        self.folders().iter().for_each(|folder| folder.hold_changing());
    }
}

/// Whether a step takes files from a folder of this machine, or may.
fn takes_from_folder(step: &Step) -> bool {
    let is_folder = |source: &Source| matches!(source, Source::Context | Source::Named(_));
    match &step.action {
        Action::Copy(copy) => is_folder(&copy.from),
        Action::Run(run) => run.mounts.iter().any(|(_, from)| from.as_ref().is_none_or(is_folder)),
        Action::MakeDirectory { .. } => false,
    }
}

/// Whether an error says that files changed.
fn tells_change(error: &BuildError) -> bool {
    let ErrorKind::Failed { cause, .. } = &error.kind else { return false };
    let mut next: Option<&(dyn Error + 'static)> = Some(&**cause);
    while let Some(error) = next {
        let in_call = error.downcast_ref().and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<ChangedFile>());
        let in_layer = matches!(error.downcast_ref(), Some(LayerError::ContentSize { .. } | LayerError::Changed));
        if in_call || in_layer || error.is::<ChangedFiles>() {
            return true;
        }
        next = error.source();
    }
    false
}
