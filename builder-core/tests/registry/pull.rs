use std::io::Read;
use std::sync::{Arc, Mutex};

use rbuild_core::oci::{Descriptor, Digest, Platform, media_type};
use rbuild_core::progress::{Event, Events};
use rbuild_core::reference::Reference;
use rbuild_core::registry::transport::TransportFailure;
use rbuild_core::registry::{Options, PullOptions, RegistryErrorKind as Kind, pull_image};

use crate::common::http::{Reply, Server};
use crate::common::registry::{Login, Registry, error};
use crate::setup::*;

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

#[test]
fn pulls_an_image_of_an_index() {
    let registry = Registry::start(Login::None);
    let layers = [noise(100), noise(3000)];
    let mut manifest = registry.put_image("a/b", "one", &[&layers[0], &layers[1]]);
    manifest.platform = Some(amd64());
    let mut attestation = registry.put_image("a/b", "two", &[b"x"]);
    attestation.platform = Some(Platform { os: "unknown".into(), architecture: "unknown".into(), ..amd64() });
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [attestation, manifest]}).to_string();
    let index = registry.put_manifest("a/b", "v1", media_type::INDEX, index.as_bytes());

    let transfers = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&transfers);
    let events: Events = Arc::new(move |event: Event| {
        if let Event::Transfer { done, total, .. } = event {
            heard.lock().unwrap().push((done, total));
        }
    });
    let sink = Memory::default();
    let options = PullOptions { events: Some(events), ..PullOptions::default() };
    let name = reference(&registry, "a/b:v1");
    let image = pull_image(&anonymous(), &name, &amd64(), &sink, &options).unwrap();

    assert_eq!(image.reference.digest(), Some(index.digest));
    assert_eq!(image.manifest.digest, manifest.digest);
    assert_eq!(image.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>(), layers.map(|l| Digest::of(&l)));
    assert_eq!(sink.blobs.lock().unwrap().len(), 5, "index, manifest, configuration, two layers");
    assert!(transfers.lock().unwrap().contains(&(3000, Some(3000))));
    assert!(registry.server.requests()[0].header("accept").unwrap().contains(media_type::DOCKER_MANIFEST));

    let before = registry.server.requests().len();
    anonymous().pull_blobs(&name, &image.layers, &sink, &PullOptions::default()).unwrap();
    assert_eq!(registry.server.requests().len(), before, "what is there is not asked for");

    let error = anonymous().pull_manifest(&name, &"linux/s390x".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("no image for `linux/s390x`; there are images for `linux/amd64`"), "{error}");
}

#[test]
fn resolves_by_head_and_falls_back() {
    let registry = Registry::start(Login::None);
    let manifest = registry.put_image("a", "v1", &[b"x"]);
    let name = reference(&registry, "a:v1");
    assert_eq!(anonymous().resolve(&name).unwrap(), manifest);
    assert_eq!((registry.server.count("HEAD", ""), registry.server.count("GET", "")), (1, 0));
    for reply in [
        Reply::new(405),
        Reply::new(200).header("content-type", media_type::MANIFEST),
        Reply::new(200).header("content-type", "text/html").header("docker-content-digest", Digest::of(b"")),
        Reply::new(200).header("content-type", media_type::MANIFEST).header("docker-content-digest", "sha512:00"),
    ] {
        registry.server.fault("HEAD", "", 1, reply);
        assert_eq!(anonymous().resolve(&name).unwrap(), manifest);
    }
    let lying = Reply::new(200).header("content-type", media_type::MANIFEST);
    registry.server.fault("HEAD", "", 1, lying.header("docker-content-digest", Digest::of(b"other")));
    assert_eq!(anonymous().resolve(&name.with_digest(manifest.digest)).unwrap(), manifest, "the body decides");
}

#[test]
fn says_what_is_missing() {
    let registry = Registry::start(Login::None);
    let error = anonymous().resolve(&reference(&registry, "a:v1")).unwrap_err();
    assert!(error.is_not_found());
    let host = registry.server.host();
    let want =
        format!("cannot look up `{host}/a:v1` at `{host}`: it is not there: manifest unknown (MANIFEST_UNKNOWN)");
    assert_eq!(error.to_string(), want);
    assert!(!anonymous().has_blob(&reference(&registry, "a"), &Digest::of(b"")).unwrap());
}

