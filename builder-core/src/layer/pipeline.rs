//! Chunks made on several threads, and written in order.
//!
//! ```text
//!           empty buffers <-----------------------------------------------+
//!                 v                                                       |
//! layout --> workers: read, digest, unpack, compress --> caller: sorts, writes --> hash threads: diff ID, digest
//!            (a thread each)
//! ```
//!
//! A worker takes buffers first and the next chunk of the layout then, so no more chunks than there are buffers are in
//! memory, and the chunk that everything waits for always has some.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::LayerError;
use super::ahead::Ahead;
use super::archive::Layout;
use super::first_pass::SeenChunk;
use super::hashers::{ArchiveHasher, Archived, BlobHasher};
use super::worker::{Buffers, Made, Worker};
use crate::oci::Digest;

/// As many chunks wait to be written and hashed at most, besides those that are made: with many workers, a chunk for each would
/// take more memory than a layer may.
const MOST_WAITING: usize = 3;

/// A chunk that was made, with its place in the order.
type Answer = (usize, Result<(Buffers, Made), LayerError>);

/// A chunk that was written, with what is known of it for a second pass.
type Written = (Buffers, Option<SeenChunk>);

/// Makes the archive of a layout with `workers`, and hands each chunk in order to `write`. Does `beside` meanwhile.
pub(super) fn run<'a>(
    layout: Layout<'a>,
    workers: Vec<Worker<'a>>,
    mut archive: ArchiveHasher,
    mut blob: BlobHasher,
    ahead: Option<Ahead<'a>>,
    beside: impl FnOnce() -> Result<(), LayerError> + Send,
    write: &mut dyn FnMut(&Buffers, &Made) -> Result<(), LayerError>,
) -> Result<(Archived, Digest), LayerError> {
    let layout = Mutex::new(layout);
    let slots = (2 * workers.len()).min(workers.len() + MOST_WAITING);
    let (empty, empties) = bounded::<Buffers>(slots);
    let (answer, answers) = unbounded::<Answer>();
    let (to_archive, from_writer) = unbounded::<Written>();
    let (to_blob, from_archive) = unbounded::<Written>();
    for _ in 0..slots {
        empty.send(Buffers::default()).expect("the queue has room for each of them");
    }
    thread::scope(|scope| {
        let beside = scope.spawn(beside);
        let archive = scope.spawn(move || {
            for (buffers, seen) in from_writer {
                archive.update(&buffers);
                // The other end is gone only when its thread panicked, which the scope passes on.
                let _ = to_blob.send((buffers, seen));
            }
            archive.finish()
        });
        let blob = scope.spawn(move || {
            for (mut buffers, seen) in from_archive {
                blob.update(&buffers);
                if let Some((ahead, seen)) = ahead.as_ref().zip(seen) {
                    buffers = ahead.exchange(buffers, seen.id);
                }
                // There is room: the buffers came from there. All workers may have ended.
                let _ = empty.send(buffers);
            }
            blob
        });
        for worker in workers {
            let (layout, empties, answer) = (&layout, empties.clone(), answer.clone());
            scope.spawn(move || work(worker, layout, &empties, &answer));
        }
        drop((empties, answer));
        let written = write_in_order(&answers, &to_archive, write);
        // Workers that still run end now: after an error their answers and the buffers have nowhere to go.
        drop((answers, to_archive));
        let archived = archive.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let blob = blob.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let done = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(done)?;
        let digest = blob.finish(&archived);
        Ok((archived, digest))
    })
}

fn work(mut worker: Worker<'_>, layout: &Mutex<Layout<'_>>, empties: &Receiver<Buffers>, answer: &Sender<Answer>) {
    for mut buffers in empties {
        let (number, chunk) = {
            let mut layout = layout.lock().unwrap_or_else(PoisonError::into_inner);
            let number = layout.chunks;
            let Some(chunk) = layout.next().transpose() else { return };
            (number, chunk)
        };
        let made = chunk.and_then(|chunk| worker.make(number, &chunk, &mut buffers)).map(|made| (buffers, made));
        if answer.send((number, made)).is_err() {
            return;
        }
    }
}

fn write_in_order(
    answers: &Receiver<Answer>,
    written: &Sender<Written>,
    write: &mut dyn FnMut(&Buffers, &Made) -> Result<(), LayerError>,
) -> Result<(), LayerError> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (number, answer) in answers {
        early.insert(number, answer);
        while let Some(answer) = early.remove(&next) {
            let (buffers, made) = answer?;
            write(&buffers, &made)?;
            // The other end is gone only when its thread panicked, which the scope passes on.
            let _ = written.send((buffers, made.seen));
            next += 1;
        }
    }
    Ok(())
}
