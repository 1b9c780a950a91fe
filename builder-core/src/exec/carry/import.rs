//! Steps of other stores.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use serde::{Deserialize, Serialize};

use super::deadline::within;
use super::losses::Losses;
use super::options::{CachePlace, CacheSource};
use super::place::{CarriedMount, Found, Opened, client_options};
use super::{reason, warn};
use crate::cache::{CarriedSelection, PreImage, StepKey, StepRecord};
use crate::exec::build::{Build, StageKey};
use crate::exec::layers::{Origin, lock};
use crate::exec::options::BuildOptions;
use crate::oci::{Descriptor, DiffId};
use crate::progress::Event;

/// A step of this build that has a result.
#[derive(Debug, Clone)]
pub(super) struct DoneStep {
    pub(super) stage: StageKey,
    pub(super) key: StepKey,
    pub(super) diff_id: DiffId,
}

/// A cache that the build may look steps up in.
struct Source {
    asked: CacheSource,
    opened: OnceLock<Option<Opened>>,
}

/// A cache whose list of steps was read.
struct Loaded {
    name: String,
    found: Found,
    opened: Opened,
}

/// The caches of a build, and what it did that others may want.
pub(crate) struct Carry {
    sources: Vec<Source>,
    loaded: OnceLock<Vec<Loaded>>,
    losses: Arc<Losses>,
    done: Mutex<Vec<DoneStep>>,
    selections: Mutex<Vec<CarriedSelection>>,
    used_mounts: Mutex<BTreeSet<String>>,
}

/// Where a layer is that a step of a cache made: kept with the step, so that the next build need not ask for the list.
#[derive(Serialize, Deserialize)]
struct Whereabouts {
    cache: String,
    layer: Descriptor,
}

/// The kind of note that keeps [`Whereabouts`] by diff ID.
const WHEREABOUTS: &str = "carried";

impl Carry {
    pub(crate) fn new(options: &BuildOptions) -> Self {
        let source = |asked: &CacheSource| Source { asked: asked.clone(), opened: OnceLock::new() };
        Self {
            sources: options.cache_from.iter().map(source).collect(),
            loaded: OnceLock::new(),
            losses: Arc::default(),
            done: Mutex::default(),
            selections: Mutex::default(),
            used_mounts: Mutex::default(),
        }
    }

    /// Whether there are caches of other machines.
    pub(crate) const fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Notes that a step has a result, for those that the cache is written for.
    pub(crate) fn note(&self, stage: StageKey, key: &StepKey, diff_id: DiffId) {
        lock(&self.done).push(DoneStep { stage, key: key.clone(), diff_id });
    }

    /// Notes what a COPY takes from layers, for those that the cache is written for.
    pub(crate) fn note_selection(&self, inputs: &PreImage, files: &str) {
        lock(&self.selections).push(CarriedSelection { files: files.to_owned(), inputs: inputs.clone() });
    }

    /// Notes that a command of the build uses a cache mount, whether or not the command is run.
    pub(crate) fn note_mount(&self, id: &str) {
        lock(&self.used_mounts).insert(id.to_owned());
    }

    pub(super) fn used_mounts(&self) -> BTreeSet<String> {
        lock(&self.used_mounts).clone()
    }

    /// Every cache that has a cache mount.
    pub(super) fn mounts(&self, build: &Build<'_>, id: &str) -> Vec<(&str, &Opened, &CarriedMount)> {
        if self.sources.is_empty() {
            return Vec::new();
        }
        let caches = self.loaded(build).iter();
        caches.filter_map(|cache| Some((cache.name.as_str(), &cache.opened, cache.found.mounts.get(id)?))).collect()
    }

    /// The names of the caches that say of a cache mount what can't be.
    pub(super) fn with_broken_mount(&self, build: &Build<'_>, id: &str) -> Vec<&str> {
        if self.sources.is_empty() {
            return Vec::new();
        }
        let broken = self.loaded(build).iter().filter(|cache| cache.found.broken_mounts.contains(id));
        broken.map(|cache| cache.name.as_str()).collect()
    }

    /// The digest of what a COPY takes from layers that are not here.
    pub(crate) fn find_selection(&self, build: &Build<'_>, key: &StepKey) -> Option<String> {
        if self.sources.is_empty() {
            return None;
        }
        self.loaded(build).iter().find_map(|cache| cache.found.bundle.selection(key)).map(str::to_owned)
    }

    pub(super) fn selections(&self) -> Vec<CarriedSelection> {
        lock(&self.selections).clone()
    }

    pub(super) fn done(&self) -> Vec<DoneStep> {
        lock(&self.done).clone()
    }

    /// What this build was told and can't rely on.
    pub(crate) const fn losses(&self) -> &Arc<Losses> {
        &self.losses
    }

    /// Forgets what was done, because it is looked up again.
    pub(super) fn begin(&self) {
        lock(&self.done).clear();
        lock(&self.selections).clear();
        lock(&self.used_mounts).clear();
    }

