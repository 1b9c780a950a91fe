use std::io;

use rbuild_core::oci::{Descriptor, Digest, media_type};
use rbuild_core::registry::{PushOptions, Pushed, RegistryErrorKind as Kind, push_image};

use crate::common::http::{Reply, Server};
use crate::common::registry::{Login, Registry, image};
use crate::setup::*;

#[test]
fn pushes_an_index_last() {
    let registry = Registry::start(Login::None);
    let (one, two) = (image(&[b"layer one", b"shared"]), image(&[b"layer two", b"shared"]));
    let describe = |bytes: &[u8]| Descriptor::new(media_type::MANIFEST, Digest::of(bytes), bytes.len() as u64);
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::INDEX,
        "manifests": [describe(&one.manifest), describe(&two.manifest)],
    });
    let index = index.to_string().into_bytes();
    let source = Memory::of(&[
        b"layer one",
        b"layer two",
        b"shared",
        &one.config,
        &two.config,
        &one.manifest,
        &two.manifest,
        &index,
    ]);
    let root = Descriptor::new(media_type::INDEX, Digest::of(&index), index.len() as u64);
    let name = reference(&registry, "a/b:v1");
    assert_eq!(push_image(&anonymous(), &name, &root, &source, &PushOptions::default()).unwrap(), root.digest);

    let puts: Vec<String> =
        registry.server.requests().iter().filter(|r| r.method == "PUT").map(|r| r.path().to_owned()).collect();
    assert_eq!(puts.len(), 5 + 3, "the shared layer goes once");
    assert_eq!(puts[5], format!("/v2/a/b/manifests/{}", Digest::of(&one.manifest)));
    assert_eq!(puts[7], "/v2/a/b/manifests/v1");
    let content = registry.content.lock().unwrap();
    assert_eq!(content.blobs["a/b"].len(), 5);
    assert_eq!(content.manifests[&("a/b".to_owned(), "v1".to_owned())], (media_type::INDEX.to_owned(), index));
    drop(content);

    push_image(&anonymous(), &name, &root, &source, &PushOptions::default()).unwrap();
    assert_eq!(registry.server.count("POST", ""), 5, "what is there is not sent again");
}

#[test]
fn sends_a_length_and_not_chunks() {
    let registry = Registry::start(Login::None);
    let bytes = noise(300_000);
    let open = || Ok(Box::new(io::Cursor::new(noise(300_000))) as Box<dyn io::Read>);
    let pushed = anonymous().push_blob(&reference(&registry, "a"), &blob(&bytes), &open, None).unwrap();
    assert_eq!(pushed, Pushed::Sent);
    let put = registry.server.requests().into_iter().find(|request| request.method == "PUT").unwrap();
    assert_eq!((put.header("content-length"), put.header("transfer-encoding")), (Some("300000"), None));
    assert_eq!(put.body, bytes);
}

#[test]
fn mounts_where_it_can() {
    let registry = Registry::start(Login::Bearer { realm: None, user: None, identity_token: None });
    let bytes = noise(100);
    registry.put_blob("base", &bytes);
    let open = || Ok(Box::new(io::Cursor::new(noise(100))) as Box<dyn io::Read>);
    let name = reference(&registry, "a");
    assert_eq!(anonymous().push_blob(&name, &blob(&bytes), &open, Some("base")).unwrap(), Pushed::Mounted);
    let scopes: Vec<_> = registry
        .server
        .requests()
        .iter()
        .map(|r| r.target.clone())
        .filter(|target| target.contains("/token"))
        .collect();
    assert!(scopes.iter().any(|target| target.contains("repository%3Abase%3Apull")), "{scopes:?}");

    registry.content.lock().unwrap().mounts = false;
    let name = reference(&registry, "b");
    assert_eq!(anonymous().push_blob(&name, &blob(&bytes), &open, Some("base")).unwrap(), Pushed::Sent);
    assert_eq!(registry.server.count("POST", "/v2/b/"), 1, "the session that the mount gave is used");

    for status in [400, 403, 404, 405] {
        let name = reference(&registry, &format!("c{status}"));
        registry.server.fault("POST", "mount=", 1, Reply::new(status));
        assert_eq!(anonymous().push_blob(&name, &blob(&bytes), &open, Some("base")).unwrap(), Pushed::Sent);
    }
}

