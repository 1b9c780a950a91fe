//! One stage: its steps, one after the other. Each is looked up, else done and recorded.

use std::time::Instant;

use super::build::{Build, StageKey, in_step};
use super::changing::Beginning;
use super::earlier::{EarlierRun, written};
use super::encoding::AddOptions;
use super::jobs::{COMMAND_MEMORY, COPY_MEMORY};
use super::journal::{StepNote, milliseconds};
use super::layers::StackLayer;
use super::options::{ExpectCached, NoCache};
use super::owner::add_owner;
use super::unread_copy::Taken;
use crate::cache::{Files, PreImage, StepKey, StepRecord, input};
use crate::error::{BuildError, During, ErrorKind};
use crate::layer::Compression;
use crate::oci::{ChainId, DiffId, ImageConfig};
use crate::plan::{Action, Source, StagePlan, Step};
use crate::progress::{Event, StepEnd, StepId};
use crate::tree::{ChangeList, MergedTree};

/// What a stage came to.
#[derive(Debug, Clone)]
pub(crate) struct StageResult {
    pub(crate) stack: Vec<StackLayer>,
    pub(crate) config: ImageConfig,
}

/// A stage while its steps are done.
pub(crate) struct StageRun<'b, 'o> {
    pub(crate) build: &'b Build<'o>,
    pub(crate) plan: &'b StagePlan,
    pub(crate) key: StageKey,
    /// The layers so far, lowest first.
    pub(crate) stack: Vec<StackLayer>,
    /// How many of them are the base's.
    base_layers: usize,
    /// The chain IDs of the base's layers, and of the stage's own: a stage of hundreds of steps would spend its time on
    /// computing them anew for each.
    chains: (Option<ChainId>, Option<ChainId>),
    /// Whether the layers become part of the image.
    pub(crate) exported: bool,
    /// Layers of earlier builds, which may not have been compressed.
    found: Vec<StackLayer>,
    /// Whether files may be copied before a step's key is known.
    pub(crate) copies_unread: bool,
}

/// What doing a step gave.
pub(crate) struct Made {
    pub(crate) diff_id: DiffId,
    /// The inputs of a COPY one by one, for later explanations.
    pub(crate) files: Option<Files>,
    /// The most memory that a command's processes had, bytes; 0 where that is not known.
    pub(crate) peak_bytes: u64,
    pub(crate) taken: Taken,
}

/// A step that was prepared: its inputs, and what is needed to do it.
pub(crate) enum Prepared {
    Run(super::run::PreparedRun),
    Copy(Box<super::copy::PreparedCopy>),
    MakeDirectory,
}

impl Prepared {
    /// Whether all inputs are known.
    fn has_key(&self) -> bool {
        !matches!(self, Self::Copy(copy) if copy.unread)
    }

    /// The files that a command's bind mounts show.
    fn mounted_files(&self) -> Option<Files> {
        match self {
            Self::Run(run) => Some(run.mounted.list()).filter(|files| !files.is_empty()).cloned(),
            _ => None,
        }
    }
}

/// How a step ended that failed with this error.
const fn end_of(error: &BuildError) -> StepEnd {
    match error.kind {
        ErrorKind::Cancelled => StepEnd::Cancelled,
        _ => StepEnd::Failed,
    }
}

/// Builds a stage.
pub(crate) fn run_stage(build: &Build<'_>, key: &StageKey, plan: &StagePlan) -> Result<StageResult, BuildError> {
    let (stack, mut config) = base(build, key, plan)?;
    let mut run = StageRun::new(build, key, plan, stack);
    run.copies_unread = true;
    let history_start = config.history.len();
    let mut history = plan.history.clone();
    for (number, step) in plan.steps.iter().enumerate() {
        let id = build.step_id(key, number);
        let created = run.step(number, step, id).map_err(|error| in_step(error, plan, step))?;
        history[step.history].created = Some(build.timestamp(created));
    }
    // A plan without a configuration of its own keeps the base's.
    if !plan.config.os.is_empty() {
        config = ImageConfig { history: std::mem::take(&mut config.history), ..plan.config.clone() };
    }
    config.history.truncate(history_start);
    config.history.extend(history);
    config.rootfs.diff_ids = run.stack.iter().map(|layer| layer.diff_id).collect();
    Ok(StageResult { stack: run.stack, config })
}

