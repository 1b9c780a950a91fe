//! Configurations, manifests and indexes of images that somebody else made: read, and written the same twice.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_core::oci::{Descriptor, ImageConfig};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
        let written = config.to_json();
        let again: ImageConfig = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(written, again.to_json());
        let _ = config.platform().to_string();
    }
    if let Ok(descriptor) = serde_json::from_slice::<Descriptor>(bytes) {
        let written = serde_json::to_vec(&descriptor).expect("a descriptor can be written");
        assert_eq!(serde_json::from_slice::<Descriptor>(&written).ok(), Some(descriptor));
    }
});
