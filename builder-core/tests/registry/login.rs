use std::sync::{Arc, Mutex};

use rbuild_core::oci::Digest;
use rbuild_core::progress::{Event, Events};
use rbuild_core::registry::transport::TransportOptions;
use rbuild_core::registry::{Client, Credential, Credentials, Options, PullOptions, RegistryErrorKind as Kind, Secret};

use crate::common::http::{Reply, Server};
use crate::common::registry::{Login, Registry, basic};
use crate::setup::*;

fn bearer(user: Option<(&str, &str)>) -> Login {
    let user = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
    Login::Bearer { realm: None, user, identity_token: None }
}

#[test]
fn logs_in_with_a_password() {
    let registry = Registry::start(Login::Basic { user: "u".into(), password: "p:w".into() });
    let manifest = registry.put_image("a", "v1", &[b"x"]);
    let name = reference(&registry, "a:v1");
    let client = client_with(&registry.server.host(), password("u", "p:w"));
    assert_eq!(client.resolve(&name).unwrap(), manifest);
    client.manifest(&name).unwrap();
    let sent: Vec<bool> = registry.server.requests().iter().map(|r| r.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true, true], "anonymous first, then ahead");

    let failed = client_with(&registry.server.host(), password("u", "wrong")).resolve(&name).unwrap_err();
    assert!(matches!(*failed.kind, Kind::Unauthorized { status: 401, logged_in: true, .. }), "{failed:?}");
    assert!(!format!("{failed:?} {failed}").contains("wrong"));
    let failed = kind(anonymous().resolve(&name));
    assert!(matches!(failed, Kind::Unauthorized { status: 401, logged_in: false, .. }), "{failed:?}");
}

#[test]
fn gets_a_token_for_everybody() {
    let registry = Registry::start(bearer(None));
    let manifest = registry.put_image("a/b", "v1", &[b"x"]);
    assert_eq!(anonymous().resolve(&reference(&registry, "a/b:v1")).unwrap(), manifest);
    let request = registry.server.requests().into_iter().find(|request| request.path() == "/token").unwrap();
    assert_eq!(
        request.query("scope").as_deref(),
        Some("repository:a/b:pull"),
        "never the broader one of the challenge"
    );
    assert_eq!(request.query("service").as_deref(), Some("test registry"));
    assert_eq!(request.header("authorization"), None);
}

#[test]
fn gets_a_token_with_a_password_once() {
    let registry = Registry::start(bearer(Some(("u", "p"))));
    let layers: Vec<Vec<u8>> = (0..20).map(|i| noise(1000 + i)).collect();
    let borrowed: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    registry.put_image("a", "v1", &borrowed);
    let client = client_with(&registry.server.host(), password("u", "p"));
    let name = reference(&registry, "a:v1");
    client.resolve(&name).unwrap();
    let blobs: Vec<_> = layers.iter().map(|layer| blob(layer)).collect();
    client.pull_blobs(&name, &blobs, &Memory::default(), &PullOptions { parallel: 8, events: None }).unwrap();
    assert_eq!(registry.server.count("GET", "/token"), 1);
    let token = registry.server.requests().into_iter().find(|request| request.path() == "/token").unwrap();
    assert_eq!(token.header("authorization"), Some(&*basic("u", "p")));

    registry.forget_tokens();
    assert_eq!(read(&client, &name, &blobs[0]).unwrap(), layers[0], "a stale token is renewed");
    assert_eq!(registry.server.count("GET", "/token"), 2);
}

#[test]
fn exchanges_an_identity_token() {
    let login = Login::Bearer { realm: None, user: None, identity_token: Some("id-token".into()) };
    let registry = Registry::start(login);
    let manifest = registry.put_image("a", "v1", &[b"x"]);
    let client = client_with(&registry.server.host(), Credential::IdentityToken(Secret::new("id-token")));
    assert_eq!(client.resolve(&reference(&registry, "a:v1")).unwrap(), manifest);
    assert_eq!(registry.server.count("POST", "/token"), 1);
}

#[test]
fn does_not_ask_for_ever() {
    let registry = Registry::start(bearer(None));
    let name = reference(&registry, "a:v1");
    let denied =
        Reply::new(401).header("www-authenticate", format!("Bearer realm=\"{}\"", registry.server.url("/token")));
    registry.server.fault("GET", "/v2/", 1000, denied);
    assert!(matches!(kind(anonymous().manifest(&name)), Kind::Unauthorized { .. }));
    assert_eq!(registry.server.count("GET", "/v2/"), 3);
}

