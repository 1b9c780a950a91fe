//! Who waits for whom: a thread per stage as far as that goes, results handed over through cells.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::layers::lock;
use super::options::Cancel;
use crate::error::BuildError;
use crate::sys::threads::on_threads;

/// How many stages are begun at a time for each step that may run, as most of them wait for others.
const STAGES_PER_JOB: usize = 4;

/// So many at least.
const FEWEST_STAGES: usize = 16;

/// The results of stages by key: set once each, waited for by any number of threads.
pub(crate) struct Results<K, V> {
    state: Mutex<BTreeMap<K, Option<Arc<V>>>>,
    changed: Condvar,
}

impl<K: Ord, V> Results<K, V> {
    pub(crate) const fn new() -> Self {
        Self { state: Mutex::new(BTreeMap::new()), changed: Condvar::new() }
    }

    /// Sets a result; `None` says that there will be none, because the stage failed.
    pub(crate) fn set(&self, key: K, value: Option<V>) {
        lock(&self.state).insert(key, value.map(Arc::new));
        self.changed.notify_all();
    }

    /// Waits for a result.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Cancelled`] when the stage failed: its own error says why.
    pub(crate) fn wait(&self, key: &K) -> Result<Arc<V>, BuildError> {
        let mut state = lock(&self.state);
        loop {
            match state.get(key) {
                Some(Some(value)) => return Ok(Arc::clone(value)),
                Some(None) => return Err(BuildError::cancelled()),
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Works on the keys in threads, in their order, and gives the error that a user should see: the first that is no
/// consequence of another. `jobs` says how many steps may run at a time.
///
/// INVARIANT: a key waits only for those before it, so the first that is worked on waits for nobody, and one thread would do.
pub(crate) fn run_all<K: Ord + Clone + Sync + Send, V: Send + Sync>(
    keys: &[K],
    jobs: usize,
    results: &Results<K, V>,
    stop: &Cancel,
    work: impl Fn(&K) -> Result<V, BuildError> + Sync,
) -> Result<(), BuildError> {
    let errors: Mutex<Vec<BuildError>> = Mutex::new(Vec::new());
    let one = |key: &K| {
        /// Says that there is no result unless one was set, also when the work panics.
        struct Unset<'a, K: Ord + Clone, V>(&'a Results<K, V>, &'a K, bool);
        impl<K: Ord + Clone, V> Drop for Unset<'_, K, V> {
            fn drop(&mut self) {
                if !self.2 {
                    self.0.set(self.1.clone(), None);
                }
            }
        }
        let mut unset = Unset(results, key, false);
        match work(key) {
            Ok(value) => {
                results.set(key.clone(), Some(value));
                unset.2 = true;
            }
            Err(error) => {
                stop.cancel();
                lock(&errors).push(error);
            }
        }
    };
    let next = AtomicUsize::new(0);
    let work_on = || {
        while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
            one(key);
        }
    };
    on_threads(keys.len().min(jobs.saturating_mul(STAGES_PER_JOB).max(FEWEST_STAGES)), work_on);
    let mut errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    let cause = errors.iter().position(|e| !matches!(e.kind, crate::error::ErrorKind::Cancelled)).unwrap_or(0);
    if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(cause)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn waits_for_what_it_needs_and_keeps_the_cause() {
        let results = Results::new();
        let stop = Cancel::new();
        // Far more than threads.
        let keys: Vec<usize> = (0..1000).collect();
        let work = |&key: &usize| Ok(if key == 0 { 1 } else { *results.wait(&(key / 2))? + 1 });
        run_all(&keys, 1, &results, &stop, work).expect("no errors");
        assert_eq!(*results.wait(&999).expect("set"), 11);

        let results: Results<i32, i32> = Results::new();
        let error = run_all(&[0, 1], 1, &results, &stop, |&key| {
            if key == 1 { results.wait(&0).map(|v| *v) } else { Err(BuildError::failed("do it", "reason")) }
        })
        .expect_err("fails");
        assert!(matches!(error.kind, ErrorKind::Failed { .. }), "{error:?}");
        assert!(stop.is_cancelled());
    }
}
