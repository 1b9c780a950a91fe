//! Builds an image without a Dockerfile, from a base in an OCI layout and files of a folder:
//! `cargo run --example without_dockerfile -- STORE LAYOUT FOLDER NAME`.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use rbuild_core::exec::{BuildOptions, Cancel, NamedContext, build_plan};
use rbuild_core::oci::Platform;
use rbuild_core::plan::{Source, StageIndex, StagePlan};
use rbuild_core::progress::Event;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, layout, folder, name] = &arguments[..] else {
        return Err("usage: without_dockerfile STORE LAYOUT FOLDER NAME".into());
    };
    let mut options = BuildOptions::new(store, folder);
    let base = NamedContext::Layout { path: layout.into(), tag: None, digest: None };
    options.named_contexts = BTreeMap::from([("base".to_owned(), base)]);
    options.tags = vec![name.parse()?];
    let stage = StagePlan::new(StageIndex(0), Source::Named("base".to_owned()), Platform::host())
        .copy(Source::Context, &["."], "/data/")
        .run(&["/bin/sh", "-c", "ls /data > /listing"]);
    let result = build_plan(&options, vec![stage], Arc::new(|event: Event| println!("{event:?}")), &Cancel::new())?;
    println!("built {}", result.manifest.ok_or("an image was asked for")?.digest);
    Ok(())
}