#[test]
fn refuses_bad_token_services() {
    for realm in [
        "http://auth.example.com/token",
        "ftp://127.0.0.1/token",
        "http://user:secret@127.0.0.1/token",
        "not an address",
        "",
    ] {
        let registry = Registry::start(Login::Bearer { realm: Some(realm.into()), user: None, identity_token: None });
        let client = client_with(&registry.server.host(), password("u", "p"));
        let failed = client.resolve(&reference(&registry, "a")).unwrap_err();
        assert!(matches!(&*failed.kind, Kind::Answer(why) if why.contains("token service")), "{realm}: {failed:?}");
        assert!(!failed.to_string().contains("secret"));
    }
}

#[test]
fn bounds_token_answers() {
    let registry = Registry::start(bearer(None));
    let name = reference(&registry, "a:v1");
    for reply in [
        Reply::new(200).body(vec![b' '; 1024 * 1024 + 1]).chunked(),
        Reply::new(200).body("no json"),
        Reply::new(200).body("{}"),
        Reply::new(200).body("{\"token\":\"\"}"),
        Reply::new(200).body("{\"token\":\"a\\nb\"}"),
    ] {
        registry.server.fault("GET", "/token", 1, reply);
        let failed = kind(anonymous().manifest(&name));
        assert!(matches!(failed, Kind::Answer(_)), "{failed:?}");
    }
}

#[test]
fn tells_credentials_to_no_other_host() {
    let secret = noise(100);
    let body = secret.clone();
    let other = Server::start(move |request| match request.path() {
        "/blob" => Reply::new(200).body(body.clone()),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"give me more\""),
    });
    for login in [Login::Basic { user: "u".into(), password: "p".into() }, bearer(Some(("u", "p")))] {
        let registry = Registry::start(login);
        registry.put_image("a", "v1", &[b"x"]);
        let name = reference(&registry, "a:v1");
        let client = client_with(&registry.server.host(), password("u", "p"));
        client.resolve(&name).unwrap();
        registry.server.fault("GET", "/blobs/", 1, Reply::new(307).header("location", other.url("/blob")));
        assert_eq!(read(&client, &name, &blob(&secret)).unwrap(), secret);
        registry.server.fault("GET", "/blobs/", 1, Reply::new(307).header("location", other.url("/denied")));
        assert!(matches!(kind(read(&client, &name, &blob(&secret))), Kind::Unauthorized { .. }));
        registry.server.fault("HEAD", "/manifests/", 1, Reply::new(307).header("location", other.url("/denied")));
        registry.server.fault("GET", "/manifests/", 1, Reply::new(307).header("location", other.url("/denied")));
        assert!(matches!(kind(client.resolve(&name)), Kind::Unauthorized { .. }));
    }
    assert_eq!(other.requests().len(), 8, "what another host wants is not answered");
    for request in other.requests() {
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None), "{}", request.target);
    }
}

#[test]
fn a_token_service_that_redirects_learns_nothing_more() {
    let other = Server::start(|_| Reply::new(200).body("{\"token\":\"t\"}"));
    let registry = Registry::start(bearer(Some(("u", "p"))));
    registry.put_image("a", "v1", &[b"x"]);
    registry.server.fault("GET", "/token", 9, Reply::new(302).header("location", other.url("/token")));
    let client = client_with(&registry.server.host(), password("u", "p"));
    assert!(client.resolve(&reference(&registry, "a:v1")).is_err());
    assert!(!other.requests().is_empty());
    assert!(other.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn tells_when_it_tries_again() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&heard);
    let events: Events = Arc::new(move |event: Event| {
        if let Event::Note(note) = event {
            notes.lock().unwrap().push(note);
        }
    });
    let transport = TransportOptions { events: Some(events), ..patient() };
    let client = Client::new(Options { transport, credentials: Credentials::default(), ..Options::default() }).unwrap();
    let registry = Registry::start(Login::None);
    registry.server.fault("HEAD", "", 1, Reply::new(503));
    assert!(!client.has_blob(&reference(&registry, "a"), &Digest::of(b"")).unwrap());
    assert_eq!(heard.lock().unwrap().len(), 1);
}
