//! What names of images stand for: named contexts, or images of registries.

use std::collections::BTreeSet;

use super::step::Source;
use crate::oci::Platform;
use crate::reference::{Reference, ReferenceError};

/// Names that no named context can take: the empty base, and the build context.
const RESERVED: [&str; 2] = ["scratch", "context"];

/// The named context or the image that a name stands for.
pub(crate) fn external_source(
    named_contexts: &BTreeSet<String>,
    name: &str,
    platform: &Platform,
) -> Result<Source, ReferenceError> {
    let for_platform = named_context(named_contexts, &format!("{name}::{platform}"));
    if let Some(context) = for_platform.or_else(|| named_context(named_contexts, name)) {
        return Ok(Source::Named(context));
    }
    let reference = Reference::parse(name)?;
    Ok(Source::Image { reference: reference.to_string(), platform: platform.clone() })
}

/// The named context that a name stands for: names are compared as image names, `:latest` left out.
pub(super) fn named_context(named_contexts: &BTreeSet<String>, name: &str) -> Option<String> {
    if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
        return None;
    }
    let plain = |text: &str| {
        let text = text.to_lowercase();
        Reference::parse(&text).map_or(text, |r| {
            let familiar = r.familiar();
            familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned)
        })
    };
    let wanted = plain(name);
    named_contexts.iter().find(|context| plain(context) == wanted).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_contexts_are_found_by_image_names() {
        let contexts: BTreeSet<String> =
            ["scratch", "Context", "docker.io/library/busybox", "app:1"].map(str::to_owned).into();
        for (name, found) in [
            ("busybox", true),
            ("BUSYBOX:latest", true),
            ("busybox:1", false),
            ("app:1", true),
            ("app", false),
            ("scratch", false),
            ("SCRATCH", false),
            ("context", false),
        ] {
            assert_eq!(named_context(&contexts, name).is_some(), found, "{name}");
        }
    }
}
