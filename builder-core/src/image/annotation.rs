//! Annotations that a user gives an image (OCI image spec, "Annotations"), and which document each belongs to.
//!
//! ```text
//! index-descriptor     what names the index: an entry of a layout's index.json
//! index                the index itself
//! manifest-descriptor  an entry of the index, or of a layout's index.json where there is none
//! manifest             the manifest itself
//! ```

use std::collections::BTreeMap;

use crate::oci::Platform;

/// The document that an annotation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnnotationLevel {
    /// The image's manifest.
    Manifest,
    /// The index of several manifests.
    Index,
    /// The entry that points to the manifest.
    ManifestDescriptor,
    /// The entry that points to the index.
    IndexDescriptor,
}

impl AnnotationLevel {
    /// Every level with its name in `--annotation` and in attributes of outputs.
    pub const NAMES: [(&str, Self); 4] = [
        ("manifest", Self::Manifest),
        ("index", Self::Index),
        ("manifest-descriptor", Self::ManifestDescriptor),
        ("index-descriptor", Self::IndexDescriptor),
    ];

    /// Finds a level by its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find_map(|(known, level)| (known == name).then_some(level))
    }

    /// Whether there is such a document only where an index is made.
    #[must_use]
    pub fn needs_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// The document that it belongs to.
    pub level: AnnotationLevel,
    /// The platform whose manifest gets it; every one's where absent. Without meaning for an index.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Those of a level, for the manifest of a platform. One that names the platform wins over one that names none, and of
/// two alike the later one.
#[must_use]
pub fn annotations_of(all: &[Annotation], level: AnnotationLevel, platform: &Platform) -> BTreeMap<String, String> {
    let fits = |annotation: &&Annotation| level.needs_index() || annotation.platform.as_ref() == Some(platform);
    let of_level = || all.iter().filter(|annotation| annotation.level == level);
    let general = of_level().filter(|annotation| annotation.platform.is_none());
    let chosen = general.chain(of_level().filter(|annotation| annotation.platform.is_some()).filter(fits));
    chosen.map(|annotation| (annotation.name.clone(), annotation.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(level: AnnotationLevel, platform: Option<&str>, name: &str, value: &str) -> Annotation {
        let platform = platform.map(|text| text.parse().unwrap());
        Annotation { level, platform, name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn the_nearest_annotation_wins() {
        use AnnotationLevel::{Index, Manifest};
        let all = [
            annotation(Manifest, Some("linux/arm64"), "a", "for arm64"),
            annotation(Manifest, None, "a", "first"),
            annotation(Manifest, None, "a", "last"),
            annotation(Manifest, None, "b", "all"),
            annotation(Index, Some("linux/arm64"), "c", "index"),
        ];
        let found = |level, platform: &str| {
            let found = annotations_of(&all, level, &platform.parse().unwrap());
            found.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(found(Manifest, "linux/arm64"), ["a=for arm64", "b=all"]);
        assert_eq!(found(Manifest, "linux/amd64"), ["a=last", "b=all"]);
        assert_eq!(found(Index, "linux/amd64"), ["c=index"]);
    }
}