/// What a stage starts from.
pub(crate) fn base(
    build: &Build<'_>,
    key: &StageKey,
    plan: &StagePlan,
) -> Result<(Vec<StackLayer>, ImageConfig), BuildError> {
    match &plan.base {
        Source::Stage(stage) => {
            let base = build.results.wait(&StageKey { platform: key.platform, stage: *stage })?;
            Ok((base.stack.clone(), base.config.clone()))
        }
        source => build.base_of(source, plan),
    }
}

impl<'b, 'o> StageRun<'b, 'o> {
    /// A stage of which nothing is done yet.
    pub(crate) fn new(build: &'b Build<'o>, key: &StageKey, plan: &'b StagePlan, stack: Vec<StackLayer>) -> Self {
        let base: Vec<DiffId> = stack.iter().map(|layer| layer.diff_id).collect();
        let (chains, exported) = ((ChainId::of(&base), None), build.is_exported(key));
        let (base_layers, found) = (stack.len(), Vec::new());
        StageRun { build, plan, key: *key, base_layers, chains, stack, exported, found, copies_unread: false }
    }
}

impl StageRun<'_, '_> {
    /// Does one step, or finds its result; gives when it was made, seconds since the epoch.
    fn step(&mut self, number: usize, step: &Step, id: StepId) -> Result<i64, BuildError> {
        self.build.with_steady_files(step, |beginning| self.begin(number, step, id, beginning))
    }

    fn begin(&mut self, number: usize, step: &Step, id: StepId, beginning: &mut Beginning) -> Result<i64, BuildError> {
        let build = self.build;
        build.check_cancelled()?;
        let mut inputs = PreImage::new();
        let note_end = |error: &BuildError, note| build.journal.note(id, StepNote { end: Some(end_of(error)), ..note });
        let mut prepared = self.prepare(step, &mut inputs).inspect_err(|error| note_end(error, StepNote::default()))?;
        let key = prepared.has_key().then(|| inputs.key());
        let started = Instant::now();
        let mut note = StepNote { key: key.clone(), ..StepNote::default() };
        if let Some(key) = key.filter(|_| !self.must_run())
            && let Some(record) = self.recorded(&key)
        {
            beginning.tell(build, id, None);
            let layer = StackLayer { diff_id: record.diff_id, base_blob: None };
            self.found.extend(self.exported.then(|| layer.clone()));
            self.push(layer);
            build.carry.note(self.key, &key, record.diff_id);
            build.events.event(Event::StepEnded { step: id, end: StepEnd::Cached, took: started.elapsed() });
            build.journal.note(id, StepNote { result: Some(record.diff_id), end: Some(StepEnd::Cached), ..note });
            return Ok(record.created);
        }
        self.keep_promises(step)?;
        if let (Action::Copy(copy), Prepared::Copy(prepared)) = (&step.action, &mut prepared) {
            self.complete_copy(copy, prepared)?;
        }
        let written = written(step);
        let earlier = self.earlier_run(number, &inputs, &written, &prepared);
        let EarlierRun { miss, against, record: last } = earlier.inspect_err(|error| note_end(error, note.clone()))?;
        (note.miss, note.against) = (Some(miss.clone()), against);
        if let Prepared::Copy(prepared) = &mut prepared {
            prepared.earlier = last.as_ref().map(|record| record.diff_id);
        }
        self.check_expected(id, &note)?;
        let memory = memory_of(step, last.as_ref());
        build.settle_in_background();
        let job = build.jobs.take(memory, || build.check_cancelled().is_err())?;
        beginning.tell(build, id, Some(miss));
        if let Action::Run(_) = step.action {
            self.found.drain(..).for_each(|layer| build.compress_in_background(&layer));
        }
        let started = Instant::now();
        let mounted = prepared.mounted_files();
        let result = self.perform(step, prepared, id, &inputs);
        drop(job);
        let made = match result {
            Ok(made) => made,
            Err(error) if beginning.is_again(step, &error) => return Err(error),
            Err(error) => {
                let (end, took) = (end_of(&error), started.elapsed());
                build.events.event(Event::StepEnded { step: id, end, took });
                note_end(&error, StepNote { took_ms: milliseconds(took), ..note });
                return Err(error);
            }
        };
        let (diff_id, created, unchanged) = self.cut_off(step, last, made.diff_id);
        let took = started.elapsed();
        let took_ms = milliseconds(took);
        note.key = made.taken.key(&mut inputs);
        if let Some(key) = &note.key {
            let record = StepRecord { inputs, written, diff_id, created, took_ms, peak_bytes: made.peak_bytes };
            self.keep(key, &record, made.files.or(mounted))?;
            build.carry.note(self.key, key, diff_id);
        }
        let layer = StackLayer { diff_id, base_blob: None };
        if self.exported {
            build.compress_in_background(&layer);
        }
        self.push(layer);
        let end = if unchanged { StepEnd::Unchanged } else { StepEnd::Done };
        build.events.event(Event::StepEnded { step: id, end, took });
        build.journal.note(id, StepNote { result: Some(diff_id), end: Some(end), took_ms, ..note });
        Ok(created)
    }

