//! Threads for one piece of work that is over when all of them are.

use std::io;

/// Does `work` on so many threads at the same time, the caller's among them, and on fewer where the system gives no more
/// (`pids.max` of a control group, `ulimit -u`). Each takes what is left to do from the same list, so that one would do.
pub(crate) fn on_threads(count: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..count {
            if std::thread::Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
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
