//! Caches that travel between stores: `--cache-to` and `--cache-from`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use rbuild_core::oci::Digest;
use serde_json::Value;
use support::{Bench, Ran, Registry, RunCommand, clean_command, digest_in, have, is_root};

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

/// What a command in an image of that store prints.
fn run(bench: &Bench, store: &str, words: &[&str]) -> String {
    let mut command = clean_command(env!("CARGO_BIN_EXE_rbuild"));
    command.arg("--root").arg(bench.path(store)).arg("run").args(words).ran().ok().stdout
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
fn stages_that_are_only_copied_from_are_not_needed() {
    let bench = Bench::new();
    let context = project(&bench, DOCKERFILE);
    let folder = bench.path("cache");
    let to = format!("type=local,dest={}", folder.display());
    let from = format!("type=local,src={}", folder.display());
    let second = travels(&bench, &context, &to, &from);
    assert_eq!(done(&second), 0, "{}", second.stderr);
    assert_eq!(manifest_of(&folder)["layers"].as_array().map(Vec::len), Some(3));
    // The next build here does not even need the cache.
    let (_, third) = build(&bench, "two", &context, &[]);
    assert_eq!(done(&third), 0, "{}", third.stderr);
    // What was left out is done again where it is needed after all.
    fs::write(context.join("files/a"), "changed").expect("write");
    let (_, fourth) = build(&bench, "two", &context, &["-t", "changed"]);
    fourth.says(&["nowhere any more"]);
    assert_eq!(run(&bench, "two", &["changed", "cat", "/copy"]), "changed");
    // So it is where a step is to be done anew.
    fs::write(context.join("files/a"), "a").expect("write");
    build(&bench, "three", &context, &["--cache-from", &from]);
    let (_, fifth) = build(&bench, "three", &context, &["-t", "alone", "--no-cache-filter", "1"]);
    assert!(done(&fifth) > 3, "{}", fifth.stderr);
    assert_eq!(run(&bench, "three", &["alone", "cat", "/copy"]), "a");
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
    bare.says(&["has 5 steps and 3 layers, 0 of them new"]);
}

#[test]
fn an_image_carries_itself() {
    if !have("cache in an image", &["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let registry = Registry::start(&bench.path("registry"));
    let context = project(&bench, DOCKERFILE);
    let image = format!("{}/app:v1", registry.host);
    let flags = ["--cache-to", "type=inline", "-t", &image, "--push"];
    let (wanted, _) = build(&bench, "one", &context, &flags);
    let from = format!("type=registry,ref={image}");
    let (found, second) = build(&bench, "two", &context, &["--cache-from", &from, "--cache-to", "type=inline"]);
    assert_eq!((found, done(&second)), (wanted.clone(), 0), "{}", second.stderr);
    // Without the list the image is another one, of the same configuration.
    let (plain, third) = build(&bench, "three", &context, &["--cache-from", &from]);
    assert_eq!(done(&third), 0, "{}", third.stderr);
    assert_ne!(plain, wanted);
    assert_eq!(run(&bench, "one", &[&image, "cat", "/copied/a"]), "a");
    // The build argument of BuildKit says the same.
    for (value, want) in [("1", &wanted), ("false", &plain), ("", &plain)] {
        let argument = format!("BUILDKIT_INLINE_CACHE={value}");
        let (made, _) = build(&bench, "three", &context, &["--build-arg", &argument]);
        assert_eq!(made, *want, "{argument}");
    }
    command(&bench, "three", &context, &["--build-arg", "BUILDKIT_INLINE_CACHE=yes"])
        .ran()
        .fails(2, &["BUILDKIT_INLINE_CACHE is `yes`, which is no truth value", "write true or false"]);
    // An image without a list is no cache.
    let other = format!("{}/app:v2", registry.host);
    build(&bench, "three", &context, &["-t", &other, "--push"]);
    let (_, fourth) = build(&bench, "four", &context, &["--cache-from", &other]);
    fourth.says(&["is not used", "it is an image without a cache"]);
}

#[test]
fn what_is_here_asks_nobody() {
    if !have("a cache that is away", &["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let registry = Registry::start(&bench.path("registry"));
    let context = project(&bench, DOCKERFILE);
    let name = format!("{}/app:cache", registry.host);
    let to = format!("type=registry,ref={name},mode=max");
    let second = travels(&bench, &context, &to, &name);
    assert_eq!(done(&second), 0, "{}", second.stderr);
    drop(registry);
    let mut command = command(&bench, "two", &context, &["--cache-from", &name]);
    if have("sockets of a build", &["strace"]) {
        let mut traced = std::process::Command::new("strace");
        traced.args(["-f", "-e", "trace=connect", "-o"]).arg(bench.path("trace"));
        traced.arg(command.get_program()).args(command.get_args());
        command = traced;
    }
    let third = command.ran().ok();
    assert!(done(&third) == 0 && !third.stderr.contains("is not used"), "{}", third.stderr);
    let calls = fs::read_to_string(bench.path("trace")).unwrap_or_default();
    assert!(!calls.contains("AF_INET"), "{calls}");
}

/// A server that answers every request with a status, or nothing at all.
fn server(status: Option<u16>) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("bound").to_string();
    if let Some(status) = status {
        let listener = listener.try_clone().expect("clone");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = [0; 4096];
                if stream.read(&mut head).is_ok() {
                    let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
    }
    (listener, host)
}

#[test]
fn a_cache_that_is_no_use_fails_no_build() {
    let bench = Bench::new();
    let context = project(&bench, ONE_STAGE);
    let (_silent, hanging) = server(None);
    let (_denying, denying) = server(Some(403));
    let (_empty, empty) = server(Some(404));
    let gone = server(None).1;
    for (host, timeout, reason) in [
        (hanging, "300ms", "within 0.3 s"),
        (denying, "1m", "access is denied"),
        (empty, "1m", "it is not there"),
        (gone, "1m", "refused"),
    ] {
        let (place, store) = (format!("type=registry,ref={host}/app,timeout={timeout}"), reason.replace(' ', "-"));
        let flags = ["--cache-from", &place, "--cache-to", &place];
        let ran = command(&bench, &store, &context, &flags).ran().ok();
        let line = |part: &str| {
            let found = ran.stderr.lines().find(|line| line.contains(part));
            found.unwrap_or_else(|| panic!("`{part}` is not in:\n{}", ran.stderr)).to_owned()
        };
        assert!(line("is not used").to_lowercase().contains(reason), "{reason}: {}", ran.stderr);
        assert!(line("was not written").contains(&host), "{}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        let strict = format!("{place},ignore-error=false");
        let failed = command(&bench, &store, &context, &["--cache-to", &strict]).ran();
        failed.fails(1, &["could not write the cache", "with `ignore-error=true` this is a warning"]);
    }
}

/// Changes the bundle and the manifest of a cache, and names the changed ones as a writer would.
fn forge(layout: &Path, change: impl Fn(&mut Value, &mut Value)) {
    let path =
        |digest: &Value| layout.join("blobs/sha256").join(digest.as_str().expect("digest").replace("sha256:", ""));
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).expect("file")).expect("JSON") };
    let put = |value: &Value, descriptor: &mut Value| {
        let bytes = serde_json::to_vec(value).expect("JSON");
        let digest = Digest::of(&bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), &bytes).expect("blob");
        descriptor["digest"] = digest.to_string().into();
        descriptor["size"] = bytes.len().into();
    };
    let mut index = read(layout.join("index.json"));
    let mut manifest = read(path(&index["manifests"][0]["digest"]));
    let mut bundle = read(path(&manifest["config"]["digest"]));
    change(&mut bundle, &mut manifest);
    put(&bundle, &mut manifest["config"]);
    put(&manifest, &mut index["manifests"][0]);
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).expect("JSON")).expect("index");
}