    /// Finds the result of a step whose layer the store does not have. `stored` is the store's own record of it;
    /// `may_promise` says that the result may do without its layer until somebody needs it.
    pub(crate) fn find(
        &self,
        build: &Build<'_>,
        key: &StepKey,
        stored: Option<StepRecord>,
        may_promise: bool,
    ) -> Option<StepRecord> {
        let may_promise = may_promise && !self.losses.promises_broken();
        if let Some(record) = stored
            && (self.is_nearby(build, record.diff_id) || may_promise)
        {
            if !build.layers.is_available(record.diff_id) {
                build.layers.promise(record.diff_id, &self.losses);
            }
            return Some(record);
        }
        if self.sources.is_empty() {
            return None;
        }
        for cache in self.loaded(build) {
            let Some(step) = cache.found.bundle.step(key) else { continue };
            if self.losses.has(step.diff_id) {
                continue;
            }
            let blob = cache.found.layers.get(&step.diff_id);
            if !build.layers.is_available(step.diff_id) {
                match blob {
                    Some(blob) => self.add_origin(build, step.diff_id, blob.clone(), cache.opened.origin()),
                    None if may_promise => build.layers.promise(step.diff_id, &self.losses),
                    None => continue,
                }
            }
            let record = step.record();
            // Only the next build's speed is lost where the store can't be written.
            let store = build.layers.store();
            let _ = store.write_step(key.as_str(), &record.to_bytes());
            if let Some(layer) = blob.cloned() {
                let note = Whereabouts { cache: cache.name.clone(), layer };
                let bytes = serde_json::to_vec(&note).expect("a descriptor has string keys only");
                let _ = store.write_note(WHEREABOUTS, &step.diff_id.to_string(), &bytes);
            }
            return Some(record);
        }
        None
    }

    /// Whether an earlier build noted that a layer is in one of the caches, or left it in a registry.
    fn is_nearby(&self, build: &Build<'_>, diff_id: DiffId) -> bool {
        if self.losses.has(diff_id) {
            return false;
        }
        let Some((layer, origin)) = self.noted(build, diff_id).or_else(|| left_behind(build, diff_id)) else {
            return false;
        };
        self.add_origin(build, diff_id, layer, origin);
        true
    }

    fn noted(&self, build: &Build<'_>, diff_id: DiffId) -> Option<(Descriptor, Origin)> {
        let note = build.layers.store().read_note(WHEREABOUTS, &diff_id.to_string()).ok().flatten()?;
        let note: Whereabouts = serde_json::from_slice(&note).ok()?;
        let source = self.sources.iter().find(|source| source.asked.place.to_string() == note.cache)?;
        let opened = source.opened(build)?;
        opened.has(&note.layer).then(|| (note.layer, opened.origin()))
    }

    fn add_origin(&self, build: &Build<'_>, diff_id: DiffId, layer: Descriptor, origin: Origin) {
        let origin = Origin::Carried(Box::new(origin), Arc::clone(&self.losses));
        build.layers.add_origin(diff_id, layer, origin);
    }

    /// Reads the lists of steps of all caches, once.
    fn loaded(&self, build: &Build<'_>) -> &[Loaded] {
        self.loaded.get_or_init(|| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = self.sources.iter().map(|source| scope.spawn(|| source.load(build))).collect();
                threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
            })
        })
    }
}

/// A layer that the store knows the registry of.
fn left_behind(build: &Build<'_>, diff_id: DiffId) -> Option<(Descriptor, Origin)> {
    if build.options.offline {
        return None;
    }
    let (layer, source) = build.layers.recorded_sources(diff_id).into_iter().next()?;
    Some((layer, Origin::Registry(build.client().ok()?, source)))
}

impl Source {
    /// The place, ready to be read; `None` where it can't be, which is told once.
    fn opened(&self, build: &Build<'_>) -> Option<&Opened> {
        let open = || {
            let options = client_options(build.options, &self.asked.place, self.asked.timeout);
            Opened::new(&self.asked.place, options).map_err(|error| self.warn(build, &reason(&error))).ok()
        };
        self.opened.get_or_init(open).as_ref()
    }

    fn load(&self, build: &Build<'_>) -> Option<Loaded> {
        if build.options.offline && matches!(self.asked.place, CachePlace::Registry { .. }) {
            build.events.event(Event::Note(format!("cache: `{}` is not asked with --offline", self.asked.place)));
            return None;
        }
        let opened = self.opened(build)?.clone();
        let (reader, platforms) = (opened.clone(), build.platforms().to_vec());
        let timeout = self.asked.timeout;
        let read = within(timeout, || build.check_cancelled().is_err(), move || reader.read(&platforms));
        match read {
            Some(Ok(found)) => {
                let (name, steps) = (self.asked.place.to_string(), found.bundle.len());
                build.events.event(Event::Note(format!("cache: `{name}` knows {steps} steps")));
                Some(Loaded { name, found, opened })
            }
            Some(Err(error)) => {
                self.warn(build, &reason(&error));
                None
            }
            None if build.check_cancelled().is_err() => None,
            None => {
                self.warn(build, &format!("it did not answer within {} s", timeout.as_secs_f32()));
                None
            }
        }
    }

    fn warn(&self, build: &Build<'_>, why: &str) {
        let message = format!("the cache `{}` is not used: {why}", self.asked.place);
        warn(&build.events, message, "");
    }
}