    /// Makes sure that what a step needs that is to be done now is more than a promise.
    ///
    /// # Errors
    /// When it is not: the build begins again, and makes what was promised.
    pub(crate) fn keep_promises(&self, step: &Step) -> Result<(), BuildError> {
        let alone = matches!(&step.action, Action::Copy(copy) if copy.link);
        let mut needed: Vec<StackLayer> = if alone { Vec::new() } else { self.stack.clone() };
        for source in step.sources() {
            if let Source::Stage(stage) = source {
                needed.extend_from_slice(&self.build.stage_result(self.key.platform, *stage)?.stack);
            }
        }
        if needed.iter().any(|layer| self.build.layers.is_promise(layer.diff_id)) {
            self.build.carry.losses().break_promises();
            return Err(BuildError::failed("do the step", "of layers that it needs only the steps are known"));
        }
        Ok(())
    }

    /// Puts a step's layer on top.
    pub(crate) fn push(&mut self, layer: StackLayer) {
        self.chains.1 = Some(ChainId::with(self.chains.1, layer.diff_id));
        self.stack.push(layer);
    }

    /// Records what a step gave, and the files that it took, for later explanations.
    fn keep(&self, key: &StepKey, record: &StepRecord, files: Option<Files>) -> Result<(), BuildError> {
        let store = self.build.layers.store();
        let action = || "record the step".to_owned();
        if let Some(files) = files {
            store.write_note("files", key.as_str(), files.as_bytes()).during(action)?;
        }
        store.write_step(key.as_str(), &record.to_bytes()).during(action)
    }

    /// Refuses to do a step that was expected to have an earlier result.
    fn check_expected(&self, id: StepId, note: &StepNote) -> Result<(), BuildError> {
        let build = self.build;
        let expected = match &build.options.expect_cached {
            ExpectCached::Nothing => false,
            ExpectCached::All => true,
            ExpectCached::Stages(names) => names.iter().any(|name| name.eq_ignore_ascii_case(&self.plan.name)),
        };
        let Some(miss) = note.miss.clone().filter(|_| expected) else { return Ok(()) };
        // It was not begun: the record of the build knows why, and no end.
        build.journal.note(id, note.clone());
        build.events.event(Event::StepStarted { step: id, miss: Some(miss.clone()) });
        build.events.event(Event::StepEnded { step: id, end: StepEnd::Failed, took: std::time::Duration::ZERO });
        Err(ErrorKind::NotCached { miss }.into())
    }

    pub(crate) fn must_run(&self) -> bool {
        match &self.build.options.no_cache {
            NoCache::Never => false,
            NoCache::All => true,
            NoCache::Stages(names) => names.iter().any(|name| name.eq_ignore_ascii_case(&self.plan.name)),
        }
    }

    /// Lists a step's inputs, and reads what they are.
    pub(crate) fn prepare(&self, step: &Step, inputs: &mut PreImage) -> Result<Prepared, BuildError> {
        let instruction = step.name.split(' ').next().unwrap_or_default();
        inputs.add("instruction", instruction);
        inputs.add("platform", self.plan.platform.to_string());
        self.check_owner(step)?;
        Ok(match &step.action {
            Action::Run(run) => {
                self.add_parent(inputs);
                Prepared::Run(self.prepare_run(run, inputs)?)
            }
            Action::Copy(copy) => {
                if !copy.link {
                    self.add_parent(inputs);
                }
                Prepared::Copy(Box::new(self.prepare_copy(copy, inputs)?))
            }
            Action::MakeDirectory { path, owner } => {
                self.add_parent(inputs);
                inputs.add("directory", path);
                add_owner("user", owner, inputs);
                self.add_epoch(inputs);
                Prepared::MakeDirectory
            }
        })
    }

