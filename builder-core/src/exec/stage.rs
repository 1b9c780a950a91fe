//! One stage: its steps, one after the other. Each is looked up, else done and recorded.

use std::collections::BTreeMap;
use std::time::Instant;

use super::build::{Build, StageKey};
use super::encoding::AddOptions;
use super::jobs::{COMMAND_MEMORY, COPY_MEMORY};
use super::layers::StackLayer;
use super::options::NoCache;
use crate::cache::{PreImage, StepKey, StepRecord, explain_miss};
use crate::error::{BuildError, During, FailedStep};
use crate::layer::Compression;
use crate::oci::{ChainId, DiffId, ImageConfig};
use crate::plan::{Action, Source, StagePlan, Step};
use crate::progress::{Event, StepEnd, StepId};
use crate::tree::{Change, MergedTree};

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
}

/// What doing a step gave.
pub(crate) struct Made {
    pub(crate) diff_id: DiffId,
    /// The inputs of a COPY one by one, for later explanations.
    pub(crate) files: Option<BTreeMap<String, String>>,
    /// The most memory that a command's processes had, bytes; 0 where that is not known.
    pub(crate) peak_bytes: u64,
}

/// A step that was prepared: its inputs, and what is needed to do it.
pub(crate) enum Prepared {
    Run(super::run::PreparedRun),
    Copy(super::copy::PreparedCopy),
    MakeDirectory,
}

