//! Base images from a registry: what is asked for, how often, and what happens when the registry fails on the way.
#![allow(clippy::unwrap_used, reason = "the registry is shared with the core's tests")]

#[path = "../../builder-core/tests/common/mod.rs"]
mod common;
mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use common::http::Reply;
use common::registry::{Login, Registry};
use rbuild_core::oci::{Digest, media_type};
use support::{Bench, Ran, RunCommand};

/// A registry that has the busybox image as `team/base:1`, and its layer's digest and bytes.
struct Served {
    registry: Registry,
    layer: Digest,
    diff_id: Digest,
    bytes: Vec<u8>,
    others: Vec<Digest>,
}

impl Served {
    fn start(bench: &Bench) -> Self {
        let registry = Registry::start(Login::None);
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let layout = bench.path("busybox");
        let blob = |digest: &serde_json::Value| {
            let digest: Digest = digest.as_str().unwrap().parse().unwrap();
            (digest, fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap())
        };
        let index = json(&fs::read(layout.join("index.json")).unwrap());
        let (_, manifest) = blob(&index["manifests"][0]["digest"]);
        let parsed = json(&manifest);
        let (config, config_bytes) = blob(&parsed["config"]["digest"]);
        let (layer, bytes) = blob(&parsed["layers"][0]["digest"]);
        let diff_id = json(&config_bytes)["rootfs"]["diff_ids"][0].as_str().unwrap().parse().unwrap();
        registry.put_blob("team/base", &config_bytes);
        registry.put_blob("team/base", &bytes);
        registry.put_manifest("team/base", "1", media_type::MANIFEST, &manifest);
        Self { registry, layer, diff_id, bytes, others: vec![config] }
    }

    fn context(&self, bench: &Bench, name: &str, rest: &str) -> std::path::PathBuf {
        let text = format!("FROM {}/team/base:1\n{rest}", self.registry.server.host());
        bench.context(name, &[("Dockerfile", &text), ("file", "x")])
    }

    fn layer_requests(&self) -> usize {
        self.registry.server.count("GET", &format!("/blobs/{}", self.layer))
    }
}

fn built(child: std::process::Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn processes_that_need_the_same_base_fetch_it_once() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let start = |name: &str| {
        let context = served.context(&bench, name, &format!("RUN echo {name}\n"));
        let mut command = bench.build_command(&context, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = ["one", "two", "three"].map(start).into();
    children.into_iter().for_each(built);
    assert_eq!(served.layer_requests(), 1);
    assert_eq!(served.registry.server.count("GET", &format!("/blobs/{}", served.others[0])), 1);
}

#[test]
fn a_base_is_fetched_and_unpacked_only_as_far_as_it_is_needed() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let unpacked = bench.path("store/layers").join(served.diff_id.hex()).join("fs");
    // Nothing needs the stage.
    let context = served.context(&bench, "context", "FROM scratch\nCOPY file /\n");
    bench.build(&context, &[]).ok();
    assert_eq!(served.layer_requests(), 0);
    // Nobody reads the image: its layers stay where they are.
    for rest in ["ENV a=b\nCMD x\n", "COPY --link file /a/b\nUSER 1:1\n"] {
        bench.build(&served.context(&bench, "context", rest), &[]).ok();
    }
    assert_eq!(served.layer_requests(), 0);
    // The layer passes through into a named image as it is.
    bench.build(&served.context(&bench, "context", "ENV a=b\n"), &["-t", "app"]).ok();
    assert_eq!((served.layer_requests(), unpacked.exists()), (1, false));
    // A command needs its files, which the store has.
    bench.build(&served.context(&bench, "context", "RUN true\n"), &[]).ok();
    assert_eq!((served.layer_requests(), unpacked.exists()), (1, true));
    let requests = |target: &str| served.registry.server.count("GET", target);
    assert_eq!((requests("/manifests/"), requests("/blobs/")), (1, 2), "manifest, configuration and layer, each once");
}

/// What needs the tree of the base needs its bytes, whatever becomes of the image.
#[test]
fn files_are_put_where_the_base_has_folders_and_names() {
    for rest in ["COPY file /bin/\n", "COPY --chown=root:root file /\n", "WORKDIR /a/b\n", "ADD file /\n"] {
        let bench = Bench::new();
        let served = Served::start(&bench);
        bench.build(&served.context(&bench, "context", rest), &[]).ok();
        assert_eq!(served.layer_requests(), 1, "{rest}");
        bench.build(&served.context(&bench, "context", rest), &["-t", "app"]).ok();
        assert_eq!(served.layer_requests(), 1, "{rest}");
    }
}

/// The same bytes come out whether the layers of the base were here from the start, came later, or went in between.
#[test]
fn layers_that_were_left_are_fetched_when_something_needs_them() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let context = served.context(&bench, "context", "ENV a=b\n");
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1"];
    let whole = {
        let other = Bench::new();
        other.build(&context, &[&epoch[..], &["-t", "app"]].concat()).ok();
        fs::read_to_string(other.path("store/index.json")).unwrap()
    };
    assert_eq!(served.layer_requests(), 1);
    let id = bench.path("id");
    let id_file = format!("--iidfile={}", id.display());
    bench.build(&context, &[&epoch[..], &[&id_file]].concat()).ok();
    assert_eq!(served.layer_requests(), 1, "nothing needed it");
    bench.rbuild().args(["cache", "check"]).ran().ok();
    bench.rbuild().args(["cache", "prune"]).ran().ok();
    bench.rbuild().args(["cache", "du", "-v"]).ran().ok();
    // An archive is made of all bytes.
    let archive = format!("type=oci,dest={}", bench.path("out.tar").display());
    bench.build(&context, &[&epoch[..], &["-o", &archive]].concat()).ok();
    assert_eq!(served.layer_requests(), 2);
    bench.build(&context, &[&epoch[..], &["-t", "app"]].concat()).ok();
    assert_eq!(fs::read_to_string(bench.path("store/index.json")).unwrap(), whole);
    assert_eq!(served.layer_requests(), 2);
}