#[test]
fn damaged_and_forged_caches_give_the_right_image() {
    let bench = Bench::new();
    let context = project(&bench, "FROM busybox\nRUN echo one > /one\nRUN echo two > /two\n");
    let good = bench.path("cache");
    let flags = ["--cache-to", &format!("type=local,dest={}", good.display())];
    build(&bench, "one", &context, &flags);
    let largest_layer = |layout: &Path| {
        let digest = manifest_of(layout)["layers"][0]["digest"].as_str().expect("digest").replace("sha256:", "");
        layout.join("blobs/sha256").join(digest)
    };
    type Damage = fn(&Path, &dyn Fn(&Path) -> PathBuf);
    let damages: [(&str, &str, Damage); 7] = [
        ("layer-flipped", "can't be had", |layout, layer| {
            let mut bytes = fs::read(layer(layout)).expect("layer");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::remove_file(layer(layout)).expect("remove");
            fs::write(layer(layout), bytes).expect("write");
        }),
        ("layer-gone", "can't be had", |layout, layer| fs::remove_file(layer(layout)).expect("remove")),
        ("layers-swapped", "can't be had", |layout, _| {
            forge(layout, |_, manifest| {
                let name = "containerd.io/uncompressed";
                let first = manifest["layers"][0]["annotations"][name].take();
                let second = manifest["layers"][1]["annotations"][name].take();
                manifest["layers"][0]["annotations"][name] = second;
                manifest["layers"][1]["annotations"][name] = first;
            });
        }),
        ("steps-of-another-kind", "is malformed", |layout, _| {
            forge(layout, |bundle, _| bundle["steps"] = "none".into());
        }),
        ("another-version", "has the format `2 rbuild-step", |layout, _| {
            forge(layout, |bundle, _| bundle["version"] = 2.into());
        }),
        ("a-path-for-a-digest", "is malformed", |layout, _| {
            forge(layout, |bundle, _| bundle["steps"][0]["diff_id"] = "sha256:../../../etc/passwd".into());
        }),
        ("a-key-of-its-own", "", |layout, _| {
            forge(layout, |bundle, _| {
                for step in bundle["steps"].as_array_mut().expect("steps") {
                    let text = step["inputs"].to_string().replace("echo", "evil");
                    step["inputs"] = serde_json::from_str(&text).expect("JSON");
                }
            });
        }),
    ];
    for (name, reason, damage) in damages {
        let copy = bench.path(name);
        std::process::Command::new("cp").arg("-r").args([&good, &copy]).ran().ok();
        damage(&copy, &largest_layer);
        let from = format!("type=local,src={}", copy.display());
        let (_, ran) = build(&bench, &format!("store-{name}"), &context, &["--cache-from", &from, "-t", "damaged"]);
        ran.says(&[reason]);
        let store = format!("store-{name}");
        assert_eq!(run(&bench, &store, &["damaged", "cat", "/one", "/two"]), "one\ntwo\n", "{name}");
    }
}

