//! Removes folders of steps that are done while the next step runs: a step leaves some twenty entries, and none of what
//! follows needs them gone.

use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::layers::lock;
use crate::store::TempDir;

/// How many folders may wait. The next one is removed by who brings it.
const WAITING_MAX: usize = 16;

/// One thread that removes folders, started for the first. Dropping this waits until all are gone.
#[derive(Default)]
pub(crate) struct Remover {
    thread: Mutex<Option<(SyncSender<TempDir>, JoinHandle<()>)>>,
}

impl Remover {
    /// Removes a folder soon. Nothing may be mounted in it any more.
    pub(crate) fn remove(&self, folder: TempDir) {
        let mut thread = lock(&self.thread);
        let (sender, _) = thread.get_or_insert_with(|| {
            let (sender, folders) = sync_channel::<TempDir>(WAITING_MAX);
            // A folder goes when it is dropped.
            (sender, std::thread::spawn(move || folders.into_iter().for_each(drop)))
        });
        // What is given back, because too many wait, goes here.
        drop(sender.try_send(folder));
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        let thread = lock(&self.thread).take();
        if let Some((sender, thread)) = thread {
            drop(sender);
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn all_folders_are_gone_at_the_end() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let remover = Remover::default();
        let mut paths = Vec::new();
        for number in 0..3 * WAITING_MAX {
            let folder = store.unpack_dir().unwrap();
            std::fs::create_dir_all(folder.path().join(format!("a/{number}"))).unwrap();
            paths.push(folder.path().to_owned());
            remover.remove(folder);
        }
        drop(remover);
        assert!(paths.iter().all(|path| !path.exists()));
    }
}