#[test]
fn tells_no_credentials_where_the_bytes_go() {
    let bytes = noise(100);
    let open = || Ok(Box::new(io::Cursor::new(noise(100))) as Box<dyn io::Read>);
    let storage = Server::start(|_| Reply::new(201));
    let registry = Registry::start(Login::Basic { user: "u".into(), password: "p".into() });
    let client = client_with(&registry.server.host(), password("u", "p"));
    let name = reference(&registry, "a");
    client.has_blob(&name, &Digest::of(&bytes)).unwrap();
    registry.server.fault("POST", "uploads", 1, Reply::new(202).header("location", storage.url("/up?key=1&x=%2F")));
    assert_eq!(client.push_blob(&name, &blob(&bytes), &open, None).unwrap(), Pushed::Sent);
    let put = &storage.requests()[0];
    assert_eq!(put.header("authorization"), None);
    assert!(put.target.starts_with("/up?key=1&x=%2F&digest=sha256%3A"), "{}", put.target);

    for location in ["http://user:secret@127.0.0.1/", "ftp://127.0.0.1/", "http://a b/"] {
        registry.server.fault("POST", "uploads", 1, Reply::new(202).header("location", location));
        let failed = client.push_blob(&name, &blob(&bytes), &open, None).unwrap_err();
        assert!(matches!(*failed.kind, Kind::Answer(_)) && !failed.to_string().contains("secret"), "{failed}");
    }
    registry.server.fault("POST", "uploads", 1, Reply::new(202));
    assert!(matches!(kind(client.push_blob(&name, &blob(&bytes), &open, None)), Kind::Answer(_)));
}

#[test]
fn starts_an_upload_anew() {
    let registry = Registry::start(Login::None);
    let bytes = noise(100);
    let open = || Ok(Box::new(io::Cursor::new(noise(100))) as Box<dyn io::Read>);
    registry.server.hang_up("PUT", "uploads", 1);
    registry.server.fault("PUT", "uploads", 1, Reply::new(502));
    assert_eq!(anonymous().push_blob(&reference(&registry, "a"), &blob(&bytes), &open, None).unwrap(), Pushed::Sent);
    assert_eq!(registry.server.count("POST", "uploads"), 3);
}

#[test]
fn renews_a_token_during_an_upload() {
    let registry = Registry::start(Login::Bearer { realm: None, user: None, identity_token: None });
    let bytes = noise(100);
    let open = || Ok(Box::new(io::Cursor::new(noise(100))) as Box<dyn io::Read>);
    let denied =
        Reply::new(401).header("www-authenticate", format!("Bearer realm=\"{}\"", registry.server.url("/token")));
    registry.server.fault("PUT", "uploads", 1, denied);
    assert_eq!(anonymous().push_blob(&reference(&registry, "a"), &blob(&bytes), &open, None).unwrap(), Pushed::Sent);
    assert_eq!(registry.server.count("GET", "/token"), 2);
}

#[test]
fn checks_what_the_registry_says_it_took() {
    let registry = Registry::start(Login::None);
    let name = reference(&registry, "a:v1");
    let lie = Reply::new(201).header("docker-content-digest", Digest::of(b"other"));
    registry.server.fault("PUT", "manifests", 1, lie.clone());
    assert!(matches!(kind(anonymous().push_manifest(&name, media_type::MANIFEST, b"{}")), Kind::Digest { .. }));
    let wrong = name.with_digest(Digest::of(b"other"));
    assert!(matches!(kind(anonymous().push_manifest(&wrong, media_type::MANIFEST, b"{}")), Kind::Digest { .. }));
    registry.server.fault("PUT", "uploads", 1, lie);
    let open = || Ok(Box::new(io::Cursor::new(noise(100))) as Box<dyn io::Read>);
    assert!(matches!(kind(anonymous().push_blob(&name, &blob(&noise(100)), &open, None)), Kind::Digest { .. }));
}

#[test]
fn a_source_that_fails_is_told_apart() {
    let registry = Registry::start(Login::None);
    let name = reference(&registry, "a:v1");
    let missing = || Err(io::ErrorKind::NotFound.into());
    assert!(matches!(kind(anonymous().push_blob(&name, &blob(b"x"), &missing, None)), Kind::Source));
    let short = || Ok(Box::new(io::Cursor::new(noise(50))) as Box<dyn io::Read>);
    assert!(matches!(kind(anonymous().push_blob(&name, &blob(&noise(100)), &short, None)), Kind::Source));
    assert_eq!(registry.server.count("POST", ""), 2, "such a fault does not pass");
    let root = Descriptor::new(media_type::MANIFEST, Digest::of(b"{}"), 2);
    let pushed = push_image(&anonymous(), &name, &root, &Memory::default(), &PushOptions::default());
    assert!(matches!(kind(pushed), Kind::Source));
}
