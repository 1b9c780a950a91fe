//! `rbuild inspect`: an image as JSON, with its manifests and configurations as they are stored.

use serde_json::{Value, json};

use super::{print_json, stored};
use crate::args::InspectArgs;
use crate::error::Failure;
use crate::settings::GlobalSettings;

pub(super) fn run(args: &InspectArgs, global: &GlobalSettings) -> Result<(), Failure> {
    let store = stored::open(global)?;
    let mut records = Vec::new();
    for text in &args.references {
        let images = stored::find(&store, text)?;
        let Some(first) = images.first() else { continue };
        let platforms: Vec<Value> = stored::platforms(&store, &first.descriptor)?
            .into_iter()
            .map(|image| {
                json!({
                    "platform": image.config.platform().to_string(),
                    "digest": image.descriptor.digest.to_string(),
                    "config_digest": image.config_digest.to_string(),
                    "size_bytes": image.size_bytes(),
                    "manifest": image.manifest,
                    "config": image.config_json,
                })
            })
            .collect();
        let names: Vec<&str> =
            images.iter().map(|image| image.reference.as_str()).filter(|name| !name.is_empty()).collect();
        records.push(json!({
            "references": names,
            "digest": first.descriptor.digest.to_string(),
            "media_type": first.descriptor.media_type,
            "platforms": platforms,
        }));
    }
    print_json(&Value::Array(records))
}
