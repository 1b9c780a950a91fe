//! Caches that travel: `--cache-from` and `--cache-to`.
//!
//! ```text
//! place     what a cache looks like, and reading one
//! import    steps of other stores: found by key, their layers fetched when something needs the bytes
//! losses    what can't be had after all, and beginning again without it
//! export    the steps of this build, sent to where the next machine finds them
//! layout    folders that they are written to
//! mounts    cache mounts that go along
//! parts     what they are cut into
//! deadline  neither may hold a build up
//! ```
//!
//! A cache is read when the first step is not in the store, and then only its list of steps. A step that is found counts
//! as done at once; its layer is fetched when its bytes are needed, which for a stage that is only copied from may be never.
//! Where that fails, the build begins again without this layer: all that was done is in the store, and the step is done.
//!
//! The same holds for a stage that is only copied from and whose layers are nowhere any more: as long as its steps are known,
//! and so is what is copied (`exec::selection`), its layers count as there. They are a promise, which the build breaks by
//! beginning again when somebody needs one.
//!
//! Whoever can write a cache can decide what its steps gave, as with every cache of builds. What can be checked is: a record
//! is found only by the key of its own inputs, and a layer is used only when its bytes have its digest and its diff ID. One
//! that nobody here reads stays in its registry (`exec::left_blobs`), and is checked by whoever fetches it.

mod deadline;
mod export;
mod import;
mod layout;
mod losses;
mod mounts;
mod options;
mod parts;
mod place;

use std::error::Error;

pub(crate) use export::{export, inline_annotation, is_inline};
pub(crate) use import::Carry;
pub(crate) use losses::{Losses, retrying};
pub use options::{CacheMode, CachePlace, CacheSource, CacheTarget};

use crate::progress::{Event, Events, Warning};

/// An error and all its causes in one line.
fn reason(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

fn warn(events: &Events, message: String, help: &str) {
    events.event(Event::Warning(Warning { rule: String::new(), message, help: help.to_owned(), span: None }));
}