#[test]
fn a_command_runs_in_an_image_whose_layers_were_left() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let name = format!("{}/team/app:1", served.registry.server.host());
    bench.build(&served.context(&bench, "context", "ENV a=b\n"), &["-t", &name, "--push"]).ok();
    assert_eq!(served.layer_requests(), 0, "the registry has the layer");
    let command = ["run", "--network=none", &name, "/bin/sh", "-c", "echo $a"];
    assert_eq!(bench.rbuild().args(command).ran().ok().stdout, "b\n");
    assert_eq!(bench.rbuild().args(command).ran().ok().stdout, "b\n");
    assert_eq!(served.layer_requests(), 1);
}

/// An image of the store as a base: its own base's bytes come from where they were left.
#[test]
fn an_image_whose_layers_were_left_is_a_base() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let name = format!("{}/team/app:1", served.registry.server.host());
    bench.build(&served.context(&bench, "context", "ENV a=b\n"), &["-t", &name, "--push"]).ok();
    let context = bench.context("second", &[("Dockerfile", &format!("FROM {name}\nRUN echo $a\n"))]);
    bench.build(&context, &["--offline"]).fails(
        1,
        &[
            "--offline allows no request",
            &format!("{}/team/base:1", served.registry.server.host()),
            "once without --offline",
        ],
    );
    assert_eq!(served.layer_requests(), 0);
    bench.build(&context, &[]).ok().says(&["b"]);
    bench.build(&context, &["--offline", "-t", "second"]).ok();
    assert_eq!(served.layer_requests(), 1);
    // A blob that was damaged is fetched again.
    let blob = bench.path("store/blobs/sha256").join(served.layer.hex());
    fs::write(&blob, "damaged").unwrap();
    let archive = format!("type=oci,dest={}", bench.path("out.tar").display());
    bench.build(&context, &["-o", &archive]).ok().says(&["store-damaged"]);
    assert_eq!(served.layer_requests(), 2);
    assert!(fs::read(&blob).unwrap() == served.bytes);
}

/// A registry that lacks the base is sent it, by way of the store.
#[test]
fn layers_that_were_left_are_pushed_to_other_registries() {
    let bench = Bench::new();
    let (served, other) = (Served::start(&bench), Registry::start(Login::None));
    let here = format!("{}/team/app:1", served.registry.server.host());
    let there = format!("{}/team/app:1", other.server.host());
    let context = served.context(&bench, "context", "ENV a=b\n");
    bench.build(&context, &["-t", &here, "--push"]).ok();
    bench.build(&context, &["-t", &here, "--push"]).ok();
    assert_eq!(served.layer_requests(), 0);
    bench.build(&context, &["-t", &there, "--push"]).ok();
    assert_eq!(served.layer_requests(), 1);
    assert!(other.content.lock().unwrap().blobs["team/app"][&served.layer.to_string()] == served.bytes);
    // `rbuild push` finds them too, and has them mounted where it can.
    let bench = Bench::new();
    bench.build(&context, &["-t", &here, "--push"]).ok();
    served.registry.content.lock().unwrap().blobs.remove("team/app");
    bench.rbuild().args(["push", &here]).ran().ok();
    assert_eq!(served.layer_requests(), 1, "it was mounted");
    served.registry.content.lock().unwrap().mounts = false;
    served.registry.content.lock().unwrap().blobs.remove("team/app");
    bench.rbuild().args(["push", &here]).ran().ok();
    assert_eq!(served.layer_requests(), 2, "its bytes were sent");
    assert!(served.registry.content.lock().unwrap().blobs["team/app"][&served.layer.to_string()] == served.bytes);
}