#[test]
fn checks_manifests() {
    let registry = Registry::start(Login::None);
    let good = registry.put_image("a", "v1", &[b"x"]);
    let other = registry.put_image("a", "v2", &[b"y"]);
    let name = reference(&registry, "a:v1");
    let bytes = registry.content.lock().unwrap().manifests[&("a".to_owned(), "v2".to_owned())].1.clone();
    let typed = |bytes: &[u8]| Reply::new(200).header("content-type", media_type::MANIFEST).body(bytes);

    registry.server.fault("GET", "/manifests/", 1, typed(&bytes));
    assert!(matches!(kind(anonymous().manifest(&name.with_digest(good.digest))), Kind::Digest { wanted, got }
        if wanted == good.digest && got == other.digest));
    registry.server.fault("GET", "/manifests/", 1, typed(&bytes).header("docker-content-digest", good.digest));
    assert!(matches!(kind(anonymous().manifest(&name)), Kind::Digest { .. }));
    registry.server.fault("GET", "/manifests/", 1, typed(&bytes));
    assert_eq!(anonymous().manifest(&name).unwrap().1, other, "a missing header is fine");
    registry.server.fault("GET", "/manifests/", 1, typed(&bytes).header("content-encoding", "gzip"));
    assert!(matches!(kind(anonymous().manifest(&name)), Kind::Answer(_)));
    registry.server.fault("GET", "/manifests/", 1, typed(&vec![b' '; 4 * 1024 * 1024 + 1]).chunked());
    assert!(matches!(kind(anonymous().manifest(&name)), Kind::Answer(_)));
    registry.server.fault("GET", "/manifests/", 1, Reply::new(200).body("<html>log in</html>"));
    let error = anonymous().manifest(&name).unwrap_err().to_string();
    assert!(error.contains("a web page came"), "{error}");
}

#[test]
fn checks_that_layers_and_diff_ids_agree() {
    let registry = Registry::start(Login::None);
    registry.put_image("a", "v1", &[b"x", b"y"]);
    let (_, bytes) = registry.content.lock().unwrap().manifests[&("a".to_owned(), "v1".to_owned())].clone();
    let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    json["layers"].as_array_mut().unwrap().pop();
    registry.put_manifest("a", "v2", media_type::MANIFEST, json.to_string().as_bytes());
    let error = anonymous().pull_manifest(&reference(&registry, "a:v2"), &amd64()).unwrap_err().to_string();
    assert!(error.contains("has 1 layers and its configuration 2"), "{error}");
}

#[test]
fn bounds_nested_indexes() {
    let registry = Registry::start(Login::None);
    let mut child = registry.put_image("a", "base", &[b"x"]);
    for _ in 0..6 {
        child.platform = Some(amd64());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [child]}).to_string();
        child = registry.put_manifest("a", "v1", media_type::INDEX, index.as_bytes());
    }
    let error = anonymous().pull_manifest(&reference(&registry, "a:v1"), &amd64()).unwrap_err().to_string();
    assert!(error.contains("nested more than 4 deep"), "{error}");
}

#[test]
fn checks_blobs() {
    let registry = Registry::start(Login::None);
    let bytes = noise(10_000);
    registry.put_blob("a", &bytes);
    let (name, good) = (reference(&registry, "a"), blob(&bytes));
    assert_eq!(read(&anonymous(), &name, &good).unwrap(), bytes);
    let empty = blob(b"");
    registry.put_blob("a", b"");
    assert_eq!(read(&anonymous(), &name, &empty).unwrap(), b"");

    let mut wrong = bytes.clone();
    wrong[9_999] ^= 1;
    let longer = [&bytes[..], b"more"].concat();
    type Right = fn(&Kind) -> bool;
    let cases: [(Reply, Right); 4] = [
        (Reply::new(200).body(wrong), |kind| matches!(kind, Kind::Digest { .. })),
        (Reply::new(200).body(longer.clone()), |kind| matches!(kind, Kind::Size { got: 10_004, .. })),
        (Reply::new(200).body(longer).chunked(), |kind| matches!(kind, Kind::Size { .. })),
        (Reply::new(200).body(&bytes[..9_000]), |kind| matches!(kind, Kind::Size { got: 9_000, .. })),
    ];
    for (reply, right) in cases {
        registry.server.fault("GET", "/blobs/", 1, reply);
        let kind = kind(read(&anonymous(), &name, &good));
        assert!(right(&kind), "{kind:?}");
    }
}

