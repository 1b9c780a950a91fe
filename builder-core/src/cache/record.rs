//! Step records: what a step with a certain key gave.

use serde::{Deserialize, Serialize};

use super::{PreImage, Written};
use crate::oci::DiffId;

/// The result of a step, stored under its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The inputs that the key was made of.
    pub inputs: PreImage,
    /// What the step is in the Dockerfile.
    #[serde(default)]
    pub written: Written,
    /// The layer that the step made.
    pub diff_id: DiffId,
    /// When it was made: seconds since the epoch. Becomes the creation time in the image's history.
    pub created: i64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// The most memory that its processes had, bytes; 0 where that is not known.
    #[serde(default)]
    pub peak_bytes: u64,
}

impl StepRecord {
    /// Writes the record.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has string keys only")
    }

    /// Reads a record; `None` when it is damaged, which counts as none at all.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
