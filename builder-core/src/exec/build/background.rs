//! What goes on beside the steps of a build, and what is written down when they are done.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use crossbeam_channel::{Sender, unbounded};

use super::Build;
use crate::context::ContextDir;
use crate::exec::layers::{StackLayer, lock};
use crate::progress::Event;

/// After so many seconds the kernel has written what was unpacked, and flushing it costs next to nothing.
const SETTLED_AFTER: i64 = 90;

/// A build that takes longer than this has time for it.
const LONG_BUILD: Duration = Duration::from_secs(10);

/// Threads that work beside the steps.
#[derive(Default)]
pub(crate) struct Background {
    threads: Vec<JoinHandle<()>>,
    /// Layers that one of them is to compress.
    queue: Option<Sender<StackLayer>>,
    /// Whether one settles what was unpacked.
    settles: bool,
}

impl Background {
    /// Begins work, where the system gives a thread for it. It is none that the build can't do without.
    fn begin(&mut self, work: impl FnOnce() + Send + 'static) -> bool {
        let thread = std::thread::Builder::new().spawn(work);
        let is_begun = thread.is_ok();
        self.threads.extend(thread);
        is_begun
    }
}

impl Build<'_> {
    /// Keeps a folder whose digests are to be written down when the build is done.
    pub(crate) fn keep_folder(&self, folder: Arc<ContextDir>) {
        lock(&self.folders).push(folder);
    }

    /// The folders that files were taken from so far.
    pub(in crate::exec) fn folders(&self) -> Vec<Arc<ContextDir>> {
        let context = self.context.folder.iter().map(|(folder, _)| folder);
        context.chain(lock(&self.folders).iter()).cloned().collect()
    }

    /// Keeps the digests of files for the next build. Only speed is lost where that fails.
    pub(in crate::exec) fn write_stat_caches(&self) {
        for folder in self.folders() {
            if let Err(error) = folder.save_stat_cache() {
                self.events.event(Event::Note(format!("could not keep the digests of the build context: {error}")));
            }
        }
    }

    /// Compresses a layer while the next step runs, where that is not done and no registry has it: one layer at a time, as
    /// each has all processors. A failure shows when the image is put together.
    pub(crate) fn compress_in_background(&self, layer: &StackLayer) {
        let compression = self.options.compression;
        if self.layers.has_origin(layer.diff_id)
            || matches!(self.layers.known_blob(layer.diff_id, compression), Ok(Some(_)))
        {
            return;
        }
        let mut background = lock(&self.background);
        let queue = background.queue.take().or_else(|| {
            let (queue, queued) = unbounded::<StackLayer>();
            let layers = Arc::clone(&self.layers);
            let work = move || queued.iter().for_each(|layer| layers.blob_in_background(&layer, compression));
            background.begin(work).then_some(queue)
        });
        if let Some(queue) = &queue {
            // The other end is there until this one is dropped.
            let _ = queue.send(layer.clone());
        }
        background.queue = queue;
    }

    /// Lets layers that earlier builds unpacked outlast a restart of the machine. Once a build, while its steps are done,
    /// and not in short ones, which would have to wait for what other programs wrote.
    pub(crate) fn settle_in_background(&self) {
        if self.started.elapsed() < LONG_BUILD || std::mem::replace(&mut lock(&self.background).settles, true) {
            return;
        }
        let layers = Arc::clone(&self.layers);
        let unpacked_by =
            UNIX_EPOCH + Duration::from_secs(self.options.now.saturating_sub(SETTLED_AFTER).max(0).unsigned_abs());
        // Without it they are unpacked again after a restart.
        lock(&self.background).begin(move || drop(layers.store().settle(unpacked_by)));
    }

    pub(super) fn wait_for_background(&self) {
        self.layers.await_background();
        let Background { threads, queue, .. } = std::mem::take(&mut *lock(&self.background));
        drop(queue);
        for thread in threads {
            let _ = thread.join();
        }
    }
}
