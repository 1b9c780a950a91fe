//! A registry in memory (OCI distribution spec): blobs, manifests, tags, uploads, mounts, log-ins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rbuild_core::oci::{Descriptor, Digest, ImageConfig, media_type};

use super::http::{Reply, Request, Server};

/// How the registry wants to be logged in to.
#[derive(Debug, Clone, Default)]
pub enum Login {
    #[default]
    None,
    Basic {
        user: String,
        password: String,
    },
    /// Tokens from `/token`, or from `realm` where given. Without a user, tokens are for everybody.
    Bearer {
        realm: Option<String>,
        user: Option<(String, String)>,
        identity_token: Option<String>,
    },
}

#[derive(Default)]
pub struct Content {
    /// By repository.
    pub blobs: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// By repository and tag or digest: media type and bytes.
    pub manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    pub tokens: BTreeSet<String>,
    /// Whether `mount` is understood.
    pub mounts: bool,
    /// Whether `Range` is understood.
    pub ranges: bool,
}

pub struct Registry {
    pub server: Server,
    pub content: Arc<Mutex<Content>>,
}

impl Registry {
    pub fn start(login: Login) -> Self {
        let content = Arc::new(Mutex::new(Content { mounts: true, ranges: true, ..Content::default() }));
        let shared = Arc::clone(&content);
        let serial = AtomicUsize::new(0);
        let server = Server::start(move |request| handle(&mut shared.lock().unwrap(), &login, &serial, request));
        Self { server, content }
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut content = self.content.lock().unwrap();
        content.blobs.entry(repository.to_owned()).or_default().insert(digest.to_string(), bytes.to_vec());
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        let mut content = self.content.lock().unwrap();
        for target in [tag.to_owned(), digest.to_string()] {
            content.manifests.insert((repository.to_owned(), target), (media_type.to_owned(), bytes.to_vec()));
        }
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    /// Puts an image with the given layers.
    pub fn put_image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Descriptor {
        let image = image(layers);
        for blob in image.layers.iter().chain([&image.config]) {
            self.put_blob(repository, blob);
        }
        self.put_manifest(repository, tag, media_type::MANIFEST, &image.manifest)
    }

    pub fn forget_tokens(&self) {
        self.content.lock().unwrap().tokens.clear();
    }
}

/// An image's bytes.
pub struct Image {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

pub fn image(layers: &[&[u8]]) -> Image {
    let mut config = ImageConfig::empty(&"linux/amd64".parse().unwrap());
    config.rootfs.diff_ids = layers.iter().map(|layer| rbuild_core::oci::DiffId(Digest::of(layer))).collect();
    let config = config.to_json();
    let describe = |kind: &str, bytes: &[u8]| {
        serde_json::to_value(Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64)).unwrap()
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::MANIFEST,
        "config": describe(media_type::CONFIG, &config),
        "layers": layers.iter().map(|layer| describe(media_type::LAYER, layer)).collect::<Vec<_>>(),
    });
    Image { layers: layers.iter().map(|layer| layer.to_vec()).collect(), config, manifest: manifest.to_string().into() }
}

fn handle(content: &mut Content, login: &Login, serial: &AtomicUsize, request: &Request) -> Reply {
    if request.path() == "/token" {
        return token(content, login, serial, request);
    }
    if let Some(denied) = deny(content, login, request) {
        return denied;
    }
    let Some(rest) = request.path().strip_prefix("/v2/") else { return error(404, "NOT_FOUND", "no such path") };
    if let Some((repository, target)) = rest.split_once("/manifests/") {
        return manifests(content, repository, target, request);
    }
    match rest.split_once("/blobs/") {
        Some((repository, "uploads/")) => start_upload(content, serial, repository, request),
        Some((repository, target)) if target.starts_with("uploads/") => finish_upload(content, repository, request),
        Some((repository, digest)) => blobs(content, repository, digest, request),
        None => Reply::new(200).body("{}"),
    }
}