/// What a cache of the registry has is pushed by a machine that fetches nothing of it.
#[test]
fn layers_of_a_cache_are_left_in_their_registry() {
    let first = Bench::new();
    let served = Served::start(&first);
    let host = served.registry.server.host();
    let (cache, name) = (format!("{host}/team/cache:1"), format!("{host}/team/app:1"));
    let context = served.context(&first, "context", "RUN echo made > /made\nRUN cat /made /made > /twice\n");
    let to = format!("type=registry,ref={cache}");
    first.build(&context, &["--cache-to", &to, "-t", &name, "--push"]).ok();
    let pushed = |registry: &Registry| {
        registry.content.lock().unwrap().manifests[&("team/app".to_owned(), "1".to_owned())].clone()
    };
    let wanted = pushed(&served.registry);
    let blobs = || {
        let requests = served.registry.server.requests();
        let manifest: serde_json::Value = serde_json::from_slice(&wanted.1).unwrap();
        let layers: Vec<String> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["digest"].as_str().unwrap().to_owned())
            .collect();
        let of_layer = |target: &str| layers.iter().any(|layer| target.contains(&layer[7..]));
        requests.into_iter().filter(|r| r.method != "HEAD" && r.method != "POST" && of_layer(&r.target)).count()
    };
    let before = blobs();
    served.registry.content.lock().unwrap().blobs.remove("team/app");
    let second = Bench::new();
    let told = second.build(&context, &["--cache-from", &cache, "-t", &name, "--push"]).ok();
    assert!(!told.stderr.contains("not cached"), "{}", told.stderr);
    assert_eq!(blobs(), before, "no layer was fetched or sent");
    assert_eq!(pushed(&served.registry).1, wanted.1);
    // Without the cache, a step that changed finds what it builds on in the registry.
    let changed = served.context(&second, "changed", "RUN echo made > /made\nRUN cat /made\n");
    second.build(&changed, &[]).ok().says(&["[stage-0 1/2] RUN echo made > /made\n#1 CACHED"]);
    assert_eq!(blobs(), before + 2, "the base and the first step's layer");
    // Where the registry has lost it, the step is done again.
    let third = Bench::new();
    third.build(&context, &["--cache-from", &cache, "-t", &name, "--push"]).ok();
    for of_repository in served.registry.content.lock().unwrap().blobs.values_mut() {
        of_repository.retain(|digest, _| *digest == served.layer.to_string());
    }
    let again = third.build(&changed, &[]).ok();
    again.says(&["a layer of a cache can't be had, so the steps are done again"]);
}

#[test]
fn the_base_of_a_pushed_image_is_not_sent_back_to_its_registry() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let name = format!("{}/team/app:1", served.registry.server.host());
    let context = served.context(&bench, "context", "COPY file /\n");
    bench.build(&context, &["-t", &name, "--push"]).ok();
    let mounts = format!("mount={}", served.layer).replace(':', "%3A");
    assert_eq!(served.registry.server.count("POST", &mounts), 1);
    assert_eq!(served.registry.server.count("PUT", &served.layer.to_string().replace(':', "%3A")), 0);
    let content = served.registry.content.lock().unwrap();
    assert!(content.manifests.contains_key(&("team/app".to_owned(), "1".to_owned())));
    assert!(content.blobs["team/app"].contains_key(&served.layer.to_string()), "the registry took it from the base");
}

#[test]
fn a_pull_that_is_cut_off_goes_on_where_it_was() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let whole = Reply::new(200).body(served.bytes.clone());
    let half = served.bytes.len() / 2;
    served.registry.server.fault("GET", &format!("/blobs/{}", served.layer), 1, whole.cut_at(half));
    bench.build(&served.context(&bench, "context", "RUN echo done\n"), &[]).ok();
    let asked: Vec<_> =
        served.registry.server.requests().into_iter().filter(|r| r.target.contains("/blobs/")).collect();
    let ranges: Vec<_> = asked.iter().filter_map(|request| request.header("range")).collect();
    assert_eq!(ranges, [format!("bytes={half}-")]);
}

#[test]
fn a_base_with_other_bytes_than_its_digest_says_is_refused() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let mut wrong = served.bytes.clone();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    {
        let mut content = served.registry.content.lock().unwrap();
        content.blobs.get_mut("team/base").unwrap().insert(served.layer.to_string(), wrong);
    }
    for rest in ["RUN true\n", "CMD x\n"] {
        let context = served.context(&bench, "context", rest);
        let ran: Ran = bench.build(&context, &["-o", &format!("type=oci,dest={}", bench.path("out").display())]);
        ran.fails(1, &[&served.layer.to_string(), "sent other bytes"]);
        assert!(!bench.path("store/blobs/sha256").join(served.layer.hex()).exists(), "the wrong bytes were kept");
        assert!(is_empty(&bench.path("store/tmp")), "something was left behind");
    }
}

/// A build that waits for another's download goes on when that other one is killed.
#[test]
fn a_killed_download_is_taken_over() {
    let bench = Bench::new();
    let served = Served::start(&bench);
    let context = served.context(&bench, "context", "RUN true\n");
    // The first answer announces more than comes, and then keeps the connection open.
    let stuck = Reply::new(200).header("content-length", served.bytes.len()).body(served.bytes[..1000].to_vec());
    served.registry.server.fault("GET", &format!("/blobs/{}", served.layer), 1, stuck);
    let mut first = bench.build_command(&context, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    support::wait_for("the first download", || served.layer_requests() == 1);
    let second = bench.build_command(&context, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    built(second);
    assert_eq!(served.layer_requests(), 2);
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
