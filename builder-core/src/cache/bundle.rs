//! Step records that leave the store: what `--cache-to` writes and `--cache-from` reads.
//!
//! One JSON document, written without white space, its properties sorted and its lists in the order of keys:
//!
//! ```text
//! {"format":"rbuild-step-2",
//!  "selections":[{"files":"…","inputs":{…}},…],
//!  "steps":[{"created":1700000000,"diff_id":"sha256:…","inputs":{…},"took_ms":12},…],
//!  "version":1}
//! ```
//!
//! Keys are not written. A reader computes them from the inputs, so a record speaks for its own step and no other.
//! The same steps always give the same bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::key::FORMAT;
use super::{PreImage, StepKey, StepRecord, Written};
use crate::oci::DiffId;

/// The version of the document.
const VERSION: u32 = 1;

/// The most steps of a bundle.
const STEP_LIMIT: usize = 20_000;

/// The result of a step, as it is carried from one store to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedStep {
    /// When it was made: seconds since the epoch.
    pub created: i64,
    /// The layer that the step made.
    pub diff_id: DiffId,
    /// The inputs that the key is made of.
    pub inputs: PreImage,
    /// How long it took, milliseconds; 0 where that was left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub took_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a COPY takes from layers: the inputs that decide it, and the digest of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedSelection {
    /// The digest of the files, as the key of the step has it.
    pub files: String,
    /// The layers and the paths.
    pub inputs: PreImage,
}

/// Step results by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    steps: BTreeMap<StepKey, CarriedStep>,
    selections: BTreeMap<StepKey, CarriedSelection>,
}

/// A document is no bundle that this version of rbuild can use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BundleError {
    /// It is no JSON of the right shape.
    #[error("its list of steps is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// Another version of rbuild wrote it.
    #[error("it has the format `{found}`, and this version of rbuild reads `{}`", format_name(VERSION, FORMAT))]
    Format {
        /// The format that it has.
        found: String,
    },
    /// It is larger than any build.
    #[error("it has more than {STEP_LIMIT} steps")]
    TooManySteps,
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    selections: Vec<CarriedSelection>,
    steps: Vec<CarriedStep>,
}

fn format_name(version: u32, format: &str) -> String {
    let shown: String = format.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
    format!("{version} {shown}")
}

impl Bundle {
    /// Adds a step.
    pub fn add(&mut self, step: CarriedStep) {
        self.steps.insert(step.inputs.key(), step);
    }

    /// Adds what a COPY takes from layers.
    pub fn add_selection(&mut self, selection: CarriedSelection) {
        self.selections.insert(selection.inputs.key(), selection);
    }

    /// The digest of the files that a COPY takes, by the key of what decides it.
    #[must_use]
    pub fn selection(&self, key: &StepKey) -> Option<&str> {
        self.selections.get(key).map(|selection| selection.files.as_str())
    }

    /// Adds all steps of another bundle.
    pub fn extend(&mut self, other: Self) {
        self.steps.extend(other.steps);
        self.selections.extend(other.selections);
    }

    /// Leaves out how long steps took, and sets when they were made where that is given.
    pub fn forget_times(&mut self, created: Option<i64>) {
        for step in self.steps.values_mut() {
            step.took_ms = 0;
            step.created = created.unwrap_or(step.created);
        }
    }

    /// The result of the step with that key.
    #[must_use]
    pub fn step(&self, key: &StepKey) -> Option<&CarriedStep> {
        self.steps.get(key)
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Writes the bundle.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let steps: Vec<&CarriedStep> = self.steps.values().collect();
        // A JSON value sorts its properties.
        let selections: Vec<&CarriedSelection> = self.selections.values().collect();
        let document = serde_json::json!({
            "format": FORMAT, "selections": selections, "steps": steps, "version": VERSION,
        });
        serde_json::to_vec(&document).expect("a JSON value can always be written")
    }

    /// Reads a bundle of anybody's.
    ///
    /// # Errors
    /// When it is no bundle, is of another format, or is larger than any build.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let malformed = |error: serde_json::Error| BundleError::Malformed { reason: error.to_string() };
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.version != VERSION || head.format != FORMAT {
            return Err(BundleError::Format { found: format_name(head.version, &head.format) });
        }
        let body: Body = serde_json::from_slice(bytes).map_err(malformed)?;
        if body.steps.len().max(body.selections.len()) > STEP_LIMIT {
            return Err(BundleError::TooManySteps);
        }
        let mut bundle = Self::default();
        body.steps.into_iter().for_each(|step| bundle.add(step));
        body.selections.into_iter().for_each(|selection| bundle.add_selection(selection));
        Ok(bundle)
    }
}

impl CarriedStep {
    /// The record as this store keeps it.
    #[must_use]
    pub fn record(&self) -> StepRecord {
        StepRecord {
            inputs: self.inputs.clone(),
            // The Dockerfile that it comes from is another machine's.
            written: Written::default(),
            diff_id: self.diff_id,
            created: self.created,
            took_ms: self.took_ms,
            // How much memory it took there says little of this machine.
            peak_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn step(value: &str, took_ms: u64) -> CarriedStep {
        let mut inputs = PreImage::new();
        inputs.add("instruction", value);
        CarriedStep { created: 7, diff_id: DiffId(Digest::of(value.as_bytes())), inputs, took_ms }
    }

    #[test]
    fn the_same_steps_give_the_same_bytes() {
        let (mut one, mut other) = (Bundle::default(), Bundle::default());
        for value in ["a", "b", "c"] {
            one.add(step(value, 0));
        }
        for value in ["c", "a", "b", "a"] {
            other.add(step(value, 0));
        }
        assert_eq!(one.to_bytes(), other.to_bytes());
        let read = Bundle::from_bytes(&one.to_bytes()).unwrap();
        assert_eq!(read, one);
        assert_eq!(read.step(&step("b", 0).inputs.key()).unwrap().record().diff_id, step("b", 0).diff_id);
        assert!(!String::from_utf8(one.to_bytes()).unwrap().contains("took_ms"));
        one.add(step("b", 3));
        assert!(String::from_utf8(one.to_bytes()).unwrap().contains(r#""took_ms":3"#));
    }

    #[test]
    fn hostile_documents_are_errors() {
        let good = String::from_utf8({
            let mut bundle = Bundle::default();
            bundle.add(step("a", 1));
            bundle.to_bytes()
        })
        .unwrap();
        for (text, reason) in [
            (String::new(), "malformed"),
            ("[]".to_owned(), "malformed"),
            ("[".repeat(100_000), "malformed"),
            (good.replace(":1}", ":2}"), "format `2 rbuild"),
            (good.replace(FORMAT, "rbuild-step-999\\u001b[31m"), "`1 rbuild-step-999[31m`"),
            (good.replace("sha256:", "sha256:../../"), "malformed"),
            (good.replace("\"created\":7", "\"created\":1e99"), "malformed"),
            (good.replace("\"steps\"", "\"other\""), "malformed"),
            (good[..good.len() / 2].to_owned(), "malformed"),
        ] {
            let error = Bundle::from_bytes(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let many = vec![serde_json::json!(step("a", 1)); STEP_LIMIT + 1];
        let text = serde_json::json!({ "format": FORMAT, "version": VERSION, "steps": many }).to_string();
        assert_eq!(Bundle::from_bytes(text.as_bytes()), Err(BundleError::TooManySteps));
    }
}
