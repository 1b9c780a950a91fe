//! Caches that travel between stores: `--cache-to` and `--cache-from`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_core::oci::Digest;
use serde_json::Value;
use support::{Bench, Ran, Registry, RunCommand, digest_in, have};

const DOCKERFILE: &str = "FROM busybox AS made\n\
    RUN date +%s%N > /time\n\
    COPY files /files\n\
    FROM busybox\n\
    WORKDIR /work\n\
    COPY --from=made /files /copied\n\
    RUN date +%s%N > /work/time && cat /copied/a > /copy\n";

/// A stage alone: what its cache has is all that it needs.
const ONE_STAGE: &str = "FROM busybox\n\
    RUN date +%s%N > /time\n\
    COPY files /files\n\
    RUN date +%s%N > /later\n";

fn project(bench: &Bench, dockerfile: &str) -> PathBuf {
    bench.context("context", &[("Dockerfile", dockerfile), ("files/a", "a"), ("files/b/c", "c")])
}

/// Builds with a store of that name; gives the digest of the image too.
fn build(bench: &Bench, store: &str, context: &Path, flags: &[&str]) -> (String, Ran) {
    let ran = command(bench, store, context, flags).ran().ok();
    (digest_in(&bench.path("id")), ran)
}

fn command(bench: &Bench, store: &str, context: &Path, flags: &[&str]) -> std::process::Command {
    let mut command = bench.build_command(context, flags);
    command.arg("--root").arg(bench.path(store)).arg("-v").arg("--iidfile").arg(bench.path("id"));
    command
}

/// How many steps were done, and not found.
fn done(ran: &Ran) -> usize {
    ran.stderr.lines().filter(|line| line.starts_with('#') && line.contains(" DONE")).count()
}

/// Writes with one store, reads with another, and gives what the second said.
fn travels(bench: &Bench, context: &Path, to: &str, from: &str) -> Ran {
    let (wanted, first) = build(bench, "one", context, &["--cache-to", to]);
    assert!(done(&first) > 0, "{}", first.stderr);
    let (found, second) = build(bench, "two", context, &["--cache-from", from]);
    assert_eq!(found, wanted, "{}", second.stderr);
    second
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

fn manifest_of(layout: &Path) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).expect("index")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("digest").replace("sha256:", "");
    serde_json::from_slice(&fs::read(layout.join("blobs/sha256").join(digest)).expect("manifest")).expect("JSON")
}

#[test]
fn a_folder_carries_all_stages() {
    let bench = Bench::new();
    let context = project(&bench, DOCKERFILE);
    let folder = bench.path("cache");
    let (to, from) =
        (format!("type=local,dest={},mode=max", folder.display()), format!("type=local,src={}", folder.display()));
    let second = travels(&bench, &context, &to, &from);
    assert_eq!(done(&second), 0, "{}", second.stderr);
    let manifest = manifest_of(&folder);
    assert_eq!(manifest["artifactType"], "application/vnd.rbuild.cache.v1+json");
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(5));
    for blob in files(&folder.join("blobs/sha256")) {
        let bytes = fs::read(&blob).expect("blob");
        assert_eq!(Digest::of(&bytes).hex(), blob.file_name().expect("named").to_string_lossy());
    }
    // What has nothing new writes nothing.
    let before = files(&folder.join("blobs/sha256"));
    let (_, again) = build(&bench, "two", &context, &["--cache-to", &to]);
    again.says(&["has all 5 steps already"]);
    assert_eq!(files(&folder.join("blobs/sha256")), before);
    // What only the former cache had goes with it.
    fs::write(context.join("files/a"), "changed").expect("write");
    build(&bench, "two", &context, &["--cache-to", &to]);
    let after = files(&folder.join("blobs/sha256"));
    assert_eq!(after.len(), before.len());
    assert!(before.iter().any(|blob| !after.contains(blob)));
}

#[test]
fn a_folder_carries_the_image_alone() {
    let bench = Bench::new();
    let context = project(&bench, ONE_STAGE);
    let folder = bench.path("cache");
    let (to, from) =
        (format!("type=local,dest={},tag=v1", folder.display()), format!("type=local,src={},tag=v1", folder.display()));
    let second = travels(&bench, &context, &to, &from);
    assert_eq!(done(&second), 0, "{}", second.stderr);
    // Also in another compression, which is another image of the same files.
    let output = format!("type=oci,dest={},compression=zstd", bench.path("image.tar").display());
    let (_, third) = build(&bench, "three", &context, &["--cache-from", &from, "-o", &output]);
    assert_eq!(done(&third), 0, "{}", third.stderr);
    let wrong = from.replace("tag=v1", "tag=v2");
    let (_, fourth) = build(&bench, "four", &context, &["--cache-from", &wrong]);
    fourth.says(&["the cache", ":v2` is not used"]);
}

#[test]
fn a_registry_carries() {
    if !have("cache in a registry", &["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let registry = Registry::start(&bench.path("registry"));
    let context = project(&bench, DOCKERFILE);
    let name = format!("{}/app:cache", registry.host);
    let to = format!("type=registry,ref={name},mode=max");
    let second = travels(&bench, &context, &to, &name);
    assert_eq!(done(&second), 0, "{}", second.stderr);
    let (_, again) = build(&bench, "two", &context, &["--cache-to", &to, "--cache-from", &name]);
    again.says(&["has all 5 steps already"]);
    // A bare name is a registry for writing too; the image's own steps are there already.
    let (_, bare) = build(&bench, "two", &context, &["--cache-to", &name]);
    bare.says(&["has 3 steps and 3 layers, 0 of them new"]);
}
