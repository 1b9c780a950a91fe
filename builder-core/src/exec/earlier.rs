//! Earlier runs of a step: whether their results can be used, why not, and what is left of them.

use std::path::Path;

use super::journal::{Counterpart, text};
use super::stage::{Prepared, StageRun};
use crate::cache::{Files, PreImage, StepFacts, StepKey, StepRecord, Written, explain_miss, input};
use crate::error::{BuildError, During};
use crate::oci::DiffId;
use crate::plan::{Action, Step};
use crate::progress::{Miss, MissCause, StepEnd};
use crate::store::Store;

/// What earlier builds know of a step that has no result to use.
pub(crate) struct EarlierRun {
    pub(crate) miss: Miss,
    /// The build that it was compared with.
    pub(crate) against: Option<String>,
    /// The newest result of the step that is on record, under whatever inputs.
    pub(crate) record: Option<StepRecord>,
}

impl StageRun<'_, '_> {
    /// The result of an earlier run with the same inputs.
    pub(crate) fn recorded(&self, key: &StepKey) -> Option<StepRecord> {
        let build = self.build;
        let stored = build.layers.store().read_step(key.as_str()).ok().flatten();
        let stored = stored.and_then(|bytes| StepRecord::from_bytes(&bytes));
        match stored {
            Some(record) if build.layers.is_available(record.diff_id) => Some(record),
            stored => build.carry.find(build, key, stored, self.is_copied_from_only()),
        }
    }

    /// Whether nothing but other stages' steps takes files from this stage, so that its layers may never be needed.
    fn is_copied_from_only(&self) -> bool {
        !self.exported && self.build.makes_image()
    }

    /// Takes the layer of an earlier run where a command gave the same tree but for times, so that what follows stays
    /// cached.
    pub(super) fn cut_off(&self, step: &Step, last: Option<StepRecord>, made: DiffId) -> (DiffId, i64, bool) {
        let now = self.build.now();
        let Some(last) = last.filter(|_| matches!(step.action, Action::Run(_))) else { return (made, now, false) };
        if last.diff_id == made {
            return (made, last.created, true);
        }
        let layers = &self.build.layers;
        let is_same = || layers.tree(last.diff_id).ok()?.same_but_times(&*layers.tree(made).ok()?).ok();
        if layers.is_stored(last.diff_id) && is_same() == Some(true) {
            (last.diff_id, last.created, true)
        } else {
            (made, now, false)
        }
    }

    /// Says why no earlier result is used.
    ///
    /// # Errors
    /// When the step's files can't be read any more, or changed.
    pub(crate) fn earlier_run(
        &self,
        number: usize,
        inputs: &PreImage,
        written: &Written,
        prepared: &Prepared,
    ) -> Result<EarlierRun, BuildError> {
        let store = self.build.layers.store();
        let key = inputs.key();
        let mut unfinished = None;
        let mut newest = None;
        let mut found = None;
        let mut finished = false;
        for Counterpart { build, step } in self.build.journal.counterparts(self.plan, number) {
            newest.get_or_insert_with(|| build.id.clone());
            let failed = matches!(step.end, Some(StepEnd::Failed | StepEnd::Cancelled));
            finished |= !failed;
            // Of files that were to be copied before they were read no key came.
            let Some(earlier) = &step.key else { continue };
            if failed && earlier == key.as_str() {
                unfinished.get_or_insert_with(|| build.id.clone());
            }
            if let Some(record) = read_record(store, earlier) {
                found = Some((build.id.clone(), record));
                break;
            }
        }
        let (against, record) = found.map_or((newest, None), |(build, record)| (Some(build), Some(record)));
        let miss = if self.must_run() {
            MissCause::NoCache.into()
        } else if let Some(build) = unfinished {
            return Ok(EarlierRun { miss: MissCause::NotFinished.into(), against: Some(build), record });
        } else if let Some(record) = &record {
            let folder = store.temp_folder().during(|| "make a temporary folder".to_owned())?;
            let files = prepared.files(&folder)?;
            let now = StepFacts { inputs, written, files: files.as_ref() };
            explain(store, record, now).unwrap_or_else(|| MissCause::RecordGone.into())
        } else if against.is_some() {
            if finished { MissCause::RecordGone.into() } else { MissCause::NotFinished.into() }
        } else {
            MissCause::NeverBuilt.into()
        };
        Ok(EarlierRun { miss, against, record })
    }
}

impl Prepared {
    /// The files that a step takes, one by one. A list of very many is made with the help of a file in `folder`.
    ///
    /// # Errors
    /// When they can't be read any more, or changed.
    pub(crate) fn files(&self, folder: &Path) -> Result<Option<Files>, BuildError> {
        Ok(match self {
            Self::Copy(copy) => Some(copy.describe(folder)?),
            Self::Run(run) => Some(run.mounted.list().clone()),
            Self::MakeDirectory => None,
        })
    }
}

/// Compares a step with an earlier run of it.
pub(crate) fn explain(store: &Store, before: &StepRecord, now: StepFacts<'_>) -> Option<Miss> {
    let files = recorded_files(store, before.inputs.key().as_str());
    let before = StepFacts { inputs: &before.inputs, written: &before.written, files: files.as_ref() };
    explain_miss(&before, &now)
}

/// The files that a step on record took.
pub(crate) fn recorded_files(store: &Store, key: &str) -> Option<Files> {
    Files::from_bytes(store.read_note("files", key).ok()??)
}

/// What a step with that key gave.
pub(crate) fn read_record(store: &Store, key: &str) -> Option<StepRecord> {
    StepRecord::from_bytes(&store.read_step(key).ok()??)
}

/// What a step is in the Dockerfile, as records have it: without credentials.
pub(crate) fn written(step: &Step) -> Written {
    let variables = step.origin.variables.iter().map(|variable| {
        let kind = if variable.is_arg { "ARG" } else { "ENV" };
        (format!("{kind} {}", variable.name), input::recorded(&variable.name, &variable.value))
    });
    let text: Vec<String> = text(step).split_whitespace().map(super::context::shown).collect();
    Written {
        text: text.join(" "),
        variables: variables.collect(),
        heredocs: step.origin.heredocs.iter().map(|(name, body)| (name.clone(), body.to_string())).collect(),
    }
}
