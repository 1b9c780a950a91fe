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
use support::{Bench, Ran};

/// A registry that has the busybox image as `team/base:1`, and its layer's digest and bytes.
struct Served {
    registry: Registry,
    layer: Digest,
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
        registry.put_blob("team/base", &config_bytes);
        registry.put_blob("team/base", &bytes);
        registry.put_manifest("team/base", "1", media_type::MANIFEST, &manifest);
        Self { registry, layer, bytes, others: vec![config] }
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
    let unpacked = bench.path("store/layers").join(served.layer.hex()).join("fs");
    // Nothing needs the stage.
    let context = served.context(&bench, "context", "FROM scratch\nCOPY file /\n");
    bench.build(&context, &[]).ok();
    assert_eq!(served.layer_requests(), 0);
    // The layer passes through into the image as it is.
    bench.build(&served.context(&bench, "context", "ENV a=b\n"), &[]).ok();
    assert_eq!((served.layer_requests(), unpacked.exists()), (1, false));
    // A command needs its files, which the store has.
    bench.build(&served.context(&bench, "context", "RUN true\n"), &[]).ok();
    assert_eq!((served.layer_requests(), unpacked.exists()), (1, true));
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
