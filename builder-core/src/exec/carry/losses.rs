//! What a build counted on and can't have, and beginning again without it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::import::Carry;
use super::{reason, warn};
use crate::error::{BuildError, ErrorKind};
use crate::exec::layers::lock;
use crate::oci::DiffId;
use crate::progress::{Event, Events};

/// What a build counted on and can't have.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Layers that could not be fetched from where a cache said that they are, and why.
    layers: Mutex<BTreeMap<DiffId, String>>,
    promises_broken: AtomicBool,
    selections_wrong: AtomicBool,
    /// What happened since the build began the last time.
    news: Mutex<Vec<News>>,
}

#[derive(Debug)]
enum News {
    Layer(DiffId, String),
    Other(&'static str),
}

impl Losses {
    /// Notes that a layer could not be had from a cache.
    pub(crate) fn add(&self, diff_id: DiffId, error: &BuildError) {
        let why = reason(error);
        if lock(&self.layers).insert(diff_id, why.clone()).is_none() {
            lock(&self.news).push(News::Layer(diff_id, why));
        }
    }

    /// Makes an end to layers that only count as there.
    pub(crate) fn break_promises(&self) {
        if !self.promises_broken.swap(true, Ordering::SeqCst) {
            let why = "layers of steps are needed that are nowhere any more, so these steps are done again";
            lock(&self.news).push(News::Other(why));
        }
    }

    /// Makes an end to taking what a COPY copies for known.
    pub(crate) fn distrust_selections(&self) {
        if !self.selections_wrong.swap(true, Ordering::SeqCst) {
            let why = "the files that a COPY takes are others than was noted, so they are looked at again";
            lock(&self.news).push(News::Other(why));
        }
    }

    pub(super) fn has(&self, diff_id: DiffId) -> bool {
        lock(&self.layers).contains_key(&diff_id)
    }

    pub(super) fn promises_broken(&self) -> bool {
        self.promises_broken.load(Ordering::SeqCst)
    }

    pub(crate) fn selections_wrong(&self) -> bool {
        self.selections_wrong.load(Ordering::SeqCst)
    }

    /// Whether something was lost in this try, so that another one gets further.
    pub(crate) fn has_news(&self) -> bool {
        !lock(&self.news).is_empty()
    }

    fn tell(&self, events: &Events) {
        let news = std::mem::take(&mut *lock(&self.news));
        let mut lost = Vec::new();
        for event in news {
            let note = match event {
                News::Other(why) => why.to_owned(),
                News::Layer(diff_id, why) => {
                    let note = format!("without the layer {diff_id}: {why}");
                    lost.push(why);
                    note
                }
            };
            events.event(Event::Note(format!("cache: {note}")));
        }
        if let Some(first) = lost.first() {
            let layers = if lost.len() == 1 { "a layer".to_owned() } else { format!("{} layers", lost.len()) };
            let message = format!("{layers} of a cache can't be had, so the steps are done again: {first}");
            warn(events, message, "");
        }
    }
}

/// Builds, and begins again where something was lost that the build counted on.
///
/// Each loss is one of finitely many, and nothing is lost twice.
pub(crate) fn retrying<T>(
    carry: &Carry,
    events: &Events,
    mut build: impl FnMut() -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let losses: &Arc<Losses> = carry.losses();
    loop {
        carry.begin();
        let result = build();
        // A command that failed fails again.
        let may_pass = |part: &BuildError| matches!(part.kind, ErrorKind::Failed { .. });
        let failed = result.as_ref().is_err_and(|error| error.parts().iter().any(may_pass));
        if !failed || !losses.has_news() {
            return result;
        }
        losses.tell(events);
    }
}
