//! What goes on beside the steps of a build, and what is written down when they are done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use super::Build;
use crate::context::ContextDir;
use crate::exec::layers::{StackLayer, lock};
use crate::progress::Event;

/// After so many seconds the kernel has written what was unpacked, and flushing it costs next to nothing.
const SETTLED_AFTER: i64 = 90;

/// A build that takes longer than this has time for it.
const LONG_BUILD: Duration = Duration::from_secs(10);

impl Build<'_> {
    /// Keeps a folder whose digests are to be written down when the build is done.
    pub(crate) fn keep_folder(&self, folder: Arc<ContextDir>) {
        lock(&self.folders).push(folder);
    }

    /// Keeps the digests of files for the next build. Only speed is lost where that fails.
    pub(in crate::exec) fn write_stat_caches(&self) {
        for folder in self.context.folder.iter().map(|(folder, _)| folder).chain(lock(&self.folders).iter()) {
            if let Err(error) = folder.save_stat_cache() {
                self.events.event(Event::Note(format!("could not keep the digests of the build context: {error}")));
            }
        }
    }

    /// Compresses a layer while the next step runs, where that is not done. A failure shows when the image is put
    /// together.
    pub(crate) fn compress_in_background(&self, layer: &StackLayer) {
        let (layers, layer, compression) = (Arc::clone(&self.layers), layer.clone(), self.options.compression);
        if matches!(layers.known_blob(layer.diff_id, compression), Ok(Some(_))) {
            return;
        }
        let handle = std::thread::spawn(move || layers.blob_in_background(&layer, compression));
        lock(&self.background).push(handle);
    }

    /// Lets layers that earlier builds unpacked outlast a restart of the machine. Once a build, while its steps are done,
    /// and not in short ones, which would have to wait for what other programs wrote.
    pub(crate) fn settle_in_background(&self) {
        if self.started.elapsed() < LONG_BUILD || self.settling.swap(true, Ordering::Relaxed) {
            return;
        }
        let layers = Arc::clone(&self.layers);
        let unpacked_by =
            UNIX_EPOCH + Duration::from_secs(self.options.now.saturating_sub(SETTLED_AFTER).max(0).unsigned_abs());
        // Without it they are unpacked again after a restart.
        let handle = std::thread::spawn(move || drop(layers.store().settle(unpacked_by)));
        lock(&self.background).push(handle);
    }

    pub(super) fn wait_for_background(&self) {
        let handles: Vec<_> = std::mem::take(&mut *lock(&self.background));
        for handle in handles {
            let _ = handle.join();
        }
    }
}