#[test]
fn never_gives_out_the_end_of_a_wrong_blob() {
    let registry = Registry::start(Login::None);
    let bytes = noise(1000);
    let name = reference(&registry, "a");
    registry.server.fault("GET", "/blobs/", 1, Reply::new(200).body(vec![0; 1000]));
    let client = anonymous();
    let mut reader = client.blob(&name, &blob(&bytes)).unwrap();
    let mut buffer = vec![0; 1000];
    assert!(reader.read_exact(&mut buffer).is_err());
}

#[test]
fn resumes_where_the_connection_broke() {
    let registry = Registry::start(Login::None);
    let bytes = noise(3_000_000);
    registry.put_blob("a", &bytes);
    let (name, descriptor) = (reference(&registry, "a"), blob(&bytes));
    registry.server.fault("GET", "/blobs/", 1, Reply::new(200).body(bytes.clone()).cut_at(1_500_000));
    assert_eq!(read(&anonymous(), &name, &descriptor).unwrap(), bytes);
    let ranges: Vec<_> = registry.server.requests().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=1500000-".to_owned())]);

    registry.content.lock().unwrap().ranges = false;
    registry.server.fault("GET", "/blobs/", 1, Reply::new(200).body(bytes.clone()).cut_at(1_500_000));
    assert_eq!(read(&anonymous(), &name, &descriptor).unwrap(), bytes, "a registry without ranges starts anew");

    let elsewhere = Reply::new(206).header("content-range", "bytes 1499999-2999999/3000000").body(&bytes[1_499_999..]);
    registry.server.fault("GET", "/blobs/", 1, elsewhere);
    registry.server.fault("GET", "/blobs/", 1, Reply::new(200).body(bytes).cut_at(1_500_000));
    assert!(matches!(kind(read(&anonymous(), &name, &descriptor)), Kind::Answer(_)));
}

#[test]
fn gives_up_on_a_connection_that_always_breaks() {
    let registry = Registry::start(Login::None);
    let bytes = noise(1000);
    let name = reference(&registry, "a");
    registry.server.hang_up("GET", "/blobs/", 1000);
    let failed = kind(read(&anonymous(), &name, &blob(&bytes)));
    assert!(matches!(failed, Kind::Transport(TransportFailure::Connection)), "{failed:?}");
    assert_eq!(registry.server.count("GET", "/blobs/"), patient().attempts as usize);
}

#[test]
fn tries_again_after_faults_that_pass() {
    let registry = Registry::start(Login::None);
    let manifest = registry.put_image("a", "v1", &[b"x"]);
    let name = reference(&registry, "a:v1");
    registry.server.fault("HEAD", "", 1, Reply::new(503));
    registry.server.fault("HEAD", "", 1, Reply::new(429).header("retry-after", "0"));
    registry.server.hang_up("HEAD", "", 1);
    assert_eq!(anonymous().resolve(&name).unwrap(), manifest);
    assert_eq!(registry.server.count("HEAD", ""), 4);

    registry.server.fault("GET", "", 100, error(429, "TOOMANYREQUESTS", "pull rate limit").header("retry-after", "0"));
    let failed = anonymous().manifest(&name).unwrap_err();
    assert_eq!(failed.status(), Some(429));
    assert!(failed.to_string().contains("limits how often it is asked: pull rate limit"), "{failed}");
    assert_eq!(registry.server.count("GET", ""), patient().attempts as usize);
}

#[test]
fn a_registry_that_is_not_there_is_refused() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name = Reference::parse(&format!("{free}/a")).unwrap();
    assert!(matches!(kind(anonymous().resolve(&name)), Kind::Transport(TransportFailure::Refused)));
}

#[test]
fn escapes_and_bounds_what_registries_say() {
    let registry = Registry::start(Login::None);
    let name = reference(&registry, "a:v1");
    registry.server.fault("GET", "", 1, error(400, "X", &format!("\u{1b}[31mred\n{}", "long ".repeat(10_000))));
    let message = anonymous().manifest(&name).unwrap_err().to_string();
    assert!(message.len() < 1000 && !message.contains(['\u{1b}', '\n']) && message.contains("[31mred"), "{message}");
    registry.server.fault("GET", "", 1, Reply::new(400).body(vec![b'x'; 5_000_000]).chunked());
    assert!(anonymous().manifest(&name).unwrap_err().to_string().len() < 1000);
}

