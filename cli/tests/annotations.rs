//! Annotations of the command line, as they stand in the layout that a build writes.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::Bench;

/// Builds into an OCI layout, and gives its index.json and the folder.
fn layout(bench: &Bench, flags: &[&str]) -> (Value, std::path::PathBuf) {
    let context = bench.context("context", &[("Dockerfile", "FROM scratch\nLABEL a=b\n")]);
    let folder = bench.path("layout");
    // Another image of an earlier build would stand beside this one.
    let _ = fs::remove_dir_all(&folder);
    let output = format!("type=oci,tar=false,dest={}", folder.display());
    let all = [&["-o", output.as_str()], flags].concat();
    bench.build(&context, &all).ok();
    (read(&folder.join("index.json")), folder)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file of the layout")).expect("JSON")
}

/// The document that an entry of an index points to.
fn document(folder: &Path, entry: &Value) -> Value {
    let digest = entry["digest"].as_str().expect("an entry has a digest");
    read(&folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))
}

#[test]
fn one_platform_has_annotations_of_its_manifest_and_entry() {
    let bench = Bench::new();
    let flags = ["--annotation", "a=b=c", "--annotation", "manifest,manifest-descriptor:d=e"];
    let (index, folder) = layout(&bench, &flags);
    let entry = &index["manifests"][0];
    assert_eq!(entry["annotations"], json!({"d": "e"}));
    assert_eq!(document(&folder, entry)["annotations"], json!({"a": "b=c", "d": "e"}));
    let (plain, _) = layout(&bench, &[]);
    assert_ne!(plain["manifests"][0]["digest"], entry["digest"]);
    assert_eq!(plain["manifests"][0]["annotations"], Value::Null);
}

#[test]
fn each_platform_has_its_own_and_the_index_its_own() {
    let bench = Bench::new();
    let flags = [
        "--platform=linux/amd64,linux/arm64",
        "--annotation=index:i=1",
        "--annotation=index-descriptor:j=2",
        "--annotation=manifest[linux/arm64],manifest-descriptor[linux/arm64]:arm=yes",
        "--annotation=all=3",
    ];
    let (top, folder) = layout(&bench, &flags);
    assert_eq!(top["manifests"][0]["annotations"], json!({"j": "2"}));
    let index = document(&folder, &top["manifests"][0]);
    assert_eq!(index["annotations"], json!({"i": "1"}));
    let [amd64, arm64] = [&index["manifests"][0], &index["manifests"][1]];
    assert_eq!(amd64["annotations"], Value::Null);
    assert_eq!(document(&folder, amd64)["annotations"], json!({"all": "3"}));
    assert_eq!(arm64["annotations"], json!({"arm": "yes"}));
    assert_eq!(document(&folder, arm64)["annotations"], json!({"all": "3", "arm": "yes"}));
}

#[test]
fn an_index_is_made_where_it_is_asked_for() {
    let bench = Bench::new();
    let index_type = "application/vnd.oci.image.index.v1+json";
    for flag in ["--annotation=index:i=1", "--build-arg=BUILDKIT_MULTI_PLATFORM=1"] {
        let (top, folder) = layout(&bench, &[flag]);
        assert_eq!(top["manifests"][0]["mediaType"], index_type, "{flag}");
        let index = document(&folder, &top["manifests"][0]);
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1), "{flag}");
    }
    let context = bench.context("context", &[]);
    bench
        .build(&context, &["--build-arg=BUILDKIT_MULTI_PLATFORM=maybe"])
        .fails(2, &["BUILDKIT_MULTI_PLATFORM", "`maybe`", "true or false"]);
}

#[test]
fn outputs_have_annotations_too_and_flags_win() {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", "FROM scratch\nLABEL a=b\n")]);
    let folder = bench.path("layout");
    let output = format!("type=oci,tar=false,dest={},annotation.a=1,annotation.b=2", folder.display());
    bench.build(&context, &["-o", &output, "--annotation", "b=3"]).ok();
    let entry = &read(&folder.join("index.json"))["manifests"][0];
    assert_eq!(document(&folder, entry)["annotations"], json!({"a": "1", "b": "3"}));
}
