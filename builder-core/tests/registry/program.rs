//! Against Debian's `docker-registry`, where it is installed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbuild_core::oci::{Descriptor, Digest, media_type};
use rbuild_core::reference::Reference;
use rbuild_core::registry::{PullOptions, PushOptions, pull_image, push_image};

use crate::common::registry::image;
use crate::setup::*;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn round_trip_through_docker_registry() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = folder.path().join("config.yml");
    let storage = folder.path().join("storage");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '{address}'}}\n",
        storage.display()
    );
    fs::write(&config, text).unwrap();
    let started = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = started else {
        println!("skipped: docker-registry is not installed");
        return;
    };
    let _program = Program(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "docker-registry does not listen");
        std::thread::yield_now();
    }

    let layers = [noise(2_000_000), noise(10)];
    let made = image(&[&layers[0], &layers[1]]);
    let mut source = Memory::of(&[&layers[0], &layers[1], &made.config, &made.manifest]);
    let root = Descriptor::new(media_type::MANIFEST, Digest::of(&made.manifest), made.manifest.len() as u64);
    let client = anonymous();
    let name = |rest: &str| Reference::parse(&format!("{address}/{rest}")).unwrap();
    push_image(&client, &name("base/one:v1"), &root, &source, &PushOptions::default()).unwrap();
    source.pulled_with = Some(name("base/one:v1"));
    push_image(&client, &name("other:v2"), &root, &source, &PushOptions::default()).unwrap();

    assert_eq!(client.resolve(&name("other:v2")).unwrap(), root);
    let sink = Memory::default();
    let platform = "linux/amd64".parse().unwrap();
    let pulled = pull_image(&client, &name("other:v2"), &platform, &sink, &PullOptions::default()).unwrap();
    assert_eq!(pulled.manifest.digest, root.digest);
    assert_eq!(*sink.blobs.lock().unwrap(), *source.blobs.lock().unwrap());
    assert!(client.resolve(&name("other:none")).unwrap_err().is_not_found());
}
