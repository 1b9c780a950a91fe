//! Names of images, digests and platforms: what is accepted prints as something that means the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_core::oci::{Digest, Platform};
use rbuild_core::reference::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        for printed in [reference.to_string(), reference.familiar()] {
            assert_eq!(Reference::parse(&printed).as_ref(), Ok(&reference), "{printed}");
        }
        assert!(!reference.repository().is_empty() && !reference.registry().is_empty());
        assert!(reference.tag().is_some() || reference.digest().is_some());
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>().as_ref(), Ok(&digest));
    }
    if let Ok(platform) = text.parse::<Platform>() {
        // The text leaves out what is behind the operating system.
        let printed = Platform { os_version: String::new(), os_features: Vec::new(), ..platform };
        assert_eq!(printed.to_string().parse::<Platform>().as_ref(), Ok(&printed));
    }
});