#[test]
fn cache_mounts_go_along_where_that_is_asked_for() {
    let bench = Bench::new();
    let dockerfile = |text: &str| {
        format!("FROM busybox\nRUN --mount=type=cache,target=/kept,uid=7 cat /kept/* > /seen; {text} >> /kept/file\n")
    };
    let context = project(&bench, &dockerfile("echo first"));
    let folder = bench.path("cache");
    let to = format!("type=local,dest={},mounts=true", folder.display());
    let from = format!("type=local,src={}", folder.display());
    build(&bench, "one", &context, &["--cache-to", &to]);
    let manifest = manifest_of(&folder);
    let mounts = manifest["layers"].as_array().expect("layers").iter();
    assert_eq!(mounts.filter(|layer| layer["annotations"]["rbuild.cache.mount"].is_string()).count(), 1);
    // A new store has the step and needs no mount; the mount stays in the cache.
    let (_, second) = build(&bench, "two", &context, &["--cache-from", &from, "--cache-to", &to]);
    second.says(&["has all 1 steps already"]);
    // Where the step runs, it finds what the other machine left.
    fs::write(context.join("Dockerfile"), dockerfile("stat -c %u /kept")).expect("write");
    let (_, third) = build(&bench, "three", &context, &["--cache-from", &from, "-t", "seen"]);
    third.says(&["a cache mount begins with that of"]);
    assert_eq!(run(&bench, "three", &["seen", "cat", "/seen"]), "first\n");
    let (_, fourth) =
        build(&bench, "three", &context, &["--cache-from", &from, "--cache-to", &to, "--no-cache", "-t", "new"]);
    assert!(!fourth.stderr.contains("begins with"), "{}", fourth.stderr);
    assert_eq!(run(&bench, "three", &["new", "cat", "/seen"]), "");
    fs::write(context.join("Dockerfile"), dockerfile("echo last")).expect("write");
    build(&bench, "four", &context, &["--cache-from", &from, "-t", "last"]);
    assert_eq!(run(&bench, "four", &["last", "cat", "/seen"]), "7\n");
}

/// The digests of a cache's layers that are parts of cache mounts.
fn mount_parts(layout: &Path) -> BTreeSet<String> {
    let manifest = manifest_of(layout);
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let parts = layers.filter(|layer| layer["mediaType"] == "application/vnd.rbuild.cache.part.v1");
    parts.map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect()
}

