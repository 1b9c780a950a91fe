//! Chunks compressed on several threads, and written in order.
//!
//! ```text
//! archive thread --+--> hash thread (diff ID)
//!                  +--> jobs --> compressing threads --> answers
//!                  '--> order (bounded) ----------------> caller: takes the answers in order and writes
//! ```
//!
//! The bounded queue of answers to come bounds everything: the archive thread waits in it, so no more chunks than it
//! holds are in memory, however slow the disk or one compressing thread is. Empty buffers go back to the archive thread.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::archive::write_archive;
use super::border::LARGEST;
use super::compression::ChunkCompressor;
use super::encode::Archived;
use super::{Compression, LayerError};
use crate::oci::{DiffId, Hasher};
use crate::tree::Change;

/// A compressed chunk, once it is there.
type Answer = Result<Vec<u8>, LayerError>;

struct Job {
    chunk: Arc<Vec<u8>>,
    answer: Sender<Answer>,
}

/// Archives `changes`, and hands each compressed chunk in order to `write`.
pub(super) fn run(
    changes: &[Change],
    compression: Compression,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), LayerError>,
) -> Result<Archived, LayerError> {
    let (jobs, job_queue) = unbounded::<Job>();
    let (hash_jobs, hash_queue) = unbounded::<Arc<Vec<u8>>>();
    let (order, answers) = bounded::<Receiver<Answer>>(2 * threads + 2);
    let (spare, spares) = unbounded::<Vec<u8>>();
    thread::scope(|scope| {
        let hasher = {
            let spare = spare.clone();
            scope.spawn(move || hash(&hash_queue, &spare))
        };
        for _ in 0..threads {
            let compressor = compression.compressor().map_err(|source| LayerError::Compress { source })?;
            let (job_queue, spare) = (job_queue.clone(), spare.clone());
            scope.spawn(move || compress(compressor, &job_queue, &spare));
        }
        let archiver = scope.spawn(move || {
            write_archive(changes, &mut |chunk| {
                let chunk = Arc::new(chunk);
                let (answer, coming) = bounded(1);
                // The queues' other ends are gone only after an error that the caller already has.
                let _ = hash_jobs.send(Arc::clone(&chunk));
                let _ = jobs.send(Job { chunk, answer });
                order.send(coming).map_err(|_| LayerError::Write { source: std::io::ErrorKind::BrokenPipe.into() })?;
                Ok(spares.try_recv().unwrap_or_else(|_| Vec::with_capacity(LARGEST as usize)))
            })
        });
        let mut written = Ok(());
        for coming in &answers {
            // An answer that never comes means that its thread panicked, which the scope passes on.
            let Ok(answer) = coming.recv() else { break };
            written = answer.and_then(|member| write(&member));
            if written.is_err() {
                break;
            }
        }
        // Without this the archive thread would wait for room in the queue for ever.
        drop(answers);
        let tree = join(archiver);
        let (diff_id, size) = join(hasher);
        written?;
        Ok(Archived { diff_id, size, tree: tree? })
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn hash(queue: &Receiver<Arc<Vec<u8>>>, spare: &Sender<Vec<u8>>) -> (DiffId, u64) {
    let mut hasher = Hasher::new();
    let mut size = 0;
    for chunk in queue {
        hasher.update(&chunk);
        size += chunk.len() as u64;
        recycle(chunk, spare);
    }
    (DiffId(hasher.finish()), size)
}

fn compress(mut compressor: ChunkCompressor, queue: &Receiver<Job>, spare: &Sender<Vec<u8>>) {
    for Job { chunk, answer } in queue {
        let compressed = compressor.compress(&chunk).map_err(|source| LayerError::Compress { source });
        recycle(chunk, spare);
        // Nobody waits for it after an error.
        let _ = answer.send(compressed);
    }
}

fn recycle(chunk: Arc<Vec<u8>>, spare: &Sender<Vec<u8>>) {
    if let Some(buffer) = Arc::into_inner(chunk) {
        let _ = spare.send(buffer);
    }
}
