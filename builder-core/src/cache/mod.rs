//! Step keys and step records: what was done, under which inputs.
//!
//! A key is the BLAKE3 digest of a canonical *pre-image*: every input of a step as a named line. The pre-image is
//! stored with the result, so a miss can name the very input that changed. Proxy variables, the values of secrets
//! and what cache mounts hold are in no key.

mod align;
mod bundle;
mod compare;
mod explain;
mod files;
pub(crate) mod input;
mod journal;
mod key;
mod record;

pub use align::align;
pub use bundle::{Bundle, BundleError, CarriedSelection, CarriedStep};
pub use explain::{StepFacts, Written, explain_miss};
pub use files::{Files, FilesBuilder};
pub use journal::{BuildEnd, BuildRecord, BuiltStep, LastRun};
pub use key::{PreImage, StepKey};
pub use record::StepRecord;
