//! Threads for one piece of work that is over when all of them are.

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
