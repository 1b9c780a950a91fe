//! Facts about an image for people.

use crate::oci::{Descriptor, DiffId, ImageConfig};

use super::Image;

/// An image as `inspect` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageDetails {
    /// The manifest.
    pub manifest: Descriptor,
    /// The configuration's blob.
    pub config_blob: Descriptor,
    /// The configuration.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<LayerDetails>,
    /// The size of all layers' blobs, in bytes.
    pub size_bytes: u64,
}

/// A layer as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDetails {
    /// Its blob.
    pub blob: Descriptor,
    /// Its diff ID.
    pub diff_id: DiffId,
    /// The instruction that made it; empty where the history does not say.
    pub created_by: String,
}

/// An entry of an image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// When the instruction ran, RFC 3339.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// A comment, such as which builder made it.
    pub comment: String,
    /// The layer that it made.
    pub layer: Option<Descriptor>,
}

/// Collects an image's facts.
#[must_use]
pub fn inspect(image: &Image) -> ImageDetails {
    let lines = history(image);
    let mut made_by = lines.iter().filter(|line| line.layer.is_some()).map(|line| line.created_by.clone());
    let blobs = image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids);
    let layers: Vec<LayerDetails> = blobs
        .map(|(blob, diff_id)| LayerDetails {
            blob: blob.clone(),
            diff_id: *diff_id,
            created_by: made_by.next().unwrap_or_default(),
        })
        .collect();
    ImageDetails {
        manifest: image.descriptor.clone(),
        config_blob: image.manifest.config.clone(),
        config: image.config.clone(),
        size_bytes: layers.iter().map(|layer| layer.blob.size).sum(),
        layers,
    }
}

/// An image's history, oldest first, with the layers that the entries made. Layers that the history does not mention
/// follow with empty texts.
#[must_use]
pub fn history(image: &Image) -> Vec<HistoryLine> {
    let mut layers = image.manifest.layers.iter().cloned();
    let mut lines: Vec<HistoryLine> = image
        .config
        .history
        .iter()
        .map(|entry| HistoryLine {
            created: entry.created.clone(),
            created_by: entry.created_by.clone(),
            comment: entry.comment.clone(),
            layer: if entry.empty_layer { None } else { layers.next() },
        })
        .collect();
    lines.extend(layers.map(|layer| HistoryLine {
        created: None,
        created_by: String::new(),
        comment: String::new(),
        layer: Some(layer),
    }));
    lines
}

#[cfg(test)]
mod tests {
    use crate::image::assemble::{MediaTypes, tests::small_image};
    use crate::image::{history, inspect, load_image};
    use crate::oci::{History, Platform};

    #[test]
    fn layers_belong_to_the_instructions_that_made_them() {
        let (_dir, store, descriptor) = small_image(MediaTypes::Oci);
        let mut image = load_image(&store, &descriptor, &Platform::new("linux", "amd64", "")).unwrap();
        let entry = |text: &str, empty_layer| History { created_by: text.into(), empty_layer, ..History::default() };
        image.config.history = vec![entry("ADD", false), entry("ENV", true), entry("RUN", false)];
        let lines = history(&image);
        let made: Vec<_> = lines.iter().map(|l| (l.created_by.as_str(), l.layer.is_some())).collect();
        assert_eq!(made, [("ADD", true), ("ENV", false), ("RUN", true), ("", true)]);
        let details = inspect(&image);
        assert_eq!(details.size_bytes, 11 + 12 + 12);
        assert_eq!(details.layers.iter().map(|l| l.created_by.as_str()).collect::<Vec<_>>(), ["ADD", "RUN", ""]);
    }
}
