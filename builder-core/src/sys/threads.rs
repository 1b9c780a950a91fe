//! Threads that are started for one piece of work, and what processors there are for them.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Does `work` on so many threads at the same time, the caller's among them, and on fewer where the system gives no more
/// (`pids.max` of a control group, `ulimit -u`). Each takes what is left to do from the same list, so that one would do.
pub(crate) fn on_threads(count: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..count {
            if thread::Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}

/// Does `work` for each item, with that many threads at most, and gives what came of it in the order of the items. After
/// an error nothing new is begun; of several errors the one of the first item is given.
pub(crate) fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results = Mutex::new(Vec::from_iter(items.iter().map(|_| None)));
    let work_on = || {
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { break };
            let result = work(item);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(result);
        }
    };
    on_threads(items.len().min(threads), work_on);
    // Items are begun in their order, so those that were not are behind an error.
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// How many processors this process may use at a time.
pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// For how many threads that wait for idle processors there is something to gain: none where a control group limits the
/// processor time (`cpu.max`), of which they would take what the others need, however many processors are idle.
pub(crate) fn idle_processors() -> usize {
    let usable = processors();
    let allowed = rustix::thread::sched_getaffinity(None).map_or(usable, |set| set.count() as usize);
    if usable < allowed { 0 } else { usable }
}

/// Lets the calling thread run only while a processor has nothing else to do, for as long as it lives.
pub(crate) fn wait_for_idle_processors() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live until the call returns; 0 is the calling thread.
    super::call::check(libc::c_long::from(unsafe {
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters)
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        let items: Vec<u32> = (0..1000).collect();
        let all: Result<Vec<u32>, ()> = in_parallel(&items, 4, |number| Ok(number * 2));
        assert!(all.unwrap().iter().zip(&items).all(|(result, number)| *result == number * 2));
        assert_eq!(in_parallel(&[], 4, |_: &u32| Ok::<(), ()>(())), Ok(Vec::new()));
        for threads in [1, 4] {
            let begun = AtomicUsize::new(0);
            let failed = in_parallel(&items, threads, |number| {
                begun.fetch_add(1, Ordering::Relaxed);
                if *number < 10 { Ok(()) } else { Err(*number) }
            });
            assert_eq!(failed, Err(10), "{threads} threads");
            assert!(begun.into_inner() < 10 + 2 * threads);
        }
    }
}