    /// Adds what is below: by contents, so a base that was pulled anew, or a step that ran again, changes nothing by
    /// itself.
    fn add_parent(&self, inputs: &mut PreImage) {
        let digest =
            |chain: Option<ChainId>| chain.map_or_else(|| input::NO_LAYERS.to_owned(), |chain| chain.to_string());
        inputs.add(input::BASE, digest(self.chains.0));
        inputs.add(input::EARLIER_STEP, digest(self.chains.1));
    }

    pub(crate) fn add_epoch(&self, inputs: &mut PreImage) {
        if let Some(epoch) = self.build.file_epoch() {
            inputs.add("SOURCE_DATE_EPOCH", epoch.to_string());
        }
    }

    fn perform(&self, step: &Step, prepared: Prepared, id: StepId, inputs: &PreImage) -> Result<Made, BuildError> {
        match (&step.action, prepared) {
            (Action::Run(run), Prepared::Run(prepared)) => self.run(run, &prepared, id),
            (Action::Copy(copy), Prepared::Copy(prepared)) => self.copy(copy, *prepared, step),
            (Action::MakeDirectory { path, owner }, Prepared::MakeDirectory) => self.make_directory(path, owner),
            _ => unreachable!("a step is prepared as what it is: {inputs:?}"),
        }
    }

    /// The tree of the layers so far.
    pub(crate) fn below(&self) -> Result<MergedTree, BuildError> {
        if self.plan.steps.iter().skip(self.steps_done()).any(|step| matches!(step.action, Action::Run(_))) {
            return self.build.layers.view_with_files(&self.stack);
        }
        self.build.layers.view(&self.stack)
    }

    /// Stores the layer of a step that made changes without running anything.
    ///
    /// The layer `earlier` may have most of the files already.
    pub(crate) fn store_changes(
        &self,
        mut changes: ChangeList,
        files: Option<Files>,
        earlier: Option<DiffId>,
    ) -> Result<Made, BuildError> {
        if let Some(epoch) = self.build.file_epoch() {
            let action = || "write the layer".to_owned();
            let folder = self.build.layers.store().temp_folder().during(action)?;
            let clamped = changes.iter().map(|change| Ok(crate::snapshot::clamp_time(change?, epoch)));
            changes = ChangeList::collect_in(&folder, clamped).during(action)?;
        }
        let unpack = self.compression().is_none() || self.runs_later();
        // A command need not wait for a large layer to be compressed. What an earlier layer has is only copied.
        let is_later = unpack && earlier.is_none() && crate::layer::is_large(&changes);
        let (compression, later) = self.now_or_later(is_later);
        let diff_id = self.build.layers.add(&changes, AddOptions { compression, later, unpack, earlier })?;
        Ok(Made { diff_id, files, peak_bytes: 0, taken: Taken::AsPrepared })
    }

    /// How this stage's layers are compressed, where they become part of the image.
    pub(crate) fn compression(&self) -> Option<Compression> {
        self.exported.then_some(self.build.options.compression)
    }

    /// The compression of a layer that is compressed now, and that of one that is compressed later.
    pub(crate) fn now_or_later(&self, is_later: bool) -> (Option<Compression>, Option<Compression>) {
        let compression = self.compression();
        if is_later { (None, compression) } else { (compression, None) }
    }

    /// Whether the step that is done now is the last of this stage.
    pub(crate) fn is_last(&self) -> bool {
        self.steps_done() + 1 == self.plan.steps.len()
    }

    /// How many of this stage's steps are done.
    pub(crate) const fn steps_done(&self) -> usize {
        self.stack.len() - self.base_layers
    }

    /// Whether a later step of this stage needs the files on disk.
    fn runs_later(&self) -> bool {
        self.plan.steps.iter().skip(self.steps_done() + 1).any(|step| matches!(step.action, Action::Run(_)))
    }
}

/// How much memory a step will need, by its last run in this place: bytes.
fn memory_of(step: &Step, last: Option<&StepRecord>) -> u64 {
    match step.action {
        Action::Run(_) => last.map(|record| record.peak_bytes).filter(|peak| *peak > 0).unwrap_or(COMMAND_MEMORY),
        Action::Copy(_) | Action::MakeDirectory { .. } => COPY_MEMORY,
    }
}