#[test]
fn follows_redirects_of_blobs() {
    let bytes = noise(5000);
    let stored = bytes.clone();
    let storage = Server::start(move |_| Reply::new(200).body(stored.clone()));
    let registry = Registry::start(Login::None);
    let (name, descriptor) = (reference(&registry, "a"), blob(&bytes));
    for status in [301, 302, 303, 307, 308] {
        let there = Reply::new(status).header("location", storage.url("/x?sig=a%2Fb"));
        registry.server.fault("GET", "/blobs/", 1, there);
        assert_eq!(read(&anonymous(), &name, &descriptor).unwrap(), bytes, "{status}");
    }
    assert_eq!(storage.requests()[0].target, "/x?sig=a%2Fb");
    for location in ["ftp://x/", "http://user:secret@127.0.0.1/", "file:///etc/passwd", ""] {
        registry.server.fault("GET", "/blobs/", 20, Reply::new(302).header("location", location));
        let failed = kind(read(&anonymous(), &name, &descriptor));
        assert!(
            matches!(&failed, Kind::Transport(TransportFailure::Redirect(why)) if !why.contains("secret")),
            "{failed:?}"
        );
    }
}

#[test]
fn a_cancelled_client_stops() {
    let registry = Registry::start(Login::None);
    let bytes = noise(3_000_000);
    registry.put_blob("a", &bytes);
    let transport = patient();
    let flag = transport.cancelled.clone();
    let client = rbuild_core::registry::Client::new(Options { transport, ..Options::default() }).unwrap();
    let name = reference(&registry, "a");
    let mut reader = client.blob(&name, &blob(&bytes)).unwrap();
    reader.read_exact(&mut [0; 1000]).unwrap();
    flag.cancel();
    let failed = reader.read(&mut [0; 1000]).unwrap_err().downcast::<rbuild_core::registry::RegistryError>().unwrap();
    assert!(matches!(*failed.kind, Kind::Cancelled));
    assert!(matches!(kind(client.resolve(&name)), Kind::Cancelled));
}

#[test]
fn a_failing_sink_is_told_apart() {
    struct Full;
    impl rbuild_core::registry::BlobSink for Full {
        fn has(&self, _: &Descriptor) -> bool {
            false
        }
        fn write(&self, _: &Descriptor, _: &mut dyn Read) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
    }
    let registry = Registry::start(Login::None);
    registry.put_image("a", "v1", &[b"x"]);
    let name = reference(&registry, "a:v1");
    assert!(matches!(kind(pull_image(&anonymous(), &name, &amd64(), &Full, &PullOptions::default())), Kind::Sink));
}

#[test]
fn asks_mirrors_first() {
    let (mirror, registry) = (Registry::start(Login::None), Registry::start(Login::None));
    let bytes = noise(3_000_000);
    registry.put_image("a", "v1", &[&bytes]);
    mirror.put_image("a", "v1", &[&bytes]);
    let name = reference(&registry, "a:v1");
    let mirrors = [(registry.server.host(), vec![mirror.server.host()])].into();
    let client =
        rbuild_core::registry::Client::new(Options { transport: patient(), mirrors, ..Options::default() }).unwrap();
    let platform = amd64();
    pull_image(&client, &name, &platform, &Memory::default(), &PullOptions::default()).unwrap();
    assert_eq!(registry.server.requests().len(), 0);

    mirror.server.hang_up("GET", "/blobs/", 100);
    mirror.server.fault("GET", "/blobs/", 1, Reply::new(200).body(bytes.clone()).cut_at(1_500_000));
    assert_eq!(read(&client, &name, &blob(&bytes)).unwrap(), bytes, "the registry sends the rest");
    let sent: Vec<_> = registry.server.requests().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(sent, [Some("bytes=1500000-".to_owned())]);

    mirror.server.fault("HEAD", "", 100, Reply::new(503));
    mirror.server.fault("GET", "/manifests/", 100, Reply::new(404));
    let good = client.resolve(&name).unwrap();
    client.manifest(&name).unwrap();

    mirror.server.fault("GET", "/manifests/", 100, Reply::new(200).body("<html>log in</html>"));
    let error = client.manifest(&name.with_digest(good.digest)).unwrap_err().to_string();
    assert!(error.contains(&mirror.server.host()), "a mirror that lies is named: {error}");
}
