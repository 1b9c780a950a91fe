//! `rbuild images`: the images of the store.

use rbuild_core::store::Store;
use serde_json::{Value, json};

use super::{print_data, print_json, stored, table};
use crate::args::{Format, ImagesArgs};
use crate::error::{Failure, Kind};
use crate::output::bytes;
use crate::settings::{Environment, GlobalSettings};

pub(super) fn run(args: &ImagesArgs, global: &GlobalSettings, environment: &Environment) -> Result<(), Failure> {
    let store = stored::open(global)?;
    let images = store.images().map_err(|error| Failure::of(Kind::Environment, &error))?;
    if args.quiet {
        let mut digests: Vec<String> = images.iter().map(|image| format!("{}\n", image.descriptor.digest)).collect();
        digests.dedup();
        return print_data(digests.concat().as_bytes());
    }
    let records: Vec<Value> = images.iter().map(|image| record(&store, image)).collect();
    if args.format == Format::Json {
        return print_json(&Value::Array(records));
    }
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
            let platforms: Vec<&str> =
                record["platforms"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            vec![
                text("name"),
                text("digest").chars().take("sha256:".len() + 12).collect(),
                platforms.join(","),
                stored::age(record["created"].as_str(), environment.now),
                record["size_bytes"].as_u64().map(bytes).unwrap_or_default(),
            ]
        })
        .collect();
    print_data(table(&["IMAGE", "DIGEST", "PLATFORM", "CREATED", "SIZE"], &rows).as_bytes())
}

/// What is known of an image; one that is damaged still has its name and digest.
fn record(store: &Store, image: &rbuild_core::store::StoredImage) -> Value {
    let platforms = stored::platforms(store, &image.descriptor).unwrap_or_default();
    let names: Vec<String> = platforms.iter().map(|platform| platform.config.platform().to_string()).collect();
    json!({
        "name": stored::familiar(&image.reference),
        "reference": image.reference,
        "digest": image.descriptor.digest.to_string(),
        "platforms": names,
        "created": platforms.first().and_then(|platform| platform.config.created.clone()),
        "size_bytes": platforms.iter().map(stored::PlatformImage::size_bytes).sum::<u64>(),
    })
}