/// Builds a stage.
pub(crate) fn run_stage(build: &Build<'_>, key: &StageKey, plan: &StagePlan) -> Result<StageResult, BuildError> {
    let (stack, mut config) = match &plan.base {
        Source::Stage(stage) => {
            let base = build.results.wait(&StageKey { platform: key.platform, stage: *stage })?;
            (base.stack.clone(), base.config.clone())
        }
        source => build.base_of(source, plan)?,
    };
    let base: Vec<DiffId> = stack.iter().map(|layer| layer.diff_id).collect();
    let chains = (ChainId::of(&base), None);
    let exported = build.is_exported(key);
    let mut run = StageRun { build, plan, key: *key, base_layers: stack.len(), chains, stack, exported };
    let history_start = config.history.len();
    let mut history = plan.history.clone();
    for (number, step) in plan.steps.iter().enumerate() {
        let id = build.step_id(key, number);
        let created = run.step(number, step, id).map_err(|error| {
            error.in_step(|| FailedStep { name: step.name.clone(), stage: plan.name.clone(), span: step.span.clone() })
        })?;
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

impl StageRun<'_, '_> {
    /// Does one step, or finds its result; gives when it was made, seconds since the epoch.
    fn step(&mut self, number: usize, step: &Step, id: StepId) -> Result<i64, BuildError> {
        let build = self.build;
        build.check_cancelled()?;
        let mut inputs = PreImage::new();
        let prepared = self.prepare(step, &mut inputs)?;
        let key = inputs.key();
        let started = Instant::now();
        let slot = format!("{}\0{}\0{number}", build.identity, self.plan.name);
        if !self.must_run()
            && let Some(record) = self.recorded(&key)
        {
            build.events.event(Event::StepStarted { step: id, miss: None });
            self.push(StackLayer { diff_id: record.diff_id, base_blob: None });
            self.remember_last(&slot, &key)?;
            build.carry.note(self.key, &key, record.diff_id);
            build.events.event(Event::StepEnded { step: id, end: StepEnd::Cached, took: started.elapsed() });
            return Ok(record.created);
        }
        let last = self.last_record(&slot);
        let miss = self.miss(last.as_ref(), &inputs, &prepared);
        let memory = memory_of(step, last.as_ref().map(|(_, record)| record));
        let job = build.jobs.take(memory, || build.check_cancelled().is_err())?;
        build.events.event(Event::StepStarted { step: id, miss });
        let started = Instant::now();
        let result = self.perform(step, prepared, id, &inputs);
        drop(job);
        let made = match result {
            Ok(made) => made,
            Err(error) => {
                let cancelled = matches!(error.kind, crate::error::ErrorKind::Cancelled);
                let end = if cancelled { StepEnd::Cancelled } else { StepEnd::Failed };
                build.events.event(Event::StepEnded { step: id, end, took: started.elapsed() });
                return Err(error);
            }
        };
        let (diff_id, created, unchanged) = self.cut_off(step, last, made.diff_id);
        let took = started.elapsed();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let record = StepRecord { inputs, diff_id, created, took_ms, peak_bytes: made.peak_bytes };
        let action = || "record the step".to_owned();
        if let Some(files) = &made.files {
            let bytes = serde_json::to_vec(files).expect("names and texts are strings");
            build.layers.store().write_note("files", key.as_str(), &bytes).during(action)?;
        }
        build.layers.store().write_step(key.as_str(), &record.to_bytes()).during(action)?;
        self.remember_last(&slot, &key)?;
        build.carry.note(self.key, &key, diff_id);
        let layer = StackLayer { diff_id, base_blob: None };
        if self.exported {
            build.compress_in_background(&layer);
        }
        self.push(layer);
        let end = if unchanged { StepEnd::Unchanged } else { StepEnd::Done };
        build.events.event(Event::StepEnded { step: id, end, took });
        Ok(created)
    }

    /// Puts a step's layer on top.
    fn push(&mut self, layer: StackLayer) {
        self.chains.1 = Some(ChainId::with(self.chains.1, layer.diff_id));
        self.stack.push(layer);
    }

    fn must_run(&self) -> bool {
        match &self.build.options.no_cache {
            NoCache::Never => false,
            NoCache::All => true,
            NoCache::Stages(names) => names.iter().any(|name| name.eq_ignore_ascii_case(&self.plan.name)),
        }
    }

    fn recorded(&self, key: &StepKey) -> Option<StepRecord> {
        let build = self.build;
        let stored = build.layers.store().read_step(key.as_str()).ok().flatten();
        let stored = stored.and_then(|bytes| StepRecord::from_bytes(&bytes));
        match stored {
            Some(record) if build.layers.is_available(record.diff_id) => Some(record),
            stored => build.carry.find(build, key, stored),
        }
    }

    /// The record of the last run of the step in this place of this Dockerfile.
    fn last_record(&self, slot: &str) -> Option<(StepKey, StepRecord)> {
        let store = self.build.layers.store();
        let key = String::from_utf8(store.read_note("last", slot).ok()??).ok()?;
        let record = StepRecord::from_bytes(&store.read_step(&key).ok()??)?;
        Some((record.inputs.key(), record))
    }

    fn remember_last(&self, slot: &str, key: &StepKey) -> Result<(), BuildError> {
        let store = self.build.layers.store();
        if store.read_note("last", slot).ok().flatten().as_deref() == Some(key.as_str().as_bytes()) {
            return Ok(());
        }
        store.write_note("last", slot, key.as_str().as_bytes()).during(|| "record the step".to_owned())
    }

    /// Says why no earlier result is used.
    fn miss(&self, last: Option<&(StepKey, StepRecord)>, inputs: &PreImage, prepared: &Prepared) -> Option<String> {
        if self.must_run() {
            return Some("--no-cache".to_owned());
        }
        let (key, record) = last?;
        let mut before = record.inputs.clone();
        let mut now = inputs.clone();
        if let Prepared::Copy(copy) = prepared
            && let Ok(Some(bytes)) = self.build.layers.store().read_note("files", key.as_str())
            && let Ok(files) = serde_json::from_slice::<BTreeMap<String, String>>(&bytes)
        {
            files.iter().for_each(|(path, facts)| before.add(format!("file {path}"), facts));
            copy.describe().iter().for_each(|(path, facts)| now.add(format!("file {path}"), facts));
        }
        let reason = explain_miss(&before, &now);
        Some(if reason.is_empty() { "the earlier result is gone from the store".to_owned() } else { reason })
    }

    /// Takes the layer of an earlier run where a command gave the same tree but for times, so that what follows stays
    /// cached.
    fn cut_off(&self, step: &Step, last: Option<(StepKey, StepRecord)>, made: DiffId) -> (DiffId, i64, bool) {
        let now = self.build.now();
        let Some((_, last)) = last.filter(|_| matches!(step.action, Action::Run(_))) else { return (made, now, false) };
        if last.diff_id == made {
            return (made, last.created, true);
        }
        let layers = &self.build.layers;
        let same = layers.is_available(last.diff_id)
            && matches!((layers.tree(last.diff_id), layers.tree(made)), (Ok(before), Ok(after)) if before.same_but_times(&after));
        if same { (last.diff_id, last.created, true) } else { (made, now, false) }
    }

    /// Lists a step's inputs, and reads what they are.
    fn prepare(&self, step: &Step, inputs: &mut PreImage) -> Result<Prepared, BuildError> {
        let instruction = step.name.split(' ').next().unwrap_or_default();
        inputs.add("instruction", instruction);
        inputs.add("platform", self.plan.platform.to_string());
        Ok(match &step.action {
            Action::Run(run) => {
                self.add_parent(inputs);
                Prepared::Run(self.prepare_run(run, inputs)?)
            }
            Action::Copy(copy) => {
                if !copy.link {
                    self.add_parent(inputs);
                }
                Prepared::Copy(self.prepare_copy(copy, inputs)?)
            }
            Action::MakeDirectory { path, owner } => {
                self.add_parent(inputs);
                inputs.add("directory", path);
                inputs.add("user", owner);
                self.add_epoch(inputs);
                Prepared::MakeDirectory
            }
        })
    }

    /// Adds what is below: by contents, so a base that was pulled anew, or a step that ran again, changes nothing by
    /// itself.
    fn add_parent(&self, inputs: &mut PreImage) {
        let digest = |chain: Option<ChainId>| chain.map_or_else(|| "none".to_owned(), |chain| chain.to_string());
        inputs.add("the base image", digest(self.chains.0));
        inputs.add("the result of an earlier step", digest(self.chains.1));
    }

    pub(crate) fn add_epoch(&self, inputs: &mut PreImage) {
        if let Some(epoch) = self.build.file_epoch() {
            inputs.add("SOURCE_DATE_EPOCH", epoch.to_string());
        }
    }

    fn perform(&self, step: &Step, prepared: Prepared, id: StepId, inputs: &PreImage) -> Result<Made, BuildError> {
        match (&step.action, prepared) {
            (Action::Run(run), Prepared::Run(prepared)) => self.run(run, &prepared, id),
            (Action::Copy(copy), Prepared::Copy(prepared)) => self.copy(copy, &prepared, step),
            (Action::MakeDirectory { path, owner }, Prepared::MakeDirectory) => self.make_directory(path, owner),
            _ => unreachable!("a step is prepared as what it is: {inputs:?}"),
        }
    }

    /// The tree of the layers so far.
    pub(crate) fn below(&self) -> Result<MergedTree, BuildError> {
        let done = self.stack.len() - self.base_layers;
        if self.plan.steps.iter().skip(done).any(|step| matches!(step.action, Action::Run(_))) {
            return self.build.layers.view_with_files(&self.stack);
        }
        self.build.layers.view(&self.stack)
    }

    /// Stores the layer of a step that made changes without running anything.
    pub(crate) fn store_changes(
        &self,
        mut changes: Vec<Change>,
        files: Option<BTreeMap<String, String>>,
    ) -> Result<Made, BuildError> {
        if let Some(epoch) = self.build.file_epoch() {
            crate::snapshot::clamp_times(&mut changes, epoch);
        }
        let compression = self.compression();
        let unpack = compression.is_none() || self.runs_later();
        let diff_id = self.build.layers.add(&changes, AddOptions { compression, unpack })?;
        Ok(Made { diff_id, files, peak_bytes: 0 })
    }

    /// How this stage's layers are compressed, where they become part of the image.
    pub(crate) fn compression(&self) -> Option<Compression> {
        self.exported.then_some(self.build.options.compression)
    }

    /// Whether the step that is done now is the last of this stage.
    pub(crate) fn is_last(&self) -> bool {
        self.stack.len() - self.base_layers + 1 == self.plan.steps.len()
    }

    /// Whether a later step of this stage needs the files on disk.
    fn runs_later(&self) -> bool {
        let done = self.stack.len() - self.base_layers;
        self.plan.steps.iter().skip(done + 1).any(|step| matches!(step.action, Action::Run(_)))
    }
}

/// How much memory a step will need, by its last run in this place: bytes.
fn memory_of(step: &Step, last: Option<&StepRecord>) -> u64 {
    match step.action {
        Action::Run(_) => last.map(|record| record.peak_bytes).filter(|peak| *peak > 0).unwrap_or(COMMAND_MEMORY),
        Action::Copy(_) | Action::MakeDirectory { .. } => COPY_MEMORY,
    }
}
