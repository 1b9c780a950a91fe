//! What became of each step, kept from build to build: earlier builds tell why a step is no hit, and what it takes.
//!
//! A build's record is one small file, `builds/<id>/record`. Earlier ones are read only when something asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::build::Build;
use super::layers::lock;
use crate::cache::{BuildEnd, BuildRecord, BuiltStep, LastRun, StepKey};
use crate::error::{BuildError, ErrorKind};
use crate::oci::DiffId;
use crate::plan::{StagePlan, Step};
use crate::progress::{Event, Miss, StepEnd, StepId};
use crate::store::{Store, StoreError};

/// How many builds of one Dockerfile are kept.
const KEPT_BUILDS: usize = 20;

/// How many digits of a Dockerfile's hash name its builds.
const NAME_DIGITS: usize = 8;

/// The records of a Dockerfile's builds, and that of the running one.
pub(crate) struct Journal {
    store: Store,
    prefix: String,
    started: Instant,
    /// Names of earlier builds, the newest first, each with its record once it was read.
    earlier: OnceLock<Vec<(String, EarlierRecord)>>,
    steps: Mutex<BTreeMap<StepId, StepNote>>,
}

type EarlierRecord = OnceLock<Option<Arc<BuildRecord>>>;

/// What became of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepNote {
    pub(crate) key: Option<StepKey>,
    pub(crate) result: Option<DiffId>,
    pub(crate) end: Option<StepEnd>,
    pub(crate) took_ms: u64,
    pub(crate) miss: Option<Miss>,
    pub(crate) against: Option<String>,
}

/// A step of an earlier build that is the same step as one of this build.
pub(crate) struct Counterpart {
    pub(crate) build: Arc<BuildRecord>,
    pub(crate) step: BuiltStep,
}

impl Journal {
    /// `identity` names the Dockerfile in its place.
    pub(crate) fn new(store: Store, identity: &str) -> Self {
        Self {
            store,
            prefix: prefix(identity),
            started: Instant::now(),
            earlier: OnceLock::new(),
            steps: Mutex::default(),
        }
    }

    /// Takes note of how a step ended.
    pub(crate) fn note(&self, step: StepId, note: StepNote) {
        lock(&self.steps).insert(step, note);
    }

    fn names(&self) -> &[(String, EarlierRecord)] {
        self.earlier.get_or_init(|| {
            let mut names = builds_of(&self.store, &self.prefix).unwrap_or_default();
            names.reverse();
            names.into_iter().map(|(_, name)| (name, OnceLock::new())).collect()
        })
    }

    /// The earlier builds that can be read, the newest first.
    pub(crate) fn earlier(&self) -> impl Iterator<Item = Arc<BuildRecord>> + '_ {
        self.names()
            .iter()
            .filter_map(|(name, record)| record.get_or_init(|| read(&self.store, name).map(Arc::new)).clone())
    }

    /// The same step in each of the earlier builds that had it, the newest first.
    pub(crate) fn counterparts<'a>(
        &'a self,
        plan: &'a StagePlan,
        number: usize,
    ) -> impl Iterator<Item = Counterpart> + 'a {
        let texts: Vec<&str> = plan.steps.iter().map(text).collect();
        let platform = plan.platform.to_string();
        self.earlier().filter_map(move |build| {
            let step = build.counterparts(&plan.name, &platform, &texts)[number]?.clone();
            Some(Counterpart { build, step })
        })
    }

    /// Writes the record of the build that ends now, and removes those that are too old. A failure costs only
    /// explanations.
    pub(crate) fn write<T>(&self, build: &Build<'_>, result: &Result<T, BuildError>) {
        if let Err(error) = self.try_write(build, result) {
            build.events.event(Event::Note(format!("could not keep the record of the build: {error}")));
        }
    }

    fn try_write<T>(&self, build: &Build<'_>, result: &Result<T, BuildError>) -> Result<(), StoreError> {
        let end = match result {
            Ok(_) => BuildEnd::Done,
            Err(error) if matches!(error.kind, ErrorKind::Cancelled) => BuildEnd::Cancelled,
            Err(_) => BuildEnd::Failed,
        };
        let newest = self.names().first().map_or(0, |(name, _)| number_of(name, &self.prefix).unwrap_or(0));
        let id = self.store.create_build(&self.prefix, newest + 1)?;
        let (context, dockerfile) = build.identity.split_once('\0').unwrap_or((&build.identity, ""));
        let record = BuildRecord {
            id: id.clone(),
            context: context.to_owned(),
            dockerfile: dockerfile.to_owned(),
            started: build.options.now,
            took_ms: milliseconds(self.started.elapsed()),
            end,
            steps: self.built_steps(build),
        };
        self.store.write_build(&id, &record.to_bytes())?;
        for (name, _) in self.names().iter().skip(KEPT_BUILDS - 1) {
            self.store.remove_build(name)?;
        }
        Ok(())
    }

    fn built_steps(&self, build: &Build<'_>) -> Vec<BuiltStep> {
        let mut notes = lock(&self.steps);
        let last = self.earlier().next();
        let mut steps = Vec::new();
        for (key, plan) in build.plans() {
            let texts: Vec<&str> = plan.steps.iter().map(text).collect();
            let platform = plan.platform.to_string();
            let before = last.as_ref().map(|last| (last, last.counterparts(&plan.name, &platform, &texts)));
            for (number, step) in plan.steps.iter().enumerate() {
                let note = notes.remove(&build.step_id(key, number)).unwrap_or_default();
                let last_run = before.as_ref().and_then(|(last, steps)| steps[number]?.last_done(last));
                steps.push(built_step(plan, number, step, note, last_run));
            }
        }
        steps
    }
}

fn built_step(plan: &StagePlan, number: usize, step: &Step, note: StepNote, last_run: Option<LastRun>) -> BuiltStep {
    BuiltStep {
        stage: plan.name.clone(),
        platform: plan.platform.to_string(),
        position: number + 1,
        name: step.name.clone(),
        text: text(step).to_owned(),
        key: note.key.map(|key| key.as_str().to_owned()),
        result: note.result,
        end: note.end,
        took_ms: note.took_ms,
        miss: note.miss,
        against: note.against,
        last_run,
    }
}

/// A step's text as steps of several builds are told apart by.
pub(crate) fn text(step: &Step) -> &str {
    if step.origin.text.is_empty() { &step.name } else { &step.origin.text }
}

pub(crate) fn milliseconds(took: std::time::Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// What the names of a Dockerfile's builds begin with.
pub(crate) fn prefix(identity: &str) -> String {
    blake3::hash(identity.as_bytes()).to_hex()[..NAME_DIGITS].to_owned()
}

/// The builds of one Dockerfile, the oldest first.
pub(crate) fn builds_of(store: &Store, prefix: &str) -> Result<Vec<(u64, String)>, StoreError> {
    let names = store.builds()?;
    let mut builds: Vec<_> = names.into_iter().filter_map(|name| Some((number_of(&name, prefix)?, name))).collect();
    builds.sort_unstable();
    Ok(builds)
}

fn number_of(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
}

pub(crate) fn read(store: &Store, name: &str) -> Option<BuildRecord> {
    BuildRecord::from_bytes(&store.read_build(name).ok()??)
}
