//! The build context, and how COPY and ADD copy files from it, from stages and from archives.
//!
//! Copying has two steps. [`select`] looks at the source alone and gives a [`Selection`]: what is copied, under which
//! relative names, with a digest for the step's cache key. [`place`] puts a selection into a stage's tree and gives the
//! changes that make the layer. A step whose key is known never needs the second one.
//!
//! ```text
//! ContextDir / MemoryTree / any TreeView --select--> Selection --place--> Placement { changes, warnings }
//! ```
//!
//! The rules are those of BuildKit's Dockerfile frontend and of the copier that it uses; where they surprise, the code
//! says so with `COMPAT(buildkit)`. Nothing here follows a symbolic link of a tree out of that tree, and nothing opens
//! anything but regular files.

mod archive;
mod canvas;
mod copied;
mod describe;
mod directory;
mod error;
mod extract;
mod folder;
mod glob;
mod held;
mod idle;
mod ignore;
mod links;
mod memory;
mod merge;
mod mode;
mod pattern;
mod picked;
mod place;
mod program;
mod reach;
mod select;
mod spool;
mod stat_cache;
mod stat_news;
mod stat_table;
mod suggest;
mod unread;
mod visit;
mod walk;

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod directory_tests;
#[cfg(test)]
mod walk_tests;

pub use archive::{Compression, is_archive};
pub(crate) use describe::describe;
pub use directory::ContextDir;
pub use error::{ArchiveError, ContextError, CopyError, IgnoreError};
pub use extract::read_archive_tree;
pub use glob::{BadPattern, has_wildcards, matches as glob_matches};
pub use held::ChangedFile;
pub use idle::idle_patterns;
pub use ignore::{IgnoreRules, Verdict};
pub use memory::MemoryTree;
pub use mode::{ModeChange, ModeError};
pub use place::{PlaceOptions, PlaceWarning, Placement, make_directory, place};
pub use reach::{fruitless_directory, names_something_at};
pub use select::{Fingerprint, SelectOptions, Selection, check_source, fingerprint, select, select_in};
pub use stat_cache::{StatCache, StatCacheError};
pub use suggest::{MissingSource, explain_missing};
pub use unread::UnreadDir;