#[test]
fn of_a_large_cache_mount_only_what_changed_is_sent() {
    let bench = Bench::new();
    let dockerfile = |text: &str| format!("FROM busybox\nRUN --mount=type=cache,target=/kept {text}\n");
    let many =
        "for n in 11 12 13 14; do head -c 20000000 /dev/urandom > /kept/$n; done; cat /kept/* | sha256sum > /sum";
    let context = project(&bench, &dockerfile(many));
    let folder = bench.path("cache");
    let to = format!("type=local,dest={},mounts=true", folder.display());
    let from = format!("type=local,src={}", folder.display());
    build(&bench, "one", &context, &["--cache-to", &to, "-t", "first"]);
    let first = mount_parts(&folder);
    assert!(first.len() >= 2, "{first:?}");
    fs::write(context.join("Dockerfile"), dockerfile("echo more > /kept/19; cat /kept/* | sha256sum > /sum"))
        .expect("write");
    build(&bench, "one", &context, &["--cache-to", &to, "-t", "second"]);
    let second = mount_parts(&folder);
    assert_eq!(second.difference(&first).count(), 1, "{first:?} {second:?}");
    // Another machine puts them together again.
    fs::write(context.join("Dockerfile"), dockerfile("cat /kept/* | sha256sum > /sum; : again")).expect("write");
    let (_, third) = build(&bench, "two", &context, &["--cache-from", &from, "-t", "third"]);
    third.says(&["a cache mount begins with that of"]);
    assert_eq!(run(&bench, "two", &["third", "cat", "/sum"]), run(&bench, "one", &["second", "cat", "/sum"]));
    // A part that is gone is no mount.
    let gone = second.first().expect("a part").replace("sha256:", "blobs/sha256/");
    fs::remove_file(folder.join(gone)).expect("remove");
    let (_, fourth) = build(&bench, "three", &context, &["--cache-from", &from]);
    fourth.says(&["a cache mount of the cache", "is not used"]);
    // Nor are parts of which one is not listed.
    forge(&folder, |_, manifest| {
        let layers = manifest["layers"].as_array_mut().expect("layers");
        layers.retain(|layer| {
            layer["annotations"]["rbuild.cache.part"].as_str().is_none_or(|part| !part.starts_with("1/"))
        });
    });
    let (_, fifth) = build(&bench, "four", &context, &["--cache-from", &from]);
    fifth.says(&["a cache mount of the cache", "is not used: its parts are not complete"]);
}

#[test]
fn files_that_a_cache_lies_about_are_looked_at() {
    let bench = Bench::new();
    let context = project(&bench, DOCKERFILE);
    let folder = bench.path("cache");
    build(&bench, "one", &context, &["--cache-to", &format!("type=local,dest={},mode=max", folder.display())]);
    forge(&folder, |bundle, _| {
        let selections = bundle["selections"].as_array_mut().expect("selections");
        assert_eq!(selections.len(), 1);
        selections[0]["files"] = "0".repeat(64).into();
    });
    let from = format!("type=local,src={}", folder.display());
    let (_, second) = build(&bench, "two", &context, &["--cache-from", &from, "-t", "true"]);
    second.says(&["are others than was noted"]);
    assert_eq!(run(&bench, "two", &["true", "cat", "/copy"]), "a");
}

#[test]
fn a_build_that_fails_leaves_its_steps() {
    let bench = Bench::new();
    let context = project(&bench, "FROM busybox\nRUN date +%s%N > /time\nRUN cat /nowhere\n");
    let folder = bench.path("cache");
    let to = format!("type=local,dest={}", folder.display());
    command(&bench, "one", &context, &["--cache-to", &to]).ran().fails(1, &["cat: can't open '/nowhere'"]);
    fs::write(context.join("Dockerfile"), "FROM busybox\nRUN date +%s%N > /time\nRUN cat /time\n").expect("write");
    let (_, second) =
        build(&bench, "two", &context, &["--cache-from", &format!("type=local,src={}", folder.display())]);
    assert_eq!(done(&second), 1, "{}", second.stderr);
}

#[test]
fn an_ordinary_user_takes_what_root_made() {
    if !is_root("cache of another user") {
        return;
    }
    let bench = Bench::new();
    let user = bench.user();
    let context = project(&bench, DOCKERFILE);
    let folder = bench.path("cache");
    let (wanted, _) =
        build(&bench, "one", &context, &["--cache-to", &format!("type=local,dest={},mode=max", folder.display())]);
    let from = format!("type=local,src={}", folder.display());
    let id = user.path("id");
    let mut command = user.build_command(&bench, &context, &["--cache-from", &from]);
    let ran = command.arg("--iidfile").arg(&id).ran().ok();
    assert_eq!((digest_in(&id), done(&ran)), (wanted, 0), "{}", ran.stderr);
}
