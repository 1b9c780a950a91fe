//! Pre-images and keys.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of what pre-images hold. A change of it makes every earlier record a miss.
pub(super) const FORMAT: &str = "rbuild-step-2";

/// The BLAKE3 digest of a step's pre-image, 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey(String);

impl StepKey {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The inputs of a step, as named values in a fixed order.
///
/// Names are what an explanation calls them: `instruction`, `ARG GIT_SHA`, `file src/a.rs`, `base`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PreImage {
    inputs: Vec<(String, String)>,
}

impl PreImage {
    /// Starts an empty pre-image.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.inputs.push((name.into(), value.into()));
    }

    /// The inputs in the order they were added.
    #[must_use]
    pub fn inputs(&self) -> &[(String, String)] {
        &self.inputs
    }

    /// Computes the key. Names and values are framed by their lengths, so no two lists share one.
    #[must_use]
    pub fn key(&self) -> StepKey {
        let mut hasher = blake3::Hasher::new();
        let mut frame = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        frame(FORMAT);
        for (name, value) in &self.inputs {
            frame(name);
            frame(value);
        }
        StepKey(hasher.finalize().to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_keeps_lists_apart() {
        let image = |pairs: &[(&str, &str)]| {
            let mut image = PreImage::new();
            pairs.iter().for_each(|(n, v)| image.add(*n, *v));
            image.key()
        };
        assert_ne!(image(&[("a", "bc")]), image(&[("ab", "c")]));
        assert_ne!(image(&[("a", "b"), ("c", "d")]), image(&[("c", "d"), ("a", "b")]));
        assert_eq!(image(&[("a", "b")]), image(&[("a", "b")]));
    }
}
