//! Threads that are started for one piece of work, and what processors there are for them.

use std::io;
use std::num::NonZeroUsize;
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