pub fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
    Reply::new(status).header("content-type", "application/json").body(body.to_string())
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn deny(content: &Content, login: &Login, request: &Request) -> Option<Reply> {
    let sent = request.header("authorization").unwrap_or_default();
    let (allowed, challenge) = match login {
        Login::None => return None,
        Login::Basic { user, password } => (sent == basic(user, password), "Basic realm=\"test\"".to_owned()),
        Login::Bearer { realm, .. } => {
            let allowed = sent.strip_prefix("Bearer ").is_some_and(|token| content.tokens.contains(token));
            let own = format!("http://{}/token", request.header("host").unwrap());
            let realm = realm.as_ref().unwrap_or(&own);
            (allowed, format!("Bearer realm=\"{realm}\",service=\"test registry\",scope=\"repository:x:pull,push,*\""))
        }
    };
    (!allowed).then(|| error(401, "UNAUTHORIZED", "authentication required").header("www-authenticate", challenge))
}

fn token(content: &mut Content, login: &Login, serial: &AtomicUsize, request: &Request) -> Reply {
    let Login::Bearer { user, identity_token, .. } = login else { return Reply::new(404) };
    let allowed = match (user, identity_token) {
        (Some((user, password)), _) if request.method == "GET" => {
            request.header("authorization") == Some(&basic(user, password))
        }
        (_, Some(token)) if request.method == "POST" => {
            let body = String::from_utf8(request.body.clone()).unwrap();
            body.contains("grant_type=refresh_token") && body.contains(&format!("refresh_token={token}"))
        }
        (None, None) => true,
        _ => false,
    };
    if !allowed {
        return error(401, "UNAUTHORIZED", "wrong user or password");
    }
    let token = format!("token-{}", serial.fetch_add(1, Ordering::Relaxed));
    content.tokens.insert(token.clone());
    Reply::new(200).body(serde_json::json!({"token": token, "expires_in": 300}).to_string())
}

fn manifests(content: &mut Content, repository: &str, target: &str, request: &Request) -> Reply {
    let key = (repository.to_owned(), target.to_owned());
    if request.method == "PUT" {
        let kind = request.header("content-type").unwrap().to_owned();
        let digest = Digest::of(&request.body).to_string();
        for target in [target.to_owned(), digest.clone()] {
            content.manifests.insert((repository.to_owned(), target), (kind.clone(), request.body.clone()));
        }
        return Reply::new(201).header("docker-content-digest", digest);
    }
    match content.manifests.get(&key) {
        Some((kind, bytes)) => Reply::new(200)
            .header("content-type", kind)
            .header("docker-content-digest", Digest::of(bytes))
            .body(bytes.clone()),
        None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    }
}

fn blobs(content: &Content, repository: &str, digest: &str, request: &Request) -> Reply {
    let Some(bytes) = content.blobs.get(repository).and_then(|blobs| blobs.get(digest)) else {
        return error(404, "BLOB_UNKNOWN", "blob unknown");
    };
    let reply = Reply::new(200).header("docker-content-digest", digest);
    match request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()) {
        Some(start) if content.ranges => {
            let start: usize = start;
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Reply { status: 206, ..reply }.header("content-range", range).body(&bytes[start..])
        }
        _ => reply.body(bytes.clone()),
    }
}

fn start_upload(content: &mut Content, serial: &AtomicUsize, repository: &str, request: &Request) -> Reply {
    if let (Some(digest), Some(from), true) = (request.query("mount"), request.query("from"), content.mounts)
        && let Some(bytes) = content.blobs.get(&from).and_then(|blobs| blobs.get(&digest)).cloned()
    {
        content.blobs.entry(repository.to_owned()).or_default().insert(digest, bytes);
        return Reply::new(201);
    }
    let session = serial.fetch_add(1, Ordering::Relaxed);
    Reply::new(202).header("location", format!("/v2/{repository}/blobs/uploads/{session}?_state=a%2Bb"))
}

fn finish_upload(content: &mut Content, repository: &str, request: &Request) -> Reply {
    let digest = request.query("digest").unwrap();
    if request.query("_state").as_deref() != Some("a+b") {
        return error(400, "BLOB_UPLOAD_INVALID", "the query was not kept");
    }
    if Digest::of(&request.body).to_string() != digest {
        return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    content.blobs.entry(repository.to_owned()).or_default().insert(digest.clone(), request.body.clone());
    Reply::new(201).header("docker-content-digest", digest)
}
