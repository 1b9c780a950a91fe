//! Steps of other stores.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use serde::{Deserialize, Serialize};

use super::deadline::within;
use super::options::CacheSource;
use super::place::{Found, Opened, client_options};
use super::{reason, warn};
use crate::cache::{StepKey, StepRecord};
use crate::error::{BuildError, ErrorKind};
use crate::exec::build::{Build, StageKey};
use crate::exec::layers::{Origin, lock};
use crate::exec::options::BuildOptions;
use crate::oci::{Descriptor, DiffId};
use crate::progress::{Event, Events};

/// Layers that could not be fetched from where a cache said that they are, and why.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    lost: Mutex<BTreeMap<DiffId, String>>,
}

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
    /// How many losses there were when this try began.
    known_losses: AtomicUsize,
}

/// Where a layer is that a step of a cache made: kept with the step, so that the next build need not ask for the list.
#[derive(Serialize, Deserialize)]
struct Whereabouts {
    cache: String,
    layer: Descriptor,
}

/// The kind of note that keeps [`Whereabouts`] by diff ID.
const WHEREABOUTS: &str = "carried";

impl Losses {
    pub(crate) fn add(&self, diff_id: DiffId, error: &BuildError) {
        lock(&self.lost).entry(diff_id).or_insert_with(|| reason(error));
    }

    fn contains(&self, diff_id: DiffId) -> bool {
        lock(&self.lost).contains_key(&diff_id)
    }
}

/// Builds, and begins again where a layer of a cache turned out to be gone or damaged.
pub(crate) fn retrying<T>(
    carry: &Carry,
    events: &Events,
    mut build: impl FnMut() -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    loop {
        lock(&carry.done).clear();
        let result = build();
        let failed = matches!(&result, Err(error) if !matches!(error.kind, ErrorKind::Cancelled));
        if !failed || !carry.has_new_losses() {
            return result;
        }
        let lost = lock(&carry.losses.lost);
        carry.known_losses.store(lost.len(), Ordering::Relaxed);
        for (diff_id, why) in lost.iter() {
            events.event(Event::Note(format!("cache: without the layer {diff_id}: {why}")));
        }
        let text = format!("{} of a cache can't be had, so their steps are done again", layers(lost.len()));
        let first = lost.values().next().cloned().unwrap_or_default();
        drop(lost);
        warn(events, format!("{text}: {first}"), "");
    }
}

fn layers(count: usize) -> String {
    if count == 1 { "a layer".to_owned() } else { format!("{count} layers") }
}

impl Carry {
    pub(crate) fn new(options: &BuildOptions) -> Self {
        let source = |asked: &CacheSource| Source { asked: asked.clone(), opened: OnceLock::new() };
        Self {
            sources: options.cache_from.iter().map(source).collect(),
            loaded: OnceLock::new(),
            losses: Arc::default(),
            done: Mutex::default(),
            known_losses: AtomicUsize::new(0),
        }
    }

    /// Notes that a step has a result, for those that the cache is written for.
    pub(crate) fn note(&self, stage: StageKey, key: &StepKey, diff_id: DiffId) {
        lock(&self.done).push(DoneStep { stage, key: key.clone(), diff_id });
    }

    pub(super) fn done(&self) -> Vec<DoneStep> {
        lock(&self.done).clone()
    }

    /// Whether layers were lost in this try, so that another one gets further.
    pub(super) fn has_new_losses(&self) -> bool {
        lock(&self.losses.lost).len() > self.known_losses.load(Ordering::Relaxed)
    }

    /// Finds the result of a step whose layer the store does not have. `stored` is the store's own record of it.
    pub(crate) fn find(&self, build: &Build<'_>, key: &StepKey, stored: Option<StepRecord>) -> Option<StepRecord> {
        if self.sources.is_empty() {
            return None;
        }
        if let Some(record) = stored
            && self.is_nearby(build, record.diff_id)
        {
            return Some(record);
        }
        for cache in self.loaded(build) {
            let Some(step) = cache.found.bundle.step(key) else { continue };
            if self.losses.contains(step.diff_id) {
                continue;
            }
            let blob = cache.found.layers.get(&step.diff_id);
            if !build.layers.is_available(step.diff_id) {
                let Some(blob) = blob else { continue };
                self.add_origin(build, step.diff_id, blob.clone(), cache.opened.origin());
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

    /// Whether an earlier build noted that one of the caches has a layer.
    fn is_nearby(&self, build: &Build<'_>, diff_id: DiffId) -> bool {
        if self.losses.contains(diff_id) {
            return false;
        }
        let note = build.layers.store().read_note(WHEREABOUTS, &diff_id.to_string());
        let Some(note) = note.ok().flatten().and_then(|bytes| serde_json::from_slice::<Whereabouts>(&bytes).ok())
        else {
            return false;
        };
        let source = self.sources.iter().find(|source| source.asked.place.to_string() == note.cache);
        let Some(opened) = source.and_then(|source| source.opened(build)) else { return false };
        if !opened.has(&note.layer) {
            return false;
        }
        self.add_origin(build, diff_id, note.layer, opened.origin());
        true
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

impl Source {
    /// The place, ready to be read; `None` where it can't be, which is told once.
    fn opened(&self, build: &Build<'_>) -> Option<&Opened> {
        let open = || {
            let options = client_options(&build.options.registry, &self.asked.place, self.asked.timeout);
            Opened::new(&self.asked.place, options).map_err(|error| self.warn(build, &reason(&error))).ok()
        };
        self.opened.get_or_init(open).as_ref()
    }

    fn load(&self, build: &Build<'_>) -> Option<Loaded> {
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
